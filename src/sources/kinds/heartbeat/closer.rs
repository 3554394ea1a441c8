//! Closes descriptors that others have sent.
//!
//! The sender can make close(2) wait: for a socket with `SO_LINGER` (socket(7)), or for a file of a file system that
//! does not answer. So only kinds of descriptors that close without a wait are closed at once, and the others in a
//! thread. It ends when there is nothing left to close.

use std::os::fd::RawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

/// While this many descriptors or more wait for the thread, the kernel drops those that arrive. One datagram can bring
/// the number above it.
const WAITING_MAX: usize = 64;
/// The smallest stack of std: the thread only calls close(2).
const STACK_BYTES: usize = 16 * 1024;

static WAITING: Mutex<Waiting> = Mutex::new(Waiting {
    fds: Vec::new(),
    has_thread: false,
});

struct Waiting {
    fds: Vec<RawFd>,
    has_thread: bool,
}

/// Descriptors that were received. Dropping closes them. It waits only if no thread can be started.
#[derive(Default)]
pub struct ReceivedFds(Vec<RawFd>);

impl ReceivedFds {
    /// Takes the descriptors over.
    pub fn new(fds: Vec<RawFd>) -> Self {
        ReceivedFds(fds)
    }

    pub fn as_slice(&self) -> &[RawFd] {
        &self.0
    }
}

impl Drop for ReceivedFds {
    fn drop(&mut self) {
        let fds = std::mem::take(&mut self.0);
        let (quick, slow): (Vec<_>, Vec<_>) = fds.into_iter().partition(|fd| is_quick(*fd));
        quick.into_iter().for_each(close);
        if !slow.is_empty() {
            close_in_thread(slow);
        }
    }
}

/// Whether descriptors can be taken. If not, close(2) hangs, or is much too slow.
pub fn has_room() -> bool {
    waiting().fds.len() < WAITING_MAX
}

/// Whether close(2) does not wait: for a pipe, as BARRIER=1 has, an eventfd, or memory.
fn is_quick(fd: RawFd) -> bool {
    let target = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
    let target = target.to_string_lossy();
    let names = ["pipe:[", "anon_inode:[eventfd]", "/memfd:"];
    names.iter().any(|name| target.starts_with(name))
}

fn close_in_thread(fds: Vec<RawFd>) {
    let mut waiting = waiting();
    waiting.fds.extend(fds);
    if waiting.has_thread {
        return;
    }
    let thread = thread::Builder::new()
        .name("close".into())
        .stack_size(STACK_BYTES);
    match thread.spawn(close_waiting) {
        Ok(_) => waiting.has_thread = true,
        // Too many threads: rather wait than keep them open.
        Err(_) => waiting.fds.drain(..).for_each(close),
    }
}

fn close_waiting() {
    loop {
        let mut waiting = waiting();
        let Some(fd) = waiting.fds.pop() else {
            waiting.has_thread = false;
            return;
        };
        drop(waiting);
        close(fd);
    }
}

fn close(fd: RawFd) {
    // It is closed even if there is an error.
    let _ = nix::unistd::close(fd);
}

fn waiting() -> MutexGuard<'static, Waiting> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::IntoRawFd;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn pipes_and_memory_are_closed_at_once() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let name = c"healthz";
        let memory = nix::sys::memfd::memfd_create(name, nix::sys::memfd::MFdFlags::MFD_CLOEXEC);
        let [reader, writer, memory] = [
            reader.into_raw_fd(),
            writer.into_raw_fd(),
            memory.unwrap().into_raw_fd(),
        ];
        assert!([reader, writer, memory].into_iter().all(is_quick));
        drop(ReceivedFds::new(vec![reader, writer, memory]));
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!is_quick(std::os::fd::AsRawFd::as_raw_fd(&socket)));
    }

    #[test]
    fn a_socket_that_lingers_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        sender.set_nonblocking(true).unwrap();
        let mut sent = 0;
        while let Ok(count) = sender.write(&[b'x'; 65_536]) {
            sent += count;
        }
        let socket = socket2::Socket::from(sender);
        socket.set_linger(Some(Duration::from_secs(60))).unwrap();
        let began = Instant::now();
        drop(ReceivedFds::new(vec![socket.into_raw_fd()]));
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "waited for the peer"
        );
        // It is closed when the peer has read everything.
        let mut received = Vec::new();
        peer.read_to_end(&mut received).unwrap();
        assert_eq!(received.len(), sent);
    }
}
