//! What sealing one record costs, per cipher and AEAD implementation: the reason for the order in
//! which `UKTLS_AEAD=auto` tries them.

use std::hint::black_box;

use anyhow::{Context, Result, anyhow};
use aws_lc_rs::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use clap::Args;
use uktls::aead::{Choice, Cipher, Provider, RecordSealer};
use uktls::crypto_info::{CryptoInfo, expected_len};
use uktls::record::Version;
use uktls::record::content_type::APPLICATION_DATA;

use crate::clock::monotonic;
use crate::stats::median;

/// The subcommand that prints this table instead of the benchmarks.
pub const SUBCOMMAND: &str = "aead";

#[derive(Args, Debug)]
pub struct AeadArgs {
    /// Bytes of plaintext in a record
    #[arg(long, value_delimiter = ',', default_value = "64,1024,16384")]
    size: Vec<usize>,

    /// Rounds in which the implementations take turns
    #[arg(long, default_value_t = 5)]
    rounds: u16,

    /// What one measurement should take, in milliseconds
    #[arg(long, default_value_t = 50)]
    millis: u64,
}

/// Print GB/s of plaintext, TLS 1.3 where it has the cipher; in brackets the one that `auto` takes.
pub fn print(args: &AeadArgs) -> Result<()> {
    println!("GB/s sealed, medians of {} rounds; [auto]", args.rounds);
    println!(
        "{:<18} {:>6}  {:>12} {:>12} {:>12} {:>12} {:>12}",
        "cipher", "bytes", "aws-lc", "openssl", "rustcrypto", "ring", "bare aws-lc"
    );
    for cipher in Cipher::ALL {
        let auto = sealer(cipher, Choice::Auto)?.provider();
        for &size in &args.size {
            print!("{:<18} {size:>6} ", format!("{cipher:?}"));
            for speed in round_robin(cipher, size, args)? {
                match speed {
                    Some((provider, speed)) if provider == auto => {
                        print!(" {:>12}", format!("[{speed:.3}]"));
                    }
                    Some((_, speed)) => print!(" {speed:>12.3}"),
                    None => print!(" {:>12}", "-"),
                }
            }
            let bare = (0..args.rounds)
                .map(|_| bare(cipher, size, args.millis))
                .collect::<Result<Option<Vec<f64>>>>()?;
            match bare {
                Some(speeds) => println!(" {:>12.3}", median(speeds)),
                None => println!(" {:>12}", "-"),
            }
        }
    }
    Ok(())
}

/// The median speed of each implementation that has the cipher.
fn round_robin(
    cipher: Cipher,
    size: usize,
    args: &AeadArgs,
) -> Result<Vec<Option<(Provider, f64)>>> {
    let forced = [
        (Choice::AwsLc, Provider::AwsLc),
        (Choice::OpenSsl, Provider::OpenSsl),
        (Choice::RustCrypto, Provider::RustCrypto),
        (Choice::Ring, Provider::Ring),
    ];
    let mut speeds = vec![Vec::new(); forced.len()];
    for _ in 0..args.rounds {
        for ((choice, provider), speeds) in forced.iter().zip(&mut speeds) {
            let sealer = sealer(cipher, *choice)?;
            if sealer.provider() == *provider {
                speeds.push(seal(cipher, &sealer, size, args.millis)?);
            }
        }
    }
    let rows = forced.iter().zip(&mut speeds);
    Ok(rows
        .map(|((_, provider), speeds)| {
            (!speeds.is_empty()).then(|| (*provider, median(speeds.drain(..))))
        })
        .collect())
}

/// Bytes per nanosecond.
fn seal(cipher: Cipher, sealer: &RecordSealer, size: usize, millis: u64) -> Result<f64> {
    let mut numbers = CryptoInfo::parse(&info(cipher))
        .map_err(|error| anyhow!("{error}"))?
        .numbers();
    let plain = vec![0x5a; size];
    let mut record = vec![0; size + sealer.overhead()];
    let start = monotonic();
    let enough = millis * 1_000_000;
    let mut records = 0;
    let elapsed = loop {
        // Between two readings of the clock, so that it costs nothing.
        for _ in 0..32 {
            let number = numbers.reserve().context("numbers left")?;
            sealer
                .seal_from(number, APPLICATION_DATA, black_box(&plain), &mut record)
                .map_err(|error| anyhow!("{error}"))?;
            black_box(&record);
            records += 1;
        }
        let elapsed = monotonic() - start;
        if elapsed >= enough {
            break elapsed;
        }
    };
    Ok((records * size) as f64 / elapsed as f64)
}

/// AWS-LC by itself, in place: neither header nor nonce to make, nothing to check. None where it has no such cipher.
fn bare(cipher: Cipher, size: usize, millis: u64) -> Result<Option<f64>> {
    let algorithm = match cipher {
        Cipher::AesGcm128 => &aws_lc_rs::aead::AES_128_GCM,
        Cipher::AesGcm256 => &aws_lc_rs::aead::AES_256_GCM,
        Cipher::ChaCha20Poly1305 => &aws_lc_rs::aead::CHACHA20_POLY1305,
        _ => return Ok(None),
    };
    let key = UnboundKey::new(algorithm, &vec![0x21; algorithm.key_len()])?;
    let key = LessSafeKey::new(key);
    let mut record = vec![0x5a; size];
    let start = monotonic();
    let enough = millis * 1_000_000;
    let mut records = 0;
    let elapsed = loop {
        for _ in 0..32u32 {
            let mut nonce = [0; NONCE_LEN];
            nonce[4..].copy_from_slice(&(records as u64).to_be_bytes());
            let nonce = Nonce::assume_unique_for_key(nonce);
            let tag = key.seal_in_place_separate_tag(nonce, Aad::from([0; 5]), &mut record)?;
            let _ = black_box((&record, tag));
            records += 1;
        }
        let elapsed = monotonic() - start;
        if elapsed >= enough {
            break elapsed;
        }
    };
    Ok(Some((records * size) as f64 / elapsed as f64))
}

fn sealer(cipher: Cipher, choice: Choice) -> Result<RecordSealer> {
    let keys = CryptoInfo::parse(&info(cipher)).map_err(|error| anyhow!("{error}"))?;
    RecordSealer::new(&keys, choice).map_err(|error| anyhow!("{error}"))
}

/// Some keys, as a program would hand them over.
fn info(cipher: Cipher) -> Vec<u8> {
    let version = match cipher.is_in(Version::Tls13) {
        true => Version::Tls13,
        false => Version::Tls12,
    };
    let mut info = vec![0x21; expected_len(cipher)];
    info[..2].copy_from_slice(&version.code().to_ne_bytes());
    info[2..4].copy_from_slice(&cipher.id().to_ne_bytes());
    let rec_seq = info.len() - 8;
    info[rec_seq..].fill(0);
    info
}
