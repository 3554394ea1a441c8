//! The configuration of checks: from `--check` arguments and the check file to [`Spec`]s.
//!
//! One table ([`table`]) has all kinds and options. One parser uses it, for the command line and for the file. It
//! collects every mistake, with its place and the nearest name. Opens only the check file. Called at the start of the
//! server, by the worker when the file is read again, and by `healthz check-config`.

mod build;
mod command_line;
#[cfg(test)]
mod documents;
mod fields;
mod file;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod print;
mod rules;
mod table;
#[cfg(test)]
mod tests;
mod value;

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use healthz::Check;
use nix::fcntl::OFlag;
use toml::de::DeValue;

use super::spec::{Kind, SPECS_MAX, Spec};
use crate::nearest::nearest;
use build::{ARGUMENT, Values};
#[cfg(not(test))]
use table::{GENERIC, KindDef, OptionDef};
use value::{Parsed, Syntax};

pub use print::print;
/// For the manual page.
#[cfg(test)]
pub use table::{GENERIC, KINDS, KindDef, OptionDef};

/// The check file that is used if it exists and no other is named.
pub const FILE_DEFAULT: &str = "/etc/healthz.toml";
/// Largest check file: 1 KiB for each of the most checks.
pub const FILE_BYTES_MAX: usize = 256 * 1024;
/// Most mistakes that are reported.
pub const MISTAKES_MAX: usize = 100;
/// Most mistakes that are sorted by their place. More are only counted, because a large file without sense would
/// take long.
const MISTAKES_SORTED_MAX: usize = 1000;
/// Names of the daemon's own checks.
const RESERVED: [&str; 4] = ["ping", "log", "syncloop", "shutdown"];
/// Longest text that a message repeats, in characters.
const SHOWN_MAX: usize = 60;

/// A mistake in the configuration. Its text is one line without control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// What the text begins with: an argument, or a file with line and column.
    place: String,
    /// Line and column, from 1; both 0 if the mistake is not in a line.
    position: (usize, usize),
    message: String,
}

impl Mistake {
    fn in_file(path: &Path, message: impl fmt::Display) -> Mistake {
        Mistake {
            place: shown(&path.to_string_lossy()),
            position: (0, 0),
            message: message.to_string(),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mistake {
            place,
            position,
            message,
        } = self;
        f.write_str(place)?;
        if let (line @ 1.., column) = position {
            write!(f, ":{line}:{column}")?;
        }
        // A message about no place in particular.
        let colon = if place.is_empty() { "" } else { ": " };
        write!(f, "{colon}{message}")
    }
}

/// Reads the configuration for `healthz check-config`. There it is a mistake if there is neither a check file nor
/// `--check`.
///
/// # Errors
/// Every mistake. Never empty.
pub fn load(checks: &[OsString], path: Option<&Path>) -> Result<Vec<Spec>, Vec<Mistake>> {
    let file = read_file(path).map_err(|mistake| vec![mistake])?;
    if file.is_none() && checks.is_empty() {
        let path = Path::new(FILE_DEFAULT);
        return Err(vec![Mistake::in_file(
            path,
            "does not exist, and there is no --check",
        )]);
    }
    parse(
        checks,
        file.as_ref()
            .map(|(path, bytes)| (path.as_path(), bytes.as_slice())),
    )
}

/// Reads the check file `path`, or the default one if there is no `path` and if it exists. Never waits: anything
/// else than a regular file is refused.
///
/// # Errors
/// If it cannot be read or is too large.
pub fn read_file(path: Option<&Path>) -> Result<Option<(PathBuf, Vec<u8>)>, Mistake> {
    let (path, is_default) = match path {
        Some(path) => (path, false),
        None => (Path::new(FILE_DEFAULT), true),
    };
    match read_regular(path) {
        Ok(bytes) if bytes.len() > FILE_BYTES_MAX => Err(file::too_large(path)),
        Ok(bytes) => Ok(Some((path.into(), bytes))),
        Err(error) if is_default && error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Mistake::in_file(path, error)),
    }
}

/// The contents of a file, up to one byte more than is allowed.
fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    // The flag does not change how a regular file is read. A FIFO without a writer would be waited for.
    let nonblocking = OFlag::O_NONBLOCK.bits();
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(nonblocking)
        .open(path)?;
    if !opened.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    opened
        .take(FILE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Parses the values of `--check`, and the contents of the check file with its path for messages. The specs
/// have this order: command line, then file, each as written.
///
/// # Errors
/// Every mistake, at most 100 and a line that counts the rest. Never empty.
pub fn parse(checks: &[OsString], file: Option<(&Path, &[u8])>) -> Result<Vec<Spec>, Vec<Mistake>> {
    let mut parser = Parser::default();
    for check in checks {
        command_line::read(&mut parser, check);
    }
    let from_arguments = parser.mistakes.len();
    if let Some((path, bytes)) = file {
        file::read(&mut parser, path, bytes);
    }
    let mut mistakes = parser.mistakes;
    if mistakes.is_empty() {
        return Ok(parser.specs);
    }
    if let Some(in_file) = mistakes.get_mut(from_arguments..) {
        sort(in_file);
    }
    if let Some(more @ 1..) = (mistakes.len() + parser.more).checked_sub(MISTAKES_MAX) {
        mistakes.truncate(MISTAKES_MAX);
        mistakes.push(Mistake {
            place: String::new(),
            position: (0, 0),
            message: format!("{more} more mistakes"),
        });
    }
    Err(mistakes)
}

/// Sorts by position, at most [`MISTAKES_SORTED_MAX`]. The general sort of std would be 8 KiB of code.
fn sort(mistakes: &mut [Mistake]) {
    for end in 1..mistakes.len() {
        let Some(sorted) = mistakes.get_mut(..=end) else {
            return;
        };
        let Some((last, before)) = sorted.split_last() else {
            return;
        };
        let place = before.partition_point(|mistake| mistake.position <= last.position);
        if let Some(later) = sorted.get_mut(place..) {
            later.rotate_right(1);
        }
    }
}

/// Where something was written.
enum Place<'a> {
    /// The argument of this check.
    Argument(String),
    /// A file of this name and text.
    File { name: String, text: &'a str },
}

impl Place<'_> {
    fn is_file(&self) -> bool {
        matches!(self, Place::File { .. })
    }

    /// A mistake at the byte `at`.
    fn mistake(&self, at: usize, message: String) -> Mistake {
        let (place, position) = match self {
            Place::Argument(check) => (format!("--check {check}"), (0, 0)),
            Place::File { name, text } => (name.clone(), file::position(text, at)),
        };
        Mistake {
            place,
            position,
            message,
        }
    }
}

/// A check as it was written.
struct Written<'a> {
    place: &'a Place<'a>,
    name: &'a str,
    /// Where the name is.
    at: usize,
    /// Its kind, with the argument as value.
    kind: Option<(&'static KindDef, Entry<'a>)>,
    options: Vec<Entry<'a>>,
}

/// A key and its value.
#[derive(Clone, Copy)]
struct Entry<'a> {
    key: &'a str,
    key_at: usize,
    value: &'a DeValue<'a>,
    value_at: usize,
}

/// The specs and the mistakes so far.
#[derive(Default)]
struct Parser {
    specs: Vec<Spec>,
    mistakes: Vec<Mistake>,
    /// Mistakes beyond the most that are stored.
    more: usize,
    /// Names of all checks so far, those with mistakes included.
    names: Vec<String>,
    /// From `[defaults]`.
    defaults: Values,
    /// Whether lines of the file could not be read, so that something may seem to be missing.
    is_broken: bool,
}

impl Parser {
    fn mistake(&mut self, place: &Place<'_>, at: usize, message: String) {
        if self.mistakes.len() < MISTAKES_SORTED_MAX {
            self.mistakes.push(place.mistake(at, message));
        } else {
            self.more += 1;
        }
    }

    /// False if there are too many checks already, which is then a mistake.
    fn has_room(&mut self, place: &Place<'_>, at: usize) -> bool {
        let has_room = self.names.len() < SPECS_MAX;
        if !has_room {
            self.mistake(place, at, format!("more than {SPECS_MAX} checks"));
        }
        has_room
    }

    /// Adds a check, or the mistakes in it.
    fn add(&mut self, written: &Written<'_>) {
        let Written {
            place, name, at, ..
        } = *written;
        let refusal = self.refuses_name(name);
        if let Some(why) = refusal {
            let message = match place.is_file() {
                true => format!("{}: {why}", shown(name)),
                false => why.to_owned(),
            };
            self.mistake(place, at, message);
        }
        self.names.push(name.to_owned());
        let own = written
            .kind
            .as_ref()
            .map_or(0, |(def, _)| def.options.len());
        let mut values = Values::with_capacity(GENERIC.len() + own + 1);
        for entry in &written.options {
            self.option(written, entry, &mut values);
        }
        let Some((def, argument)) = &written.kind else {
            return;
        };
        self.argument(place, def, argument, &mut values);
        if refusal.is_some() || !self.check_timeout(written, def, &values) {
            return;
        }
        self.fill(written, def, &mut values);
        let kind = (def.build)(&mut values);
        let spec = kind.and_then(|kind| build::spec(name, kind, &mut values));
        // Without a spec, there was a mistake in a value.
        if let Some(spec) = spec {
            self.add_spec(written, spec);
        }
    }

    fn refuses_name(&self, name: &str) -> Option<&'static str> {
        if !Check::is_name(name) {
            return Some(
                "expected a name of letters, digits and . _ / -, of at most 127 characters",
            );
        }
        if RESERVED.contains(&name) {
            return Some("the daemon has a check of this name");
        }
        let is_taken = self.names.iter().any(|known| known == name);
        is_taken.then_some("another check has this name")
    }

    /// Reads an option of a check.
    fn option(&mut self, written: &Written<'_>, entry: &Entry<'_>, values: &mut Values) {
        let kind = written.kind.as_ref().map(|(def, _)| *def);
        let own = kind.map_or(&[][..], |def| def.options);
        let option = table::find(GENERIC, entry.key).or_else(|| table::find(own, entry.key));
        match (option, kind) {
            (Some(option), _) => {
                if let Some(value) = self.value(written.place, &option.syntax, entry) {
                    values.insert(option.name, value);
                }
            }
            (None, Some(def)) => {
                let message = unknown_option(def, entry.key);
                self.mistake(written.place, entry.key_at, message);
            }
            // Its kind is unknown, which is the mistake.
            (None, None) => {}
        }
    }

    /// Reads a value.
    fn value(&mut self, place: &Place<'_>, syntax: &Syntax, entry: &Entry<'_>) -> Option<Parsed> {
        match value::read(syntax, entry.value) {
            Ok(value) => Some(value),
            Err(expected) => {
                let key = shown(entry.key);
                let message = match entry.value {
                    DeValue::String(text) => format!("{key} {}: {expected}", shown(text)),
                    DeValue::Array(_) if !place.is_file() => format!("{key} is given twice"),
                    DeValue::Array(_) => format!("{key}: {expected}"),
                    value => format!("{key}: {expected}, not this {}", value.type_str()),
                };
                self.mistake(place, entry.value_at, message);
                None
            }
        }
    }

    /// Reads the argument of a kind.
    fn argument(
        &mut self,
        place: &Place<'_>,
        def: &KindDef,
        entry: &Entry<'_>,
        values: &mut Values,
    ) {
        let (article, kind, name) = (def.article(), def.name, def.argument.name);
        let message = match entry.value {
            DeValue::Boolean(true) if !def.argument.is_required => return,
            DeValue::Boolean(_) if def.argument.is_required => {
                let expected = value::expected(&def.argument.syntax);
                format!("{article} {kind} check needs {name}: {expected}")
            }
            _ if name.is_empty() && place.is_file() => {
                format!("{article} {kind} check has no argument: expected true")
            }
            _ if name.is_empty() => {
                format!("{article} {kind} check has no argument; options follow after a comma")
            }
            _ => {
                if let Some(value) = self.value(place, &def.argument.syntax, entry) {
                    values.insert(ARGUMENT, value);
                }
                return;
            }
        };
        self.mistake(place, entry.value_at, message);
    }

    /// Compares a timeout that is written with the period. False if it is longer.
    fn check_timeout(&mut self, written: &Written<'_>, def: &KindDef, values: &Values) -> bool {
        let Some(Parsed::Duration(timeout)) = values.get("timeout") else {
            return true;
        };
        let period = match values.get("period") {
            Some(Parsed::Duration(period)) => *period,
            // There was a mistake in it.
            _ if written.options.iter().any(|entry| entry.key == "period") => return true,
            _ => self.default_duration(written.place, def, "period"),
        };
        if *timeout <= period {
            return true;
        }
        let [timeout, period] = [*timeout, period].map(crate::units::Shown);
        let message = format!("timeout {timeout}: expected at most the period, which is {period}");
        self.mistake(written.place, at_option(written, "timeout"), message);
        false
    }

    fn default_duration(&self, place: &Place<'_>, def: &KindDef, name: &str) -> Duration {
        let option = table::find(GENERIC, name);
        let value = |option| self.default_value(place, option, def.default_of(option));
        match option.and_then(value) {
            Some(Parsed::Duration(time)) => time,
            _ => Duration::ZERO,
        }
    }

    /// The value of an option that is not written in the check. `text` is its default.
    fn default_value(&self, place: &Place<'_>, option: &OptionDef, text: &str) -> Option<Parsed> {
        let shared = self.defaults.get(option.name);
        if let Some(value) = shared.filter(|_| place.is_file()) {
            return Some(value.clone());
        }
        if text.is_empty() {
            return None;
        }
        value::read(&option.syntax, &DeValue::String(text.into())).ok()
    }

    /// Adds the values that are not written.
    fn fill(&mut self, written: &Written<'_>, def: &KindDef, values: &mut Values) {
        let Written {
            place, name, at, ..
        } = *written;
        let has_timeout = values.contains("timeout");
        for option in GENERIC.iter().chain(def.options) {
            if values.contains(option.name) {
                continue;
            }
            let text = default_text(name, def, option);
            match self.default_value(place, option, &text) {
                Some(value) => values.insert(option.name, value),
                None if text.is_empty() => {}
                // A long name makes a long path.
                None => {
                    let expected = value::expected(&option.syntax);
                    let message = format!("{} {}: {expected}", option.name, shown(&text));
                    self.mistake(place, at, message);
                }
            }
        }
        if has_timeout {
            return;
        }
        // A default must not be refused because of the period.
        let period = match values.get("period") {
            Some(Parsed::Duration(period)) => *period,
            _ => return,
        };
        if let Some(Parsed::Duration(timeout)) = values.get_mut("timeout") {
            *timeout = period.min(*timeout);
        }
    }

    /// Adds a spec that fits to the others and can fail.
    fn add_spec(&mut self, written: &Written<'_>, spec: Spec) {
        let place = written.place;
        if let Some((option, message)) = rules::conflict(&spec) {
            self.mistake(place, at_option(written, option), message);
        } else if let Some(why) = spec.never_fails() {
            let message = format!("this check could never fail: {why}");
            self.mistake(place, written.at, message);
        } else if let Some((socket, other)) = self.with_socket(&spec) {
            let [socket, other] = [socket, other].map(|text| shown(&text));
            let message = format!("socket {socket}: the check {other} uses it already");
            self.mistake(place, at_option(written, "socket"), message);
        } else {
            self.specs.push(spec);
        }
    }

    /// The socket on which `spec` and another check would receive, and the name of the other.
    fn with_socket(&self, spec: &Spec) -> Option<(String, String)> {
        let socket = |spec: &Spec| match &spec.kind {
            Kind::Heartbeat(heartbeat) => Some(heartbeat.socket.clone()),
            _ => None,
        };
        let own = socket(spec)?;
        let mut others = self.specs.iter();
        let other = others.find(|other| socket(other).as_ref() == Some(&own))?;
        Some((own.to_string_lossy().into_owned(), other.name.clone()))
    }
}

/// Where an option is written; where the name of the check is, if it is not written.
fn at_option(written: &Written<'_>, option: &str) -> usize {
    let mut options = written.options.iter();
    let entry = options.find(|entry| entry.key == option);
    entry.map_or(written.at, |entry| entry.value_at)
}

/// The default of an option, as it is written on the command line. Empty if there is none.
fn default_text(name: &str, def: &KindDef, option: &OptionDef) -> Cow<'static, str> {
    let text = def.default_of(option);
    match option.syntax {
        // A name with a slash would be a path.
        Syntax::Socket => Cow::Owned(text.replace("NAME", &name.replace('/', "-"))),
        _ => Cow::Borrowed(text),
    }
}

fn unknown_option(def: &KindDef, key: &str) -> String {
    let names = || GENERIC.iter().chain(def.options).map(|option| option.name);
    let of = format!(
        "unknown option {} of {} {} check",
        shown(key),
        def.article(),
        def.name
    );
    if let Some(meant) = nearest(key, names()) {
        return format!("{of}; did you mean {meant}?");
    }
    let own: Vec<&str> = def.options.iter().map(|option| option.name).collect();
    format!("{of}; its own are {}", own.join(", "))
}

fn unknown_kind(kind: &str) -> String {
    let names = || table::KINDS.iter().map(|kind| kind.name);
    match nearest(kind, names()) {
        Some(meant) => format!("unknown kind {}; did you mean {meant}?", shown(kind)),
        None => {
            let names: Vec<&str> = names().collect();
            format!(
                "unknown kind {}; expected one of {}",
                shown(kind),
                names.join(", ")
            )
        }
    }
}

/// `text` as it is if it is visible ASCII, else quoted and escaped. Cut if it is long.
fn shown(text: &str) -> String {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    match text.char_indices().nth(SHOWN_MAX) {
        None if is_plain => text.to_owned(),
        None => format!("{text:?}"),
        Some((end, _)) => {
            let start = text.get(..end).unwrap_or_default();
            if is_plain {
                format!("{start}...")
            } else {
                format!("{start:?}...")
            }
        }
    }
}
