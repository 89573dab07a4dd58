//! Where the preload library is.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::Failure;

const NAME: &str = "libuktls_preload.so";

/// The directory that `make install` has put it in.
const LIBDIR: Option<&str> = option_env!("UKTLS_LIBDIR");

/// Finds it: where it is told, beside this program, or where it was installed.
pub fn find(told: Option<&Path>) -> Result<PathBuf, Failure> {
    let found = match told {
        Some(told) => told.is_file().then(|| told.to_owned()),
        None => places()
            .into_iter()
            .map(|place| place.join(NAME))
            .find(|path| path.is_file()),
    };
    let found = found
        .and_then(|path| path.canonicalize().ok())
        .ok_or_else(|| {
            let what = told.map_or(NAME.to_owned(), |told| told.display().to_string());
            Failure::new(126, format!("{what} is not there; say --preload"))
        })?;
    // The dynamic linker takes both for the end of a name.
    if found
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .any(|byte| b" :".contains(byte))
    {
        return Err(Failure::new(
            126,
            format!("{}: LD_PRELOAD can hold no such name", found.display()),
        ));
    }
    Ok(found)
}

fn places() -> Vec<PathBuf> {
    let beside = std::env::current_exe().and_then(|exe| exe.canonicalize());
    let mut places = Vec::new();
    if let Some(directory) = beside.ok().as_deref().and_then(Path::parent) {
        places.push(directory.join("../lib"));
        places.push(directory.join(format!("../lib/{}-linux-gnu", std::env::consts::ARCH)));
        // A build tree: target/release/uktls and build/lib.
        places.push(directory.join("../../build/lib"));
    }
    places.extend(LIBDIR.map(PathBuf::from));
    places
}

/// The value of LD_PRELOAD with our library in front of what is there.
pub fn in_front(library: &Path, before: Option<&OsStr>) -> OsString {
    let mut value = library.as_os_str().to_owned();
    if let Some(before) = before.filter(|before| !before.is_empty()) {
        value.push(":");
        value.push(before);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_preloaded_stays() {
        let library = Path::new("/l/u.so");
        assert_eq!(in_front(library, None), "/l/u.so");
        assert_eq!(in_front(library, Some(OsStr::new(""))), "/l/u.so");
        let both = in_front(library, Some(OsStr::new("/a.so /b.so")));
        assert_eq!(both, "/l/u.so:/a.so /b.so");
    }
}
