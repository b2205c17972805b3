//! What an agent says to holders and porters and they to it, and what they leave on disk.
//!
//! Frames on a stream socket: four bytes of length, little endian, then JSON. A holder outlives upgrades of the agent,
//! so fields are only ever added and unknown ones ignored; a message that a side does not know is skipped.

use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use byname_api::object::{Choose, InstanceId};
use byname_api::service::Endpoint;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version of these messages and of the `exit` and `running` files.
pub(crate) const FORMAT: u32 = 1;

/// The longest frame. Arguments and environment of one program stay below it (the kernel's own bound is about 2 MiB).
pub(crate) const MAX_FRAME: usize = 8 << 20;

/// From the agent to a holder.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ToHolder {
    /// The first message: get ready in this folder. It comes along as a descriptor, locked by the agent; the lock passes
    /// to the holder with it.
    Prepare,
    /// Instead of `Prepare`: become the porter of a service (`porter`) in this folder. What follows is said in its words.
    Keep,
    /// What to start. By now the folder is the instance's. The sockets that the program is given come along.
    Work(Box<Work>),
    /// Remember that the program is ready, for an agent that asks later.
    Ready,
    /// End the program: SIGTERM to its group, SIGKILL to all that is left after `timeout_ms`; at once when that is 0.
    Stop {
        /// Why, for the record of the end.
        why: Why,
        /// How long it may take.
        timeout_ms: u64,
    },
}

/// Why a holder was told to end its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Why {
    /// It was ordered.
    Ordered,
    /// It was not ready in time.
    Timeout,
    /// A check found it critical, and its declaration says that it shall be ended then.
    Critical,
    /// The holder itself got SIGTERM: the host goes down.
    Shutdown,
}

/// All that a holder needs to start one program. Everything is decided and expanded already.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Work {
    pub(crate) format: u32,
    pub(crate) instance: String,
    pub(crate) argv: Vec<Text>,
    pub(crate) env: Vec<(Text, Text)>,
    /// The folder to start in; the instance's `work` folder when none.
    pub(crate) directory: Option<Text>,
    pub(crate) identity: Option<Identity>,
    /// RLIMIT_NOFILE, soft and hard.
    pub(crate) files: Option<u64>,
    /// RLIMIT_DATA, in bytes.
    pub(crate) data: Option<u64>,
    /// A cgroup to put the program in.
    pub(crate) cgroup: Option<Text>,
    /// The path of the folder's `notify` socket, where the program can use it: its user may enter the folder, and the path
    /// fits a socket address. Else the holder opens one in the abstract space.
    #[serde(default)]
    pub(crate) notify: Option<Text>,
    /// The names of the listening sockets that the program is given, from descriptor 3 on (sd_listen_fds(3)).
    #[serde(default)]
    pub(crate) sockets: Vec<String>,
    /// What the program reads from BYNAME_TICKET_FD, or from its standard input. In memory only.
    pub(crate) ticket: String,
    /// Its tickets are on its standard input, as the Tcl-DP name server gave them.
    #[serde(default)]
    pub(crate) ticket_on_stdin: bool,
    /// The size at which `log` becomes `log.1`.
    pub(crate) log_bytes: u64,
}

/// Whom a program runs as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

/// From a holder to whichever agent is connected: the whole state, on connecting and at each change.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct HolderState {
    pub(crate) format: u32,
    /// The program, once it was started.
    pub(crate) running: Option<Running>,
    /// The agent said that it is ready.
    pub(crate) ready: bool,
    /// The program said `READY=1`.
    pub(crate) notified: bool,
    /// What it last said with `STATUS=`.
    pub(crate) status: Option<String>,
    /// It said that it is not well (`WATCHDOG=trigger`, `ERRNO=`), and what.
    pub(crate) unwell: Option<String>,
    /// It is being stopped, or said `STOPPING=1`.
    pub(crate) stopping: bool,
    /// It has ended. The last message of a holder.
    pub(crate) end: Option<End>,
}

/// The running program, as the file `running` tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Running {
    pub(crate) pid: u32,
    /// Milliseconds since 1970.
    pub(crate) started_ms: u64,
    /// The holder's own process.
    pub(crate) holder: u32,
}

/// How a program ended, as the file `exit` tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct End {
    pub(crate) status: Option<i32>,
    pub(crate) signal: Option<i32>,
    /// It could not be started.
    pub(crate) failed: Option<Failure>,
    pub(crate) why: Option<Why>,
    /// The agent had said that it was ready.
    pub(crate) ready: bool,
    /// Processes that it had left in the background.
    pub(crate) left: u32,
    pub(crate) last_lines: String,
    pub(crate) pid: Option<u32>,
    pub(crate) started_ms: Option<u64>,
}

/// Why a program could not be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    /// The system's error number; 0 when there is none.
    pub(crate) errno: i32,
    /// The program or folder that the step was about.
    #[serde(default)]
    pub(crate) what: String,
}

/// The steps of a start that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Step {
    /// Making the sockets, pipes and files around the program.
    Prepare,
    /// A session of its own.
    Session,
    /// Entering its cgroup.
    Cgroup,
    /// Setting limits.
    Limits,
    /// Becoming its user.
    User,
    /// Entering its folder.
    Directory,
    /// Replacing the process's image.
    Exec,
}

/// The sockets of one service. It is also the file `listen` in the porter's folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sockets {
    pub(crate) service: u64,
    pub(crate) name: String,
    /// As declared.
    pub(crate) sockets: Vec<String>,
    pub(crate) choose: Choose,
    /// The sockets themselves are handed to the program.
    pub(crate) fds: bool,
}

/// From the agent to a porter. A new agent tells the whole of what it wants (`Listen`, `Backends`).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ToPorter {
    /// Hold these sockets, in place of those before. With none, leave when the last relayed connection has ended.
    Listen(Sockets),
    /// Where connections may be passed.
    Backends {
        /// The copies, in the order of preference.
        backends: Vec<Target>,
    },
    /// Whether a program of this host has the sockets: who knocks is its business then.
    Running(bool),
    /// Reset everything that waits.
    TurnAway,
    /// Pass nothing more to this instance.
    Rest {
        /// Answered by `Rested` when there is one.
        request: Option<u64>,
        /// Which.
        instance: InstanceId,
    },
    /// Pass connections to it again.
    Wake {
        /// Which.
        instance: InstanceId,
    },
    /// This instance has ended.
    Gone {
        /// Which.
        instance: InstanceId,
    },
    /// Give duplicates of the listening sockets. Answered by `Handed`.
    Hand {
        /// Returned in the answer.
        request: u64,
    },
}

/// A copy of the service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) instance: InstanceId,
    pub(crate) endpoint: Endpoint,
}

/// From a porter to the agent of the moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FromPorter {
    /// How the sockets stand: on connecting, and whenever that changes.
    Listening {
        /// Each with what is wrong, if anything is.
        sockets: Vec<(String, Option<Trouble>)>,
    },
    /// Somebody waits, and there is nobody to pass the connection to. Told again on connecting while that is so.
    Knock {
        /// The socket.
        socket: String,
        /// Copies that took no connection.
        dead: Vec<InstanceId>,
    },
    /// So many were reset.
    TurnedAway {
        /// How many.
        count: u64,
    },
    /// The answer to `Rest`.
    Rested {
        /// The request's number.
        request: u64,
        /// Connections that are relayed to the instance, or just being passed to it.
        relays: u32,
        /// How long ago the last of them ended, in milliseconds.
        #[serde(default)]
        unused_ms: Option<u64>,
    },
    /// The answer to `Hand`; the descriptors come along, in this order.
    Handed {
        /// The request's number.
        request: u64,
        /// The sockets.
        sockets: Vec<String>,
    },
}

/// Why a socket is not listened on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Trouble {
    /// Somebody else has it.
    pub(crate) in_use: bool,
    /// The rest of a sentence that begins with the socket.
    pub(crate) why: String,
}

/// Text of the operating system, which need not be UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Text {
    Utf8(String),
    Bytes(Vec<u8>),
}

impl From<OsString> for Text {
    fn from(text: OsString) -> Self {
        match text.into_string() {
            Ok(text) => Text::Utf8(text),
            Err(other) => Text::Bytes(other.into_vec()),
        }
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Text::Utf8(text)
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Text::Utf8(text.to_owned())
    }
}

impl From<&Path> for Text {
    fn from(path: &Path) -> Self {
        path.as_os_str().to_owned().into()
    }
}

impl Text {
    /// As the system wants it.
    pub(crate) fn as_os_str(&self) -> &OsStr {
        match self {
            Text::Utf8(text) => OsStr::new(text),
            Text::Bytes(bytes) => OsStr::from_bytes(bytes),
        }
    }
}

/// One message as a frame.
pub(crate) fn frame(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - 4;
    if length > MAX_FRAME {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the program's arguments and environment are too large",
        ));
    }
    if let Some(head) = bytes.get_mut(..4) {
        head.copy_from_slice(&(length as u32).to_le_bytes());
    }
    Ok(bytes)
}

/// The most descriptors that come with one message.
const FILES: usize = 32;

/// Sends bytes, and descriptors with the first of them.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8], files: &[OwnedFd]) -> Result<usize, Errno> {
    if files.is_empty() {
        return rustix::net::send(socket, bytes, SendFlags::NOSIGNAL);
    }
    let borrowed: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(Errno::INVAL);
    }
    rustix::net::sendmsg(socket, &[io::IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)
}

/// Receives bytes, and the descriptors that come with them. 0 bytes: the other end is gone.
pub(crate) fn receive(socket: impl AsFd, bytes: &mut [u8], files: &mut Vec<OwnedFd>) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [io::IoSliceMut::new(bytes)];
    let got = rustix::net::recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = message {
            files.extend(came);
        }
    }
    Ok(got.bytes)
}

/// Takes the first whole frame's JSON from what was read so far.
pub(crate) fn take_frame(buffer: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let Some(head) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*head) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is too long"));
    }
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    let rest = buffer.split_off(4 + length);
    let mut whole = std::mem::replace(buffer, rest);
    whole.drain(..4);
    Ok(Some(whole))
}

/// A small file that vouches for its own content: a line `byname-KIND FORMAT CHECKSUM`, then JSON.
pub(crate) fn seal(kind: &str, content: &impl Serialize) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(content)?;
    let mut bytes = format!("byname-{kind} {FORMAT} {:08x}\n", crc32c::crc32c(&json)).into_bytes();
    bytes.extend_from_slice(&json);
    bytes.push(b'\n');
    Ok(bytes)
}

/// Reads what `seal` wrote; none when it is damaged or of another format.
pub(crate) fn unseal<T: DeserializeOwned>(kind: &str, bytes: &[u8]) -> Option<T> {
    let end = bytes.iter().position(|b| *b == b'\n')?;
    let (head, json) = (bytes.get(..end)?, bytes.get(end + 1..)?);
    let json = json.strip_suffix(b"\n")?;
    let mut words = std::str::from_utf8(head).ok()?.split(' ');
    let fits = words.next()? == format!("byname-{kind}")
        && words.next()?.parse::<u32>().ok()? == FORMAT
        && u32::from_str_radix(words.next()?, 16).ok()? == crc32c::crc32c(json);
    if fits { serde_json::from_slice(json).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_apart_as_they_were_put_together() {
        let mut stream = frame(&ToHolder::Ready).unwrap();
        let second = frame(&ToHolder::Stop { why: Why::Ordered, timeout_ms: 5 }).unwrap();
        stream.extend_from_slice(&second[..7]);
        assert_eq!(take_frame(&mut stream).unwrap().unwrap(), b"\"ready\"");
        assert!(take_frame(&mut stream).unwrap().is_none());
        stream.extend_from_slice(&second[7..]);
        let json = take_frame(&mut stream).unwrap().unwrap();
        assert!(matches!(serde_json::from_slice(&json).unwrap(), ToHolder::Stop { why: Why::Ordered, timeout_ms: 5 }));
        assert!(take_frame(&mut u32::MAX.to_le_bytes().to_vec()).is_err());
    }

    #[test]
    fn a_damaged_file_is_not_believed() {
        let end = End { status: Some(3), last_lines: "a\nb".into(), ..End::default() };
        let mut bytes = seal("exit", &end).unwrap();
        assert_eq!(unseal::<End>("exit", &bytes), Some(end));
        assert_eq!(unseal::<End>("running", &bytes), None);
        for cut in 0..bytes.len() {
            assert_eq!(unseal::<End>("exit", &bytes[..cut]), None, "cut at {cut}");
        }
        let at = bytes.len() - 5;
        bytes[at] ^= 1;
        assert_eq!(unseal::<End>("exit", &bytes), None);
    }

    #[test]
    fn text_that_is_not_utf8_survives() {
        let odd = OsString::from_vec(vec![b'a', 0xff]);
        let json = serde_json::to_string(&Text::from(odd.clone())).unwrap();
        assert_eq!(serde_json::from_str::<Text>(&json).unwrap().as_os_str(), odd);
    }
}
