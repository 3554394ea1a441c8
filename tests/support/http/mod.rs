//! Shared by the tests of the wire contract: the rows, the checks that a row installs, the judge of the
//! answers, a second parser of requests, and a connection without sockets.

#![allow(dead_code, reason = "each test uses its part")]

pub mod judge;
pub mod model;
pub mod profile;
pub mod rows;
pub mod wire;
