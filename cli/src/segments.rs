//! The counters that running processes show (`uktls::stats::Segment`).

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use uktls::registry::{FileName, Presence};
use uktls::stats::{Segment, Stats};

/// One process.
#[derive(Debug)]
pub struct Process {
    pub pid: u32,
    pub program: String,
    /// In the order of [`Stats::NAMES`].
    pub values: Vec<u64>,
}

impl Process {
    /// A counter by its name.
    pub fn get(&self, name: &str) -> u64 {
        let at = Stats::NAMES.iter().position(|known| *known == name);
        at.and_then(|at| self.values.get(at)).copied().unwrap_or(0)
    }
}

/// The processes of this user, or of all if it is root, by number. What processes that were killed have left is
/// removed.
pub fn read_all() -> std::io::Result<Vec<Process>> {
    let files = match fs::read_dir(Segment::DIRECTORY) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        files => files?,
    };
    let mut processes: Vec<Process> = files.filter_map(|file| read(&file.ok()?.path())).collect();
    processes.sort_by_key(|process| process.pid);
    Ok(processes)
}

/// Anybody can put a file there: nothing in it is believed that is not checked.
fn read(path: &Path) -> Option<Process> {
    let name: FileName = path.file_name()?.to_str()?.parse().ok()?;
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let file = File::options()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .ok()?;
    let found = file.metadata().ok()?;
    let user = rustix::process::geteuid().as_raw();
    if !found.is_file() || found.len() != Segment::LEN as u64 || (found.uid() != user && user != 0)
    {
        return None;
    }
    match name.presence() {
        Presence::Runs => parse(&file, name),
        Presence::Elsewhere => None,
        Presence::Gone => {
            let _ = fs::remove_file(path);
            None
        }
    }
}

fn parse(file: &File, name: FileName) -> Option<Process> {
    let mut bytes = vec![0u8; Segment::LEN];
    // Read, not mapped: the file may be cut off meanwhile.
    file.read_exact_at(&mut bytes, 0).ok()?;
    let number = |at: usize| Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    let short = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    let head = (number(0)?, short(8)?, short(12)?, number(16)?);
    if head != (Segment::MAGIC, Segment::VERSION, name.pid, name.start) {
        return None;
    }
    let program = bytes[24..Segment::HEAD_LEN]
        .split(|byte| *byte == 0)
        .next()?;
    let program = String::from_utf8_lossy(program).replace(|c: char| c.is_control(), "?");
    let values = (0..Stats::NAMES.len()).map(|i| number(Segment::HEAD_LEN + 8 * i));
    Some(Process {
        pid: name.pid,
        program,
        values: values.collect::<Option<_>>()?,
    })
}

/// For messages.
pub fn directory() -> PathBuf {
    PathBuf::from(Segment::DIRECTORY)
}
