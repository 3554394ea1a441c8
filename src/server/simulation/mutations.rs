//! Deliberate faults of the simulated world, which prove that the simulation can fail.
//!
//! Each test injects one mutation and expects the panic of the check that must detect it. Knows no
//! details of the world: [`world`](super::world), [`sockets`](super::sockets) and the episode apply them.

use super::episode;

/// One deliberate fault.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mutation {
    None,
    /// Some events of readable streams are lost.
    LoseEvents,
    /// accept(2) sometimes finds no connection although one is queued.
    DelayAccepts,
    /// accept(2) does not return the last queued connection of a listener that was shut down.
    HideLastInBacklog,
    /// The shutdown of a listener is not reported.
    HideListenerEnds,
    /// Unread input of an eviction candidate is sometimes hidden.
    HideInput,
    /// The FIN sometimes does not release the bytes that were held back for it.
    LoseAnswers,
    /// The status 200 is sometimes read as 500, and 500 as 200.
    InvertStatus,
    /// The server's clock shows the time of the previous advance.
    StaleClock,
    /// The server's deadline is 1 ms late.
    WakeLate,
    /// The expected unsent bytes are reversed, so that they differ from what is sent next.
    CorruptUnsent,
}

fn run_mutated(mutation: Mutation) {
    for seed in 0..50 {
        episode(seed, mutation);
    }
}

#[test]
#[should_panic(expected = "will never be read")]
fn simulation_finds_lost_events() {
    run_mutated(Mutation::LoseEvents);
}

#[test]
#[should_panic(expected = "waits longer than its queue position")]
fn simulation_finds_delayed_accepts() {
    run_mutated(Mutation::DelayAccepts);
}

#[test]
#[should_panic(expected = "queued connections were discarded")]
fn simulation_finds_connections_discarded_with_a_listener() {
    run_mutated(Mutation::HideLastInBacklog);
}

#[test]
#[should_panic(expected = "has ended and was not closed")]
fn simulation_finds_ended_listeners_that_are_never_closed() {
    run_mutated(Mutation::HideListenerEnds);
}

#[test]
#[should_panic(expected = "although it has unread input")]
fn simulation_finds_evictions_of_connections_with_unread_input() {
    run_mutated(Mutation::HideInput);
}

#[test]
#[should_panic(expected = "an answer is lost in a reset")]
fn simulation_finds_lost_answers() {
    run_mutated(Mutation::LoseAnswers);
}

#[test]
#[should_panic(expected = "wrong")]
fn simulation_finds_wrong_answers() {
    run_mutated(Mutation::InvertStatus);
}

#[test]
#[should_panic(expected = "a wrong")]
fn simulation_finds_answers_for_an_earlier_time() {
    run_mutated(Mutation::StaleClock);
}

#[test]
#[should_panic(expected = "wakes at a wrong time")]
fn simulation_finds_late_deadlines() {
    run_mutated(Mutation::WakeLate);
}

#[test]
#[should_panic(expected = "is sent different bytes")]
fn simulation_finds_answers_with_wrong_unsent_bytes() {
    run_mutated(Mutation::CorruptUnsent);
}
