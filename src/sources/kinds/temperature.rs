//! The kind `temperature`: a thermal zone must stay below a share of its critical trip point, or below a number.
//!
//! A zone is found by its name (`thermal_zone0`) or its type; of several zones of a type, each must pass.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::figures::percent;
use super::procfs;
use super::system::{FILE_BYTES_MAX, System, failed, parse, read};
use crate::sources::spec::{Amount, Outcome, Temperature};

/// More zones and trip points than a machine has.
const ZONES_MAX: usize = 1024;
const TRIP_POINTS_MAX: usize = 64;

impl Temperature {
    /// Checks the zone once.
    pub fn attempt(&self) -> Outcome {
        self.attempt_in(System::new())
    }

    /// A temperature can always rise.
    pub fn never_fails(&self) -> Option<&'static str> {
        None
    }

    fn attempt_in(&self, system: System<'_>) -> Outcome {
        let zones = match zones(system.thermal, &self.zone) {
            Ok(zones) if zones.is_empty() => {
                return Outcome::Unsupported(format!("{}: no such thermal zone", self.zone));
            }
            Ok(zones) => zones,
            Err(error) => return Outcome::Unsupported(failed(system.thermal, &error)),
        };
        let mut outcomes = zones.iter().map(|zone| self.zone_outcome(zone));
        let fault = outcomes.find(|outcome| *outcome != Outcome::Pass);
        fault.unwrap_or(Outcome::Pass)
    }

    fn zone_outcome(&self, zone: &Path) -> Outcome {
        let now = match parse(&zone.join("temp"), procfs::signed) {
            Ok(temperature) => temperature,
            Err(reason) => return Outcome::Fail(reason),
        };
        let (limit, origin) = match self.max {
            Amount::Absolute(limit) => (i64::try_from(limit).unwrap_or(i64::MAX), String::new()),
            Amount::Share(thousandths) => match critical(zone) {
                Ok(Some(critical)) => (
                    i64::try_from(i128::from(critical) * i128::from(thousandths) / 1000)
                        .unwrap_or(i64::MAX),
                    format!(
                        " ({} of the critical {})",
                        percent(thousandths.into()),
                        celsius(critical)
                    ),
                ),
                Ok(None) => {
                    let zone = zone.display();
                    return Outcome::Unsupported(format!("{zone}: no critical trip point"));
                }
                Err(reason) => return Outcome::Fail(reason),
            },
        };
        if now <= limit {
            return Outcome::Pass;
        }
        let (now, limit) = (celsius(now), celsius(limit));
        Outcome::Fail(format!("{}: {now}, limit {limit}{origin}", self.zone))
    }
}

/// Millidegrees as `91.2 C`. Not rounded to a tenth if that would hide a part.
fn celsius(millidegrees: i64) -> String {
    let sign = if millidegrees < 0 { "-" } else { "" };
    let size = millidegrees.unsigned_abs();
    match size % 100 {
        0 => format!("{sign}{}.{} C", size / 1000, size % 1000 / 100),
        _ => format!("{sign}{}.{:03} C", size / 1000, size % 1000),
    }
}

/// The directories of the zones with this name or type.
fn zones(root: &Path, wanted: &str) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        // A kernel without thermal zones.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut zones = Vec::new();
    for entry in entries.take(ZONES_MAX) {
        let name = entry?.file_name();
        if !name.as_encoded_bytes().starts_with(b"thermal_zone") {
            continue;
        }
        let zone = root.join(&name);
        let is_type = |text: Vec<u8>| text.trim_ascii() == wanted.as_bytes();
        if name == *wanted || read(&zone.join("type"), FILE_BYTES_MAX).is_ok_and(is_type) {
            zones.push(zone);
        }
    }
    Ok(zones)
}

/// The temperature at which the kernel switches the machine off.
fn critical(zone: &Path) -> Result<Option<i64>, String> {
    for point in 0..TRIP_POINTS_MAX {
        let kind = zone.join(format!("trip_point_{point}_type"));
        match read(&kind, FILE_BYTES_MAX) {
            Ok(text) if text.trim_ascii() == b"critical" => {
                let temperature = zone.join(format!("trip_point_{point}_temp"));
                return parse(&temperature, procfs::signed).map(Some);
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(failed(&kind, &error)),
        }
    }
    Ok(None)
}
