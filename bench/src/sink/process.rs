//! The sink process itself.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use anyhow::{Context, Result};
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{Ssl, SslContext, SslMethod, SslStream, SslVersion};
use openssl::x509::{X509, X509NameBuilder};
use rustix::net::RecvFlags;
use rustls::ServerConfig;

use super::deliver;
use super::dropper::Dropper;
use super::protocol::{ANSWER, Hello, Kind, READY, write_total};
use crate::limits::raise_nofile;
use crate::placement::Pinned;

/// Most bytes dropped by one `recv`.
pub(super) const DROP_LEN: usize = 1 << 20;

/// Serve until stdin closes.
pub fn serve() -> Result<()> {
    raise_nofile()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    thread::spawn(|| {
        // Either the parent closed the pipe or it is gone: the work is over both ways.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let shared = Arc::new(Shared {
        tls: server_context()?,
        server: deliver::server_config()?,
        parked: Mutex::default(),
        dropper: OnceLock::new(),
    });
    for stream in listener.incoming() {
        let (stream, shared) = (stream?, Arc::clone(&shared));
        thread::Builder::new()
            .stack_size(256 << 10)
            .spawn(move || {
                if let Err(error) = connection(stream, &shared) {
                    eprintln!("sink: {error:#}");
                }
            })?;
    }
    Ok(())
}

struct Shared {
    tls: SslContext,
    server: Arc<ServerConfig>,
    parked: Mutex<Vec<TcpStream>>,
    dropper: OnceLock<Option<Dropper>>,
}

fn connection(mut stream: TcpStream, shared: &Shared) -> Result<()> {
    stream.set_nodelay(true)?;
    let hello = Hello::read_from(&mut stream).context("reading the hello")?;
    let _pinned = hello.processor.map(Pinned::to).transpose()?;
    if matches!(hello.kind, Kind::DeliverPlain | Kind::DeliverSealed) {
        return deliver::serve(stream, hello, &shared.server);
    }
    if let Some(cipher) = hello.handshake {
        let mut ssl = Ssl::new(&shared.tls)?;
        ssl.set_ciphersuites(cipher.suite())?;
        let mut tls = SslStream::new(ssl, stream.try_clone()?)?;
        tls.accept().context("handshake")?;
    }
    match hello.kind {
        Kind::Stream => {
            stream.write_all(&[READY])?;
            let total = drop_until_end(&stream, &mut vec![0; DROP_LEN])?;
            write_total(&mut stream, total)?;
        }
        Kind::Request => {
            stream.write_all(&[READY])?;
            let total = answer_requests(&mut stream, hello.wire_len)?;
            write_total(&mut stream, total)?;
        }
        Kind::DeliverPlain | Kind::DeliverSealed => unreachable!("served above"),
        Kind::Park => {
            let mut parked = shared
                .parked
                .lock()
                .expect("no thread panics while it holds the list");
            parked.push(stream.try_clone()?);
            drop(parked);
            stream.write_all(&[READY])?;
        }
        Kind::Active => {
            shared.dropper.get_or_init(|| Dropper::start().ok());
            let dropper = shared.dropper.get().and_then(Option::as_ref);
            let dropper = dropper.context("nobody drops")?;
            stream.write_all(&[READY])?;
            dropper.take(stream)?;
        }
        Kind::Collect => {
            let parked = std::mem::take(&mut *shared.parked.lock().expect("as above"));
            let mut scratch = vec![0; DROP_LEN];
            let dropper = shared.dropper.get().and_then(Option::as_ref);
            let mut total = dropper.map_or(0, Dropper::collect);
            for connection in &parked {
                total += drop_until_end(connection, &mut scratch)?;
            }
            write_total(&mut stream, total)?;
        }
    }
    Ok(())
}

/// Drop up to `scratch.len()` bytes; their number, 0 at the end of the stream.
pub(super) fn drop_some(stream: &TcpStream, scratch: &mut [u8]) -> io::Result<usize> {
    loop {
        // TCP writes nothing into the buffer under MSG_TRUNC; its length is the most that is dropped.
        match rustix::net::recv(stream, &mut *scratch, RecvFlags::TRUNC) {
            Ok((_, dropped)) => return Ok(dropped),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn drop_until_end(stream: &TcpStream, scratch: &mut [u8]) -> io::Result<u64> {
    let mut total = 0;
    loop {
        match drop_some(stream, scratch)? {
            0 => return Ok(total),
            dropped => total += dropped as u64,
        }
    }
}

/// Answer each `wire_len` bytes; the bytes received in all, whole requests or not.
fn answer_requests(stream: &mut TcpStream, wire_len: u64) -> Result<u64> {
    let mut scratch = vec![0; usize::try_from(wire_len)?];
    let mut total = 0;
    loop {
        let mut missing = scratch.len();
        while missing > 0 {
            match drop_some(stream, &mut scratch[..missing])? {
                0 => return Ok(total),
                dropped => {
                    missing -= dropped;
                    total += dropped as u64;
                }
            }
        }
        stream.write_all(&[ANSWER])?;
    }
}

/// TLS 1.3, a fresh self-signed certificate, and no session tickets: after the handshake
/// the server has nothing more to say, so every later byte towards the sender is one of ours.
fn server_context() -> Result<SslContext> {
    let (certificate, key) = self_signed()?;
    let mut context = SslContext::builder(SslMethod::tls_server())?;
    context.set_min_proto_version(Some(SslVersion::TLS1_3))?;
    context.set_num_tickets(0)?;
    context.set_certificate(&certificate)?;
    context.set_private_key(&key)?;
    Ok(context.build())
}

pub(super) fn self_signed() -> Result<(X509, PKey<Private>)> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let key = PKey::from_ec_key(EcKey::generate(&group)?)?;
    let mut name = X509NameBuilder::new()?;
    name.append_entry_by_text("CN", "localhost")?;
    let name = name.build();
    let mut certificate = X509::builder()?;
    certificate.set_version(2)?;
    let serial = BigNum::from_u32(1)?.to_asn1_integer()?;
    certificate.set_serial_number(&serial)?;
    certificate.set_subject_name(&name)?;
    certificate.set_issuer_name(&name)?;
    let (now, tomorrow) = (Asn1Time::days_from_now(0)?, Asn1Time::days_from_now(1)?);
    certificate.set_not_before(&now)?;
    certificate.set_not_after(&tomorrow)?;
    certificate.set_pubkey(&key)?;
    certificate.sign(&key, MessageDigest::sha256())?;
    Ok((certificate.build(), key))
}
