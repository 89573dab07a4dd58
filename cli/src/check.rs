//! `uktls check`: can this machine, and a program, use it? One line each.

use std::ffi::OsStr;
use std::process::{Command, ExitCode};

use crate::{Failure, elf, kernel, preload};

/// Returns success if everything that was asked about will work.
pub fn check(program: Option<&OsStr>) -> Result<ExitCode, Failure> {
    let mut works = kernel_and_library();
    if let Some(program) = program {
        works &= check_program(program)?;
    }
    Ok(ExitCode::from(u8::from(!works)))
}

fn line(works: bool, what: &str, says: &str) {
    println!("{} {what}: {says}", if works { "ok  " } else { "FAIL" });
}

fn note(what: &str, says: &str) {
    println!("     {what}: {says}");
}

fn kernel_and_library() -> bool {
    match kernel::ciphers() {
        Ok(None) => note("kernel", "no TLS of its own here: uktls serves all sockets"),
        Ok(Some(versions)) => {
            for kernel::Ciphers { version, names } in versions {
                let says = match &names[..] {
                    [] => "no cipher".to_owned(),
                    some => some.join(", "),
                };
                note(
                    "kernel",
                    &format!("has TLS: {version} with {says}; UKTLS_MODE=auto leaves these to it"),
                );
            }
        }
        Err(error) => note("kernel", &format!("cannot be asked: {error}")),
    }
    let library = match preload::find(None) {
        Ok(library) => library,
        Err(failure) => {
            line(false, "library", &failure.to_string());
            return false;
        }
    };
    // The dynamic linker complains on standard error and goes on.
    let loaded = Command::new("/bin/true")
        .env("LD_PRELOAD", &library)
        .output();
    let complaint = match loaded {
        Ok(output) if output.status.success() && output.stderr.is_empty() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(error.to_string()),
    };
    let says = complaint.clone().unwrap_or_else(|| {
        format!(
            "{}, version {}",
            library.display(),
            env!("CARGO_PKG_VERSION")
        )
    });
    line(complaint.is_none(), "library", &says);
    complaint.is_none()
}

fn check_program(program: &OsStr) -> Result<bool, Failure> {
    let shown = program.display();
    let Some(path) = elf::find(program) else {
        return Err(Failure::new(
            2,
            format!("{shown}: there is no such program"),
        ));
    };
    let obstacle = elf::obstacle(&path);
    if obstacle.is_none()
        && let Some(interpreter) = elf::interpreter(&path)
    {
        note(
            "script",
            &format!("{} runs {}", path.display(), interpreter.display()),
        );
        return check_program(interpreter.as_os_str());
    }
    if let Some(obstacle) = obstacle {
        line(false, "preload", &format!("{}: {obstacle}", path.display()));
        return Ok(false);
    }
    line(
        true,
        "preload",
        &format!("{} loads shared libraries", path.display()),
    );
    let libraries = elf::libraries(&path);
    let has = |name: &str| libraries.iter().any(|library| library.starts_with(name));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if has_own_bio(&name) {
        line(
            false,
            "TLS",
            &format!(
                "{name} writes to its sockets by functions of its own: it is recognised, and left alone"
            ),
        );
        return Ok(false);
    }
    let says = match () {
        () if has("libssl.so.3") || has("libssl.so.4") => {
            "OpenSSL 3: asks for kernel TLS with `Options = KTLS` (uktls run --openssl-ktls, or the program's own setting)"
        }
        () if has("libssl.so") => {
            line(
                false,
                "TLS",
                "an OpenSSL older than 3, which knows no kernel TLS",
            );
            return Ok(false);
        }
        () if has("libgnutls.so") => {
            "GnuTLS: asks for kernel TLS with `ktls = true` in its [global] configuration"
        }
        () => {
            "no TLS library that is known to ask for kernel TLS; a module may load one, or the program asks by itself"
        }
    };
    line(true, "TLS", says);
    Ok(true)
}

fn has_own_bio(name: &str) -> bool {
    // A version may follow: node22, postgres-16.
    let is = |known: &&str| {
        let rest = name.strip_prefix(known);
        rest.is_some_and(|rest| !rest.starts_with(char::is_alphabetic))
    };
    OWN_BIO.iter().any(is)
}

/// Programs with a BIO of their own.
const OWN_BIO: &[&str] = &["curl", "node", "nodejs", "postgres", "psql", "haproxy"];

#[cfg(test)]
mod tests {
    #[test]
    fn programs_are_known_by_their_whole_name() {
        for name in ["curl", "node", "nodejs", "node22", "postgres-16", "psql"] {
            assert!(super::has_own_bio(name), "{name}");
        }
        for name in ["nodething", "curlew", "nginx", "haproxyctl", ""] {
            assert!(!super::has_own_bio(name), "{name}");
        }
    }
}
