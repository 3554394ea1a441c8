//! Runs servers in pairs: each run of a server directly beside a run of the base, so that a disturbance of the
//! machine concerns both.
#![allow(dead_code, reason = "each bench uses its own part")]

use super::compared::{Program, Run};
use super::load::{Mode, Results, Wait};
use super::support;

/// A way to send probes.
pub struct Load {
    pub name: &'static str,
    pub mode: Mode,
    /// Probes per second, few enough that every server is idle some of the time.
    pub rate: u32,
    pub wait: Wait,
    /// True if the client runs on the server's CPU, as on a node with one CPU.
    pub is_shared: bool,
}

/// A pair of runs is undisturbed if client and server waited for a CPU no longer than this share of the time, plus a
/// time per probe. Waking up takes about that time. On a shared CPU each waits until the other sleeps.
const WAITED_SHARE: f64 = 0.0025;
const WAITED_PER_PROBE: f64 = 1e-6;
const WAITED_PER_PROBE_SHARED: f64 = 15e-6;

impl Load {
    /// The longest wait for a CPU in an undisturbed run, in seconds.
    fn waited_max(&self, seconds: f64) -> f64 {
        let per_probe = match self.is_shared {
            true => WAITED_PER_PROBE_SHARED,
            false => WAITED_PER_PROBE,
        };
        seconds * (WAITED_SHARE + per_probe * f64::from(self.rate))
    }
}

/// How many pairs of which length.
#[derive(Clone, Copy)]
pub struct Plan {
    pub seconds: f64,
    /// Pairs for each server under each load.
    pub rounds: usize,
    /// On a busy machine at most this many times as many pairs; the least disturbed are kept. Their results do not
    /// influence the choice.
    pub tries: usize,
}

/// A run of a server and a run of the base, one directly after the other.
struct Pair {
    own: Run,
    base: Run,
}

/// The pairs of one server under one load.
pub struct Pairs {
    pairs: Vec<Pair>,
    /// Number of undisturbed pairs.
    quiet: usize,
    /// The server failed under this load.
    is_left_out: bool,
}

impl Pairs {
    /// Median and quartiles of a figure of the server.
    pub fn own(&self, figure: impl Fn(&Run) -> f64) -> [f64; 3] {
        quartiles(self.pairs.iter().map(|pair| figure(&pair.own)).collect())
    }

    /// Median and quartiles of the ratio of a figure to the same figure of the base in each pair.
    pub fn ratio(&self, figure: impl Fn(&Run) -> f64) -> [f64; 3] {
        let ratios = self
            .pairs
            .iter()
            .map(|pair| figure(&pair.own) / figure(&pair.base));
        quartiles(ratios.collect())
    }

    /// The latency of all runs with the server together at a quantile, in microseconds.
    pub fn latency(&self, quantile: f64) -> f64 {
        let mut all = Results::new().latency;
        for pair in &self.pairs {
            all.add(&pair.own.results.latency).unwrap();
        }
        all.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// All runs that were kept, with the server and with the base.
    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.pairs.iter().flat_map(|pair| [&pair.own, &pair.base])
    }

    /// `19 of 21`: undisturbed pairs.
    pub fn undisturbed(&self) -> String {
        format!("{} of {}", self.quiet, self.pairs.len())
    }
}

/// What ratios and pairs are, for the reader of a chart.
pub fn explain(plan: Plan, base: &str) -> [String; 2] {
    [
        format!(
            "Ratio: median over {} pairs of runs, one of the server and one of the {base} directly before or after it. A \
             second run of the {base} shows the noise.",
            plan.rounds
        ),
        "A pair is undisturbed if neither the client nor a server had to wait for a CPU.".into(),
    ]
}

/// Sorts the values. Returns the median and the quartiles.
fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [2, 1, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}

/// Puts client and servers on their CPUs. Returns `false` and prints why if the load is left out.
fn place(load: &Load, programs: &[Program]) -> bool {
    let cpus = support::cpus();
    let (Some(&first), Some(&last)) = (cpus.first(), cpus.last()) else {
        panic!("cannot read the list of CPUs from /proc/self/status");
    };
    if first == last && !load.is_shared {
        println!("{}: left out, needs two CPUs\n", load.name);
        return false;
    }
    let client = if load.is_shared { first } else { last };
    let is_pinned = support::pin(std::process::id(), client)
        && programs.iter().all(|program| program.pin(first));
    if !is_pinned {
        println!("not pinned to CPUs, because taskset is missing or failed");
    }
    true
}

/// Runs all pairs with a load. The result has the programs that were not left out; `None` if the load needs more CPUs.
///
/// # Panics
/// If a server of ours fails. Another one is left out.
pub fn compare<'p>(
    load: &Load,
    programs: &'p mut [Program],
    base: usize,
    plan: Plan,
) -> Option<Vec<(&'p Program, Pairs)>> {
    if !place(load, programs) {
        return None;
    }
    let mut all: Vec<Pairs> = programs
        .iter()
        .map(|_| Pairs {
            pairs: Vec::new(),
            quiet: 0,
            is_left_out: false,
        })
        .collect();
    let bound = load.waited_max(plan.seconds) * 2.0;
    for round in 0..plan.rounds * plan.tries {
        for turn in 0..programs.len() {
            // Each round begins with another server.
            let index = (round + turn) % programs.len();
            let pairs = &mut all[index];
            if pairs.quiet >= plan.rounds || pairs.is_left_out {
                continue;
            }
            match pair(load, programs, [index, base], plan.seconds, round % 2 == 0) {
                Ok(pair) => {
                    pairs.quiet += usize::from(pair.waited() < bound);
                    pairs.pairs.push(pair);
                }
                Err(why) if index != base && !programs[index].is_ours() => {
                    println!("{}: left out: {why}\n", load.name);
                    pairs.is_left_out = true;
                }
                Err(why) => panic!("{}: {why}", load.name),
            }
        }
    }
    for pairs in &mut all {
        pairs
            .pairs
            .sort_by(|a, b| a.waited().total_cmp(&b.waited()));
        pairs.pairs.truncate(plan.rounds);
    }
    let results = programs.iter().zip(all);
    Some(results.filter(|(_, pairs)| !pairs.is_left_out).collect())
}

impl Pair {
    /// In seconds.
    fn waited(&self) -> f64 {
        (self.own.waited + self.base.waited).as_secs_f64()
    }
}

/// Runs the base with itself as well: that ratio shows how much noise is left.
fn pair(
    load: &Load,
    programs: &mut [Program],
    [own, base]: [usize; 2],
    seconds: f64,
    is_base_first: bool,
) -> Result<Pair, String> {
    let mut run = |index: usize| programs[index].run(load.mode, load.rate, seconds, load.wait);
    // The first of two runs may be a little slower.
    Ok(match is_base_first {
        true => {
            let base = run(base)?;
            Pair {
                own: run(own)?,
                base,
            }
        }
        false => Pair {
            own: run(own)?,
            base: run(base)?,
        },
    })
}
