//! The healthz daemon.
fn main() {}
