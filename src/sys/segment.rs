//! Memory that other processes of the user may look at: a file in `/dev/shm` in the place of a page.

use core::ffi::c_void;
use core::mem::{MaybeUninit, size_of};
use core::ops::Deref;

use rustix::fd::OwnedFd;
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MremapFlags, ProtFlags};

/// A value with its pages to itself, so that they can be replaced.
#[repr(C, align(4096))]
#[derive(Debug)]
pub struct Page<T>(T);

impl<T> Page<T> {
    /// In memory of the process's own.
    pub const fn new(value: T) -> Page<T> {
        Page(value)
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
        let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
        self.move_to(&file).inspect_err(|_| {
            let _ = rustix::fs::unlink(path);
        })
    }

    fn move_to(&'static self, file: &OwnedFd) -> Result<(), Errno> {
        let len = size_of::<Page<T>>();
        // Now, as a full file system would otherwise be a SIGBUS later.
        rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len as u64)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let anywhere = core::ptr::null_mut();
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let new =
            unsafe { rustix::mm::mmap(anywhere, len, protection, MapFlags::SHARED, file, 0) }?;
        let old = (&raw const *self).cast_mut().cast::<c_void>();
        // SAFETY: both are of this length, and any bytes are a value (`PlainAtomics`): what changes meanwhile
        // is copied as before or after.
        unsafe { core::ptr::copy_nonoverlapping(old.cast::<MaybeUninit<u8>>(), new.cast(), len) };
        // SAFETY: the old pages hold `self` and nothing else; the new ones have the same contents.
        unsafe { rustix::mm::mremap_fixed(new, len, len, MremapFlags::MAYMOVE, old) }.map(drop)
    }

    /// In a child: the value is the process's own again, and zero.
    pub fn withdraw(&'static self)
    where
        T: PlainAtomics,
    {
        let (at, len) = (
            (&raw const *self).cast_mut().cast::<c_void>(),
            size_of::<Page<T>>(),
        );
        let (protection, flags) = (
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE | MapFlags::FIXED,
        );
        // SAFETY: whole pages that hold `self` and nothing else, and zero is a value (`PlainAtomics`).
        let _ = unsafe { rustix::mm::mmap_anonymous(at, len, protection, flags) };
    }
}

/// All fields are atomic numbers.
///
/// # Safety
/// No field is anything else, so that every byte pattern is a value and bytes may change by themselves.
pub unsafe trait PlainAtomics: Sync {}

impl<T> Deref for Page<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
