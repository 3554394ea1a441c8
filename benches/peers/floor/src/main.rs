//! A loop on mio that sends a fixed answer and closes: `floor PORT`. It parses no HTTP and has no limits, so it is
//! not for use as a server. `cargo bench --bench sources` compares how long it and healthz take from start to first answer.

use std::io::{self, Read, Write};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
const LISTENER: Token = Token(0);

fn main() -> io::Result<()> {
    let port = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let Some(port) = port else {
        return Err(io::Error::other("usage: floor PORT"));
    };
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let mut listener = TcpListener::bind(address)?;
    let mut poll = Poll::new()?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(64);
    let mut streams: Vec<Option<TcpStream>> = Vec::new();
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    let free = streams.iter().position(Option::is_none);
                    let index = free.unwrap_or(streams.len());
                    let token = Token(index + 1);
                    poll.registry()
                        .register(&mut stream, token, Interest::READABLE)?;
                    match free {
                        Some(index) => streams[index] = Some(stream),
                        None => streams.push(Some(stream)),
                    }
                }
                continue;
            }
            let slot = &mut streams[event.token().0 - 1];
            if let Some(stream) = slot {
                let mut request = [0; 1024];
                if matches!(stream.read(&mut request), Ok(1..)) {
                    // The client has gone if this fails.
                    let _ = stream.write(ANSWER);
                }
            }
            *slot = None;
        }
    }
}
