//! Processes as `/proc` shows them.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// Whether a process is there and has not ended.
pub fn alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z ") && !s.contains(") X "))
}

/// Sends SIGKILL. A process that is gone is no error.
pub fn kill(pid: u32) {
    send(pid, Signal::KILL);
}

pub(crate) fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Processes with this text among their arguments.
pub fn running_with(argument: &str) -> Vec<u32> {
    all().filter(|pid| contains(*pid, "cmdline", argument.as_bytes()) && alive(*pid)).collect()
}

/// Holders and programs of a data directory: they work beneath it, or their environment names its socket.
pub(crate) fn of_folder(folder: &Path) -> Vec<u32> {
    let own = std::process::id();
    all()
        .filter(|pid| *pid != own && alive(*pid))
        .filter(|pid| {
            let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
            cwd.starts_with(folder) || contains(*pid, "environ", folder.as_os_str().as_bytes())
        })
        .collect()
}

fn all() -> impl Iterator<Item = u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(|process| process.file_name().to_str()?.parse().ok())
}

fn contains(pid: u32, file: &str, text: &[u8]) -> bool {
    let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    !text.is_empty() && bytes.windows(text.len()).any(|part| part == text)
}
