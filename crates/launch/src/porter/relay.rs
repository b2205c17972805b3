//! One relayed connection: bytes go from socket to socket through a pipe, inside the kernel (splice(2)).
//!
//! The sockets are polled for edges, so what is known of them is kept here: `readable` and `writable` stay true until
//! the kernel says otherwise. A pipe is taken only while bytes are under way; a connection on which nothing happens
//! holds its two sockets and nothing else.

use std::os::fd::OwnedFd;
use std::time::Instant;

use byname_api::object::InstanceId;
use rustix::io::Errno;
use rustix::net::Shutdown;
use rustix::pipe::{PipeFlags, SpliceFlags};

/// How many bytes one connection may move before others have their turn.
const TURN: usize = 1 << 20;
/// The size that pipes are given while there are few of them.
const LARGE: usize = 256 << 10;
/// How many pipes get that size, and how many are kept while nobody needs them. An unprivileged user's pipes share 64
/// MiB (pipe(7)): beyond that new ones would be tiny.
const FEW: usize = 64;
/// What a pipe holds that is left as it is made.
const USUAL: usize = 64 << 10;

/// One of the two sockets.
pub(super) struct Side {
    pub(super) socket: OwnedFd,
    pub(super) readable: bool,
    pub(super) writable: bool,
}

impl Side {
    pub(super) fn new(socket: OwnedFd) -> Side {
        Side { socket, readable: false, writable: false }
    }

    /// Makes its end a reset.
    pub(super) fn reset(&self) {
        let _ = rustix::net::sockopt::set_socket_linger(&self.socket, Some(std::time::Duration::ZERO));
    }
}

/// A connection that was accepted.
pub(super) struct Relay {
    /// The listener that it came by.
    pub(super) door: u64,
    pub(super) client: Side,
    pub(super) backend: Option<Side>,
    /// Where it goes.
    pub(super) instance: Option<InstanceId>,
    pub(super) stage: Stage,
    /// Copies that did not take it.
    pub(super) tried: Vec<InstanceId>,
    pub(super) up: Flow,
    pub(super) down: Flow,
    /// It is in the list of those that have something to do.
    pub(super) queued: bool,
    /// One side was reset, and so will be the other.
    reset: bool,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// There is nobody to pass it to.
    Waiting,
    /// A copy was asked; given up after a while.
    Connecting { until: Instant },
    /// Bytes go both ways.
    Open,
}

/// One direction.
#[derive(Default)]
pub(super) struct Flow {
    pipe: Option<Pipe>,
    /// Bytes in the pipe.
    held: usize,
    /// The source has said everything.
    ended: bool,
    /// The destination was told so, or takes nothing any more.
    shut: bool,
}

/// What came of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing can be done until the kernel says so.
    Idle,
    /// There is more to do.
    More,
    /// A pipe is needed and there is none.
    Starved,
    /// The connection has ended.
    Over,
}

impl Relay {
    pub(super) fn new(client: OwnedFd, door: u64) -> Relay {
        Relay {
            door,
            client: Side::new(client),
            backend: None,
            instance: None,
            stage: Stage::Waiting,
            tried: Vec::new(),
            up: Flow::default(),
            down: Flow::default(),
            queued: false,
            reset: false,
        }
    }

    /// Moves what can be moved.
    pub(super) fn turn(&mut self, pipes: &mut Pipes) -> Turn {
        let Some(backend) = &mut self.backend else { return Turn::Idle };
        let up = pass(&mut self.client, backend, &mut self.up, pipes);
        let down = pass(backend, &mut self.client, &mut self.down, pipes);
        let mut all = Turn::Idle;
        for (passed, flow) in [(up, &mut self.up), (down, &mut self.down)] {
            match passed {
                Ok(turn) if all != Turn::Idle => all = if turn == Turn::Idle { all } else { Turn::More },
                Ok(turn) => all = turn,
                // What the other side has said before still has to arrive, so only this direction ends here.
                Err(Fault::Destination(error)) => {
                    self.reset |= error == Errno::CONNRESET;
                    flow.drop_rest();
                    all = Turn::More;
                }
                Err(Fault::Source) => {
                    self.reset = true;
                    return Turn::Over;
                }
            }
        }
        if self.up.shut && self.down.shut { Turn::Over } else { all }
    }

    /// The client was reset before anything was relayed.
    pub(super) fn was_reset(&mut self) {
        self.reset = true;
    }

    /// Ends it, as a reset if that is how one side ended.
    pub(super) fn close(mut self, pipes: &mut Pipes) {
        for flow in [&mut self.up, &mut self.down] {
            flow.give_back(pipes);
        }
        if self.reset {
            self.client.reset();
            if let Some(backend) = &self.backend {
                backend.reset();
            }
        }
    }
}

enum Fault {
    Source,
    Destination(Errno),
}

/// Moves bytes one way.
fn pass(from: &mut Side, to: &mut Side, flow: &mut Flow, pipes: &mut Pipes) -> Result<Turn, Fault> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    let mut moved = 0;
    while !flow.shut {
        if let Some(pipe) = flow.pipe.as_ref().filter(|_| flow.held > 0) {
            if !to.writable {
                return Ok(Turn::Idle);
            }
            match rustix::pipe::splice(&pipe.output, None, &to.socket, None, flow.held, flags) {
                Ok(n) => flow.held = flow.held.saturating_sub(n),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => to.writable = false,
                Err(error) => return Err(Fault::Destination(error)),
            }
            continue;
        }
        if flow.ended {
            let _ = rustix::net::shutdown(&to.socket, Shutdown::Write);
            flow.shut = true;
            break;
        }
        if !from.readable {
            break;
        }
        if moved >= TURN {
            return Ok(Turn::More);
        }
        if flow.pipe.is_none() {
            flow.pipe = pipes.take();
        }
        let Some(pipe) = &flow.pipe else { return Ok(Turn::Starved) };
        // The pipe is empty, so EAGAIN can only mean that the socket is. A short count says nothing: each piece of the
        // socket's queue takes a place in the pipe, however small it is.
        match rustix::pipe::splice(&from.socket, None, &pipe.input, None, pipe.size, flags) {
            Ok(0) => flow.ended = true,
            Ok(n) => {
                flow.held = n;
                moved += n;
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => from.readable = false,
            Err(_) => return Err(Fault::Source),
        }
    }
    flow.give_back(pipes);
    Ok(Turn::Idle)
}

impl Flow {
    fn give_back(&mut self, pipes: &mut Pipes) {
        if let Some(pipe) = self.pipe.take() {
            // One with bytes in it would give them to the next connection.
            pipes.put(pipe, self.held == 0);
        }
    }

    /// The destination takes nothing any more.
    fn drop_rest(&mut self) {
        self.ended = true;
        self.shut = true;
    }
}

/// A pipe, both ends.
struct Pipe {
    output: OwnedFd,
    input: OwnedFd,
    size: usize,
}

/// The pipes that are not in use.
#[derive(Default)]
pub(super) struct Pipes {
    free: Vec<Pipe>,
    /// All that are open.
    pub(super) count: usize,
    large: usize,
}

impl Pipes {
    fn take(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.free.pop() {
            return Some(pipe);
        }
        let (output, input) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        self.count += 1;
        let mut size = rustix::pipe::fcntl_getpipe_size(&input).unwrap_or(USUAL);
        if self.large < FEW && rustix::pipe::fcntl_setpipe_size(&input, LARGE).is_ok() {
            size = LARGE;
            self.large += 1;
        }
        Some(Pipe { output, input, size })
    }

    fn put(&mut self, pipe: Pipe, empty: bool) {
        if empty && self.free.len() < FEW {
            self.free.push(pipe);
            return;
        }
        self.count = self.count.saturating_sub(1);
        if pipe.size >= LARGE {
            self.large = self.large.saturating_sub(1);
        }
    }
}
