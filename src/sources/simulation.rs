//! Seeded simulation of the engine on virtual time: up to 200 checks that succeed, fail, take long or hang, clocks that
//! jump forward, and check files that are read again at any moment. A model of the server receives what would be sent.
//! The invariants are checked after every step.
//!
//! The same seed gives the same run.
//!
//!     cargo test --bin healthz sources::simulation
//!     HEALTHZ_STEPS=10000000 cargo test --release --bin healthz sources::simulation -- --nocapture
//!     HEALTHZ_SEED=17 cargo test --bin healthz sources::simulation

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fastrand::Rng;
use healthz::Instant;

use super::engine::{Action, Commit, Engine, Id, Report};
use super::link::Definition;
use super::spec::{
    Clock, Endpoints, Host, Kind, Outcome, Severity, Spec, Tcp, Threshold, Timing, Unsupported,
};

const STEPS_PER_EPISODE: u32 = 2_000;
const STEPS: u32 = 60_000;
const CHECKS_MAX: usize = 200;
/// How much later than planned the loop may call the engine, in milliseconds: the CPU is busy.
const LATE_MS_MAX: u64 = 200;

/// How a simulated check behaves. It is part of its name, so that a changed spec keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nature {
    Healthy,
    Broken,
    Random,
    /// Sometimes never answers until the attempt is cancelled, or for a long time if it cannot be.
    Hanging,
}

const NATURES: [Nature; 4] = [
    Nature::Healthy,
    Nature::Broken,
    Nature::Random,
    Nature::Hanging,
];

/// A check in the model of the server.
#[derive(Clone, Debug)]
struct Received {
    name: String,
    holds: Duration,
    /// As of the last verdict; `None` before the first.
    state: Option<Result<Instant, String>>,
    /// Successes, failures and time-outs of all verdicts.
    runs: [u32; 3],
}

impl Received {
    fn passes(&self, now: Instant) -> bool {
        match &self.state {
            Some(Ok(measured)) => now < measured.saturating_add(self.holds),
            _ => false,
        }
    }
}

/// A check as the simulation runs it.
#[derive(Debug)]
struct Running {
    nature: Nature,
    /// When the present attempt will end, and whether it succeeds.
    attempt: Option<(Instant, bool)>,
    /// The results that count, in order, for the model of the threshold.
    results: Vec<bool>,
    /// Since when the present attempt runs.
    began: Option<Instant>,
    /// Attempts that have ended: successes, failures and time-outs.
    ended: [u32; 3],
}

struct World {
    rng: Rng,
    now: Instant,
    engine: Engine,
    running: BTreeMap<Id, Running>,
    closed: BTreeSet<Id>,
    server: Vec<Received>,
    generation: u32,
    specs: Vec<Spec>,
    /// The set of checks that was read last, until the worker commits it.
    wanted: Option<(Vec<Spec>, Instant)>,
    /// The checks that had a state when that set was requested.
    known: Vec<String>,
    commits: u32,
    hangs: u32,
}

fn nature(name: &str) -> Nature {
    let number: usize = name.trim_start_matches('c').parse().unwrap();
    NATURES[number % NATURES.len()]
}

fn spec(rng: &mut Rng, number: usize) -> Spec {
    let period = [1_000, 5_000, 10_000, 30_000][rng.usize(..4)];
    let timeout = [period, period / 2, 500][rng.usize(..3)];
    let failures = rng.u32(1..=4);
    Spec {
        name: format!("c{number}"),
        group: None,
        endpoints: Endpoints {
            healthz: true,
            livez: false,
            readyz: true,
        },
        severity: Severity::Error,
        unsupported: Unsupported::Fail,
        timing: Timing {
            initial_delay: Duration::from_millis([0, 0, 0, 3_000][rng.usize(..4)]),
            period: Duration::from_millis(period),
            timeout: Duration::from_millis(timeout),
        },
        threshold: Threshold {
            success: rng.u32(1..=3),
            failures,
            of_last: failures + rng.u32(0..=2),
        },
        kind: match rng.bool() {
            true => Kind::Clock(Clock {
                max_error: Duration::from_secs(16),
            }),
            false => Kind::Tcp(Tcp {
                host: Host::Localhost,
                port: 80,
                dialogue: Default::default(),
            }),
        },
    }
}

/// The state after `results`, computed from the text of the documentation.
fn model_of_threshold(results: &[bool], threshold: &Threshold) -> bool {
    let mut passes = results[0];
    for end in 2..=results.len() {
        let so_far = &results[..end];
        let last = |count: u32| &so_far[so_far.len().saturating_sub(count as usize)..];
        if passes && so_far.ends_with(&[false]) {
            let failures = last(threshold.of_last)
                .iter()
                .filter(|success| !**success)
                .count();
            passes = failures < threshold.failures as usize;
        } else if !passes {
            let row = last(threshold.success);
            passes = row.len() >= threshold.success as usize && row.iter().all(|success| *success);
        }
    }
    passes
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let now = Instant::from_millis(rng.u64(..100_000));
        let count = rng.usize(1..=CHECKS_MAX);
        let specs: Vec<Spec> = (0..count).map(|number| spec(&mut rng, number)).collect();
        let server = specs.iter().map(received).collect();
        let engine = Engine::new(specs.clone(), 0, now, rng.bool());
        World {
            rng,
            now,
            engine,
            running: BTreeMap::new(),
            closed: BTreeSet::new(),
            server,
            generation: 0,
            specs,
            wanted: None,
            known: Vec::new(),
            commits: 0,
            hangs: 0,
        }
    }

    /// Time passes to the next thing that is due, or less; then the loop of the worker runs once.
    fn step(&mut self) {
        match self.rng.u32(..1000) {
            0..=2 => {
                self.now = self
                    .now
                    .saturating_add(Duration::from_secs(self.rng.u64(1..600)))
            }
            3..=6 => self.reload(),
            _ => {
                let ends = self
                    .running
                    .values()
                    .filter_map(|running| Some(running.attempt?.0));
                let next = ends.chain(self.engine.next(self.now)).min().unwrap();
                let late = self.rng.u64(..=LATE_MS_MAX) * u64::from(self.rng.u8(..4) == 0);
                let late = Duration::from_millis(late);
                self.now = self.now.max(next.saturating_add(late));
            }
        }
        self.end_attempts();
        self.engine.advance(self.now);
        self.act();
        if let Some(commit) = self.engine.commit(self.now) {
            self.receive_set(commit);
            self.act();
        }
        while let Some(report) = self.engine.report() {
            // Sometimes the link is full.
            match self.rng.u8(..8) {
                0 => self.engine.unreport(&report),
                _ => self.receive(&report),
            }
        }
    }

    fn end_attempts(&mut self) {
        for (id, running) in &mut self.running {
            let Some((end, success)) = running.attempt.filter(|(end, _)| *end <= self.now) else {
                continue;
            };
            running.attempt = None;
            let entry = self
                .engine
                .entries()
                .iter()
                .find(|entry| entry.id == *id)
                .unwrap();
            let began = running.began.take().unwrap();
            let is_late = entry.is_late();
            assert!(end >= began);
            let outcome = match success {
                true => Outcome::Pass,
                false => Outcome::Fail("it fails".to_owned()),
            };
            // A late result was replaced by one failure when the time-out was reported.
            if !is_late {
                running.results.push(success);
            }
            let result = match (is_late, success) {
                (true, _) => 2,
                (false, true) => 0,
                (false, false) => 1,
            };
            running.ended[result] += 1;
            let took = end.saturating_since(began);
            self.engine.end(*id, outcome, self.now, took);
        }
    }

    fn act(&mut self) {
        while let Some(action) = self.engine.action() {
            match action {
                Action::Open(id) => {
                    let entry = self
                        .engine
                        .entries()
                        .iter()
                        .find(|entry| entry.id == id)
                        .unwrap();
                    let running = Running {
                        nature: nature(&entry.spec.name),
                        attempt: None,
                        results: Vec::new(),
                        began: None,
                        ended: [0; 3],
                    };
                    assert!(
                        self.running.insert(id, running).is_none(),
                        "{id:?} opened twice"
                    );
                }
                Action::Begin(id) => self.begin(id),
                Action::Cancel(id) => {
                    let running = self
                        .running
                        .get_mut(&id)
                        .expect("cancelled after it was closed");
                    assert!(
                        running.attempt.take().is_some(),
                        "no attempt of {id:?} to cancel"
                    );
                    let began = running.began.take().unwrap();
                    running.results.push(false);
                    running.ended[2] += 1;
                    let took = self.now.saturating_since(began);
                    let outcome = Outcome::Fail("no answer".to_owned());
                    self.engine.end(id, outcome, self.now, took);
                }
                Action::Close(id) => {
                    assert!(self.running.remove(&id).is_some(), "{id:?} closed twice");
                    assert!(self.closed.insert(id));
                }
            }
        }
    }

    fn begin(&mut self, id: Id) {
        let entry = self
            .engine
            .entries()
            .iter()
            .find(|entry| entry.id == id)
            .expect("begun after it was closed");
        let timeout = entry.spec.timing.timeout;
        let running = self.running.get_mut(&id).unwrap();
        assert!(
            running.attempt.is_none(),
            "a second attempt of {id:?} beside the first"
        );
        let success = match running.nature {
            Nature::Healthy | Nature::Hanging => true,
            Nature::Broken => false,
            Nature::Random => self.rng.bool(),
        };
        let hangs = running.nature == Nature::Hanging && self.rng.u8(..4) == 0;
        let duration = match hangs {
            true => {
                self.hangs += 1;
                timeout * self.rng.u32(2..60)
            }
            // Less than the time-out, also if the loop is late.
            false => (timeout / 2).min(Duration::from_millis(self.rng.u64(..100))),
        };
        running.began = Some(self.now);
        running.attempt = Some((self.now.saturating_add(duration), success));
    }

    fn reload(&mut self) {
        let mut specs = self.specs.clone();
        for _ in 0..self.rng.usize(..4) {
            match self.rng.u8(..3) {
                0 if specs.len() > 1 => drop(specs.remove(self.rng.usize(..specs.len()))),
                1 if specs.len() < CHECKS_MAX => {
                    let number = 1_000 + self.rng.usize(..9_000);
                    if specs.iter().all(|spec| spec.name != format!("c{number}")) {
                        specs.push(spec(&mut self.rng, number));
                    }
                }
                _ => {
                    let at = self.rng.usize(..specs.len());
                    let number = specs[at].name.trim_start_matches('c').parse().unwrap();
                    specs[at] = spec(&mut self.rng, number);
                }
            }
        }
        self.rng.shuffle(&mut specs);
        self.engine.replace(specs.clone(), self.now);
        let known = self.server.iter().filter(|check| check.state.is_some());
        self.known = known.map(|check| check.name.clone()).collect();
        self.wanted = Some((specs, self.now));
    }

    fn receive_set(&mut self, commit: Commit) {
        let (wanted, since) = self.wanted.take().expect("a set that was not requested");
        assert_eq!(commit.generation, self.generation + 1);
        let specs: Vec<&Spec> = commit.checks.iter().map(|(spec, _)| &**spec).collect();
        assert_eq!(
            specs,
            wanted.iter().collect::<Vec<_>>(),
            "the set is the one of the file"
        );
        assert!(since <= self.now);
        let mut server = Vec::new();
        for (spec, is_kept) in &commit.checks {
            let old = self.server.iter().find(|old| old.name == spec.name);
            let is_same = self.specs.iter().any(|old| old == &**spec);
            assert_eq!(*is_kept, is_same, "{}", spec.name);
            server.push(match old {
                Some(old) if *is_kept => old.clone(),
                _ => received(spec),
            });
        }
        self.server = server;
        self.generation = commit.generation;
        self.specs = wanted;
        for report in &commit.reports {
            self.receive(report);
        }
        // A healthy check that is new has a state from the first moment. Regression: one that was changed had none
        // until the end of its initial delay.
        for (received, (spec, is_kept)) in self.server.iter().zip(&commit.checks) {
            let has_waited = spec.timing.initial_delay.is_zero() || self.known.contains(&spec.name);
            let was_attempted = has_waited && !is_kept;
            if nature(&received.name) == Nature::Healthy && was_attempted {
                assert!(
                    received.state.is_some(),
                    "{} has no state after a commit",
                    received.name
                );
            }
        }
        self.commits += 1;
    }

    fn receive(&mut self, report: &Report) {
        let received = &mut self.server[usize::from(report.index)];
        for (sum, count) in received.runs.iter_mut().zip(report.runs.counts()) {
            *sum += count;
        }
        received.state = Some(match &report.failure {
            None => Ok(report.measured),
            Some(reason) => {
                assert!(
                    !reason.is_empty(),
                    "{} fails without a reason",
                    received.name
                );
                Err(reason.clone())
            }
        });
    }

    fn check_invariants(&self) {
        let entries = self.engine.entries();
        assert_eq!(entries.len(), self.running.len());
        assert!(entries.len() <= 2 * CHECKS_MAX);
        for (received, index) in self.server.iter().zip(0..) {
            let entry = entries
                .iter()
                .find(|entry| entry.index() == Some(index))
                .unwrap();
            assert_eq!(entry.spec.name, received.name);
            let running = &self.running[&entry.id];
            let passes = received.passes(self.now);
            // No run is lost, and one that hangs counts once, when its time has passed.
            let mut ended = running.ended;
            ended[2] += u32::from(entry.is_late());
            assert_eq!(received.runs, ended, "{}", received.name);
            match running.nature {
                Nature::Healthy => {
                    if let Some(state) = &received.state {
                        assert!(
                            state.is_ok(),
                            "{} is healthy and fails: {state:?}",
                            received.name
                        );
                    }
                }
                Nature::Broken => assert!(!passes, "{} is broken and passes", received.name),
                Nature::Random if !running.results.is_empty() => {
                    let model = model_of_threshold(&running.results, &entry.spec.threshold);
                    let state = received.state.as_ref().is_some_and(Result::is_ok);
                    assert_eq!(state, model, "{}: {:?}", received.name, running.results);
                }
                Nature::Random => {}
                Nature::Hanging => {
                    // However long it hangs, it fails at its deadline.
                    let held = running
                        .began
                        .map(|began| began.saturating_add(received.holds));
                    if held.is_some_and(|held| held <= self.now) {
                        assert!(!passes, "{} hangs and passes", received.name);
                    }
                }
            }
        }
    }
}

fn received(spec: &Spec) -> Received {
    Received {
        name: spec.name.clone(),
        holds: Duration::from_millis(u64::from(Definition::new(spec).holds_ms)),
        state: None,
        runs: [0; 3],
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn simulation() {
    let steps = variable("HEALTHZ_STEPS").unwrap_or(u64::from(STEPS));
    let first = variable("HEALTHZ_FIRST_SEED").unwrap_or(1);
    let seeds = match variable("HEALTHZ_SEED") {
        Some(seed) => seed..seed + 1,
        None => first..first + steps.div_ceil(u64::from(STEPS_PER_EPISODE)),
    };
    let (mut commits, mut hangs) = (0, 0);
    for seed in seeds.clone() {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..STEPS_PER_EPISODE {
                world.step();
                world.check_invariants();
            }
            (world.commits, world.hangs)
        });
        let Ok((more_commits, more_hangs)) = run else {
            panic!("the simulation fails: HEALTHZ_SEED={seed}");
        };
        commits += more_commits;
        hangs += more_hangs;
    }
    if seeds.end - seeds.start > 20 {
        assert!(
            commits > 20 && hangs > 100,
            "only {commits} commits and {hangs} hangs"
        );
    }
}
