//! rustls with aws-lc-rs, or with ring: each message is buffered by `writer()`, then written to the socket by `write_tls`;
//! records are read by `read_tls`, opened by `process_new_packets`, and copied out by `reader()`.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::crypto::{aws_lc_rs, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, PeerMisbehaved, SignatureScheme,
};

use super::{Receiver, Sender};
use crate::cipher::Cipher;

pub struct Rustls {
    tls: ClientConnection,
    socket: TcpStream,
}

impl Rustls {
    /// Complete a TLS 1.3 handshake with `cipher` as the client.
    pub fn connect(mut socket: TcpStream, provider: Provider, cipher: Cipher) -> Result<Self> {
        let config = client_config(provider, cipher)?;
        let mut tls = ClientConnection::new(config, ServerName::try_from("localhost")?)?;
        // The default (64 KiB) would just do for the largest message; no limit keeps the peer's path the same.
        tls.set_buffer_limit(None);
        // Not `complete_io`, which may read on: the byte after the handshake is the sink's, in the clear.
        while tls.is_handshaking() {
            if tls.wants_write() {
                tls.write_tls(&mut socket)?;
            } else {
                ensure!(
                    tls.read_tls(&mut socket)? > 0,
                    "the sink closed during the handshake"
                );
                tls.process_new_packets()?;
            }
        }
        while tls.wants_write() {
            tls.write_tls(&mut socket)?;
        }
        let suite = tls
            .negotiated_cipher_suite()
            .context("no cipher suite after the handshake")?
            .suite();
        ensure!(
            suite.as_str() == Some(cipher.rustls_name()),
            "the handshake chose {suite:?}"
        );
        Ok(Self { tls, socket })
    }
}

impl Sender for Rustls {
    fn send(&mut self, message: &[u8]) -> Result<()> {
        self.tls.writer().write_all(message)?;
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.socket)?;
        }
        Ok(())
    }

    fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

impl Receiver for Rustls {
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match self.tls.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => return Ok(result?),
            }
            if self.tls.read_tls(&mut self.socket)? == 0 {
                return Ok(0);
            }
            self.tls.process_new_packets()?;
        }
    }

    fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

/// Whose cryptography.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Provider {
    AwsLcRs,
    Ring,
}

/// Made once for each provider and cipher.
fn client_config(provider: Provider, cipher: Cipher) -> Result<Arc<ClientConfig>> {
    type Configs = BTreeMap<(Provider, Cipher), Arc<ClientConfig>>;
    static CONFIGS: Mutex<Configs> = Mutex::new(BTreeMap::new());

    let mut configs = CONFIGS
        .lock()
        .expect("no thread panics while it holds this");
    if let Some(config) = configs.get(&(provider, cipher)) {
        return Ok(Arc::clone(config));
    }
    let suite = match (provider, cipher) {
        (Provider::AwsLcRs, Cipher::Aes128Gcm) => aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        (Provider::AwsLcRs, Cipher::ChaCha20Poly1305) => {
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256
        }
        (Provider::Ring, Cipher::Aes128Gcm) => ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
        (Provider::Ring, Cipher::ChaCha20Poly1305) => {
            ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256
        }
    };
    let defaults = match provider {
        Provider::AwsLcRs => aws_lc_rs::default_provider(),
        Provider::Ring => ring::default_provider(),
    };
    let crypto = CryptoProvider {
        cipher_suites: vec![suite],
        ..defaults
    };
    let verifier = AnyCertificate(crypto.signature_verification_algorithms);
    let config = ClientConfig::builder_with_provider(Arc::new(crypto))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    let config = Arc::new(config);
    configs.insert((provider, cipher), Arc::clone(&config));
    Ok(config)
}

/// Takes any certificate: the sink's is made anew for each run and vouches for nothing.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerMisbehaved::SelectedUnofferedCipherSuite.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
