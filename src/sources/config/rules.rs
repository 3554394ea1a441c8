//! Rules about more than one value: options that contradict each other, and checks that could never fail.
//!
//! What is decided here needs nothing but the spec. Called by the parser.

use super::super::spec::{Amount, Http, Kind, ProcessTarget, Resource, Scope, Spec, Usage};
use super::shown;
use crate::units::Shown;

/// The kernel's largest number of processes (PID_MAX_LIMIT).
const PIDS_MAX: u64 = 1 << 22;
/// No machine works at this temperature, in thousandths of a degree Celsius.
const TEMPERATURE_MAX: u64 = 200_000;

/// An option that contradicts another, and why.
pub fn conflict(spec: &Spec) -> Option<(&'static str, String)> {
    let threshold = &spec.threshold;
    if threshold.failures > threshold.of_last {
        let (failures, of_last) = (threshold.failures, threshold.of_last);
        let message = format!(
            "failure-threshold {failures}/{of_last}: {of_last} results never have {failures} failures"
        );
        return Some(("failure-threshold", message));
    }
    match &spec.kind {
        Kind::Heartbeat(heartbeat) => {
            let socket = heartbeat.socket.to_string_lossy();
            let is_open = socket.starts_with('@') && heartbeat.uid.is_none();
            let message = "every user can send to an abstract socket; set uid";
            is_open.then(|| ("socket", format!("socket {}: {message}", shown(&socket))))
        }
        Kind::Process(process) => {
            let is_one = matches!(process.target, ProcessTarget::PidFile(_));
            let message = format!("min {}: a PID file names one process", process.min);
            (is_one && process.min > 1).then_some(("min", message))
        }
        Kind::Pressure(pressure) if pressure.stall > pressure.window => {
            let [stall, window] = [pressure.stall, pressure.window].map(Shown);
            let message = format!("stall {stall}: expected at most the window, which is {window}");
            Some(("stall", message))
        }
        _ => None,
    }
}

impl Spec {
    /// Why the check could never fail; `None` if it can.
    pub fn never_fails(&self) -> Option<&'static str> {
        match &self.kind {
            Kind::Http(http) => http_never_fails(http),
            Kind::Pressure(pressure) => {
                let is_cpu = pressure.resource == Resource::Cpu && pressure.full;
                // Documentation/accounting/psi.rst: "CPU full is undefined at the system level".
                (is_cpu && pressure.scope == Scope::Node)
                    .then_some("the kernel always reports 0 for full CPU pressure of the node")
            }
            Kind::Memory(memory) => is_zero(memory.min).then_some("min is 0"),
            Kind::Disk(disk) => (is_zero(disk.min) && is_zero(disk.min_inodes))
                .then_some("min and min-inodes are 0"),
            Kind::Pids(usage) => usage_never_fails(usage, PIDS_MAX),
            // A limit for descriptors can be any number.
            Kind::Fds(usage) => usage_never_fails(usage, u64::MAX),
            Kind::Temperature(temperature) => {
                let is_beyond = match temperature.max {
                    Amount::Share(share) => share >= 1000,
                    Amount::Absolute(millidegrees) => millidegrees >= TEMPERATURE_MAX,
                };
                is_beyond.then_some("the machine turns itself off below that temperature")
            }
            // Each can fail, whatever the options are: a bound that could not be crossed is no valid value.
            Kind::Heartbeat(_)
            | Kind::File(_)
            | Kind::Process(_)
            | Kind::Tcp(_)
            | Kind::Unix(_)
            | Kind::Exec(_)
            | Kind::Clock(_)
            | Kind::Mount(_) => None,
        }
    }
}

fn is_zero(amount: Amount) -> bool {
    matches!(amount, Amount::Absolute(0) | Amount::Share(0))
}

fn usage_never_fails(usage: &Usage, number_max: u64) -> Option<&'static str> {
    let is_unlimited = match usage.max {
        Amount::Share(share) => share >= 1000,
        Amount::Absolute(number) => number >= number_max,
    };
    (is_zero(usage.min) && is_unlimited).then_some("min is 0, and max cannot be exceeded")
}

/// A service that answers nonsense must fail its check.
fn http_never_fails(http: &Http) -> Option<&'static str> {
    let passes = |code| {
        let mut ranges = http.status.iter();
        ranges.any(|(first, last)| (*first..=*last).contains(&code))
    };
    (http.contains.is_none() && (100..=599).all(passes))
        .then_some("every status passes; use tcp, or the option contains")
}
