//! The C layouts and numbers of `<linux/tls.h>` and its neighbours.
//!
//! This file uses nothing outside `core`, so that the `ctest` crate can expand it alone and
//! compare every struct and constant with the system's headers (`c-tests/abi`).
#![allow(non_camel_case_types, missing_docs)]

pub const SOL_TCP: i32 = 6;
pub const TCP_ULP: i32 = 31;
pub const SOL_TLS: i32 = 282;

pub const TLS_TX: i32 = 1;
pub const TLS_RX: i32 = 2;
pub const TLS_TX_ZEROCOPY_RO: i32 = 3;
pub const TLS_RX_EXPECT_NO_PAD: i32 = 4;
pub const TLS_TX_MAX_PAYLOAD_LEN: i32 = 5;

pub const TLS_SET_RECORD_TYPE: i32 = 1;
pub const TLS_GET_RECORD_TYPE: i32 = 2;

pub const TLS_1_2_VERSION: u16 = 0x0303;
pub const TLS_1_3_VERSION: u16 = 0x0304;

pub const TLS_CIPHER_AES_GCM_128: u16 = 51;
pub const TLS_CIPHER_AES_GCM_256: u16 = 52;
pub const TLS_CIPHER_AES_CCM_128: u16 = 53;
pub const TLS_CIPHER_CHACHA20_POLY1305: u16 = 54;
pub const TLS_CIPHER_SM4_GCM: u16 = 55;
pub const TLS_CIPHER_SM4_CCM: u16 = 56;
pub const TLS_CIPHER_ARIA_GCM_128: u16 = 57;
pub const TLS_CIPHER_ARIA_GCM_256: u16 = 58;

pub const TLS_CONF_BASE: u16 = 1;
pub const TLS_CONF_SW: u16 = 2;

/// The head that all crypto_info structs share.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tls_crypto_info {
    pub version: u16,
    pub cipher_type: u16,
}

macro_rules! crypto_info_struct {
    ($name:ident, $iv:literal, $key:literal, $salt:literal) => {
        #[repr(C)]
        #[derive(Clone, Copy)]
        pub struct $name {
            pub info: tls_crypto_info,
            pub iv: [u8; $iv],
            pub key: [u8; $key],
            pub salt: [u8; $salt],
            pub rec_seq: [u8; 8],
        }
    };
}

crypto_info_struct!(tls12_crypto_info_aes_gcm_128, 8, 16, 4);
crypto_info_struct!(tls12_crypto_info_aes_gcm_256, 8, 32, 4);
crypto_info_struct!(tls12_crypto_info_aes_ccm_128, 8, 16, 4);
crypto_info_struct!(tls12_crypto_info_chacha20_poly1305, 12, 32, 0);
crypto_info_struct!(tls12_crypto_info_sm4_gcm, 8, 16, 4);
crypto_info_struct!(tls12_crypto_info_sm4_ccm, 8, 16, 4);
crypto_info_struct!(tls12_crypto_info_aria_gcm_128, 8, 16, 4);
crypto_info_struct!(tls12_crypto_info_aria_gcm_256, 8, 32, 4);
