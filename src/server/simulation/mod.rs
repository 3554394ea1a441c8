//! The table's decisions against thousands of clients that do not exist, on a time that does not
//! pass: seeded, deterministic, with the invariants checked after every step.
//!
//! An episode is one server's life: some thousands of steps, each a client's doing, a turn of the
//! server, some time, a change of health or of the system's condition; then everybody is let finish,
//! and the server stops. What is checked is in [`Episode::assert_invariants`], in
//! [`world`](self::world) and in [`client`](self::client).
//!
//!     cargo test --profile checked --lib simulation
//!     HEALTHZ_STEPS=1000000000 cargo test --profile checked --lib simulation -- --nocapture
//!     HEALTHZ_SEED=17 cargo test --lib simulation
//!
//! A seed that fails is printed; given as HEALTHZ_SEED it is the only one, and fails again.

mod client;
mod short;
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
use super::desk::Desk;
use super::memory::Lent;
use super::slots::Slots;
use super::table::Table;
use crate::answer::Responder;
use crate::check::{Check, Endpoint};
use crate::http::HeadCache;
use crate::limits::{LISTENERS_MAX, Limits};
use crate::time::Instant;
use client::{Client, Manner};
use world::{Sabotage, Shared, SimulatedListener, World};

const STEPS_PER_EPISODE: usize = 5_000;
/// Steps if HEALTHZ_STEPS does not say how many: a second where nothing is optimized.
const STEPS: u64 = 200_000;
/// Clients at once; the table holds far fewer.
const CLIENTS_MAX: usize = 60;
/// Of so many episodes one is a crowd: a table as they are in use, so many clients at once, and at
/// most so many that come together.
const CROWD_EPISODES: u64 = 32;
const CROWD_MAX: usize = 2_000;
const CROWD_ARRIVALS_MAX: usize = 64;
const BASE: Token = Token(3);
/// Reads, sends and the like that one connection may cost when it is served once: as many reads as a
/// turn has, and a send for each.
const CALLS_PER_SERVE_MAX: usize = 4 * (1 + 1) + 4;

struct Episode<'a> {
    table: Table<'a, SimulatedListener>,
    world: Shared,
    now: Instant,
    connections: usize,
    is_crowd: bool,
    limits: Limits,
    health: &'a Check,
    is_passing: bool,
    open: Vec<usize>,
    is_stopped: bool,
    clients: u64,
    /// Clients at once, at most.
    peak: usize,
    /// Answers that were read by those who came to an end.
    answers: u64,
}

/// What an episode came to.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    clients: u64,
    peak: usize,
    answers: u64,
    evicted: u64,
    expired: u64,
    failed: u64,
    accept_pauses: u64,
}

impl Outcome {
    fn add(&mut self, other: Outcome) {
        self.clients += other.clients;
        self.peak = self.peak.max(other.peak);
        self.answers += other.answers;
        self.evicted += other.evicted;
        self.expired += other.expired;
        self.failed += other.failed;
        self.accept_pauses += other.accept_pauses;
    }
}

impl<'a> Episode<'a> {
    fn new(seed: u64, sabotage: Sabotage, responder: Responder<'a>, health: &'a Check) -> Self {
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
        // The clock may be about to come to its end.
        let now = match rng.u8(..8) {
            0 => u64::MAX - rng.u64(..1 << 20),
            1 => 0,
            _ => rng.u64(..1 << 40),
        };
        let listeners = rng.usize(1..3);
        let world = Rc::new(RefCell::new(World::new(rng, sabotage, listeners)));
        let sockets: [_; LISTENERS_MAX] = core::array::from_fn(|index| {
            (index < listeners).then(|| SimulatedListener {
                world: world.clone(),
                index,
            })
        });
        let response_bytes = responder.response_bytes_max(&limits);
        let buffers = Buffers::new(connections, limits.request_head_bytes, response_bytes);
        let heads = Lent::Own(std::boxed::Box::new(HeadCache::new()));
        let desk = Desk::new(responder, limits, buffers, heads);
        let mut table = Table::new(sockets, Slots::new(connections), desk);
        table.register(&(), BASE).unwrap();
        Episode {
            table,
            world,
            now: Instant::from_millis(now),
            connections,
            is_crowd,
            limits,
            health,
            is_passing: true,
            open: Vec::new(),
            is_stopped: false,
            clients: 0,
            peak: 0,
            answers: 0,
        }
    }

    fn run(mut self) -> Outcome {
        for _ in 0..STEPS_PER_EPISODE {
            self.step();
        }
        // Some are stopped in the midst of it.
        let is_settled = self.world.borrow_mut().rng.bool();
        if is_settled {
            self.settle();
        }
        self.stop();
        let counters = self.table.counters();
        Outcome {
            clients: self.clients,
            peak: self.peak,
            answers: self.answers,
            evicted: counters.evicted,
            expired: counters.expired,
            failed: counters.failed,
            accept_pauses: counters.accept_pauses,
        }
    }

    fn step(&mut self) {
        let choice = self.world.borrow_mut().rng.u8(..);
        match choice {
            0..100 => self.let_somebody_act(),
            100..140 => self.arrive(),
            140..225 => self.turn(),
            225..240 => self.pass_time(),
            240..248 => self.change_health(),
            _ => self.change_conditions(),
        }
    }

    fn arrive(&mut self) {
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
        self.peak = self.peak.max(self.open.len());
    }

    fn connect(&mut self) {
        self.clients += 1;
        let mut world = self.world.borrow_mut();
        let client = Client::new(&mut world.rng);
        let manner = client.manner;
        let id = world.connect(client);
        if matches!(manner, Manner::Probe | Manner::HalfClosed) {
            // All of it is there before the server can accept: as with TCP_DEFER_ACCEPT.
            Self::send(&mut world, id, usize::MAX);
            world.sockets[id].client_ended = manner == Manner::HalfClosed;
        }
        drop(world);
        self.open.push(id);
    }

    fn send(world: &mut World, id: usize, count: usize) {
        let World {
            sockets, healths, ..
        } = world;
        let socket = &mut sockets[id];
        // Probes end before anybody looks, others when they like; then it is too late.
        if socket.client_ended {
            return;
        }
        let bytes = socket.client.send(count, healths);
        if !bytes.is_empty() && !socket.server_closed {
            socket.to_server.extend(bytes);
            world.tell(id);
        }
    }

    fn let_somebody_act(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let mut world = self.world.borrow_mut();
        let at = world.rng.usize(..self.open.len());
        let id = self.open[at];
        let choice = world.rng.u8(..);
        let manner = world.sockets[id].client.manner;
        match (manner, choice) {
            // Whoever is honest goes when it has what it came for.
            (Manner::Probe | Manner::HalfClosed, _) => world.drain(id, usize::MAX),
            (_, 0..4) => {
                world.sockets[id].client_reset = true;
                world.tell(id);
            }
            (_, 4..8) => {
                world.sockets[id].client_ended = true;
                world.tell(id);
            }
            (Manner::Pipeliner, 8..224) => {
                Self::send(&mut world, id, 1 << (choice % 14));
            }
            (Manner::Slow, _) => Self::send(&mut world, id, 1),
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
            self.answers += socket.client.answers as u64;
            self.open.swap_remove(at);
        }
    }

    /// What a loop does when its poll returns.
    fn turn(&mut self) {
        let is_well = self.world.borrow().is_well() && !self.table.is_paused();
        let accepted_before = self.world.borrow().accepted;
        let runnable = self.table.runnable_count();
        self.note_health();
        let events = {
            let mut world = self.world.borrow_mut();
            world.calls = 0;
            let count_max = world.rng.usize(1..20);
            world.events(count_max)
        };
        for event in &events {
            assert!(self.table.owns(event.token));
            self.table
                .handle(&(), event.token, event.is_read_closed, self.now);
        }
        self.table.turn(&(), self.now);
        if is_well && !self.is_stopped {
            self.world.borrow_mut().wait_a_turn();
        }
        let world = self.world.borrow();
        let accepted = (world.accepted - accepted_before) as usize;
        let served = events.len() + runnable + accepted + self.connections;
        assert!(
            world.calls <= (served + 2 * LISTENERS_MAX) * CALLS_PER_SERVE_MAX,
            "{} calls in one turn",
            world.calls
        );
        drop(world);
        self.assert_invariants();
    }

    /// From now on answers say what is so now.
    fn note_health(&self) {
        let passes = self.health.passes(self.now);
        let healths = &mut self.world.borrow_mut().healths;
        if healths.last() != Some(&passes) {
            healths.push(passes);
        }
    }

    fn assert_invariants(&self) {
        let world = self.world.borrow();
        let counters = self.table.counters();
        assert_eq!(counters.open as usize, world.held, "a slot has leaked");
        assert!(world.held <= self.connections, "more than the table holds");
        assert_eq!(counters.accepted, world.accepted);
        let ended = counters.evicted + counters.expired + counters.failed;
        assert!(ended + counters.open <= counters.accepted);
        self.table.assert_whole(self.now);
        if let Some(deadline) = self.table.deadline() {
            let latest = self.now.saturating_add(self.limits.idle_duration);
            assert!(deadline <= latest, "a deadline beyond every limit");
        }
        let is_due = self.table.deadline() == Some(Instant::ZERO);
        for index in 0..LISTENERS_MAX {
            let is_paused = self.table.is_paused();
            assert!(
                self.is_stopped
                    || !self.table.has_listener(index)
                    || is_paused
                    || is_due
                    || !world.is_forgotten(index),
                "connections wait and nobody will accept them"
            );
        }
        for id in self.table.streams().map(|stream| stream.id) {
            assert!(
                is_due || world.is_told_or_idle(id) || world.is_blocked(id),
                "input of connection {id} will never be read"
            );
        }
        for id in &self.open {
            let socket = &world.sockets[*id];
            let client = &socket.client;
            let is_honest = matches!(client.manner, Manner::Probe | Manner::HalfClosed);
            // All that it had to say was there when it was accepted.
            let is_due = socket.is_accepted || socket.server_closed;
            if is_honest && is_due && !(socket.is_spoilt || socket.is_delayed) {
                assert!(
                    client.has_all(),
                    "{id}: a probe is not answered: {client:?}"
                );
            }
        }
    }

    fn pass_time(&mut self) {
        let deadline = self.table.deadline();
        let mut world = self.world.borrow_mut();
        let duration = match world.rng.u8(..8) {
            0 => Duration::from_secs(world.rng.u64(..200)),
            1 => Duration::from_millis(world.rng.u64(..200)),
            2..5 => deadline.map_or(Duration::ZERO, |at| at.saturating_since(self.now)),
            _ => Duration::from_millis(world.rng.u64(..4)),
        };
        self.now = self.now.saturating_add(duration);
    }

    fn change_health(&mut self) {
        self.is_passing = !self.is_passing;
        match self.is_passing {
            true => self.health.pass(),
            false => self.health.fail("as the seed says"),
        }
    }

    fn change_conditions(&mut self) {
        let mut world = self.world.borrow_mut();
        let codes = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
        world.shortage = match world.rng.u8(..4) {
            0 => world.rng.choice(codes),
            _ => None,
        };
        world.descriptors = world.held;
        world.fault_rate = world.rng.choice([0, 0, 0, 2, 40]).unwrap();
    }

    /// Everything is well again: everybody is served, in bounded time.
    fn settle(&mut self) {
        {
            let mut world = self.world.borrow_mut();
            world.shortage = None;
            world.fault_rate = 0;
        }
        // One is accepted a turn, at least.
        for _ in 0..200 + self.open.len() {
            for id in self.open.clone() {
                let mut world = self.world.borrow_mut();
                world.drain(id, usize::MAX);
                Self::send(&mut world, id, usize::MAX);
            }
            self.turn();
            if let Some(at) = self.table.deadline()
                && self.table.is_paused()
            {
                assert!(at <= self.now.saturating_add(ACCEPT_PAUSE));
                self.now = self.now.saturating_add(ACCEPT_PAUSE);
            }
        }
        let world = self.world.borrow();
        assert!(!world.is_waiting(), "a connection was never accepted");
        assert_ne!(self.table.deadline(), Some(Instant::ZERO), "never at rest");
        for id in &self.open {
            let socket = &world.sockets[*id];
            let is_over = socket.server_closed || socket.client_reset || socket.is_spoilt;
            let client = &socket.client;
            assert!(
                is_over || (client.has_said_all() && client.has_all()),
                "{id} waits for an answer: {client:?}"
            );
        }
    }

    fn stop(&mut self) {
        self.is_stopped = true;
        self.note_health();
        self.table.stop(&(), self.now);
        let over = self.now.saturating_add(self.limits.drain_duration);
        let steps = self.world.borrow_mut().rng.usize(..40);
        for _ in 0..steps {
            let choice = self.world.borrow_mut().rng.u8(..8);
            match choice {
                0..5 => self.let_somebody_act(),
                5 | 6 => self.turn(),
                _ => {
                    let middle = self.now.saturating_add(Duration::from_millis(9));
                    self.now = middle.min(over);
                    self.table.stop(&(), self.now);
                }
            }
        }
        self.now = over;
        self.turn();
        // At the end of time nothing can be waited for.
        let is_end = self.now == Instant::from_millis(u64::MAX);
        assert!(self.table.is_finished() || is_end, "never finished");
        let world = self.world.borrow();
        assert!(
            world.held == 0 || is_end,
            "a connection outlives the server"
        );
        for id in &self.open {
            self.answers += world.sockets[*id].client.answers as u64;
        }
    }
}

/// Prints the seed of an episode that panics.
struct Witness(u64);

impl Drop for Witness {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {0} fails; HEALTHZ_SEED={0} repeats it", self.0);
        }
    }
}

fn episode(seed: u64, sabotage: Sabotage) -> Outcome {
    let witness = Witness(seed);
    let ping = Check::ping();
    let health = Check::manual("health").initially_passing();
    let (live, healthz) = ([&ping], [&ping, &health]);
    let endpoints = [
        Endpoint::new("/healthz", &healthz),
        Endpoint::new("/livez", &live),
    ];
    let outcome = Episode::new(seed, sabotage, Responder::new(&endpoints), &health).run();
    drop(witness);
    outcome
}

fn number(name: &str) -> Option<u64> {
    let text: String = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

#[test]
fn simulation() {
    if let Some(seed) = number("HEALTHZ_SEED") {
        println!("{:?}", episode(seed, Sabotage::None));
        return;
    }
    let steps = number("HEALTHZ_STEPS").unwrap_or(STEPS);
    let episodes = steps.div_ceil(STEPS_PER_EPISODE as u64);
    let mut sum = Outcome::default();
    for seed in 0..episodes {
        sum.add(episode(seed, Sabotage::None));
    }
    println!("{episodes} episodes of {STEPS_PER_EPISODE} steps: {sum:?}");
    // A simulation in which nothing happens would pass as well.
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
}

fn finds(sabotage: Sabotage) {
    for seed in 0..50 {
        episode(seed, sabotage);
    }
}

#[test]
#[should_panic(expected = "will never be read")]
fn simulation_finds_lost_events() {
    finds(Sabotage::LoseEvents);
}

#[test]
#[should_panic(expected = "waits longer than its place in line")]
fn simulation_finds_who_waits_too_long() {
    finds(Sabotage::HideArrivals);
}

#[test]
#[should_panic(expected = "an answer is lost in a reset")]
fn simulation_finds_lost_answers() {
    finds(Sabotage::LoseAnswers);
}

#[test]
#[should_panic(expected = "wrong")]
fn simulation_finds_wrong_answers() {
    finds(Sabotage::Lie);
}
