//! Values of options: what may be written for each, and how it is printed.
//!
//! A value is a TOML value; the command line has only texts, and arrays where an option is repeated. Knows no
//! option and no kind. Called by the parser with the syntax from the table.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use healthz::Check;
use toml::de::DeValue;

use super::super::spec::{Amount, Endpoints, Host, ProcessTarget, Resource, Scope};
use super::fields;
use crate::units::{self, Shown, ShownShare, ShownSize, ShownTenths};
use crate::url::Url;

/// Longest path (PATH_MAX of Linux, without the final NUL).
const PATH_BYTES_MAX: usize = 4095;
/// Longest address of a Unix socket (unix(7)), without the final NUL.
const SOCKET_BYTES_MAX: usize = 107;
/// Longest text to search for or to send.
const TEXT_BYTES_MAX: usize = 1024;
/// The bits of the number that stores the results.
const RESULTS_MAX: u64 = 32;

/// What may be written for a value.
pub enum Syntax {
    /// Within these bounds, in milliseconds.
    Duration(u64, u64),
    Number(u64, u64),
    /// At least 1.
    Size,
    Amount(Unit),
    /// Permission bits, octal.
    Mode,
    Flag,
    Choice(&'static [&'static str]),
    Threshold,
    Endpoints,
    /// The name of a group.
    Name,
    Text,
    Bytes,
    Path,
    /// A path, or an abstract name that begins with `@`.
    Socket,
    Scope,
    Status,
    Headers,
    HostField,
    User,
    Env,
    Target,
    Address,
    Url,
    Argv,
    Zone,
}

/// What an amount that is not a share counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Count,
    /// In thousandths of a degree.
    Celsius,
}

/// A value that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    Duration(Duration),
    Number(u64),
    Size(u64),
    Amount(Amount, Unit),
    Mode(u32),
    Flag(bool),
    Choice(&'static str),
    Threshold(u32, u32),
    Endpoints(Endpoints),
    Text(String),
    Bytes(Vec<u8>),
    Scope(Scope),
    Status(Vec<(u16, u16)>),
    /// With what separates them.
    Pairs(Vec<(String, String)>, &'static str),
    Target(ProcessTarget),
    Address(Host, u16),
    Url(Url),
    Argv(Vec<String>),
}

/// Reads `value`.
///
/// # Errors
/// What is expected instead.
pub fn read(syntax: &Syntax, value: &DeValue) -> Result<Parsed, String> {
    match syntax {
        Syntax::Endpoints | Syntax::Status | Syntax::Headers | Syntax::Env | Syntax::Argv => {
            list(syntax, value).ok_or_else(|| expected(syntax))
        }
        Syntax::Url => match value {
            DeValue::String(url) => fields::url(url).map(Parsed::Url).map_err(str::to_owned),
            _ => Err(expected(syntax)),
        },
        // `mode = 600` would be other bits than `mode = "600"`.
        Syntax::Mode if matches!(value, DeValue::Integer(n) if n.radix() != 8) => {
            Err(expected(syntax))
        }
        _ => match scalar(value) {
            Some(text) => text_value(syntax, &text).ok_or_else(|| expected(syntax)),
            None => Err(expected(syntax)),
        },
    }
}

/// The text of a value that has no parts.
fn scalar<'a>(value: &'a DeValue) -> Option<Cow<'a, str>> {
    Some(match value {
        DeValue::String(text) => Cow::Borrowed(text),
        DeValue::Integer(number) => Cow::Owned(number.to_string()),
        DeValue::Boolean(true) => Cow::Borrowed("true"),
        DeValue::Boolean(false) => Cow::Borrowed("false"),
        _ => return None,
    })
}

/// Reads a value that has no parts.
fn text_value(syntax: &Syntax, text: &str) -> Option<Parsed> {
    let owned = || text.to_owned();
    let is_text = !text.is_empty() && text.len() <= TEXT_BYTES_MAX;
    match syntax {
        Syntax::Duration(min, max) => units::duration(text)
            .filter(|time| (u128::from(*min)..=u128::from(*max)).contains(&time.as_millis()))
            .map(Parsed::Duration),
        Syntax::Number(min, max) => units::whole(text)
            .filter(|number| (*min..=*max).contains(number))
            .map(Parsed::Number),
        Syntax::Size => units::size(text).filter(|size| *size > 0).map(Parsed::Size),
        Syntax::Amount(unit) => amount(text, *unit).map(|amount| Parsed::Amount(amount, *unit)),
        Syntax::Mode => mode(text).map(Parsed::Mode),
        Syntax::Flag => {
            Some(Parsed::Flag(text == "true")).filter(|_| matches!(text, "true" | "false"))
        }
        Syntax::Choice(choices) => {
            let choice = choices.iter().find(|choice| **choice == text);
            choice.map(|choice| Parsed::Choice(choice))
        }
        Syntax::Threshold => threshold(text),
        Syntax::Name => Check::is_name(text).then(|| Parsed::Text(owned())),
        Syntax::Text => is_text.then(|| Parsed::Text(owned())),
        Syntax::Bytes => bytes(text).filter(|_| is_text).map(Parsed::Bytes),
        Syntax::Path => is_path(text).then(|| Parsed::Text(owned())),
        Syntax::Socket => is_socket(text).then(|| Parsed::Text(owned())),
        Syntax::Scope => scope(text).map(Parsed::Scope),
        Syntax::HostField => fields::is_host_field(text).then(|| Parsed::Text(owned())),
        Syntax::User => is_user(text).then(|| Parsed::Text(owned())),
        Syntax::Target => target(text).map(Parsed::Target),
        Syntax::Address => address(text),
        Syntax::Url => fields::url(text).ok().map(Parsed::Url),
        Syntax::Zone => is_zone(text).then(|| Parsed::Text(owned())),
        // Lists have parts.
        Syntax::Endpoints | Syntax::Status | Syntax::Headers | Syntax::Env | Syntax::Argv => None,
    }
}

/// Reads a value with parts: an array, a table of variables, or a text that is split.
fn list(syntax: &Syntax, value: &DeValue) -> Option<Parsed> {
    let texts: Option<Vec<Cow<str>>> = match (value, syntax) {
        (DeValue::Array(items), _) => items.iter().map(|item| scalar(item.get_ref())).collect(),
        (DeValue::Table(variables), Syntax::Env) => variables
            .iter()
            .map(|(name, value)| {
                // `A=B` as a name would be read as the variable A.
                let name = Some(name.get_ref()).filter(|name| !name.contains('='))?;
                Some(format!("{name}={}", scalar(value.get_ref())?).into())
            })
            .collect(),
        (DeValue::String(text), Syntax::Endpoints) => split(text.split('+')),
        (DeValue::String(text), Syntax::Status) => split(text.split(',')),
        (DeValue::String(text), Syntax::Argv) => split(text.split_ascii_whitespace()),
        (value, _) => scalar(value).map(|text| vec![text]),
    };
    let texts = texts.filter(|texts| !texts.is_empty())?;
    let texts = texts.iter().map(|text| &**text);
    match syntax {
        Syntax::Endpoints => endpoints(texts),
        Syntax::Status => texts
            .map(statuses)
            .collect::<Option<_>>()
            .map(Parsed::Status),
        Syntax::Headers => pairs(texts, ": ", fields::header),
        Syntax::Env => pairs(texts, "=", variable),
        _ => argv(texts),
    }
}

fn split<'a>(parts: impl Iterator<Item = &'a str>) -> Option<Vec<Cow<'a, str>>> {
    Some(parts.map(Cow::Borrowed).collect())
}

/// What `syntax` allows, for messages.
pub fn expected(syntax: &Syntax) -> String {
    let what = match syntax {
        Syntax::Duration(min, max) => {
            let [min, max] = [min, max].map(|millis| Shown(Duration::from_millis(*millis)));
            return format!("expected {min} to {max}, written as 500ms, 10s, 2m, 26h or 7d");
        }
        Syntax::Number(min, max) => return format!("expected a whole number from {min} to {max}"),
        Syntax::Choice(choices) => return format!("expected {}", choices.join(" or ")),
        Syntax::Size => "a size from 1, written as 4096, 512Ki, 100Mi or 2Gi",
        Syntax::Amount(Unit::Bytes) => "a share such as 10%, or a size such as 100Mi",
        Syntax::Amount(Unit::Count) => "a share such as 10%, or a whole number",
        Syntax::Amount(Unit::Celsius) => "a share such as 90%, or degrees Celsius such as 85C",
        Syntax::Mode => "permission bits from \"0000\" to \"0777\", such as \"0660\"",
        Syntax::Flag => "true or false",
        Syntax::Threshold => "a number of failures from 1 to 32, or as 3/5 of the last results",
        Syntax::Endpoints => "some of healthz, livez and readyz, each once",
        Syntax::Name => "a name of letters, digits and . _ / -",
        Syntax::Text => "a text of 1 to 1024 bytes",
        Syntax::Bytes => "1 to 1024 bytes, with \\r, \\n, \\t, \\\\ or \\xNN for special ones",
        Syntax::Path => "an absolute path",
        Syntax::Socket => {
            "an absolute path, or an abstract name such as @name, of at most 107 bytes"
        }
        Syntax::Scope => "node, cgroup, or cgroup:PATH",
        Syntax::Status => "status codes from 100 to 599, such as 200-399,404",
        Syntax::Headers => {
            "a field such as \"Accept: text/plain\"; Host, Connection and the fields about a body cannot be set"
        }
        Syntax::HostField => "a host name or address, with a port or without",
        Syntax::User => "the name or number of a user",
        Syntax::Env => "a variable such as PATH=/usr/bin",
        Syntax::Target => "the absolute path of a PID file, or exe:NAME",
        Syntax::Address => {
            "IP:PORT or localhost:PORT, such as 127.0.0.1:5432; names are not resolved"
        }
        Syntax::Url => "a URL such as http://127.0.0.1:8080/ready",
        Syntax::Argv => "the absolute path of a program, and its arguments",
        Syntax::Zone => "the name or the type of a thermal zone, such as thermal_zone0",
    };
    format!("expected {what}")
}

fn amount(text: &str, unit: Unit) -> Option<Amount> {
    if let Some(share) = units::share(text) {
        return Some(Amount::Share(share));
    }
    let number = match unit {
        Unit::Bytes => units::size(text)?,
        Unit::Count => units::whole(text)?,
        Unit::Celsius => units::tenths(text.strip_suffix('C')?)?.checked_mul(100)?,
    };
    Some(Amount::Absolute(number))
}

fn mode(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    // from_str_radix accepts a sign.
    let is_plain = digits.bytes().all(|digit| digit.is_ascii_digit());
    let mode = u32::from_str_radix(digits, 8).ok().filter(|_| is_plain)?;
    (mode <= 0o777).then_some(mode)
}

fn threshold(text: &str) -> Option<Parsed> {
    let (failures, of_last) = text.split_once('/').unwrap_or((text, text));
    let failures = units::whole(failures)?;
    let of_last = units::whole(of_last)?;
    let is_valid = (1..=RESULTS_MAX).contains(&failures) && (1..=RESULTS_MAX).contains(&of_last);
    is_valid.then_some(Parsed::Threshold(failures as u32, of_last as u32))
}

fn endpoints<'a>(texts: impl Iterator<Item = &'a str>) -> Option<Parsed> {
    let mut endpoints = Endpoints {
        healthz: false,
        livez: false,
        readyz: false,
    };
    for text in texts {
        let flag = match text {
            "healthz" => &mut endpoints.healthz,
            "livez" => &mut endpoints.livez,
            "readyz" => &mut endpoints.readyz,
            _ => return None,
        };
        if std::mem::replace(flag, true) {
            return None;
        }
    }
    Some(Parsed::Endpoints(endpoints))
}

/// Replaces the escapes.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let [letter, tail @ ..] = rest else {
            return None;
        };
        rest = tail;
        bytes.push(match letter {
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b'\\' => b'\\',
            b'x' => {
                let [high, low, tail @ ..] = rest else {
                    return None;
                };
                rest = tail;
                let digit = |byte: u8| char::from(byte).to_digit(16);
                (digit(*high)? * 16 + digit(*low)?) as u8
            }
            _ => return None,
        });
    }
    Some(bytes)
}

fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.len() <= PATH_BYTES_MAX && !text.contains('\0')
}

fn is_socket(text: &str) -> bool {
    let is_abstract = text.len() > 1 && text.starts_with('@') && !text.contains('\0');
    (is_abstract || is_path(text)) && text.len() <= SOCKET_BYTES_MAX
}

fn scope(text: &str) -> Option<Scope> {
    Some(match text {
        "node" => Scope::Node,
        "cgroup" => Scope::Cgroup,
        _ => {
            let path = text.strip_prefix("cgroup:")?.trim_matches('/');
            let is_below = path
                .split('/')
                .all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0'));
            if !is_below || path.len() > PATH_BYTES_MAX {
                return None;
            }
            Scope::CgroupAt(path.into())
        }
    })
}

/// One status code, or a range of them.
fn statuses(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let code = |text| u16::try_from(units::whole(text)?).ok();
    let (first, last) = (code(first)?, code(last)?);
    (100 <= first && first <= last && last <= 599).then_some((first, last))
}

fn pairs<'a>(
    texts: impl Iterator<Item = &'a str>,
    separator: &'static str,
    parse: fn(&str) -> Option<(&str, &str)>,
) -> Option<Parsed> {
    let pairs = texts.map(|text| parse(text).map(|(name, value)| (name.into(), value.into())));
    let pairs = pairs.collect::<Option<_>>()?;
    Some(Parsed::Pairs(pairs, separator))
}

fn variable(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.split_once('=')?;
    (!name.is_empty() && !text.contains('\0')).then_some((name, value))
}

fn argv<'a>(texts: impl Iterator<Item = &'a str>) -> Option<Parsed> {
    let argv: Vec<String> = texts.map(str::to_owned).collect();
    let is_valid = argv.first().is_some_and(|program| is_path(program))
        && !argv.iter().any(|argument| argument.contains('\0'));
    is_valid.then_some(Parsed::Argv(argv))
}

fn is_user(text: &str) -> bool {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-$".contains(&byte);
    // useradd(8) allows 32 characters.
    (1..=32).contains(&text.len()) && !text.starts_with('-') && text.bytes().all(is_name)
}

fn target(text: &str) -> Option<ProcessTarget> {
    match text.strip_prefix("exe:") {
        Some(name) => {
            let is_name = !name.is_empty() && !name.contains(['/', '\0']);
            let is_valid = is_name && name.len() <= PATH_BYTES_MAX || is_path(name);
            is_valid.then(|| ProcessTarget::Exe(OsString::from(name)))
        }
        None => is_path(text).then(|| ProcessTarget::PidFile(text.into())),
    }
}

fn address(text: &str) -> Option<Parsed> {
    let (host, port) = match text.strip_prefix("localhost:") {
        Some(port) => (Host::Localhost, u16::try_from(units::whole(port)?).ok()?),
        None => {
            let address: SocketAddr = text.parse().ok()?;
            // A zone would be lost.
            if matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0) {
                return None;
            }
            (Host::Ip(address.ip()), address.port())
        }
    };
    (port != 0).then_some(Parsed::Address(host, port))
}

fn is_zone(text: &str) -> bool {
    // The kernel's longest type has 20 bytes.
    (1..=64).contains(&text.len())
        && !text.starts_with('.')
        && text
            .bytes()
            .all(|byte| (b' '..=b'~').contains(&byte) && byte != b'/')
}

/// The resource that an argument of `pressure` names.
pub fn resource(name: &str) -> Resource {
    match name {
        "memory" => Resource::Memory,
        "cpu" => Resource::Cpu,
        _ => Resource::Io,
    }
}

impl Parsed {
    /// The value in TOML.
    pub fn toml(&self) -> String {
        match self {
            Parsed::Duration(time) => quote(&Shown(*time).to_string()),
            Parsed::Number(number) => number.to_string(),
            Parsed::Size(bytes) => quote(&ShownSize(*bytes).to_string()),
            Parsed::Amount(Amount::Share(share), _) => quote(&ShownShare(*share).to_string()),
            Parsed::Amount(Amount::Absolute(number), unit) => match unit {
                Unit::Bytes => quote(&ShownSize(*number).to_string()),
                Unit::Count => number.to_string(),
                Unit::Celsius => format!("\"{}C\"", ShownTenths(*number / 100)),
            },
            Parsed::Mode(mode) => format!("\"{mode:04o}\""),
            Parsed::Flag(flag) => flag.to_string(),
            Parsed::Choice(choice) => quote(choice),
            Parsed::Threshold(failures, of_last) if failures == of_last => failures.to_string(),
            Parsed::Threshold(failures, of_last) => format!("\"{failures}/{of_last}\""),
            Parsed::Endpoints(endpoints) => array(endpoint_names(*endpoints)),
            Parsed::Text(text) => quote(text),
            Parsed::Bytes(bytes) => quote(&escaped(bytes)),
            Parsed::Scope(Scope::Node) => quote("node"),
            Parsed::Scope(Scope::Cgroup) => quote("cgroup"),
            Parsed::Scope(Scope::CgroupAt(path)) => {
                quote(&format!("cgroup:{}", path.to_string_lossy()))
            }
            Parsed::Status(ranges) => {
                array(ranges.iter().map(|(first, last)| match first == last {
                    true => first.to_string(),
                    false => format!("{first}-{last}"),
                }))
            }
            Parsed::Pairs(pairs, separator) => array(
                pairs
                    .iter()
                    .map(|(name, value)| format!("{name}{separator}{value}")),
            ),
            Parsed::Target(ProcessTarget::PidFile(path)) => quote(&path.to_string_lossy()),
            Parsed::Target(ProcessTarget::Exe(name)) => {
                quote(&format!("exe:{}", name.to_string_lossy()))
            }
            Parsed::Address(Host::Localhost, port) => quote(&format!("localhost:{port}")),
            Parsed::Address(Host::Ip(ip), port) => quote(&SocketAddr::new(*ip, *port).to_string()),
            Parsed::Url(url) => quote(&url.url),
            Parsed::Argv(argv) => array(argv.iter().cloned()),
        }
    }
}

fn endpoint_names(endpoints: Endpoints) -> impl Iterator<Item = String> {
    let names = [
        ("healthz", endpoints.healthz),
        ("livez", endpoints.livez),
        ("readyz", endpoints.readyz),
    ];
    let listed = names.into_iter().filter(|(_, is_listed)| *is_listed);
    listed.map(|(name, _)| name.to_owned())
}

fn array(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.map(|item| quote(&item)).collect();
    format!("[{}]", items.join(", "))
}

/// A TOML string. What a terminal could interpret is escaped.
pub fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        // Writing to a string cannot fail.
        let _ = match character {
            '"' | '\\' => write!(quoted, "\\{character}"),
            '\n' => write!(quoted, "\\n"),
            '\r' => write!(quoted, "\\r"),
            '\t' => write!(quoted, "\\t"),
            // An apostrophe is printable, but `escape_debug` escapes it.
            '\'' => write!(quoted, "'"),
            _ if character.escape_debug().len() == 1 => write!(quoted, "{character}"),
            _ => write!(quoted, "\\U{:08X}", u32::from(character)),
        };
    }
    quoted.push('"');
    quoted
}

/// The bytes as [`Syntax::Bytes`] reads them.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        let _ = match byte {
            b'\r' => write!(text, "\\r"),
            b'\n' => write!(text, "\\n"),
            b'\t' => write!(text, "\\t"),
            b'\\' => write!(text, "\\\\"),
            b' '..=b'~' => write!(text, "{}", char::from(*byte)),
            _ => write!(text, "\\x{byte:02x}"),
        };
    }
    text
}
