//! The checks of a row, some of them failing.
//!
//! All memory here is leaked, because check names must live as long as the program.
//! `examples/profile.rs`, which serves one profile until it ends, shares this file.

use std::collections::BTreeMap;

use healthz::{Check, Endpoint, Responder};
use serde_json::{Map, Value};

type Failing = BTreeMap<String, String>;

/// A responder with the checks of `profile`: `kubelet`, `ping`, `groups`, or a JSON object from paths
/// to lists of names. Those in `failing` fail with that text, all others pass.
///
/// # Errors
/// If `profile` is not valid.
pub fn responder(profile: &str, failing: &Failing) -> Result<Responder<'static>, String> {
    let kubelet = ["ping", "log", "syncloop"];
    let group = [
        "ping",
        "log",
        "syncloop",
        "poststarthook/start-a",
        "poststarthook/start-b",
        "etcd",
    ];
    let ready = [&group[..], &["informer-sync", "shutdown"]].concat();
    let endpoints = match profile {
        "kubelet" => Endpoint::kubernetes(checks(&kubelet, failing)).to_vec(),
        "ping" => vec![Endpoint::new("/healthz", checks(&["ping"], failing))],
        "groups" => vec![
            Endpoint::new("/healthz", checks(&group, failing)),
            Endpoint::new("/livez", checks(&group, failing)),
            Endpoint::new("/readyz", checks(&ready, failing)),
        ],
        install => installed(install, failing)?,
    };
    Ok(Responder::new(endpoints.leak()))
}

fn installed(install: &str, failing: &Failing) -> Result<Vec<Endpoint<'static>>, String> {
    let install: Map<String, Value> =
        serde_json::from_str(install).map_err(|error| format!("profile {install}: {error}"))?;
    let endpoint = |(path, names): (&String, &Value)| {
        let names: Option<Vec<&str>> = names
            .as_array()
            .and_then(|names| names.iter().map(Value::as_str).collect());
        let names = names.ok_or_else(|| format!("profile: {path} has no list of names"))?;
        Ok(Endpoint::new(path.clone().leak(), checks(&names, failing)))
    };
    install.iter().map(endpoint).collect()
}

fn checks(names: &[&str], failing: &Failing) -> &'static [&'static Check] {
    let checks: Vec<&'static Check> = names.iter().map(|name| check(name, failing)).collect();
    checks.leak()
}

fn check(name: &str, failing: &Failing) -> &'static Check {
    let reason = failing.get(name);
    let mut check = match name {
        "ping" if reason.is_none() => Check::ping(),
        _ => Check::manual(String::from(name).leak()),
    };
    if name.starts_with("poststarthook/") {
        check = check.group("poststarthooks");
    }
    match reason {
        Some(reason) => check.fail(reason),
        None => check.pass(),
    }
    Box::leak(Box::new(check))
}
