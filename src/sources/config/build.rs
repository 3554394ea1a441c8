//! From the values of options to a kind, and back.
//!
//! The first half makes [`Kind`]s; the table names its functions. The second half takes them apart, so that
//! `check-config` prints them. A field that one half forgets does not compile, or fails the test of the round
//! trip.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::spec::{
    Amount, Clock, Dialogue, Disk, Endpoints, Exec, File, Heartbeat, Http, Kind, Memory, Mount,
    Pressure, Process, ProcessTarget, Resource, Scope, Severity, Spec, Tcp, Temperature, Threshold,
    Timing, Unix, Unsupported, Usage,
};
use super::value::{Parsed, Unit, resource};
use crate::url::Url;

/// The values of one check, by the names of its options.
#[derive(Default)]
pub struct Values(Vec<(&'static str, Parsed)>);

/// The name under which the argument is stored.
pub const ARGUMENT: &str = "";

/// A function that takes a value of one type.
macro_rules! take {
    ($($function:ident: $variant:ident -> $type:ty;)*) => {
        $(fn $function(&mut self, name: &str) -> Option<$type> {
            match self.take(name) {
                Some(Parsed::$variant(value)) => Some(value),
                _ => None,
            }
        })*
    };
}

impl Values {
    pub fn with_capacity(count: usize) -> Self {
        Values(Vec::with_capacity(count))
    }

    pub fn insert(&mut self, name: &'static str, value: Parsed) {
        self.0.push((name, value));
    }

    pub fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| *known == name)
    }

    pub fn get(&self, name: &str) -> Option<&Parsed> {
        let found = self.0.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value)
    }

    pub fn get_mut(&mut self, name: &str) -> Option<&mut Parsed> {
        let found = self.0.iter_mut().find(|(known, _)| *known == name);
        found.map(|(_, value)| value)
    }

    // Each use of an option calls this: copies of it take 7 KiB.
    #[inline(never)]
    fn take(&mut self, name: &str) -> Option<Parsed> {
        let at = self.0.iter().position(|(known, _)| *known == name)?;
        Some(self.0.swap_remove(at).1)
    }

    take! {
        duration: Duration -> Duration;
        number: Number -> u64;
        size: Size -> u64;
        mode: Mode -> u32;
        flag: Flag -> bool;
        choice: Choice -> &'static str;
        endpoints: Endpoints -> Endpoints;
        text: Text -> String;
        bytes: Bytes -> Vec<u8>;
        scope: Scope -> Scope;
        status: Status -> Vec<(u16, u16)>;
        target: Target -> ProcessTarget;
        url: Url -> Url;
        argv: Argv -> Vec<String>;
    }

    fn path(&mut self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    fn amount(&mut self, name: &str) -> Option<Amount> {
        match self.take(name) {
            Some(Parsed::Amount(amount, _)) => Some(amount),
            _ => None,
        }
    }

    fn pairs(&mut self, name: &str) -> Vec<(String, String)> {
        match self.take(name) {
            Some(Parsed::Pairs(pairs, _)) => pairs,
            _ => Vec::new(),
        }
    }

    fn dialogue(&mut self) -> Dialogue {
        Dialogue {
            send: self.bytes("send"),
            expect: self.bytes("expect"),
        }
    }
}

/// Makes the spec of a check from all of its values.
pub fn spec(name: &str, kind: Kind, values: &mut Values) -> Option<Spec> {
    let Some(Parsed::Threshold(failures, of_last)) = values.take("failure-threshold") else {
        return None;
    };
    Some(Spec {
        name: name.to_owned(),
        group: values.text("group"),
        endpoints: values.endpoints("endpoints")?,
        severity: match values.choice("severity")? {
            "warning" => Severity::Warning,
            _ => Severity::Error,
        },
        unsupported: match values.choice("unsupported")? {
            "warn" => Unsupported::Warn,
            "skip" => Unsupported::Skip,
            _ => Unsupported::Fail,
        },
        timing: Timing {
            initial_delay: values.duration("initial-delay")?,
            period: values.duration("period")?,
            timeout: values.duration("timeout")?,
        },
        threshold: Threshold {
            success: u32::try_from(values.number("success-threshold")?).ok()?,
            failures,
            of_last,
        },
        kind,
    })
}

pub fn heartbeat(values: &mut Values) -> Option<Kind> {
    Some(Kind::Heartbeat(Heartbeat {
        limit: values.duration("limit")?,
        socket: values.text("socket")?.into(),
        mode: values.mode("mode")?,
        uid: values.number("uid").and_then(|uid| uid.try_into().ok()),
        passes_until_ready: values.choice("until-ready")? == "pass",
        forward: values.path("forward"),
    }))
}

pub fn file(values: &mut Values) -> Option<Kind> {
    Some(Kind::File(File {
        path: values.path(ARGUMENT)?,
        max_age: values.duration("max-age"),
        contains: values.text("contains"),
        min_size: values.size("min-size"),
    }))
}

pub fn process(values: &mut Values) -> Option<Kind> {
    Some(Kind::Process(Process {
        target: values.target(ARGUMENT)?,
        min: values.number("min")?.try_into().ok()?,
    }))
}

pub fn tcp(values: &mut Values) -> Option<Kind> {
    let Some(Parsed::Address(host, port)) = values.take(ARGUMENT) else {
        return None;
    };
    let dialogue = values.dialogue();
    Some(Kind::Tcp(Tcp {
        host,
        port,
        dialogue,
    }))
}

pub fn unix(values: &mut Values) -> Option<Kind> {
    Some(Kind::Unix(Unix {
        path: values.text(ARGUMENT)?.into(),
        dialogue: values.dialogue(),
    }))
}

pub fn http(values: &mut Values) -> Option<Kind> {
    let Url {
        url,
        host,
        port,
        target,
        host_field,
    } = values.url(ARGUMENT)?;
    Some(Kind::Http(Http {
        url,
        host,
        port,
        target,
        host_field: values.text("host").unwrap_or(host_field),
        headers: values.pairs("header"),
        status: values.status("status")?,
        contains: values.text("contains"),
    }))
}

pub fn exec(values: &mut Values) -> Option<Kind> {
    let env = values.pairs("env").into_iter();
    Some(Kind::Exec(Exec {
        argv: values
            .argv(ARGUMENT)?
            .into_iter()
            .map(OsString::from)
            .collect(),
        user: values.text("user"),
        env: env
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
    }))
}

pub fn pressure(values: &mut Values) -> Option<Kind> {
    Some(Kind::Pressure(Pressure {
        resource: resource(values.choice(ARGUMENT)?),
        full: values.choice("kind")? == "full",
        stall: values.duration("stall")?,
        window: values.duration("window")?,
        scope: values.scope("scope")?,
    }))
}

pub fn memory(values: &mut Values) -> Option<Kind> {
    Some(Kind::Memory(Memory {
        min: values.amount("min")?,
        scope: values.scope("scope")?,
    }))
}

pub fn disk(values: &mut Values) -> Option<Kind> {
    Some(Kind::Disk(Disk {
        path: values.path(ARGUMENT)?,
        min: values.amount("min")?,
        min_inodes: values.amount("min-inodes")?,
    }))
}

pub fn pids(values: &mut Values) -> Option<Kind> {
    usage(values).map(Kind::Pids)
}

pub fn fds(values: &mut Values) -> Option<Kind> {
    usage(values).map(Kind::Fds)
}

fn usage(values: &mut Values) -> Option<Usage> {
    Some(Usage {
        process: values.target(ARGUMENT),
        min: values.amount("min")?,
        max: values.amount("max")?,
    })
}

pub fn clock(values: &mut Values) -> Option<Kind> {
    let max_error = values.duration("max-error")?;
    Some(Kind::Clock(Clock { max_error }))
}

pub fn mount(values: &mut Values) -> Option<Kind> {
    Some(Kind::Mount(Mount {
        path: values.path(ARGUMENT)?,
        mounted: values.flag("mounted")?,
        rw: values.flag("rw")?,
    }))
}

pub fn temperature(values: &mut Values) -> Option<Kind> {
    Some(Kind::Temperature(Temperature {
        zone: values.text(ARGUMENT)?,
        max: values.amount("max")?,
    }))
}

/// The options of every kind, as the table orders them. `None`: not set, and without a default.
pub fn generic_parts(spec: &Spec) -> [(&'static str, Option<Parsed>); 9] {
    let Spec {
        name: _,
        group,
        endpoints,
        severity,
        unsupported,
        timing,
        threshold,
        kind: _,
    } = spec;
    let severity = match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let unsupported = match unsupported {
        Unsupported::Fail => "fail",
        Unsupported::Warn => "warn",
        Unsupported::Skip => "skip",
    };
    let failures = Parsed::Threshold(threshold.failures, threshold.of_last);
    [
        (
            "initial-delay",
            Some(Parsed::Duration(timing.initial_delay)),
        ),
        ("period", Some(Parsed::Duration(timing.period))),
        ("timeout", Some(Parsed::Duration(timing.timeout))),
        ("success-threshold", number(threshold.success)),
        ("failure-threshold", Some(failures)),
        ("endpoints", Some(Parsed::Endpoints(*endpoints))),
        ("group", group.clone().map(Parsed::Text)),
        ("severity", Some(Parsed::Choice(severity))),
        ("unsupported", Some(Parsed::Choice(unsupported))),
    ]
}

/// The name of the kind, its argument, and its own options.
pub struct Parts {
    pub kind: &'static str,
    pub argument: Option<Parsed>,
    pub options: Vec<(&'static str, Option<Parsed>)>,
}

/// Takes a kind apart.
pub fn parts(kind: &Kind) -> Parts {
    let (kind, argument, options) = match kind {
        Kind::Heartbeat(heartbeat) => ("heartbeat", None, heartbeat_parts(heartbeat)),
        Kind::File(file) => ("file", path(&file.path), file_parts(file)),
        Kind::Process(Process { target, min }) => {
            let target = Parsed::Target(target.clone());
            ("process", Some(target), vec![("min", number(*min))])
        }
        Kind::Tcp(Tcp {
            host,
            port,
            dialogue,
        }) => {
            let address = Parsed::Address(host.clone(), *port);
            ("tcp", Some(address), dialogue_parts(dialogue))
        }
        Kind::Unix(Unix { path, dialogue }) => ("unix", text(path), dialogue_parts(dialogue)),
        Kind::Http(http) => ("http", Some(http_url(http)), http_parts(http)),
        Kind::Exec(exec) => ("exec", Some(argv(&exec.argv)), exec_parts(exec)),
        Kind::Pressure(pressure) => {
            let resource = match pressure.resource {
                Resource::Memory => "memory",
                Resource::Cpu => "cpu",
                Resource::Io => "io",
            };
            let resource = Parsed::Choice(resource);
            ("pressure", Some(resource), pressure_parts(pressure))
        }
        Kind::Memory(Memory { min, scope }) => {
            let options = vec![bytes("min", *min), scoped(scope)];
            ("memory", None, options)
        }
        Kind::Disk(disk) => {
            let options = vec![bytes("min", disk.min), count("min-inodes", disk.min_inodes)];
            ("disk", path(&disk.path), options)
        }
        Kind::Pids(usage) => ("pids", usage_target(usage), usage_parts(usage)),
        Kind::Fds(usage) => ("fds", usage_target(usage), usage_parts(usage)),
        Kind::Clock(Clock { max_error }) => {
            ("clock", None, vec![("max-error", duration(*max_error))])
        }
        Kind::Mount(mount) => {
            let options = vec![
                ("mounted", Some(Parsed::Flag(mount.mounted))),
                ("rw", Some(Parsed::Flag(mount.rw))),
            ];
            ("mount", path(&mount.path), options)
        }
        Kind::Temperature(Temperature { zone, max }) => {
            let max = Parsed::Amount(*max, Unit::Celsius);
            let zone = Parsed::Text(zone.clone());
            ("temperature", Some(zone), vec![("max", Some(max))])
        }
    };
    Parts {
        kind,
        argument,
        options,
    }
}

type Options = Vec<(&'static str, Option<Parsed>)>;

fn heartbeat_parts(heartbeat: &Heartbeat) -> Options {
    let until_ready = match heartbeat.passes_until_ready {
        true => "pass",
        false => "fail",
    };
    vec![
        ("limit", duration(heartbeat.limit)),
        ("socket", text(&heartbeat.socket)),
        ("mode", Some(Parsed::Mode(heartbeat.mode))),
        ("uid", heartbeat.uid.and_then(number)),
        ("until-ready", Some(Parsed::Choice(until_ready))),
        ("forward", heartbeat.forward.as_deref().and_then(path)),
    ]
}

fn file_parts(file: &File) -> Options {
    vec![
        ("max-age", file.max_age.and_then(duration)),
        ("contains", file.contains.clone().map(Parsed::Text)),
        ("min-size", file.min_size.map(Parsed::Size)),
    ]
}

fn dialogue_parts(dialogue: &Dialogue) -> Options {
    vec![
        ("send", dialogue.send.clone().map(Parsed::Bytes)),
        ("expect", dialogue.expect.clone().map(Parsed::Bytes)),
    ]
}

fn http_url(http: &Http) -> Parsed {
    Parsed::Url(Url {
        url: http.url.clone(),
        host: http.host.clone(),
        port: http.port,
        target: http.target.clone(),
        host_field: http.host_field.clone(),
    })
}

fn http_parts(http: &Http) -> Options {
    let headers = (!http.headers.is_empty()).then(|| Parsed::Pairs(http.headers.clone(), ": "));
    vec![
        ("status", Some(Parsed::Status(http.status.clone()))),
        ("contains", http.contains.clone().map(Parsed::Text)),
        ("header", headers),
        ("host", Some(Parsed::Text(http.host_field.clone()))),
    ]
}

fn exec_parts(exec: &Exec) -> Options {
    let lossy = |text: &OsString| text.to_string_lossy().into_owned();
    let env = exec.env.iter();
    let env: Vec<_> = env
        .map(|(name, value)| (lossy(name), lossy(value)))
        .collect();
    vec![
        ("user", exec.user.clone().map(Parsed::Text)),
        ("env", (!env.is_empty()).then_some(Parsed::Pairs(env, "="))),
    ]
}

fn pressure_parts(pressure: &Pressure) -> Options {
    let kind = if pressure.full { "full" } else { "some" };
    vec![
        ("kind", Some(Parsed::Choice(kind))),
        ("stall", duration(pressure.stall)),
        ("window", duration(pressure.window)),
        scoped(&pressure.scope),
    ]
}

fn usage_parts(usage: &Usage) -> Options {
    vec![count("min", usage.min), count("max", usage.max)]
}

fn usage_target(usage: &Usage) -> Option<Parsed> {
    usage.process.clone().map(Parsed::Target)
}

fn argv(argv: &[OsString]) -> Parsed {
    let texts = argv.iter().map(|text| text.to_string_lossy().into_owned());
    Parsed::Argv(texts.collect())
}

// All text of a configuration is UTF-8.

fn path(path: &Path) -> Option<Parsed> {
    Some(Parsed::Text(path.to_string_lossy().into_owned()))
}

fn text(text: &OsString) -> Option<Parsed> {
    Some(Parsed::Text(text.to_string_lossy().into_owned()))
}

fn number(number: u32) -> Option<Parsed> {
    Some(Parsed::Number(number.into()))
}

fn duration(time: Duration) -> Option<Parsed> {
    Some(Parsed::Duration(time))
}

fn bytes(name: &'static str, amount: Amount) -> (&'static str, Option<Parsed>) {
    (name, Some(Parsed::Amount(amount, Unit::Bytes)))
}

fn count(name: &'static str, amount: Amount) -> (&'static str, Option<Parsed>) {
    (name, Some(Parsed::Amount(amount, Unit::Count)))
}

fn scoped(scope: &Scope) -> (&'static str, Option<Parsed>) {
    ("scope", Some(Parsed::Scope(scope.clone())))
}
