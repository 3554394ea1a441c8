//! Seeded simulation of the connection table: thousands of simulated clients, virtual time, and
//! injected faults. The invariants are checked after every step.
//!
//! An episode is the life of one server. Each of its steps is one of: a client acts, clients connect,
//! the server advances once, time passes, a check changes, or the fault conditions change. At the end
//! all clients may be served, and the server stops.
//!
//! Uses no real socket, no clock and no thread, and knows nothing of `run.rs`. The same seed gives the
//! same run: random draws must not be reordered. Called only by the tests at the bottom and in
//! [`mutations`](self::mutations).
//!
//!     cargo test --profile checked --lib simulation
//!     HEALTHZ_STEPS=1000000000 cargo test --profile checked --lib simulation -- --nocapture
//!     HEALTHZ_SEED=17 cargo test --lib simulation

mod client;
mod coverage;
mod ended_listeners;
mod evictions;
mod invariants;
mod mutations;
mod short;
mod sockets;
mod world;

use core::time::Duration;
use std::cell::RefCell;
use std::rc::Rc;
use std::string::String;
use std::vec::Vec;
use std::{eprintln, println};

use fastrand::Rng;
use mio::Token;

use super::ACCEPT_PAUSE;
use super::buffers::Buffers;
use super::driver::Driver;
use super::listeners::ListenerParts;
use super::memory::Managed;
use super::metrics;
use super::paths::ListenerPaths;
use super::slots::Slots;
use super::table::Table;
use crate::answer::{Metrics, Responder};
use crate::check::{Check, Endpoint};
use crate::http::HeadCache;
use crate::limits::{LISTENERS_MAX, Limits};
use crate::time::Instant;
use client::{Client, ClientKind};
use coverage::{Outcome, Situation};
use mutations::Mutation;
use sockets::{Shared, SimulatedListener};
use world::World;

const STEPS_PER_EPISODE: usize = 5_000;
/// Default for HEALTHZ_STEPS: takes about a second without optimization.
const STEPS: u64 = 200_000;
/// Most clients at once; the table holds far fewer.
const CLIENTS_MAX: usize = 60;
/// One of this many episodes is a crowd: a table of realistic size, at most CROWD_MAX clients at once,
/// and at most CROWD_ARRIVALS_MAX that connect in one step.
const CROWD_EPISODES: u64 = 32;
const CROWD_MAX: usize = 2_000;
const CROWD_ARRIVALS_MAX: usize = 64;
/// Most listeners; more than two, so that one between two others can end.
const LISTENERS: usize = 4;
/// Name of the check that half of the episodes use.
const HEARTBEAT: &str = "heartbeat";
const BASE: Token = Token(3);
/// From this many steps on, every situation in the coverage must have occurred.
const STEPS_FOR_EVERYTHING: u64 = 1_000_000;

struct Episode<'a> {
    table: Table<'a, SimulatedListener>,
    world: Shared,
    now: Instant,
    /// Time of the previous advance.
    before: Instant,
    /// The latest time so far, and whether the clock was ever set back.
    latest: Instant,
    clock_went_back: bool,
    /// The clock may be set back.
    may_clock_go_back: bool,
    /// Listeners may be shut down externally.
    ends_listeners: bool,
    connections: usize,
    is_crowd: bool,
    limits: Limits,
    health: &'a Check,
    /// The check is a heartbeat, which can expire.
    is_heartbeat: bool,
    open: Vec<usize>,
    is_stopped: bool,
    /// Every listener was closed before `stop`.
    was_abandoned: bool,
    /// Deadline of the stop.
    stops_at: Option<Instant>,
    outcome: Outcome,
}

impl<'a> Episode<'a> {
    fn new(seed: u64, mutation: Mutation, responder: Responder<'a>, health: &'a Check) -> Self {
        let mut rng = Rng::with_seed(seed);
        let is_crowd = seed % CROWD_EPISODES == CROWD_EPISODES - 1;
        let connections = match is_crowd {
            true => rng.choice([64, 256]).unwrap(),
            false => rng.usize(1..12),
        };
        let limits = Limits {
            request_head_bytes: rng.choice([512, 700, 8192]).unwrap(),
            body_drain_bytes: rng.u64(..2000),
            ..Limits::DEFAULT
        };
        // The clock may be close to its maximum.
        let now = match rng.u8(..8) {
            0 => u64::MAX - rng.u64(..1 << 20),
            1 => 0,
            _ => rng.u64(..1 << 40),
        };
        let may_clock_go_back = rng.u8(..4) == 0;
        let ends_listeners = rng.bool();
        let listeners = rng.usize(1..=LISTENERS);
        let response_bytes = responder.response_bytes_max(&limits);
        let mut world = World::new(rng, mutation, listeners, connections, limits);
        world.response_bytes = response_bytes;
        let world = Rc::new(RefCell::new(world));
        let sockets: [_; LISTENERS_MAX] = core::array::from_fn(|index| {
            (index < listeners).then(|| SimulatedListener {
                world: world.clone(),
                index,
            })
        });
        let long_bytes = responder.long_response_bytes_with(&limits, metrics::BYTES_MAX);
        let head_bytes = limits.request_head_bytes;
        let buffers = Buffers::new(connections, head_bytes, response_bytes, long_bytes);
        let heads = Managed::Own(std::boxed::Box::new(HeadCache::new()));
        let driver = Driver::new(responder, limits, buffers, heads);
        let only_live = ListenerPaths::new(&["/livez"]).unwrap();
        let paths = core::array::from_fn(|index| {
            let world = world.borrow();
            let state = world.listeners.get(index)?;
            state.is_restricted.then(|| only_live.clone())
        });
        let listeners = ListenerParts { sockets, paths };
        let mut table = Table::new(listeners, Slots::new(connections), driver);
        table.register(&(), BASE).unwrap();
        Episode {
            table,
            world,
            now: Instant::from_millis(now),
            before: Instant::from_millis(now),
            latest: Instant::from_millis(now),
            clock_went_back: false,
            may_clock_go_back,
            ends_listeners,
            connections,
            is_crowd,
            limits,
            health,
            is_heartbeat: health.name() == HEARTBEAT,
            open: Vec::new(),
            is_stopped: false,
            was_abandoned: false,
            stops_at: None,
            outcome: Outcome::default(),
        }
    }

    fn run(mut self) -> Outcome {
        for _ in 0..STEPS_PER_EPISODE {
            self.step();
            if self.may_end_early() {
                break;
            }
        }
        // Half of the servers stop while clients are active.
        let is_settled = self.world.borrow_mut().rng.bool();
        if is_settled {
            self.serve_all();
        }
        self.stop();
        self.outcome.count(self.table.counters());
        self.outcome.coverage = self.world.borrow().coverage;
        self.outcome
    }

    fn step(&mut self) {
        let choice = self.world.borrow_mut().rng.u8(..);
        match choice {
            0..100 => self.act_as_client(),
            100..140 => self.connect_clients(),
            140..225 => self.advance(),
            225..240 => self.pass_time(),
            240..248 => self.change_health(),
            _ => self.change_conditions(),
        }
    }

    fn connect_clients(&mut self) {
        let (clients_max, count) = match self.is_crowd {
            true => {
                let count = self.world.borrow_mut().rng.usize(1..=CROWD_ARRIVALS_MAX);
                (CROWD_MAX, count)
            }
            false => (CLIENTS_MAX, 1),
        };
        for _ in 0..count {
            if self.open.len() < clients_max {
                self.connect();
            }
        }
        self.outcome.peak = self.outcome.peak.max(self.open.len());
    }

    fn connect(&mut self) {
        self.outcome.clients += 1;
        let mut world = self.world.borrow_mut();
        let client = Client::new(&mut world.rng);
        let kind = client.kind;
        let id = world.connect(client);
        if matches!(kind, ClientKind::Probe | ClientKind::HalfClosed) {
            // The whole request arrives before accept(2), as with TCP_DEFER_ACCEPT.
            Self::send(&mut world, id, usize::MAX);
            world.sockets[id].client_ended = kind == ClientKind::HalfClosed;
        }
        if kind == ClientKind::Halved {
            let World { rng, sockets, .. } = &mut *world;
            let size = sockets[id].client.size_of_piece(rng);
            Self::send(&mut world, id, size);
        }
        drop(world);
        self.open.push(id);
    }

    fn send(world: &mut World, id: usize, count: usize) {
        let socket = &mut world.sockets[id];
        // A client that has ended its side sends nothing more.
        if socket.client_ended {
            return;
        }
        let bytes = socket.client.send(count);
        if !bytes.is_empty() && !socket.server_closed {
            socket.to_server.extend(bytes);
            world.notify(id);
        }
    }

    fn act_as_client(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let mut world = self.world.borrow_mut();
        let at = world.rng.usize(..self.open.len());
        let id = self.open[at];
        let choice = world.rng.u8(..);
        let kind = world.sockets[id].client.kind;
        match (kind, choice) {
            // A well-behaved client closes only after its answer.
            (ClientKind::Late | ClientKind::Halved, _)
                if !world.sockets[id].client.has_sent_all() =>
            {
                Self::send(&mut world, id, usize::MAX);
            }
            (kind, _) if kind.is_well_behaved() => world.drain(id, usize::MAX),
            (_, 0..4) => {
                world.sockets[id].client_reset = true;
                world.notify(id);
            }
            (_, 4..8) => {
                world.sockets[id].client_ended = true;
                world.notify(id);
            }
            (ClientKind::Pipeliner, 8..224) => {
                Self::send(&mut world, id, 1 << (choice % 14));
            }
            (ClientKind::KeepAlive, 8..96) => {
                let size = world.sockets[id].client.size_of_request();
                Self::send(&mut world, id, size);
            }
            (ClientKind::Slow, _) => Self::send(&mut world, id, 1),
            (_, 8..128) => {
                let count = 1 << world.rng.u32(..10);
                Self::send(&mut world, id, count);
            }
            (_, _) => {
                let count = 1 << world.rng.u32(..14);
                world.drain(id, count);
            }
        }
        let socket = &world.sockets[id];
        if socket.server_closed || socket.client_reset {
            self.outcome.answers += socket.client.answers as u64;
            self.open.swap_remove(at);
        }
    }

    /// Does what the event loop does when poll returns: one advance of the server, then all checks.
    fn advance(&mut self) {
        let now = self.update_time();
        let has_no_faults = self.world.borrow().has_no_faults() && !self.table.is_paused();
        let before = self.prepare_advance(now);
        let unusable: Vec<usize> = self.world.borrow().unusable().collect();
        let events = {
            let mut world = self.world.borrow_mut();
            let count_max = world.rng.usize(1..20);
            world.events(count_max)
        };
        self.send_late_listener_event(now);
        for event in &events {
            assert!(self.table.owns(event.token));
            // A connection in the run queue is not served twice.
            let is_served_later = |_: &usize| self.table.is_runnable(event.token);
            if let Some(id) = event.id.filter(|id| !is_served_later(id)) {
                self.world.borrow_mut().give_reason(id);
            }
            self.table
                .handle(&(), event.token, event.is_read_closed, now);
        }
        let run_queue = self.assert_run_queue_order(&before);
        let (served, rest) = run_queue.split_at(run_queue.len().min(self.runs_max()));
        self.give_reasons(self.table.streams_at(served));
        self.table.advance(&(), now);
        self.assert_run_queue_order(rest);
        if has_no_faults && !self.is_stopped {
            self.world.borrow_mut().count_waiting();
            self.assert_ended_listeners_closed(&unusable);
        }
        self.assert_bounded();
        self.assert_invariants(now);
    }

    /// Returns the time that the table is given; answers must match the health at that time.
    fn update_time(&mut self) -> Instant {
        let before = core::mem::replace(&mut self.before, self.now);
        self.latest = self.latest.max(self.now);
        let mut world = self.world.borrow_mut();
        world.now = match world.mutation {
            Mutation::StaleClock if !self.is_stopped => before,
            _ => self.now,
        };
        world.passes = self.health.passes(self.now);
        if world.passes != self.health.passes(before) {
            world.coverage.record(Situation::HeartbeatExpired);
        }
        if self.now == Instant::from_millis(u64::MAX) {
            world.coverage.record(Situation::MaximumTime);
        }
        world.now
    }

    fn pass_time(&mut self) {
        if self.may_clock_go_back && self.world.borrow_mut().rng.u8(..16) == 0 {
            return self.set_clock_back();
        }
        let deadline = self.deadline();
        let mut world = self.world.borrow_mut();
        let duration = match world.rng.u8(..8) {
            0 => Duration::from_secs(world.rng.u64(..200)),
            1 => Duration::from_millis(world.rng.u64(..200)),
            2..5 => deadline.map_or(Duration::ZERO, |at| at.saturating_since(self.now)),
            _ => Duration::from_millis(world.rng.u64(..4)),
        };
        self.now = self.now.saturating_add(duration);
    }

    /// Our clock never goes back, but an embedder's may, by any amount.
    fn set_clock_back(&mut self) {
        let world = &mut self.world.borrow_mut();
        let millis = self.now.as_millis();
        let bits = world.rng.u32(..41);
        let back = world.rng.u64(..1 << bits);
        self.now = Instant::from_millis(millis.saturating_sub(back));
        self.clock_went_back |= back > 0;
        world.coverage.record(Situation::ClockSetBack);
    }

    /// The time at which the server asks to be woken.
    fn deadline(&self) -> Option<Instant> {
        let world = self.world.borrow();
        let delay = match world.mutation {
            Mutation::WakeLate => Duration::from_millis(1),
            _ => Duration::ZERO,
        };
        let deadline = self.table.deadline();
        deadline.map(|at| at.saturating_add(delay))
    }

    /// Beats a heartbeat, or changes the result of the check.
    fn change_health(&mut self) {
        let is_beat = self.world.borrow_mut().rng.u8(..8) < 5;
        if is_beat && self.is_heartbeat {
            self.health.beat(self.now);
        } else if self.health.passes(self.now) {
            self.health.fail("chosen by the seed");
        } else {
            self.health.pass();
        }
    }

    fn change_conditions(&mut self) {
        let mut world = self.world.borrow_mut();
        let codes = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
        world.accept_error = match world.rng.u8(..4) {
            0 => world.rng.choice(codes),
            _ => None,
        };
        world.descriptors = world.held.len();
        world.fault_rate = world.rng.choice([0, 0, 0, 2, 40]).unwrap();
        drop(world);
        self.end_listener_sometimes();
    }

    /// Ends all faults. Every client must then be served within a bounded number of advances.
    fn serve_all(&mut self) {
        {
            let mut world = self.world.borrow_mut();
            world.accept_error = None;
            world.fault_rate = 0;
        }
        // Each advance accepts at least one connection. It may take 24 to send a long answer: a client has room for 1
        // KiB.
        let requests = |id: &usize| self.world.borrow().sockets[*id].client.requests();
        let most = self.open.iter().map(requests).max().unwrap_or(0);
        let advances = 200 + self.open.len();
        for advance in 0..advances + 24 * most {
            if advance >= advances && self.open.iter().all(|id| self.is_served(*id)) {
                break;
            }
            for id in self.open.clone() {
                let mut world = self.world.borrow_mut();
                world.drain(id, usize::MAX);
                Self::send(&mut world, id, usize::MAX);
            }
            self.advance();
            let is_paused = self.table.is_paused();
            if let Some(at) = self.table.deadline().filter(|_| is_paused) {
                assert!(at <= self.now.saturating_add(ACCEPT_PAUSE));
                self.now = self.now.saturating_add(ACCEPT_PAUSE);
            }
        }
        let unserved = self.open.iter().find(|id| !self.is_served(**id));
        let world = self.world.borrow();
        assert!(!world.is_waiting(), "a connection was never accepted");
        assert_eq!(
            world.unusable().next(),
            None,
            "an ended listener was never closed"
        );
        assert_ne!(
            self.table.deadline(),
            Some(Instant::ZERO),
            "the server never became idle"
        );
        if let Some(id) = unserved {
            let client = &world.sockets[*id].client;
            panic!("connection {id} was never answered: {client:?}");
        }
    }

    /// True if the client has all answers, or its connection has ended.
    fn is_served(&self, id: usize) -> bool {
        let world = self.world.borrow();
        let socket = &world.sockets[id];
        let is_over = socket.server_closed || socket.client_reset || socket.had_fault;
        is_over || (socket.client.has_sent_all() && socket.client.has_all_answers())
    }

    fn stop(&mut self) {
        self.end_before_stop();
        self.was_abandoned = self.world.borrow().is_abandoned();
        self.is_stopped = true;
        let now = self.update_time();
        self.world.borrow_mut().is_stopping = true;
        self.table.stop(&(), now);
        let over = now.saturating_add(self.limits.drain_duration);
        self.stops_at = Some(over);
        self.assert_deadline();
        self.assert_abandoned();
        if !self.table.is_finished() {
            let coverage = &mut self.world.borrow_mut().coverage;
            coverage.record(Situation::StoppedWhileBusy);
        }
        let steps = self.world.borrow_mut().rng.usize(..40);
        for _ in 0..steps {
            let choice = self.world.borrow_mut().rng.u8(..9);
            match choice {
                0..5 => self.act_as_client(),
                5 | 6 => self.advance(),
                7 => self.connect(),
                _ => {
                    let middle = self.now.saturating_add(Duration::from_millis(9));
                    self.now = middle.min(over);
                    self.table.stop(&(), self.now);
                }
            }
        }
        self.now = over;
        self.advance();
        // At the maximum time no deadline can pass.
        let is_end = self.now == Instant::from_millis(u64::MAX);
        assert!(
            self.table.is_finished() || is_end,
            "the stop never finished"
        );
        let world = self.world.borrow();
        assert!(
            world.held.is_empty() || is_end,
            "a connection is open after the server finished"
        );
        for id in &self.open {
            self.outcome.answers += world.sockets[*id].client.answers as u64;
        }
    }
}

/// Prints the seed of an episode that panics unexpectedly.
struct SeedPrinter(u64);

impl Drop for SeedPrinter {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {0} fails; HEALTHZ_SEED={0} repeats it", self.0);
        }
    }
}

/// Runs one episode. The result depends only on the arguments.
fn episode(seed: u64, mutation: Mutation) -> Outcome {
    let printer = (mutation == Mutation::None).then_some(SeedPrinter(seed));
    let ping = Check::ping();
    // A separate generator, so that these draws do not correlate with the episode's.
    let mut rng = Rng::with_seed(!seed);
    let limit = Duration::from_millis(1 << rng.u32(..18));
    let health = match rng.bool() {
        true => Check::heartbeat(HEARTBEAT, limit),
        false => Check::manual("health").initially_passing(),
    };
    let (live, healthz) = ([&ping], [&ping, &health]);
    let endpoints = [
        Endpoint::new("/healthz", &healthz),
        Endpoint::new("/livez", &live),
    ];
    let metrics = Metrics::new().and(client::long_text, client::LONG_TEXT_BYTES_MAX);
    let responder = Responder::new(&endpoints).with_metrics(metrics);
    let outcome = Episode::new(seed, mutation, responder, &health).run();
    drop(printer);
    outcome
}

fn number(name: &str) -> Option<u64> {
    let text: String = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

#[test]
fn simulation() {
    if let Some(seed) = number("HEALTHZ_SEED") {
        println!("{:?}", episode(seed, Mutation::None));
        return;
    }
    let steps = number("HEALTHZ_STEPS").unwrap_or(STEPS);
    let first = number("HEALTHZ_FIRST_SEED").unwrap_or(0);
    let episodes = steps.div_ceil(STEPS_PER_EPISODE as u64);
    println!("{episodes} episodes of {STEPS_PER_EPISODE} steps, from seed {first} on");
    let mut sum = Outcome::default();
    for seed in first..first + episodes {
        sum.add(&episode(seed, Mutation::None));
    }
    println!("{sum:?}");
    // A simulation in which nothing happens must fail.
    for (what, count) in [
        ("answers", sum.answers),
        ("evictions", sum.evicted),
        ("deadlines", sum.expired),
        ("errors", sum.failed),
        ("pauses", sum.accept_pauses),
    ] {
        assert!(count >= episodes, "only {count} {what}");
    }
    if episodes >= CROWD_EPISODES {
        assert!(sum.peak > CROWD_MAX / 2, "no crowd: {}", sum.peak);
    }
    if steps >= STEPS_FOR_EVERYTHING {
        sum.coverage.assert_complete();
    }
}

/// Regression: of two clients that wait to read long answers since the same time, the one that had read last was
/// evicted.
#[test]
fn of_equal_times_the_order_of_waiting_decides_which_long_answer_is_evicted() {
    for seed in [101_377, 5_003_613, 1_640_480_524] {
        episode(seed, Mutation::None);
    }
}

#[test]
fn an_episode_is_a_function_of_its_seed() {
    // One of them is a crowd; the order of episodes must not matter.
    let last = CROWD_EPISODES - 1;
    let seeds = [0, 1, last];
    let first = seeds.map(|seed| episode(seed, Mutation::None));
    for (seed, outcome) in seeds.into_iter().zip(first).rev() {
        assert_eq!(episode(seed, Mutation::None), outcome, "seed {seed}");
    }
    assert!(first[2].peak > CLIENTS_MAX && first[0] != first[1]);
}
