//! Shared by the tests of the wire contract: the rows, their checks, the judge of answers, a simple and slow
//! model of the parser, and a connection without sockets.

#![allow(dead_code, reason = "each test file uses a part")]

pub mod judge;
pub mod model;
pub mod profile;
pub mod rows;
pub mod wire;
