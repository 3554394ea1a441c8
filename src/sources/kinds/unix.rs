//! A Unix stream socket that must accept connections, and may have to answer.

use mio::{Registry, Token};

use super::stream::{Address, Exchange};
use super::tcp::Conversation;
use crate::sources::attempt::Started;
use crate::sources::spec::Unix;

impl Unix {
    /// A socket can always refuse.
    pub fn never_fails(&self) -> Option<&'static str> {
        self.dialogue.never_matters()
    }
}

/// Connects, and exchanges what the options `send` and `expect` say.
pub fn start(spec: &Unix, registry: &Registry, base: Token) -> Started {
    let target = spec.path.to_string_lossy().into_owned();
    let addresses = vec![Address::Unix(spec.path.clone())];
    let conversation = Conversation::new(&spec.dialogue);
    Exchange::start(target, addresses, conversation, registry, base)
}
