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

#[cfg(test)]
mod tests {
    use super::super::testing::{Directory, reason};
    use super::*;

    fn temperature(zone: &str, max: Amount) -> Temperature {
        Temperature {
            zone: zone.into(),
            max,
        }
    }

    fn machine() -> Directory {
        let directory = Directory::new();
        for (name, text) in [
            ("thermal_zone0/type", "acpitz\n"),
            ("thermal_zone0/temp", "27800\n"),
            ("thermal_zone1/type", "cpu-thermal\n"),
            ("thermal_zone1/temp", "81234\n"),
            ("thermal_zone1/trip_point_0_type", "passive\n"),
            ("thermal_zone1/trip_point_0_temp", "75000\n"),
            ("thermal_zone1/trip_point_1_type", "critical\n"),
            ("thermal_zone1/trip_point_1_temp", "90000\n"),
            ("cooling_device0/type", "cpu-thermal\n"),
        ] {
            directory.write(name, text);
        }
        directory
    }

    #[test]
    fn a_hot_zone_fails() {
        let machine = machine();
        let attempt = |zone, max| temperature(zone, max).attempt_in(machine.system());
        let share = Amount::Share(900);
        for zone in ["thermal_zone1", "cpu-thermal"] {
            let text = reason(attempt(zone, share));
            let limit = "limit 81.0 C (90% of the critical 90.0 C)";
            assert_eq!(text, format!("{zone}: 81.234 C, {limit}"));
            assert_eq!(attempt(zone, Amount::Share(905)), Outcome::Pass);
            assert_eq!(attempt(zone, Amount::Absolute(81_234)), Outcome::Pass);
        }
        let text = reason(attempt("acpitz", Amount::Absolute(20_000)));
        assert_eq!(text, "acpitz: 27.8 C, limit 20.0 C");
        machine.write("thermal_zone0/temp", "-5000\n");
        assert_eq!(attempt("acpitz", Amount::Absolute(0)), Outcome::Pass);
    }

    #[test]
    fn every_zone_of_a_type_counts() {
        let machine = machine();
        machine.write("thermal_zone0/type", "cpu-thermal\n");
        let attempt = |max| temperature("cpu-thermal", max).attempt_in(machine.system());
        assert_eq!(attempt(Amount::Absolute(82_000)), Outcome::Pass);
        assert!(reason(attempt(Amount::Absolute(80_000))).contains("81.234"));
        machine.write("thermal_zone0/temp", "83000\n");
        assert!(reason(attempt(Amount::Absolute(82_000))).contains("83.0"));
    }

    #[test]
    fn what_the_machine_lacks_is_unsupported() {
        let machine = machine();
        let attempt = |zone| temperature(zone, Amount::Share(900)).attempt_in(machine.system());
        let unsupported = |outcome, end: &str| match outcome {
            Outcome::Unsupported(text) => assert!(text.ends_with(end), "{text}"),
            other => panic!("{other:?}"),
        };
        unsupported(attempt("gpu"), "gpu: no such thermal zone");
        unsupported(attempt("acpitz"), "thermal_zone0: no critical trip point");
        let empty = Directory::new();
        let mut system = empty.system();
        let missing = empty.at("missing");
        system.thermal = &missing;
        let outcome = temperature("acpitz", Amount::Absolute(1)).attempt_in(system);
        unsupported(outcome, "acpitz: no such thermal zone");
    }

    #[test]
    fn temperatures_have_a_sign_and_no_more_digits_than_needed() {
        let texts = [-1_500, -1, 0, 81_234].map(celsius);
        assert_eq!(texts, ["-1.5 C", "-0.001 C", "0.0 C", "81.234 C"]);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let machine = machine();
        let mut system = machine.system();
        let file = machine.at("thermal_zone0/temp");
        system.thermal = &file;
        let outcome = temperature("acpitz", Amount::Absolute(1)).attempt_in(system);
        let end = "thermal_zone0/temp: Not a directory";
        assert!(matches!(outcome, Outcome::Unsupported(text) if text.ends_with(end)));
        fs::create_dir(machine.at("thermal_zone0/trip_point_0_type")).unwrap();
        let outcome = temperature("acpitz", Amount::Share(1)).attempt_in(machine.system());
        assert!(reason(outcome).ends_with("trip_point_0_type: Is a directory"));
    }

    #[test]
    fn a_sensor_without_a_number_is_a_failure() {
        let machine = machine();
        machine.write("thermal_zone0/temp", "hot\n");
        let attempt = |zone| temperature(zone, Amount::Absolute(1)).attempt_in(machine.system());
        assert!(reason(attempt("acpitz")).ends_with("temp: not understood"));
        machine.write("thermal_zone1/trip_point_1_temp", "\n");
        let outcome = temperature("cpu-thermal", Amount::Share(1)).attempt_in(machine.system());
        assert!(reason(outcome).ends_with("trip_point_1_temp: not understood"));
    }
}
