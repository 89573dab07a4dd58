//! A crypto accelerator behind OpenSSL: a provider, or an ENGINE where libcrypto has them.

use core::ffi::{CStr, c_int, c_void};
use core::ptr::{null, null_mut};
use std::ffi::CString;
use std::os::unix::ffi::OsStringExt;
use std::sync::{Mutex, PoisonError};

use super::libcrypto::{Libcrypto, Opaque};
use super::secret::SecretBox;

/// A loaded accelerator. Stays loaded for good.
#[derive(Debug)]
pub struct Device {
    library: &'static Libcrypto,
    source: Source,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    /// A library context that has nothing but the provider.
    Provider(Opaque),
    Engine(Opaque),
}

// SAFETY: OpenSSL's contexts, providers and engines may be used by any thread.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

/// The ciphers that an accelerator is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceCipher {
    /// AES-128-GCM.
    AesGcm128,
    /// AES-256-GCM.
    AesGcm256,
}

impl Device {
    /// Loads the provider, or else the ENGINE, with this name or at this path.
    ///
    /// # Errors
    /// Why neither can be had.
    pub fn load(id: &str) -> Result<Device, String> {
        let library = Libcrypto::get()?;
        // A path; OpenSSL would look for one that is relative in a folder of its own.
        let id = match id.contains('/') {
            true => std::path::absolute(id).map_err(|error| error.to_string())?,
            false => id.into(),
        };
        let name = CString::new(id.into_os_string().into_vec())
            .map_err(|_| "a NUL in the name".to_owned())?;
        // Here, so that OpenSSL's handler of `atexit` is there: see `at_exit`.
        // SAFETY: flags, and no settings.
        if unsafe {
            (library.OPENSSL_init_crypto)(
                OPENSSL_INIT_ASYNC | OPENSSL_INIT_LOAD_CRYPTO_STRINGS,
                null(),
            )
        } != 1
        {
            return Err(library.error());
        }
        // SAFETY: takes nothing.
        if unsafe { (library.ASYNC_is_capable)() } != 1 {
            return Err("this libcrypto has no async jobs".to_owned());
        }
        let no_provider = match provider(library, &name) {
            Ok(source) => return Ok(Device { library, source }),
            Err(reason) => reason,
        };
        match engine(library, &name) {
            Ok(source) => Ok(Device { library, source }),
            Err(no_engine) => Err(format!(
                "as a provider: {no_provider}; as an ENGINE: {no_engine}"
            )),
        }
    }

    /// A key of a cipher, if the accelerator has that.
    #[must_use]
    pub fn key(&'static self, cipher: DeviceCipher, key: &[u8]) -> Option<DeviceKey> {
        let (name, nid, key_len) = match cipher {
            DeviceCipher::AesGcm128 => (c"AES-128-GCM", NID_AES_128_GCM, 16),
            DeviceCipher::AesGcm256 => (c"AES-256-GCM", NID_AES_256_GCM, 32),
        };
        if key.len() != key_len {
            return None;
        }
        let (cipher, engine) = match self.source {
            // SAFETY: a live library context and strings; the cipher is never freed.
            Source::Provider(context) => (
                unsafe { (self.library.EVP_CIPHER_fetch)(context, name.as_ptr(), null()) },
                null_mut(),
            ),
            // SAFETY: a live engine.
            Source::Engine(engine) => (
                unsafe { (self.library.ENGINE_get_cipher?)(engine, nid) },
                engine,
            ),
        };
        let mut bytes = SecretBox::new(Bytes([0; 32]));
        bytes.0[..key_len].copy_from_slice(key);
        (!cipher.is_null()).then(|| DeviceKey {
            library: self.library,
            cipher,
            engine,
            key: bytes,
            idle: Mutex::new(Vec::new()),
        })
    }
}

/// `handler` is called when the process ends by `exit`, before the handlers that are there already.
pub fn at_exit(handler: extern "C" fn()) {
    // SAFETY: a function of this library, which is never unloaded.
    unsafe { libc::atexit(handler) };
}

fn provider(library: &'static Libcrypto, name: &CStr) -> Result<Source, String> {
    // SAFETY: takes nothing.
    let context = unsafe { (library.OSSL_LIB_CTX_new)() };
    if context.is_null() {
        return Err(library.error());
    }
    // SAFETY: a live context and a string; both stay.
    let loaded = unsafe { (library.OSSL_PROVIDER_load)(context, name.as_ptr()) };
    match loaded.is_null() {
        true => Err(library.error()),
        false => Ok(Source::Provider(context)),
    }
}

fn engine(library: &'static Libcrypto, name: &CStr) -> Result<Source, String> {
    let (Some(by_id), Some(init), Some(command), Some(_)) = (
        library.ENGINE_by_id,
        library.ENGINE_init,
        library.ENGINE_ctrl_cmd_string,
        library.ENGINE_get_cipher,
    ) else {
        return Err("this libcrypto has none".to_owned());
    };
    let engine = if name.to_bytes().contains(&b'/') {
        // SAFETY: a flag, and no settings.
        unsafe { (library.OPENSSL_init_crypto)(OPENSSL_INIT_ENGINE_DYNAMIC, null()) };
        // SAFETY: a string.
        let engine = unsafe { by_id(c"dynamic".as_ptr()) };
        let done = !engine.is_null()
            // SAFETY: a live engine and strings.
            && unsafe { command(engine, c"SO_PATH".as_ptr(), name.as_ptr(), 0) } == 1
            // SAFETY: as above.
            && unsafe { command(engine, c"LOAD".as_ptr(), null(), 0) } == 1;
        if done { engine } else { null_mut() }
    } else {
        // SAFETY: a string.
        unsafe { by_id(name.as_ptr()) }
    };
    // SAFETY: a live engine, which stays.
    if engine.is_null() || unsafe { init(engine) } != 1 {
        return Err(library.error());
    }
    Ok(Source::Engine(engine))
}

/// A key at work on an accelerator. Sealing takes as many contexts as there are records in flight.
pub struct DeviceKey {
    library: &'static Libcrypto,
    cipher: Opaque,
    engine: Opaque,
    key: SecretBox<Bytes>,
    idle: Mutex<Vec<Context>>,
}

// SAFETY: the cipher is never changed, contexts are behind a lock, and each is used by one call at a time.
unsafe impl Send for DeviceKey {}
// SAFETY: as above.
unsafe impl Sync for DeviceKey {}

struct Bytes([u8; 32]);

impl core::fmt::Debug for DeviceKey {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.write_str("DeviceKey")
    }
}

impl DeviceKey {
    /// Seals `plain` and then `extra` into `out`, whose last 16 bytes are the tag. May pause the async job
    /// that it is called in. Returns whether it was done.
    pub fn seal(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        plain: &[u8],
        extra: &[u8],
        out: &mut [u8],
    ) -> bool {
        let pooled = self.contexts().pop();
        let Some(context) = pooled.or_else(|| self.context()) else {
            return false;
        };
        // A context that failed is not used again.
        let done = context.seal(nonce, aad, plain, extra, out).is_some();
        if done {
            self.contexts().push(context);
        }
        done
    }

    fn contexts(&self) -> std::sync::MutexGuard<'_, Vec<Context>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn context(&self) -> Option<Context> {
        let library = self.library;
        // SAFETY: takes nothing.
        let context = unsafe { (library.EVP_CIPHER_CTX_new)() };
        let context = (!context.is_null()).then_some(Context { library, context })?;
        context.init(self.cipher, self.engine, null(), null())?;
        context.control(EVP_CTRL_AEAD_SET_IVLEN, 12, null_mut())?;
        context.init(null_mut(), null_mut(), self.key.0.as_ptr(), null())?;
        Some(context)
    }
}

#[derive(Debug)]
struct Context {
    library: &'static Libcrypto,
    context: Opaque,
}

// SAFETY: a context may move between threads, it may only not be used by two at once.
unsafe impl Send for Context {}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made by EVP_CIPHER_CTX_new, not used again.
        unsafe { (self.library.EVP_CIPHER_CTX_free)(self.context) };
    }
}

impl Context {
    fn init(&self, cipher: Opaque, engine: Opaque, key: *const u8, nonce: *const u8) -> Option<()> {
        // SAFETY: a live context; key and nonce are null or as long as the cipher says.
        let done = unsafe {
            (self.library.EVP_CipherInit_ex)(self.context, cipher, engine, key, nonce, 1)
        };
        (done == 1).then_some(())
    }

    fn control(&self, command: c_int, value: c_int, data: *mut c_void) -> Option<()> {
        // SAFETY: a live context; `data` is null or has `value` bytes.
        let done =
            unsafe { (self.library.EVP_CIPHER_CTX_ctrl)(self.context, command, value, data) };
        (done == 1).then_some(())
    }

    /// The `len` bytes at `input` to `out`: the same memory, other memory of that length, or null (additional
    /// data).
    fn update(&self, out: *mut u8, input: *const u8, len: usize) -> Option<()> {
        let (mut written, len) = (0, c_int::try_from(len).ok()?);
        let update = self.library.EVP_CipherUpdate;
        // SAFETY: a live context; the pointers as said above.
        let done = unsafe { update(self.context, out, &raw mut written, input, len) };
        (done == 1 && (out.is_null() || written == len)).then_some(())
    }

    fn seal(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        plain: &[u8],
        extra: &[u8],
        out: &mut [u8],
    ) -> Option<()> {
        let len = plain.len() + extra.len();
        let (text, tag) = out.split_at_mut_checked(len)?;
        if tag.len() != 16 {
            return None;
        }
        self.init(null_mut(), null_mut(), null(), nonce.as_ptr())?;
        self.update(null_mut(), aad.as_ptr(), aad.len())?;
        // One operation of the accelerator a record, not two: it has to be in one piece.
        let input = if extra.is_empty() {
            plain.as_ptr()
        } else {
            text[..plain.len()].copy_from_slice(plain);
            text[plain.len()..].copy_from_slice(extra);
            text.as_mut_ptr().cast_const()
        };
        if len > 0 {
            self.update(text.as_mut_ptr(), input, len)?;
        }
        let (mut nothing, mut written) = ([0u8; 16], 0);
        let finish = self.library.EVP_CipherFinal_ex;
        // SAFETY: a live context; this cipher writes nothing here.
        let done = unsafe { finish(self.context, nothing.as_mut_ptr(), &raw mut written) };
        (done == 1).then_some(())?;
        self.control(EVP_CTRL_AEAD_GET_TAG, 16, tag.as_mut_ptr().cast())
    }
}

const EVP_CTRL_AEAD_SET_IVLEN: c_int = 0x9;
const EVP_CTRL_AEAD_GET_TAG: c_int = 0x10;
const NID_AES_128_GCM: c_int = 895;
const NID_AES_256_GCM: c_int = 901;
const OPENSSL_INIT_ASYNC: u64 = 0x100;
const OPENSSL_INIT_ENGINE_DYNAMIC: u64 = 0x400;
const OPENSSL_INIT_LOAD_CRYPTO_STRINGS: u64 = 0x2;
