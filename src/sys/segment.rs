//! Memory that other processes of the user may look at: a file in `/dev/shm`.

use core::mem::{MaybeUninit, size_of};
use core::ops::Deref;
use core::sync::atomic::{AtomicPtr, Ordering};

use rustix::fd::OwnedFd;
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MremapFlags, ProtFlags};

use super::{page, signals};

/// A value that can move to a mapping of its own, whose pages can then be replaced.
///
/// It is not mapped over where it stands: the kernel does that by whole pages, and with large ones the
/// statics beside it would be lost.
#[derive(Debug)]
pub struct Page<T: 'static> {
    /// Where the value is: at first `first`, later a mapping, which stays where it is.
    now: AtomicPtr<T>,
    first: &'static T,
}

impl<T> Page<T> {
    /// In memory of the process's own.
    pub const fn new(first: &'static T) -> Page<T> {
        let now = AtomicPtr::new(core::ptr::from_ref(first).cast_mut());
        Page { now, first }
    }

    /// Moves the value to the new file `path`, which nobody but its owner can read. Another thread that
    /// writes to the value meanwhile may write in vain.
    ///
    /// # Errors
    /// `EEXIST`, `ENOENT`, `ENOSPC` and the like; then nothing has changed.
    pub fn publish(&'static self, path: &core::ffi::CStr) -> Result<(), Errno>
    where
        T: PlainAtomics,
    {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(rustix::fs::CWD, path, flags, Mode::RUSR | Mode::WUSR)?;
        self.move_to(&file).inspect_err(|_| {
            let _ = rustix::fs::unlink(path);
        })
    }

    fn move_to(&'static self, file: &OwnedFd) -> Result<(), Errno> {
        const { assert!(size_of::<T>() <= FILE_LEN) };
        // Now, as a full file system would otherwise be a SIGBUS later. The program may have a limit on the size of
        // its files (`EFBIG`).
        signals::without_those_of_files(|| {
            rustix::fs::fallocate(file, FallocateFlags::empty(), 0, FILE_LEN as u64)
        })?;
        let len = Self::mapping_len()?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let anywhere = core::ptr::null_mut();
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let new =
            unsafe { rustix::mm::mmap(anywhere, len, protection, MapFlags::SHARED, file, 0) }?;
        let old = self.now.load(Ordering::Acquire);
        let (from, to) = (old.cast_const().cast(), new.cast::<MaybeUninit<u8>>());
        // SAFETY: both have room for the value, and any bytes are one (`PlainAtomics`): what changes
        // meanwhile is copied as before or after.
        unsafe { core::ptr::copy_nonoverlapping(from, to, size_of::<T>()) };
        if core::ptr::eq(old, self.first) {
            // Release: whoever finds the new place finds the value there.
            self.now.store(new.cast(), Ordering::Release);
            return Ok(());
        }
        // In place, as a thread may be between its look at where the value is and its write.
        // SAFETY: both are mappings of this length, made here and for nothing but the value; the contents
        // are the same.
        unsafe { rustix::mm::mremap_fixed(new, len, len, MremapFlags::MAYMOVE, old.cast()) }
            .map(drop)
            .inspect_err(|_| {
                // SAFETY: nobody knows of the new mapping.
                let _ = unsafe { rustix::mm::munmap(new, len) };
            })
    }

    /// In a child: the value is the process's own again, and zero where it was published.
    pub fn withdraw(&'static self)
    where
        T: PlainAtomics,
    {
        let now = self.now.load(Ordering::Acquire);
        if core::ptr::eq(now, self.first) {
            return;
        }
        let (protection, flags) = (
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE | MapFlags::FIXED,
        );
        let replaced = Self::mapping_len().and_then(|len| {
            // SAFETY: a mapping of this length that is for nothing but the value, and zero is a value
            // (`PlainAtomics`).
            unsafe { rustix::mm::mmap_anonymous(now.cast(), len, protection, flags) }
        });
        if replaced.is_err() {
            // Never the parent's.
            let first = core::ptr::from_ref(self.first).cast_mut();
            self.now.store(first, Ordering::Release);
        }
    }

    fn mapping_len() -> Result<usize, Errno> {
        page::round_up(FILE_LEN).ok_or(Errno::NOMEM)
    }
}

/// The length of the file, on all machines.
pub const FILE_LEN: usize = 4096;

/// All fields are atomic numbers.
///
/// # Safety
/// No field is anything else, so that every byte pattern is a value and bytes may change by themselves.
pub unsafe trait PlainAtomics: Sync {}

impl<T> Deref for Page<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // Acquire: pairs with the Release in `move_to`.
        let now = self.now.load(Ordering::Acquire);
        // SAFETY: `first`, or a mapping that has held a value ever since and is never taken away.
        unsafe { &*now }
    }
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use std::ffi::CString;
    use std::sync::atomic::AtomicU64;

    use super::*;

    struct Value([AtomicU64; 4]);

    // SAFETY: atomic numbers.
    unsafe impl PlainAtomics for Value {}

    /// As the linker would put it: a value at the start of a page, with others beside it.
    #[repr(C, align(65536))]
    struct Statics {
        value: Value,
        neighbours: [u64; 16383],
    }

    impl Statics {
        fn new() -> &'static Statics {
            Box::leak(Box::new(Statics {
                value: Value([const { AtomicU64::new(1) }; 4]),
                neighbours: [7; 16383],
            }))
        }
    }

    fn shown(path: &CString) -> Vec<u8> {
        std::fs::read(path.to_str().unwrap()).unwrap()
    }

    /// Pages of 16 and 64 KiB, too: nothing but the value moves, and it can come and go.
    #[test]
    fn neighbours_stay_whole() {
        page::testing::for_each_size(|size| {
            let statics = Statics::new();
            let page: &'static Page<Value> = Box::leak(Box::new(Page::new(&statics.value)));
            let whole = || statics.neighbours.iter().all(|word| *word == 7);
            let dir = std::env::temp_dir();
            for round in 0..3u64 {
                let name = format!("uktls-test-{}-{size}-{round}", std::process::id());
                let path = CString::new(dir.join(name).to_str().unwrap()).unwrap();
                page.0[0].store(40 + round, Ordering::Relaxed);
                page.publish(&path).unwrap();
                assert_eq!(page.publish(&path), Err(Errno::EXIST));
                page.0[0].fetch_add(10, Ordering::Relaxed);
                let file = shown(&path);
                assert_eq!(file.len(), FILE_LEN, "as `uktls stat` reads it");
                assert_eq!(file[..8], (50 + round).to_ne_bytes());
                assert!(whole(), "published, pages of {size}");
                page.withdraw();
                assert!(whole(), "withdrawn, pages of {size}");
                assert!(page.0.iter().all(|n| n.load(Ordering::Relaxed) == 0));
                page.0[0].store(3, Ordering::Relaxed);
                assert_eq!(shown(&path), file, "the file is not the process's any more");
                std::fs::remove_file(path.to_str().unwrap()).unwrap();
            }
        });
    }
}
