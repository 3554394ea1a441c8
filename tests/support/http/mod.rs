//! What the tests of the wire contract share: rows, the checks they ask for, the judge, a
//! strict reader that is slow and plain, and a connection without sockets.

#![allow(dead_code, reason = "each test uses its part")]

pub mod judge;
pub mod model;
pub mod profile;
pub mod rows;
pub mod wire;
