//! What the world gets wrong on purpose, to show that it would be seen.

use super::episode;

/// What is got wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sabotage {
    None,
    /// A stream that becomes readable is not always reported.
    LoseEvents,
    /// Of those who wait to be accepted one is told of late.
    HideArrivals,
    /// The last who waits at a listener that was shut down is not there when it is asked for.
    HideLast,
    /// That a listener was shut down is not reported.
    HideEnds,
    /// Who is about to be evicted seems to have said nothing.
    HideInput,
    /// The FIN does not release what was held back for it.
    LoseAnswers,
    /// A wrong health is answered once in a while.
    Lie,
    /// The server's clock is behind by a turn.
    StaleClock,
    /// The server asks to be woken a little too late.
    Oversleep,
    /// What was not taken of an answer is another one's.
    MixAnswers,
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
#[should_panic(expected = "who waited are forgotten")]
fn simulation_finds_who_is_forgotten_with_a_listener() {
    finds(Sabotage::HideLast);
}

#[test]
#[should_panic(expected = "has ended and is not given up")]
fn simulation_finds_listeners_that_are_never_given_up() {
    finds(Sabotage::HideEnds);
}

#[test]
#[should_panic(expected = "although it has said something")]
fn simulation_finds_who_is_sent_away_after_asking() {
    finds(Sabotage::HideInput);
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

#[test]
#[should_panic(expected = "a wrong")]
fn simulation_finds_answers_as_of_another_time() {
    finds(Sabotage::StaleClock);
}

#[test]
#[should_panic(expected = "wakes at a wrong time")]
fn simulation_finds_who_is_woken_late() {
    finds(Sabotage::Oversleep);
}

#[test]
#[should_panic(expected = "is offered another answer")]
fn simulation_finds_answers_that_are_mixed_up() {
    finds(Sabotage::MixAnswers);
}
