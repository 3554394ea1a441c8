//! Serves the checks that a conformance test expects, until it is killed. `tests/clients.py` runs it.
//!
//! `profile PROFILE [FAILING]`: PROFILE is `kubelet`, `ping`, `groups` (see `tests/conformance`) or a JSON
//! object from paths to checks, such as `{"/healthz":["ping","bad"]}`. FAILING is a JSON object from names
//! of failing checks to their messages. It prints its port on 127.0.0.1, which the system selects.

#[path = "../tests/support/http/profile.rs"]
mod profile;

use std::collections::BTreeMap;
use std::io::Write;

use healthz::server::{Address, Runner, Server};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let profile = arguments.next().unwrap_or("kubelet".into());
    let failing: BTreeMap<String, String> = match arguments.next() {
        Some(failing) => serde_json::from_str(&failing)?,
        None => BTreeMap::new(),
    };
    let responder = profile::responder(&profile, &failing)?;
    let server = Server::bind(responder, &"127.0.0.1:0".parse()?)?;
    let Some(Address::Tcp(address)) = server.local_addresses().next() else {
        return Err("the server has no TCP address".into());
    };
    let runner = Runner::new(server)?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", address.port())?;
    out.flush()?;
    runner.run()?;
    Ok(())
}
