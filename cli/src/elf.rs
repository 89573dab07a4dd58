//! What kind of program a file is, as far as preloading goes.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use object::elf::{DT_NEEDED, FileHeader64, PT_INTERP};
use object::read::elf::{Dyn, ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, Object};

/// Finds a program as the shell does.
pub fn find(program: &OsStr) -> Option<PathBuf> {
    if program.as_encoded_bytes().contains(&b'/') {
        return Some(PathBuf::from(program)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|file| {
            file.metadata()
                .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        })
}

/// The program that runs a script, or the file itself.
pub fn interpreter(path: &Path) -> Option<PathBuf> {
    let start = fs::read(path).ok()?;
    let line = start.strip_prefix(b"#!")?;
    let line = line.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_ascii_whitespace();
    let first = words.next()?;
    match Path::new(first)
        .file_name()
        .is_some_and(|name| name == "env")
    {
        true => find(OsStr::new(words.find(|word| !word.starts_with('-'))?)),
        false => Some(PathBuf::from(first)),
    }
}

/// Why the library cannot be preloaded into a program, if it cannot.
pub fn obstacle(path: &Path) -> Option<String> {
    obstacle_behind(path, 0)
}

fn obstacle_behind(path: &Path, scripts: usize) -> Option<String> {
    if scripts > INTERPRETERS_MAX {
        return Some("its interpreters are scripts without end".to_owned());
    }
    let found = path.metadata().ok()?;
    if found.mode() & 0o6000 != 0 && found.uid() != rustix::process::geteuid().as_raw() {
        return Some("it runs with the rights of somebody else (setuid, setgid)".to_owned());
    }
    let mut value = [0u8; 64];
    if rustix::fs::getxattr(path, "security.capability", &mut value[..]).is_ok() {
        return Some("it has file capabilities".to_owned());
    }
    if let Some(interpreter) = interpreter(path) {
        return obstacle_behind(&interpreter, scripts + 1);
    }
    let data = fs::read(path).ok()?;
    let Ok(file) = ElfFile64::<Endianness>::parse(&data[..]) else {
        return Some("it is no 64-bit program".to_owned());
    };
    let own = match std::env::consts::ARCH {
        "x86_64" => object::Architecture::X86_64,
        "aarch64" => object::Architecture::Aarch64,
        _ => file.architecture(),
    };
    if file.architecture() != own {
        return Some(format!(
            "it is for another machine ({:?})",
            file.architecture()
        ));
    }
    let go = file.section_by_name_bytes(b".go.buildinfo").is_some();
    let endian = file.endian();
    let headers = file.elf_program_headers();
    if !headers
        .iter()
        .any(|header| header.p_type(endian) == PT_INTERP)
    {
        return Some(format!(
            "it is linked statically{}",
            if go { " (Go)" } else { "" }
        ));
    }
    go.then(|| "it is a Go program, which makes its system calls by itself".to_owned())
}

/// The shared libraries of a program, by name, those of libraries included.
pub fn libraries(path: &Path) -> BTreeSet<String> {
    let directories = directories();
    let mut names = BTreeSet::new();
    let mut left = VecDeque::from([path.to_owned()]);
    while let Some(path) = left.pop_front() {
        for name in needed(&path).unwrap_or_default() {
            if names.insert(name.clone()) {
                let found = directories.iter().map(|directory| directory.join(&name));
                left.extend(found.into_iter().find(|path| path.is_file()));
            }
        }
    }
    names
}

fn needed(path: &Path) -> Option<Vec<String>> {
    let data = fs::read(path).ok()?;
    let header = FileHeader64::<Endianness>::parse(&data[..]).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, &data[..]).ok()?;
    let (dynamic, link) = sections.dynamic(endian, &data[..]).ok()??;
    let strings = sections.strings(endian, &data[..], link).ok()?;
    let names = dynamic
        .iter()
        .filter(|entry| entry.tag(endian) == DT_NEEDED);
    let names = names.filter_map(|entry| entry.string(endian, strings).ok());
    Some(
        names
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect(),
    )
}

/// Where the dynamic linker looks.
fn directories() -> Vec<PathBuf> {
    let arch = std::env::consts::ARCH;
    let mut directories: Vec<PathBuf> = [
        format!("/lib/{arch}-linux-gnu"),
        format!("/usr/lib/{arch}-linux-gnu"),
        "/lib64".to_owned(),
        "/usr/lib64".to_owned(),
        "/lib".to_owned(),
        "/usr/lib".to_owned(),
        "/usr/local/lib".to_owned(),
    ]
    .map(PathBuf::from)
    .into();
    if let Some(more) = std::env::var_os("LD_LIBRARY_PATH") {
        directories.extend(std::env::split_paths(&more));
    }
    directories
}

/// Scripts that run scripts: what the kernel puts up with.
const INTERPRETERS_MAX: usize = 4;
