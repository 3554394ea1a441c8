//! The table's decisions against thousands of clients that do not exist, on a time that does not
//! pass: seeded, deterministic, with the invariants checked after every step.
//!
//! An episode is one server's life: some thousands of steps, each a client's doing, a turn of the
//! server, some time, a change of health or of the system's condition; then everybody is let finish,
//! and the server stops. What is checked is in [`invariants`](self::invariants), in
//! [`world`](self::world), in [`ends`](self::ends), in [`evictions`](self::evictions) and in
//! [`client`](self::client); that there was something to check is seen from its
//! [`tally`](self::tally).
//!
//!     cargo test --profile checked --lib simulation
//!     HEALTHZ_STEPS=1000000000 cargo test --profile checked --lib simulation -- --nocapture
//!     HEALTHZ_SEED=17 cargo test --lib simulation
//!
//! A seed that fails is printed; given as HEALTHZ_SEED it is the only one, and fails again, for an
//! episode is a function of its seed. HEALTHZ_FIRST_SEED says where to begin instead of at 0.

mod client;
mod ends;
mod evictions;
mod invariants;
mod sabotage;
mod short;
mod sockets;
mod tally;
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
use super::memory::Managed;
use super::slots::Slots;
use super::table::Table;
use crate::answer::Responder;
use crate::check::{Check, Endpoint};
use crate::http::HeadCache;
use crate::limits::{LISTENERS_MAX, Limits};
use crate::time::Instant;
use client::{Client, Manner};
use sabotage::Sabotage;
use sockets::{Shared, SimulatedListener};
use tally::{Kind, Outcome};
use world::World;

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
/// At most, so that one may be missing between others.
const LISTENERS: usize = 4;
/// The check of half of the episodes.
const HEARTBEAT: &str = "heartbeat";
const BASE: Token = Token(3);
/// From so many on, everything has to have happened that is in the tally.
const STEPS_FOR_EVERYTHING: u64 = 1_000_000;

struct Episode<'a> {
    table: Table<'a, SimulatedListener>,
    world: Shared,
    now: Instant,
    /// When the turn before this one was.
    before: Instant,
    /// The latest that it ever was; and whether it was set back from there.
    latest: Instant,
    has_gone_back: bool,
    /// The clock is one that is set back now and then.
    is_erratic: bool,
    /// Listeners are shut down from outside now and then.
    ends_now_and_then: bool,
    connections: usize,
    is_crowd: bool,
    limits: Limits,
    health: &'a Check,
    /// It is one that is overdue now and then.
    is_heartbeat: bool,
    open: Vec<usize>,
    is_stopped: bool,
    /// Every listener had been given up when it was.
    was_abandoned: bool,
    /// When the stop is over.
    stops_at: Option<Instant>,
    outcome: Outcome,
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
        let is_erratic = rng.u8(..4) == 0;
        let ends_now_and_then = rng.bool();
        let listeners = rng.usize(1..=LISTENERS);
        let world = World::new(rng, sabotage, listeners, connections, limits);
        let world = Rc::new(RefCell::new(world));
        let sockets: [_; LISTENERS_MAX] = core::array::from_fn(|index| {
            (index < listeners).then(|| SimulatedListener {
                world: world.clone(),
                index,
            })
        });
        let response_bytes = responder.response_bytes_max(&limits);
        let buffers = Buffers::new(connections, limits.request_head_bytes, response_bytes);
        let heads = Managed::Own(std::boxed::Box::new(HeadCache::new()));
        let driver = Driver::new(responder, limits, buffers, heads);
        let mut table = Table::new(sockets, Slots::new(connections), driver);
        table.register(&(), BASE).unwrap();
        Episode {
            table,
            world,
            now: Instant::from_millis(now),
            before: Instant::from_millis(now),
            latest: Instant::from_millis(now),
            has_gone_back: false,
            is_erratic,
            ends_now_and_then,
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
            if self.is_quiet() {
                break;
            }
        }
        // Some are stopped in the midst of it.
        let is_settled = self.world.borrow_mut().rng.bool();
        if is_settled {
            self.requeue();
        }
        self.stop();
        self.outcome.count(self.table.counters());
        self.outcome.tally = self.world.borrow().tally;
        self.outcome
    }

    fn step(&mut self) {
        let choice = self.world.borrow_mut().rng.u8(..);
        match choice {
            0..100 => self.let_somebody_act(),
            100..140 => self.arrive(),
            140..225 => self.advance(),
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
        self.outcome.peak = self.outcome.peak.max(self.open.len());
    }

    fn connect(&mut self) {
        self.outcome.clients += 1;
        let mut world = self.world.borrow_mut();
        let client = Client::new(&mut world.rng);
        let manner = client.manner;
        let id = world.connect(client);
        if matches!(manner, Manner::Probe | Manner::HalfClosed) {
            // All of it is there before the server can accept: as with TCP_DEFER_ACCEPT.
            Self::send(&mut world, id, usize::MAX);
            world.sockets[id].client_ended = manner == Manner::HalfClosed;
        }
        if manner == Manner::Halved {
            let World { rng, sockets, .. } = &mut *world;
            let size = sockets[id].client.size_of_piece(rng);
            Self::send(&mut world, id, size);
        }
        drop(world);
        self.open.push(id);
    }

    fn send(world: &mut World, id: usize, count: usize) {
        let socket = &mut world.sockets[id];
        // Probes end before anybody looks, others when they like; then it is too late.
        if socket.client_ended {
            return;
        }
        let bytes = socket.client.send(count);
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
            (Manner::Late | Manner::Halved, _) if !world.sockets[id].client.has_said_all() => {
                Self::send(&mut world, id, usize::MAX);
            }
            (manner, _) if manner.is_honest() => world.drain(id, usize::MAX),
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
            (Manner::KeepAlive, 8..96) => {
                let size = world.sockets[id].client.size_of_request();
                Self::send(&mut world, id, size);
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
            self.outcome.answers += socket.client.answers as u64;
            self.open.swap_remove(at);
        }
    }

    /// What a loop does when its poll returns.
    fn advance(&mut self) {
        let now = self.tell_time();
        let is_well = self.world.borrow().is_well() && !self.table.is_paused();
        let before = self.watch(now);
        let useless: Vec<usize> = self.world.borrow().useless().collect();
        let events = {
            let mut world = self.world.borrow_mut();
            let count_max = world.rng.usize(1..20);
            world.events(count_max)
        };
        self.tell_late(now);
        for event in &events {
            assert!(self.table.owns(event.token));
            // Who waits for its turn does not get another one before it.
            if let Some(id) = event.id
                && !self.table.is_runnable(event.token)
            {
                self.world.borrow_mut().give_reason(id);
            }
            self.table
                .handle(&(), event.token, event.is_read_closed, now);
        }
        let line = self.assert_line(&before);
        let (served, rest) = line.split_at(line.len().min(self.serves_max()));
        self.give_reasons(self.table.streams_at(served));
        self.table.advance(&(), now);
        self.assert_line(rest);
        if is_well && !self.is_stopped {
            self.world.borrow_mut().wait_a_turn();
            self.assert_given_up(&useless);
        }
        self.assert_bounded();
        self.assert_invariants(now);
    }

    /// What the table is told that it is; answers that it gives now say what is so now.
    fn tell_time(&mut self) -> Instant {
        let before = core::mem::replace(&mut self.before, self.now);
        self.latest = self.latest.max(self.now);
        let mut world = self.world.borrow_mut();
        world.now = match world.sabotage {
            Sabotage::StaleClock if !self.is_stopped => before,
            _ => self.now,
        };
        world.passes = self.health.passes(self.now);
        if world.passes != self.health.passes(before) {
            world.tally.note(Kind::HeartbeatExpired);
        }
        if self.now == Instant::from_millis(u64::MAX) {
            world.tally.note(Kind::EndOfTime);
        }
        world.now
    }

    fn pass_time(&mut self) {
        if self.is_erratic && self.world.borrow_mut().rng.u8(..16) == 0 {
            return self.set_back_time();
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

    /// No clock of ours goes back; an embedder's may, by a little or a lot.
    fn set_back_time(&mut self) {
        let world = &mut self.world.borrow_mut();
        let millis = self.now.as_millis();
        let bits = world.rng.u32(..41);
        let back = world.rng.u64(..1 << bits);
        self.now = Instant::from_millis(millis.saturating_sub(back));
        self.has_gone_back |= back > 0;
        world.tally.note(Kind::ClockSetBack);
    }

    /// When the server asks to be woken.
    fn deadline(&self) -> Option<Instant> {
        let world = self.world.borrow();
        let delay = match world.sabotage {
            Sabotage::Oversleep => Duration::from_millis(1),
            _ => Duration::ZERO,
        };
        let deadline = self.table.deadline();
        deadline.map(|at| at.saturating_add(delay))
    }

    /// A beat, where beats are asked for; or another word.
    fn change_health(&mut self) {
        let is_beat = self.world.borrow_mut().rng.u8(..8) < 5;
        if is_beat && self.is_heartbeat {
            self.health.beat(self.now);
        } else if self.health.passes(self.now) {
            self.health.fail("as the seed says");
        } else {
            self.health.pass();
        }
    }

    fn change_conditions(&mut self) {
        let mut world = self.world.borrow_mut();
        let codes = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
        world.shortage = match world.rng.u8(..4) {
            0 => world.rng.choice(codes),
            _ => None,
        };
        world.descriptors = world.held.len();
        world.fault_rate = world.rng.choice([0, 0, 0, 2, 40]).unwrap();
        drop(world);
        self.end_somewhere();
    }

    /// Everything is well again: everybody is served, in bounded time.
    fn requeue(&mut self) {
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
            self.advance();
            if let Some(at) = self.table.deadline()
                && self.table.is_paused()
            {
                assert!(at <= self.now.saturating_add(ACCEPT_PAUSE));
                self.now = self.now.saturating_add(ACCEPT_PAUSE);
            }
        }
        let world = self.world.borrow();
        assert!(!world.is_waiting(), "a connection was never accepted");
        assert_eq!(world.useless().next(), None, "never given up");
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
        self.end_before_stop();
        self.was_abandoned = self.world.borrow().is_abandoned();
        self.is_stopped = true;
        let now = self.tell_time();
        self.world.borrow_mut().is_stopping = true;
        self.table.stop(&(), now);
        let over = now.saturating_add(self.limits.drain_duration);
        self.stops_at = Some(over);
        self.assert_deadline();
        self.assert_abandoned();
        if !self.table.is_finished() {
            let tally = &mut self.world.borrow_mut().tally;
            tally.note(Kind::StoppedWhileBusy);
        }
        let steps = self.world.borrow_mut().rng.usize(..40);
        for _ in 0..steps {
            let choice = self.world.borrow_mut().rng.u8(..9);
            match choice {
                0..5 => self.let_somebody_act(),
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
        // At the end of time nothing can be waited for.
        let is_end = self.now == Instant::from_millis(u64::MAX);
        assert!(self.table.is_finished() || is_end, "never finished");
        let world = self.world.borrow();
        assert!(
            world.held.is_empty() || is_end,
            "a connection outlives the server"
        );
        for id in &self.open {
            self.outcome.answers += world.sockets[*id].client.answers as u64;
        }
    }
}

/// Prints the seed of an episode that panics, and is not meant to.
struct Witness(u64);

impl Drop for Witness {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {0} fails; HEALTHZ_SEED={0} repeats it", self.0);
        }
    }
}

/// A function of the seed: nothing is left of those before it.
fn episode(seed: u64, sabotage: Sabotage) -> Outcome {
    let witness = (sabotage == Sabotage::None).then_some(Witness(seed));
    let ping = Check::ping();
    // Not the numbers of the episode itself, lest one goes with the other.
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
    let first = number("HEALTHZ_FIRST_SEED").unwrap_or(0);
    let episodes = steps.div_ceil(STEPS_PER_EPISODE as u64);
    println!("{episodes} episodes of {STEPS_PER_EPISODE} steps, from seed {first} on");
    let mut sum = Outcome::default();
    for seed in first..first + episodes {
        sum.add(&episode(seed, Sabotage::None));
    }
    println!("{sum:?}");
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
    if steps >= STEPS_FOR_EVERYTHING {
        sum.tally.assert_full();
    }
}

#[test]
fn an_episode_is_a_function_of_its_seed() {
    // A crowd among them, and what comes before makes no difference.
    let last = CROWD_EPISODES - 1;
    let seeds = [0, 1, last];
    let first = seeds.map(|seed| episode(seed, Sabotage::None));
    for (seed, outcome) in seeds.into_iter().zip(first).rev() {
        assert_eq!(episode(seed, Sabotage::None), outcome, "seed {seed}");
    }
    assert!(first[2].peak > CLIENTS_MAX && first[0] != first[1]);
}
