//! A TCP port that must accept connections, and may have to answer.
//!
//! [`Conversation`] is also used by [`super::unix`].

use mio::{Registry, Token};

use super::stream::{Address, Exchange, Protocol};
use super::text::{append_and_find, quoted};
use crate::sources::attempt::Started;
use crate::sources::spec::{Dialogue, Host, Tcp};

/// Most bytes of an answer in which the expected text may be.
const ANSWER_BYTES_MAX: usize = 10 * 1024;

impl Tcp {
    /// A port can always refuse.
    pub fn never_fails(&self) -> Option<&'static str> {
        self.dialogue.never_matters()
    }
}

impl Dialogue {
    /// Every answer contains an empty text.
    pub fn never_matters(&self) -> Option<&'static str> {
        match &self.expect {
            Some(text) if text.is_empty() => Some("expect is empty"),
            _ => None,
        }
    }
}

/// Connects, and exchanges what the options `send` and `expect` say.
pub fn start(spec: &Tcp, registry: &Registry, base: Token) -> Started {
    let addresses = tcp_addresses(&spec.host, spec.port);
    let target = match (&spec.host, addresses.first()) {
        (Host::Ip(_), Some(Address::Tcp(address))) => address.to_string(),
        _ => format!("localhost:{}", spec.port),
    };
    let conversation = Conversation::new(&spec.dialogue);
    Exchange::start(target, addresses, conversation, registry, base)
}

/// The addresses of `host`, in the order in which they are tried.
pub fn tcp_addresses(host: &Host, port: u16) -> Vec<Address> {
    host.addresses(port).into_iter().map(Address::Tcp).collect()
}

/// Sends a text and waits for another.
pub struct Conversation {
    send: Vec<u8>,
    expect: Option<Vec<u8>>,
    received: Vec<u8>,
}

impl Conversation {
    pub fn new(dialogue: &Dialogue) -> Self {
        Conversation {
            send: dialogue.send.clone().unwrap_or_default(),
            expect: dialogue.expect.clone(),
            received: Vec::new(),
        }
    }
}

impl Protocol for Conversation {
    fn request(&self) -> &[u8] {
        &self.send
    }

    fn sent(&mut self) -> Option<Result<(), String>> {
        self.expect.is_none().then_some(Ok(()))
    }

    fn receive(&mut self, bytes: &[u8]) -> Option<Result<(), String>> {
        // Without it, what arrives while sending is ignored.
        let expect = self.expect.as_ref()?;
        let bytes = bytes
            .get(..ANSWER_BYTES_MAX - self.received.len())
            .unwrap_or(bytes);
        if append_and_find(&mut self.received, bytes, expect) {
            return Some(Ok(()));
        }
        (self.received.len() >= ANSWER_BYTES_MAX).then(|| {
            Err(format!(
                "no {} in the first 10 KiB of the answer",
                quoted(expect)
            ))
        })
    }

    fn end(&mut self) -> Result<(), String> {
        Err(match &self.expect {
            Some(expect) => format!("closed before sending {}", quoted(expect)),
            None => "closed before everything was sent".into(),
        })
    }

    fn awaited(&self) -> String {
        self.expect
            .as_ref()
            .map_or_else(String::new, |expect| quoted(expect))
    }
}
