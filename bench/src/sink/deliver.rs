//! The sending end where receiving is measured. A burst of records is sealed as a whole before its first byte is sent, so that the
//! receiver never waits for a seal.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ConnectionTrafficSecrets, ServerConfig, ServerConnection};
use uktls::aead::{Choice, RecordSealer, TrafficKeys};
use uktls::crypto_info::CryptoInfo;
use uktls::record::RecordNumbers;
use uktls::record::content_type::APPLICATION_DATA;

use super::process::self_signed;
use super::protocol::{CRYPTO_INFO, Hello, Kind, READY, read_total};
use crate::scenario::payload;

/// Send bursts of as many records as the receiver asks for, until it shuts down.
pub fn serve(mut stream: TcpStream, hello: Hello, config: &Arc<ServerConfig>) -> Result<()> {
    let record = payload(usize::try_from(hello.wire_len)?);
    let mut seal = match (hello.kind, hello.handshake.is_some()) {
        (Kind::DeliverPlain, _) => None,
        (_, true) => Some(Seal::new(&handshake(&mut stream, config)?)?),
        (_, false) => Some(Seal::new(&keys(&CRYPTO_INFO)?)?),
    };
    let mut burst = Vec::new();
    stream.write_all(&[READY])?;
    loop {
        let records = match read_total(&mut stream) {
            Ok(records) => usize::try_from(records)?,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        match &mut seal {
            None => burst = record.repeat(records),
            Some(seal) => seal.fill(&mut burst, &record, records)?,
        }
        stream.write_all(&burst).context("sending a burst")?;
    }
}

struct Seal {
    sealer: RecordSealer,
    numbers: RecordNumbers,
}

impl Seal {
    fn new(keys: &TrafficKeys) -> Result<Self> {
        let sealer =
            RecordSealer::new(keys, Choice::AwsLc).map_err(|error| anyhow!("sealer: {error}"))?;
        Ok(Self {
            sealer,
            numbers: keys.numbers(),
        })
    }

    /// Replace `burst` by `records` records with `plain` in each.
    fn fill(&mut self, burst: &mut Vec<u8>, plain: &[u8], records: usize) -> Result<()> {
        let wire_len = plain.len() + self.sealer.overhead();
        burst.resize(records * wire_len, 0);
        for record in burst.chunks_exact_mut(wire_len) {
            let number = self.numbers.reserve().context("record numbers are left")?;
            self.sealer
                .seal_from(number, APPLICATION_DATA, plain, record)
                .map_err(|error| anyhow!("sealing: {error}"))?;
        }
        Ok(())
    }
}

/// Complete a handshake as the server; the keys of what is sent after it.
fn handshake(stream: &mut TcpStream, config: &Arc<ServerConfig>) -> Result<TrafficKeys> {
    let mut tls = ServerConnection::new(Arc::clone(config))?;
    // The client says nothing more before it has been told that all is ready, so nothing is read too far.
    while tls.is_handshaking() || tls.wants_write() {
        if tls.wants_write() {
            tls.write_tls(stream)?;
        } else {
            ensure!(
                tls.read_tls(stream)? > 0,
                "the client closed during the handshake"
            );
            tls.process_new_packets()?;
        }
    }
    // No tickets and no key updates follow, so the keys alone are enough.
    let (rec_seq, secrets) = tls.dangerous_extract_secrets()?.tx;
    let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else {
        bail!("the handshake chose another cipher");
    };
    let (salt, iv) = iv.as_ref().split_at(4);
    let mut info = CRYPTO_INFO;
    info[4..12].copy_from_slice(iv);
    info[12..28].copy_from_slice(key.as_ref());
    info[28..32].copy_from_slice(salt);
    info[32..].copy_from_slice(&rec_seq.to_be_bytes());
    keys(&info)
}

fn keys(info: &[u8]) -> Result<TrafficKeys> {
    CryptoInfo::parse(info).map_err(|error| anyhow!("keys: {error}"))
}

/// TLS 1.3 with AES-128-GCM alone, a fresh self-signed certificate, no session tickets, and keys that can be had.
pub fn server_config() -> Result<Arc<ServerConfig>> {
    let (certificate, key) = self_signed()?;
    let certificate = CertificateDer::from(certificate.to_der()?);
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.private_key_to_pkcs8()?));
    let provider = CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        ..aws_lc_rs::default_provider()
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    config.send_tls13_tickets = 0;
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}
