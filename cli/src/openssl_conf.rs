//! An OpenSSL configuration that has every program ask for kernel TLS, and keeps what the system's says.
//!
//! It includes the system's own, and adds `Options = KTLS` to the section that is the default of every SSL_CTX. How
//! that section is called, and whether there is one, has to be read from the system's: sections of one name are one
//! section, and of a name that is there twice the last value counts.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Failure;

/// Writes it for this user. Returns where: a file whose name tells what is in it, so that nobody's is replaced
/// by something else while a program may still read it.
pub fn write() -> Result<PathBuf, Failure> {
    let system = system_configuration();
    let text = extend(system.as_deref());
    let failed = |path: &Path, error: std::io::Error| {
        Failure::new(126, format!("--openssl-ktls: {}: {error}", path.display()))
    };
    let directory = directory().map_err(|(path, error)| failed(&path, error))?;
    if let Some(ours) = system.filter(|path| path.starts_with(&directory)) {
        // Of a run around this one.
        return Ok(ours);
    }
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let path = directory.join(format!("openssl-{:016x}.cnf", hasher.finish()));
    // Replaced as a whole: another program may be reading it.
    let new = directory.join(format!("openssl-{}.new", std::process::id()));
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o644);
    options
        .open(&new)
        .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
        .and_then(|()| fs::rename(&new, &path))
        .map_err(|error| failed(&path, error))?;
    Ok(path)
}

/// A directory that only we can write to; others may read, as programs change their user.
fn directory() -> Result<PathBuf, (PathBuf, std::io::Error)> {
    let user = rustix::process::geteuid().as_raw();
    let path = std::env::temp_dir().join(format!("uktls-{user}"));
    match fs::DirBuilder::new().mode(0o755).create(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err((path, error));
        }
        _ => {}
    }
    // Somebody else may have made it, or a link.
    let found = fs::symlink_metadata(&path).map_err(|error| (path.clone(), error))?;
    match found.is_dir() && found.uid() == user && found.mode() & 0o022 == 0 {
        true => Ok(path),
        false => Err((
            path,
            std::io::Error::other("is not a directory of ours alone"),
        )),
    }
}

/// What programs would read without us.
fn system_configuration() -> Option<PathBuf> {
    if let Some(told) = std::env::var_os("OPENSSL_CONF") {
        return Some(PathBuf::from(told)).filter(|path| path.is_file());
    }
    let told = Command::new("openssl")
        .args(["version", "-d"])
        .output()
        .ok();
    let directory = told.and_then(|output| {
        let text = String::from_utf8(output.stdout).ok()?;
        Some(PathBuf::from(text.split('"').nth(1)?))
    });
    directory
        .into_iter()
        .chain(["/usr/lib/ssl", "/etc/pki/tls", "/etc/ssl"].map(PathBuf::from))
        .map(|directory| directory.join("openssl.cnf"))
        .find(|path| path.is_file())
}

/// The configuration on top of `system`.
fn extend(system: Option<&Path>) -> String {
    let system = system.and_then(|path| path.canonicalize().ok());
    let mut known = Known::default();
    if let Some(path) = &system {
        known.read(path, 0);
    }
    let named = |section: &str, name: &str, otherwise: &str| match known.get(section, name) {
        Some(found) => (found.to_owned(), false),
        None => (otherwise.to_owned(), true),
    };
    let (init, no_init) = named("default", "openssl_conf", "uktls_init");
    let (ssl, no_ssl) = named(&init, "ssl_conf", "uktls_ssl");
    let (defaults, no_defaults) = named(&ssl, "system_default", "uktls_defaults");
    let options = match known.get(&defaults, "Options") {
        // In front: OpenSSL stops at the first one that it does not know.
        Some(before) => format!("KTLS,{before}"),
        None => "KTLS".to_owned(),
    };
    let mut text = String::from("# Written by `uktls run --openssl-ktls`.\n");
    if no_init {
        let _ = writeln!(text, "openssl_conf = {init}");
    }
    if let Some(path) = &system {
        let _ = writeln!(text, ".include {}", path.display());
    }
    if no_ssl {
        let _ = writeln!(text, "[{init}]\nssl_conf = {ssl}");
    }
    if no_defaults {
        let _ = writeln!(text, "[{ssl}]\nsystem_default = {defaults}");
    }
    let _ = writeln!(text, "[{defaults}]\nOptions = {options}");
    text
}

/// What a configuration says, by section and name.
#[derive(Default)]
struct Known(HashMap<(String, String), String>);

impl Known {
    fn get(&self, section: &str, name: &str) -> Option<&str> {
        let key = (section.to_owned(), name.to_owned());
        self.0.get(&key).map(String::as_str)
    }

    /// As config(5) has it, as far as the names that matter here need it.
    fn read(&mut self, path: &Path, depth: usize) {
        let Ok(text) = fs::read_to_string(path) else {
            return;
        };
        let text = text.replace("\\\n", "");
        let mut section = "default".to_owned();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if let Some(include) = line.strip_prefix(".include") {
                let include = include.trim_start_matches([' ', '\t', '=']);
                if depth < 8 {
                    self.include(Path::new(include), depth);
                }
            } else if let Some(name) = line
                .strip_prefix('[')
                .and_then(|line| line.strip_suffix(']'))
            {
                section = name.trim().to_owned();
            } else if let Some((name, value)) = line.split_once('=') {
                let key = (section.clone(), name.trim().to_owned());
                self.0.insert(key, value.trim().to_owned());
            }
        }
    }

    fn include(&mut self, path: &Path, depth: usize) {
        let Ok(files) = fs::read_dir(path) else {
            return self.read(path, depth + 1);
        };
        let mut files: Vec<_> = files.filter_map(|file| Some(file.ok()?.path())).collect();
        files.sort();
        let endings = ["cnf", "conf"];
        for file in files {
            if file
                .extension()
                .is_some_and(|end| endings.iter().any(|ending| end == *ending))
            {
                self.read(&file, depth + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left of the first line and the include.
    fn extended(system: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), system).unwrap();
        let text = extend(Some(file.path()));
        let included = format!(
            ".include {}\n",
            file.path().canonicalize().unwrap().display()
        );
        assert!(text.contains(&included), "{text}");
        text.lines()
            .skip(1)
            .filter(|line| !line.starts_with('.'))
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn sections_that_are_missing_are_made() {
        let all = "openssl_conf = uktls_init\n[uktls_init]\nssl_conf = uktls_ssl\n[uktls_ssl]\n\
                   system_default = uktls_defaults\n[uktls_defaults]\nOptions = KTLS";
        assert_eq!(extended("# nothing\n"), all);
        let from_init = all.split_once("\nssl_conf").unwrap().1;
        let with_init = extended("openssl_conf = a\n[a]\nproviders = p\n");
        assert_eq!(with_init, format!("[a]\nssl_conf{from_init}"));
    }

    #[test]
    fn options_that_are_there_stay() {
        let system = "openssl_conf=a # comment\n[ a ]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\n\
                      MinProtocol = TLSv1.2\nOptions = ServerPreference,\\\nNoRenegotiation\n";
        assert_eq!(
            extended(system),
            "[c]\nOptions = KTLS,ServerPreference,NoRenegotiation"
        );
    }
}
