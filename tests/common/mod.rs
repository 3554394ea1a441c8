//! What the tests of the wire contract share: rows, the checks they ask for, the judge, and a
//! connection without sockets.

#![allow(dead_code, reason = "each test uses its part")]

pub mod judge;
pub mod profile;
pub mod rows;
pub mod wire;
