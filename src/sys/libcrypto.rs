//! OpenSSL's libcrypto, opened when it is asked for: the preload library must not bring it into every process.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr::{null, null_mut};
use std::sync::OnceLock;

macro_rules! functions {
    (every libcrypto has { $($name:ident($($argument:ty),*) $(-> $result:ty)?;)* }
     some have { $($extra:ident($($extra_argument:ty),*) $(-> $extra_result:ty)?;)* }) => {
        /// The functions that are used, by their names there.
        #[allow(non_snake_case)]
        #[derive(Debug)]
        pub(super) struct Libcrypto {
            $(pub $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            $(pub $extra: Option<unsafe extern "C" fn($($extra_argument),*) $(-> $extra_result)?>,)*
        }

        impl Libcrypto {
            fn load(library: *mut c_void) -> Result<Libcrypto, String> {
                Ok(Libcrypto {
                    $($name: {
                        let function = symbol(library, concat!(stringify!($name), "\0"))
                            .ok_or_else(|| format!("libcrypto has no {}", stringify!($name)))?;
                        // SAFETY: OpenSSL declares the function of this name so.
                        unsafe { core::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) $(-> $result)?>(function) }
                    },)*
                    $($extra: symbol(library, concat!(stringify!($extra), "\0")).map(|function|
                        // SAFETY: as above.
                        unsafe { core::mem::transmute::<*mut c_void, unsafe extern "C" fn($($extra_argument),*) $(-> $extra_result)?>(function) }
                    ),)*
                })
            }
        }
    };
}

/// Something of OpenSSL's.
pub(super) type Opaque = *mut c_void;
/// What a paused job calls.
pub(super) type Callback = extern "C" fn(*mut c_void) -> c_int;

functions! {
    every libcrypto has {
    OSSL_LIB_CTX_new() -> Opaque;
    OSSL_PROVIDER_load(Opaque, *const c_char) -> Opaque;
    EVP_CIPHER_fetch(Opaque, *const c_char, *const c_char) -> Opaque;
    EVP_CIPHER_CTX_new() -> Opaque;
    EVP_CIPHER_CTX_free(Opaque);
    EVP_CIPHER_CTX_ctrl(Opaque, c_int, c_int, *mut c_void) -> c_int;
    EVP_CipherInit_ex(Opaque, Opaque, Opaque, *const u8, *const u8, c_int) -> c_int;
    EVP_CipherUpdate(Opaque, *mut u8, *mut c_int, *const u8, c_int) -> c_int;
    EVP_CipherFinal_ex(Opaque, *mut u8, *mut c_int) -> c_int;
    ERR_get_error_all(*mut *const c_char, *mut c_int, *mut *const c_char, *mut *const c_char, *mut c_int) -> core::ffi::c_ulong;
    ERR_error_string_n(core::ffi::c_ulong, *mut c_char, usize);
    OPENSSL_init_crypto(u64, *const c_void) -> c_int;
    ASYNC_is_capable() -> c_int;
    ASYNC_init_thread(usize, usize) -> c_int;
    ASYNC_start_job(*mut Opaque, Opaque, *mut c_int, extern "C" fn(*mut c_void) -> c_int, *mut c_void, usize) -> c_int;
    ASYNC_WAIT_CTX_new() -> Opaque;
    ASYNC_WAIT_CTX_set_callback(Opaque, Callback, *mut c_void) -> c_int;
    ASYNC_WAIT_CTX_get_status(Opaque) -> c_int;
    ASYNC_WAIT_CTX_set_status(Opaque, c_int) -> c_int;
    ASYNC_WAIT_CTX_get_all_fds(Opaque, *mut c_int, *mut usize) -> c_int;
    }
    some have {
    ENGINE_by_id(*const c_char) -> Opaque;
    ENGINE_ctrl_cmd_string(Opaque, *const c_char, *const c_char, c_int) -> c_int;
    ENGINE_init(Opaque) -> c_int;
    ENGINE_get_cipher(Opaque, c_int) -> Opaque;
    }
}

impl Libcrypto {
    /// The process's own, or the system's. Stays open for good.
    ///
    /// # Errors
    /// What is missing.
    pub(super) fn get() -> Result<&'static Libcrypto, String> {
        static OPENED: OnceLock<Result<Libcrypto, String>> = OnceLock::new();
        OPENED.get_or_init(open).as_ref().map_err(Clone::clone)
    }

    /// What the thread's last call failed with.
    pub(super) fn error(&self) -> String {
        let mut last = 0;
        let mut details = Vec::new();
        loop {
            let (mut data, mut flags) = (null(), 0);
            // SAFETY: places for a string of the library's and for a number; null for what is not wanted.
            let error = unsafe {
                (self.ERR_get_error_all)(
                    null_mut(),
                    null_mut(),
                    null_mut(),
                    &raw mut data,
                    &raw mut flags,
                )
            };
            if error == 0 {
                break;
            }
            last = error;
            if flags & ERR_TXT_STRING != 0 && !data.is_null() {
                // SAFETY: a string, by its flag, that is there until the thread's next call.
                let data = unsafe { CStr::from_ptr(data) }.to_string_lossy();
                details.push(data.into_owned());
            }
        }
        if last == 0 {
            return "no reason given".to_owned();
        }
        let mut text = [0u8; 256];
        // SAFETY: room for 256 bytes, the NUL among them.
        unsafe { (self.ERR_error_string_n)(last, text.as_mut_ptr().cast(), text.len()) };
        let text = CStr::from_bytes_until_nul(&text).unwrap_or_default();
        let text = text.to_string_lossy();
        // The first detail is what the dynamic linker said, the last error what it came to.
        match details.iter().find(|detail| !detail.is_empty()) {
            Some(detail) => format!("{text} ({detail})"),
            None => text.into_owned(),
        }
    }
}

fn open() -> Result<Libcrypto, String> {
    for name in [c"libcrypto.so.3", c"libcrypto.so.4", c"libcrypto.so"] {
        // SAFETY: a string with its NUL; the library's constructors are OpenSSL's.
        let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if !library.is_null() {
            return Libcrypto::load(library);
        }
    }
    Err("there is no libcrypto of OpenSSL 3".to_owned())
}

fn symbol(library: *mut c_void, name: &'static str) -> Option<*mut c_void> {
    // SAFETY: a string with its NUL.
    let found = unsafe { libc::dlsym(library, name.as_ptr().cast()) };
    (!found.is_null()).then_some(found)
}

/// The detail of an error is a string.
const ERR_TXT_STRING: c_int = 2;
