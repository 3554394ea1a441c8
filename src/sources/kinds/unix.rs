//! A Unix stream socket that must accept connections, and may have to answer.

use mio::Token;

use super::stream::Exchange;
use super::tcp::Conversation;
use crate::sources::attempt::Started;
use crate::sources::spec::Unix;

/// Connects, and exchanges what the options `send` and `expect` say.
pub fn start(spec: &Unix, base: Token) -> Started {
    let conversation = Conversation::new(&spec.dialogue);
    Exchange::start_unix(spec.path.clone(), conversation, base)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::io::{Read, Write};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
    use std::path::PathBuf;

    use mio::Poll;

    use super::super::stream::Opener;
    use super::super::stream::testing::*;
    use super::super::testing::{Directory, Hanging, in_own_process};
    use super::*;
    use crate::sources::attempt::Attempt;
    use crate::sources::spec::{Dialogue, Outcome};

    fn spec(path: impl Into<OsString>, expect: Option<&str>) -> Unix {
        let dialogue = Dialogue {
            send: None,
            expect: expect.map(Vec::from),
        };
        Unix {
            path: path.into(),
            dialogue,
        }
    }

    fn opening(path: impl Into<OsString>, expect: Option<&str>) -> (Box<dyn Attempt>, Opener) {
        match start(&spec(path, expect), BASE) {
            Started::Opening(attempt, opener) => (attempt, opener),
            _ => panic!("the loop has connected"),
        }
    }

    fn path(name: &str) -> PathBuf {
        let name = format!("healthz-unix-{}-{name}", std::process::id());
        std::env::temp_dir().join(name)
    }

    #[test]
    fn a_socket_passes_while_a_process_listens() {
        let mut poll = Poll::new().unwrap();
        let path = path("listens");
        let listener = UnixListener::bind(&path).unwrap();
        let mut attempt = |expect| {
            let started = start(&spec(&path, expect), BASE);
            outcome(started, &mut poll)
        };
        assert_eq!(attempt(None), Outcome::Pass);
        // Not only dropped: a process that another test starts at this moment has the socket too, until it executes.
        let socket = socket2::SockRef::from(&listener);
        socket.shutdown(std::net::Shutdown::Both).unwrap();
        let name = path.display();
        assert_eq!(attempt(None), failed(format!("{name}: connection refused")));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(attempt(None), failed(format!("{name}: does not exist")));
    }

    #[test]
    fn an_abstract_socket_can_be_asked() {
        let mut poll = Poll::new().unwrap();
        let name = format!("healthz-unix-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let (mut attempt, opener) = opening(format!("@{name}"), Some("hi"));
        assert_eq!(attempt.opened(poll.registry(), opener.open()), None);
        assert_eq!(attempt.waits_for(), "connected, waiting for \"hi\"");
        let (mut peer, _) = listener.accept().unwrap();
        peer.write_all(b"hi there").unwrap();
        assert_eq!(finish(attempt.as_mut(), &mut poll), Outcome::Pass);
        drop(attempt);
        assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
    }

    #[test]
    fn a_full_queue_fails_at_once() {
        let mut poll = Poll::new().unwrap();
        let path = path("full");
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        socket
            .bind(&socket2::SockAddr::unix(&path).unwrap())
            .unwrap();
        socket.listen(0).unwrap();
        let _first = UnixStream::connect(&path).unwrap();
        let started = start(&spec(&path, None), BASE);
        let want = format!("{}: queue of connections is full", path.display());
        assert_eq!(outcome(started, &mut poll), failed(want));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_name_that_is_too_long_fails() {
        let mut poll = Poll::new().unwrap();
        let started = start(&spec("/x".repeat(100), None), BASE);
        assert!(matches!(outcome(started, &mut poll), Outcome::Fail(_)));
    }

    /// Regression: the event loop called connect(2), which looks up the path.
    #[test]
    fn only_the_opener_connects() {
        let poll = Poll::new().unwrap();
        let path = path("opener");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (mut attempt, opener) = opening(&path, None);
        assert_eq!(attempt.waits_for(), "looking up its path");
        assert_eq!(attempt.target(), path.to_str().unwrap());
        assert_eq!(attempt.ready(poll.registry(), BASE), None);
        assert!(listener.accept().is_err(), "the attempt has connected");
        let opened = opener.open();
        let (mut peer, _) = listener.accept().unwrap();
        // The attempt was cancelled meanwhile. The peer is not reset.
        peer.write_all(b"greeting").unwrap();
        drop((attempt, opened));
        peer.set_nonblocking(false).unwrap();
        assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
        // An attempt that has ended stays ended.
        let (mut attempt, opener) = opening(&path, None);
        let outcome = attempt.opened(poll.registry(), opener.open());
        assert_eq!(outcome, Some(Outcome::Pass));
        assert_eq!(attempt.opened(poll.registry(), opener.open()), None);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_path_that_hangs_delays_no_other_check() {
        let test = "unix::tests::a_path_that_hangs_delays_no_other_check";
        let unshare = ["unshare", "--mount", "--propagation", "private"];
        if !in_own_process(test, &unshare) {
            return;
        }
        let directory = Directory::new();
        let Some(hanging) = Hanging::mount(directory.at("hangs")) else {
            return;
        };
        let mut poll = Poll::new().unwrap();
        let (mut attempt, opener) = opening(hanging.at("socket"), None);
        let thread = std::thread::spawn(move || opener.open());
        let path = directory.at("answers");
        let _listener = UnixListener::bind(&path).unwrap();
        let other = start(&spec(&path, None), mio::Token(BASE.0 + 8));
        assert_eq!(outcome(other, &mut poll), Outcome::Pass);
        assert!(!thread.is_finished());
        assert_eq!(attempt.waits_for(), "looking up its path");
        drop(hanging);
        let outcome = attempt.opened(poll.registry(), thread.join().unwrap());
        assert!(matches!(outcome, Some(Outcome::Fail(_))), "{outcome:?}");
    }
}
