//! The fuzz target `options`: the parsers of the daemon, compared with slower ones and with what they print.
//!
//! Called by `fuzz/` with random bytes, and by `cargo test` with the corpus. The fuzz target compiles this
//! file and the modules it uses into itself, because a crate cannot depend on a program.

use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use healthz::server::{Address, ListenFds};
use healthz::{Check, Endpoint, Responder};

use super::notify;
use super::options::{self, Command, Listen, Options};
use super::port_owner;
use crate::units::{self, Shown};

/// Asserts, for a text of any bytes:
/// - A command line that is accepted has the same meaning when it is written out again. The error of another
///   is one line that names the argument.
/// - A duration or an address that is accepted has the same value when it is written out again.
/// - A second, simple parser reads the same from durations, `LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES` and
///   `WATCHDOG_USEC`.
/// - A line of /proc/net that is accepted contains the inode and the address that were parsed.
pub fn options(data: &[u8]) {
    // Arguments and environment variables cannot contain NUL.
    let texts: Vec<&OsStr> = data
        .split(|byte| *byte == 0)
        .map(OsStr::from_bytes)
        .collect();
    command_line(&texts);
    let of = |at: usize| texts.get(at).copied();
    listen_fds(of(0), of(1), of(2));
    watchdog(of(0));
    unix_line(texts[0], of(1).unwrap_or_default());
    let _ = notify::connect(texts[0]);
    for text in texts.iter().filter_map(|text| text.to_str()) {
        time(text);
        address(text);
        tcp_line(text);
    }
}

fn command_line(args: &[&OsStr]) {
    let owned = |args: &[&OsStr]| -> Vec<OsString> { args.iter().map(OsString::from).collect() };
    match options::parse(owned(args)) {
        Ok(Command::Version) => {}
        Ok(Command::Serve(read) | Command::Help(_, read) | Command::CheckConfig(read)) => {
            let written = written(&read);
            let Ok(Command::Serve(again)) = options::parse(written.clone()) else {
                panic!("{written:?} is refused");
            };
            assert_eq!(format!("{again:?}"), format!("{read:?}"), "{written:?}");
            let limits = &read.config.limits;
            assert!((1..=65_535).contains(&read.config.connections));
            assert!((512..=65_535).contains(&limits.request_head_bytes));
            assert!(
                read.oom_score_adj
                    .is_none_or(|n| (-1000..=1000).contains(&n))
            );
            let (ping, ready) = (Check::ping(), Check::gate("ready"));
            let checks = [&ping, &ready];
            let responder = [Endpoint::new("/healthz", &checks)];
            let bytes = read.config.memory_bytes_max(&Responder::new(&responder));
            assert!(bytes > read.config.connections * read.config.limits.request_head_bytes);
            let help = options::help(None, bytes);
            assert!(
                help.lines().all(|line| line.chars().count() <= 80),
                "{help}"
            );
        }
        Err(error) => {
            let message = error.to_string();
            assert!(!message.contains(char::is_control), "{message:?}");
            assert!(
                args.iter().any(|arg| is_named(arg, &message)),
                "{message:?} of {args:?}"
            );
        }
    }
}

/// Whether `message` contains the name of the option `arg`, or all of `arg` if it is not an option.
fn is_named(arg: &OsStr, message: &str) -> bool {
    let contains = |text: &str| {
        let quoted = format!("{:?}", OsStr::new(text));
        message.contains(text) || message.contains(quoted.trim_matches('"'))
    };
    let text = arg.to_string_lossy();
    if let Some(long) = text.strip_prefix("--") {
        return contains(long.split('=').next().unwrap());
    }
    match text.strip_prefix('-') {
        Some(short) if !short.is_empty() => {
            short.chars().any(|letter| contains(&format!("-{letter}")))
        }
        _ => contains(&text) || message.contains(format!("{arg:?}").trim_matches('"')),
    }
}

/// A command line that sets all of `options`. A new field does not compile until it is added here.
fn written(options: &Options) -> Vec<OsString> {
    let Options {
        checks,
        check_file,
        listen,
        allow_remote,
        allow_hosts,
        config,
        log_limit,
        sync_period,
        sync_limit,
        shutdown_delay,
        ready_fd,
        log_level,
        oom_score_adj,
        lock_memory,
        metrics,
        sandbox,
    } = options;
    let limits = &config.limits;
    let mut written = Vec::new();
    let mut push = |name: &str, value: &dyn std::fmt::Display| {
        written.extend([format!("--{name}"), value.to_string()].map(OsString::from));
    };
    push("connections", &config.connections);
    push("head-bytes", &limits.request_head_bytes);
    push("body-bytes", &limits.body_drain_bytes);
    for (name, time) in [
        ("head-timeout", limits.head_duration),
        ("idle-timeout", limits.idle_duration),
        ("drain-timeout", limits.drain_duration),
        ("log-limit", *log_limit),
        ("sync-period", *sync_period),
        ("sync-limit", *sync_limit),
        ("shutdown-delay", *shutdown_delay),
    ] {
        push(name, &Shown(time));
    }
    allow_hosts.iter().for_each(|host| push("allow-host", host));
    ready_fd.iter().for_each(|fd| push("ready-fd", fd));
    log_level.iter().for_each(|level| push("log-level", level));
    let adjustment = oom_score_adj.iter();
    adjustment.for_each(|number| push("oom-score-adj", number));
    written.extend(allow_remote.then(|| "--allow-remote".into()));
    written.extend(lock_memory.then(|| "--lock-memory".into()));
    written.extend((!metrics).then(|| "--no-metrics".into()));
    written.extend((!sandbox).then(|| "--no-sandbox".into()));
    for (name, value) in checks
        .iter()
        .map(|check| ("--check", check.as_os_str()))
        .chain(check_file.iter().map(|file| ("--config", file.as_os_str())))
    {
        written.extend([OsStr::new(name), value].map(OsString::from));
    }
    for Listen { address, paths } in listen {
        let mut argument = OsString::from("--listen=");
        match address {
            // A path can be other bytes than UTF-8.
            Address::Unix(path) => {
                argument.push("unix:");
                argument.push(path);
            }
            address => argument.push(address.to_string()),
        }
        if let Some(paths) = paths {
            argument.push(",paths=");
            argument.push(paths.iter().collect::<Vec<_>>().join("+"));
        }
        written.push(argument);
    }
    written
}

fn listen_fds(count: Option<&OsStr>, pid: Option<&OsStr>, names: Option<&OsStr>) {
    let text = |value: Option<&OsStr>| value.and_then(OsStr::to_str).map(str::to_owned);
    // `-0` is 0.
    let number = |value: Option<&OsStr>| text(value)?.parse::<i64>().ok();
    match ListenFds::parse(count, pid, names, 42) {
        Ok(passed) => {
            let is_for_us = count.is_some() && number(pid) == Some(42);
            let want = if is_for_us { number(count).unwrap() } else { 0 };
            assert_eq!(passed.numbers().len() as i64, want);
            let names = text(names).unwrap_or_default();
            let names: Vec<&str> = names.split(':').collect();
            for (at, fd) in passed.numbers().enumerate().take(16) {
                let name = names.get(at).filter(|name| !["", "unknown"].contains(name));
                assert_eq!(passed.name(fd), name.copied());
            }
            assert_eq!(passed.name(2), None);
            assert_eq!(passed.name(passed.numbers().end), None);
        }
        Err(error) => {
            assert_eq!(
                number(pid),
                Some(42),
                "an error in variables for another process"
            );
            let message = error.to_string();
            assert!(message.starts_with("LISTEN_FDS=") && !message.contains(char::is_control));
            assert!(
                number(count).is_none_or(|count| !(0..=i64::from(i32::MAX) - 3).contains(&count)),
                "{message}"
            );
        }
    }
}

fn watchdog(limit: Option<&OsStr>) {
    let micros = limit.and_then(|limit| limit.to_str()?.parse::<u64>().ok());
    let want = micros
        .filter(|micros| *micros > 0)
        .map(|micros| (Duration::from_micros(micros) / 2).max(Duration::from_millis(1)));
    assert_eq!(notify::watchdog(limit.map(OsString::from), None), want);
    let other = Some(OsString::from("0"));
    assert_eq!(notify::watchdog(limit.map(OsString::from), other), None);
}

fn time(text: &str) {
    let read = units::duration(text);
    assert_eq!(read, slow_time(text), "{text:?}");
    if let Some(time) = read {
        let shown = Shown(time).to_string();
        assert_eq!(
            units::duration(&shown),
            Some(time),
            "{text:?} is shown as {shown:?}"
        );
    }
}

/// A second parser: splits digits from units, and adds without overflow.
fn slow_time(text: &str) -> Option<Duration> {
    let mut millis: u128 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let unit: String = rest
            .chars()
            .skip(digits.len())
            .take_while(|c| !c.is_ascii_digit())
            .collect();
        rest = rest.get(digits.len() + unit.len()..)?;
        let unit = match unit.as_str() {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        millis += u128::from(digits.parse::<u64>().ok()?) * unit;
    }
    let millis = u64::try_from(millis).ok()?;
    (!text.is_empty()).then(|| Duration::from_millis(millis))
}

fn address(text: &str) {
    if let Ok(address) = text.parse::<Address>() {
        let shown = address.to_string();
        assert_eq!(shown.parse(), Ok(address), "{text:?} is shown as {shown:?}");
    }
}

/// Writes the parsed line as the kernel does (net/ipv4/tcp_ipv4.c, net/ipv6/tcp_ipv6.c).
fn tcp_line(text: &str) {
    let Some((address, inode)) = port_owner::tcp_listener(text) else {
        return;
    };
    let words: Vec<u8> = match address.ip() {
        IpAddr::V4(ip) => ip.octets().into(),
        IpAddr::V6(ip) => ip.octets().into(),
    };
    let ip: String = words
        .chunks_exact(4)
        .map(|word| format!("{:08X}", u32::from_ne_bytes(word.try_into().unwrap())))
        .collect();
    let port = address.port();
    let line = format!("   1: {ip}:{port:04X} 0:0 0A 0:0 00:0 0     0        0 {inode} 1 0");
    assert_eq!(port_owner::tcp_listener(&line), Some((address, inode)));
    assert!(!inode.is_empty() && text.contains(inode));
}

/// Writes a line with `path` as the kernel does (net/unix/af_unix.c). It is found for every path.
fn unix_line(line: &OsStr, path: &OsStr) {
    let path = Path::new(path);
    if let Some(inode) = port_owner::unix_listener(line.as_bytes(), path) {
        assert!(line.to_string_lossy().contains(&inode));
    }
    for suffix in ["", ".4711"] {
        let mut line = OsString::from("ffff888000000000: 00000002 00000000 00010000 0001 01 17 ");
        line.push(path);
        line.push(suffix);
        let inode = port_owner::unix_listener(line.as_bytes(), path);
        assert_eq!(inode.as_deref(), Some("17"), "{path:?}");
    }
    let connected = [
        b"0: 00000003 00000000 00000000 0001 03 17 ",
        path.as_os_str().as_bytes(),
    ]
    .concat();
    assert_eq!(port_owner::unix_listener(&connected, path), None);
}

#[cfg(test)]
mod tests {
    #[test]
    fn corpus_of_options_has_no_finding() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        // Cargo adds this file to a published crate, which has no corpus.
        if root.join("Cargo.toml.orig").exists() {
            println!("no corpus in a published crate");
            return;
        }
        let directory = &root.join("fuzz/corpus/options");
        let mut count = 0;
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            // The test prints it if it fails.
            println!("{}", path.display());
            super::options(&std::fs::read(&path).unwrap());
            count += 1;
        }
        assert!(count > 50, "only {count} inputs in {directory:?}");
    }
}
