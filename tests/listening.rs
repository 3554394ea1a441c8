//! What an embedder learns from [`Listeners`] before there is a server: how many there are, and why one
//! more was refused.
#![cfg(feature = "server")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::error::Error;
use std::io;
use std::net::TcpListener;

use healthz::server::{Address, Listeners};

#[test]
fn listeners_are_empty_until_one_is_bound() {
    let mut listeners = Listeners::new();
    assert!(listeners.is_empty());
    listeners.bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    assert!(!listeners.is_empty());
}

#[test]
fn a_bind_error_has_the_error_of_the_system_as_its_source() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(taken.local_addr().unwrap());
    let error = Listeners::new().bind(&address).unwrap_err();
    let source = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
    assert_eq!(source.kind(), io::ErrorKind::AddrInUse);
}
