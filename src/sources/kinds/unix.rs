//! A Unix stream socket that must accept connections, and may have to answer.

use mio::{Registry, Token};

use super::stream::{Address, Exchange};
use super::tcp::Conversation;
use crate::sources::attempt::Started;
use crate::sources::spec::Unix;

/// Connects, and exchanges what the options `send` and `expect` say.
pub fn start(spec: &Unix, registry: &Registry, base: Token) -> Started {
    let target = spec.path.to_string_lossy().into_owned();
    let addresses = vec![Address::Unix(spec.path.clone())];
    let conversation = Conversation::new(&spec.dialogue);
    Exchange::start(target, addresses, conversation, registry, base)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::io::{Read, Write};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
    use std::path::PathBuf;

    use mio::Poll;

    use super::super::stream::testing::*;
    use super::*;
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
            let started = start(&spec(&path, expect), poll.registry(), BASE);
            outcome(started, &mut poll)
        };
        assert_eq!(attempt(None), Outcome::Pass);
        drop(listener);
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
        let started = start(&spec(format!("@{name}"), Some("hi")), poll.registry(), BASE);
        let mut attempt = waiting(started);
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
        let started = start(&spec(&path, None), poll.registry(), BASE);
        std::fs::remove_file(&path).unwrap();
        let want = format!("{}: queue of connections is full", path.display());
        assert_eq!(outcome(started, &mut poll), failed(want));
    }

    #[test]
    fn a_name_that_is_too_long_fails() {
        let mut poll = Poll::new().unwrap();
        let started = start(&spec("/x".repeat(100), None), poll.registry(), BASE);
        assert!(matches!(outcome(started, &mut poll), Outcome::Fail(_)));
    }
}
