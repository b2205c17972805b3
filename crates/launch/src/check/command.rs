//! A check that is a command: run as the program's user, in its folder and with its environment less the secrets, in a
//! session of its own that is ended with it.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use byname_api::agent::Checked;
use byname_api::object::InstanceId;
use byname_api::service::Health;
use byname_api::span::Span;
use rustix::process::{Gid, Pid, Signal, Uid};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::{KEPT, tail};
use crate::folder::StoredRun;
use crate::ready;

/// How much is read at most of what is left in the pipe when the command has ended.
const LEFT: usize = 64 << 10;

/// Runs it once, for so long at most.
pub(super) async fn run(id: InstanceId, folder: &Path, run: &StoredRun, bound: Duration) -> Checked {
    let critical = |what: String| Checked { health: Health::Critical, note: format!("command: {what}") };
    let (child, mut output) = match spawn(folder, run) {
        Ok(started) => started,
        Err(error) => {
            let program = run.argv.first().map(|p| p.as_os_str().to_string_lossy().into_owned()).unwrap_or_default();
            tracing::debug!(instance = %id, %error, "a check cannot be run");
            return critical(format!("cannot run {}: {}", program.escape_debug(), ready::sentence(&error)));
        }
    };
    let mut running = Running(child);
    let mut kept = Vec::new();
    let ended = timeout(bound, running.follow(&mut output, &mut kept)).await;
    // What it left in the background ends with it.
    running.kill();
    let Ok(status) = ended else {
        let _ = running.0.wait().await;
        let within = Span::from_millis(u64::try_from(bound.as_millis()).unwrap_or(u64::MAX));
        return critical(with_output(format!("did not end within {within}"), &kept));
    };
    let mut more = [0; 4 << 10];
    let mut left = LEFT;
    while let Ok(n @ 1..) = output.try_read(&mut more) {
        keep(&mut kept, more.get(..n).unwrap_or_default());
        left = left.saturating_sub(n);
        if left == 0 {
            break;
        }
    }
    match status {
        Err(error) => critical(format!("nobody saw its end: {}", ready::sentence(&error))),
        Ok(status) => {
            let (health, how) = judge(status);
            Checked { health, note: format!("command: {}", with_output(how, &kept)) }
        }
    }
}

fn judge(status: ExitStatus) -> (Health, String) {
    match (status.code(), status.signal()) {
        (Some(0), _) => (Health::Passing, "status 0".into()),
        (Some(1), _) => (Health::Warning, "status 1".into()),
        (Some(code), _) => (Health::Critical, format!("status {code}")),
        (None, signal) => (Health::Critical, format!("ended by signal {}", signal.unwrap_or_default())),
    }
}

fn with_output(how: String, kept: &[u8]) -> String {
    let output = tail(kept);
    if output.is_empty() { how } else { format!("{how}: {output}") }
}

/// Adds to what is kept, of which only the end counts.
fn keep(kept: &mut Vec<u8>, bytes: &[u8]) {
    kept.extend_from_slice(bytes);
    let excess = kept.len().saturating_sub(KEPT);
    // One more, which tells that something is missing in front.
    kept.drain(..excess.saturating_sub(1));
}

/// A command with all that it starts. Ended when this is dropped.
struct Running(Child);

impl Running {
    async fn follow(&mut self, output: &mut pipe::Receiver, kept: &mut Vec<u8>) -> io::Result<ExitStatus> {
        let mut bytes = [0; 4 << 10];
        let mut open = true;
        loop {
            tokio::select! {
                biased;
                status = self.0.wait() => return status,
                read = output.read(&mut bytes), if open => match read {
                    Ok(n @ 1..) => keep(kept, bytes.get(..n).unwrap_or_default()),
                    Ok(0) | Err(_) => open = false,
                },
            }
        }
    }

    fn kill(&mut self) {
        // The group keeps its number while anything is in it.
        if let Some(pid) = self.0.id() {
            kill_group(pid);
            let _ = self.0.start_kill();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

fn kill_group(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    }
}

fn spawn(folder: &Path, run: &StoredRun) -> io::Result<(Child, pipe::Receiver)> {
    let (program, args) = run.argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let (read, write) = io::pipe()?;
    let directory = match &run.directory {
        Some(directory) => directory.as_os_str().to_owned(),
        None => folder.join("work").into_os_string(),
    };
    let directory = CString::new(directory.as_bytes())?;
    let who = run.identity.clone().map(|who| {
        let groups: Vec<Gid> = who.groups.iter().map(|g| Gid::from_raw(*g)).collect();
        (groups, Gid::from_raw(who.gid), Uid::from_raw(who.uid))
    });
    let mut command = Command::new(program.as_os_str());
    command.args(args.iter().map(|arg| arg.as_os_str())).env_clear();
    command.envs(run.env.iter().map(|(key, value)| (key.as_os_str(), value.as_os_str())));
    command.stdin(Stdio::null()).stdout(write.try_clone()?).stderr(write).kill_on_drop(true);
    let become_it = move || {
        rustix::process::setsid()?;
        if let Some((groups, gid, uid)) = &who {
            // These act on the calling thread alone, and after the fork there is no other.
            rustix::thread::set_thread_groups(groups)?;
            rustix::thread::set_thread_res_gid(*gid, *gid, *gid)?;
            rustix::thread::set_thread_res_uid(*uid, *uid, *uid)?;
        }
        rustix::process::chdir(directory.as_c_str())?;
        Ok(())
    };
    // SAFETY: the closure makes system calls only, allocates nothing and takes no lock.
    unsafe { command.pre_exec(become_it) };
    let child = command.spawn()?;
    // The command holds copies of the writing ends, so that the end of the pipe is seen.
    drop(command);
    Ok((child, pipe::Receiver::from_owned_fd(read.into())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> StoredRun {
        let path = std::env::var_os("PATH").unwrap_or_default();
        StoredRun {
            argv: ["sh", "-c", script].map(|word| word.to_owned().into()).into(),
            env: vec![("PATH".to_owned().into(), path.into()), ("WORD".to_owned().into(), "two".to_owned().into())],
            directory: Some("/".to_owned().into()),
            identity: None,
        }
    }

    async fn of(script: &str) -> (Health, String) {
        let found = run(InstanceId(1), Path::new("/"), &shell(script), Duration::from_secs(20)).await;
        (found.health, found.note)
    }

    #[tokio::test]
    async fn its_status_and_what_it_wrote_count() {
        assert_eq!(of("echo one; echo $WORD >&2").await, (Health::Passing, "command: status 0: one; two".into()));
        assert_eq!(of("exit 1").await, (Health::Warning, "command: status 1".into()));
        assert_eq!(of("echo full; exit 7").await, (Health::Critical, "command: status 7: full".into()));
        assert_eq!(of("kill -9 $$").await, (Health::Critical, "command: ended by signal 9".into()));
        let (health, note) = of("yes | head -c 1000000; exit 2").await;
        assert_eq!(health, Health::Critical);
        assert!(note.len() < 600, "{note}");
    }

    #[tokio::test]
    async fn one_that_cannot_be_run_says_why() {
        let mut none = shell("");
        none.argv = vec!["/does/not/exist".to_owned().into()];
        let found = run(InstanceId(1), Path::new("/"), &none, Duration::from_secs(20)).await;
        assert_eq!(found.health, Health::Critical);
        assert_eq!(found.note, "command: cannot run /does/not/exist: No such file or directory");
    }

    #[tokio::test]
    async fn one_that_hangs_is_ended_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; echo waiting; wait", mark.display());
        let hanging = shell(&script);
        let bound = Duration::from_secs(1);
        let found = run(InstanceId(1), Path::new("/"), &hanging, bound).await;
        assert_eq!((found.health, found.note.as_str()), (Health::Critical, "command: did not end within 1s: waiting"));
        let pid: i32 = std::fs::read_to_string(&mark).unwrap().trim().parse().unwrap();
        let gone = || std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
        while !gone() {
            tokio::task::yield_now().await;
        }
    }
}
