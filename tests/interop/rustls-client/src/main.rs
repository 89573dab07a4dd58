//! Fetches one path over HTTPS with rustls and writes the body to stdout.
//!
//! Usage: `rustls-client ADDRESS:PORT PATH CA.pem 1.2|1.3 SUITE`, for example SUITE `TLS13_AES_128_GCM_SHA256`.
//! Fails unless the answer is 200, as long as announced, and followed by a `close_notify`.

use std::env;
use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

fn config(ca: &str, version: &str, suite: &str) -> Result<ClientConfig, Box<dyn Error>> {
    let mut provider = aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .retain(|s| format!("{:?}", s.suite()) == suite);
    if provider.cipher_suites.is_empty() {
        return Err(format!("rustls has no cipher suite {suite}").into());
    }
    let provider: Arc<CryptoProvider> = Arc::new(provider);

    let version = match version {
        "1.2" => &TLS12,
        "1.3" => &TLS13,
        other => return Err(format!("TLS version {other}?").into()),
    };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    Ok(ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

fn fetch(address: &str, path: &str, config: ClientConfig) -> Result<(), Box<dyn Error>> {
    let name = ServerName::try_from("localhost")?;
    let connection = ClientConnection::new(Arc::new(config), name)?;
    let mut stream = StreamOwned::new(connection, TcpStream::connect(address)?);
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;

    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line)?;
    if !line.starts_with("HTTP/1.1 200 ") {
        return Err(format!("answer: {line}").into());
    }
    let mut announced = None;
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            None => break,
            Some(("Content-Length", value)) => announced = Some(value.parse::<u64>()?),
            Some(_) => {}
        }
    }
    // rustls makes an end without close_notify an error.
    let mut body = Vec::new();
    stream.read_to_end(&mut body)?;
    if announced != Some(body.len() as u64) {
        return Err(format!("{announced:?} bytes announced, {} sent", body.len()).into());
    }
    io::stdout().write_all(&body)?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [address, path, ca, version, suite] = arguments.as_slice() else {
        return Err("usage: rustls-client ADDRESS:PORT PATH CA.pem 1.2|1.3 SUITE".into());
    };
    fetch(address, path, config(ca, version, suite)?)
}
