//! Turns: of several lanes one runs at a time, and who goes on when is drawn from the input, so that an input does the same in
//! every run, and lanes get as far ahead of each other as no quiet machine lets them.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Most steps of a turn: more than a stretch of the disk takes.
const STEPS_MAX: u64 = 64;
/// Whose turn it is.
pub struct Turns {
    state: Mutex<State>,
    changed: Condvar,
    patience: Duration,
}

struct State {
    turn: usize,
    /// Steps that are left of it.
    left: u64,
    /// Lanes that have not ended.
    at_work: Vec<bool>,
    dice: u64,
}

impl State {
    fn roll(&mut self, sides: u64) -> u64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % sides
    }

    /// Gives the turn to a lane, but not to `except` as long as there is another.
    fn hand_over(&mut self, except: Option<usize>) {
        let able: Vec<usize> =
            (0..self.at_work.len()).filter(|&lane| self.at_work[lane] && Some(lane) != except).collect();
        if !able.is_empty() {
            self.turn = able[self.roll(able.len() as u64) as usize];
        }
        self.left = 1 + self.roll(STEPS_MAX);
    }
}

impl Turns {
    /// Turns of so many lanes. Whoever waits for longer than `patience` goes on without one: the lane that has it may wait for a lock
    /// without a word.
    #[must_use]
    pub fn new(lanes: usize, seed: u64, patience: Duration) -> Self {
        let mut state = State { turn: 0, left: 0, at_work: vec![true; lanes], dice: seed };
        state.hand_over(None);
        Self { state: Mutex::new(state), changed: Condvar::new(), patience }
    }

    /// Waits for the first turn of a lane, which ends when what is returned is dropped.
    pub fn enter(&self, lane: usize) -> Entered<'_> {
        self.wait(self.lock(), lane);
        Entered { turns: self, lane }
    }

    /// A step of a lane; where its turn is over with it, the next one is waited for. An idle lane has nothing to do until
    /// another has done something.
    pub fn step(&self, lane: usize, is_idle: bool) {
        let mut state = self.lock();
        state.left = state.left.saturating_sub(1);
        if is_idle || state.left == 0 {
            state.hand_over(is_idle.then_some(lane));
            self.changed.notify_all();
            self.wait(state, lane);
        }
    }

    fn wait(&self, state: MutexGuard<'_, State>, lane: usize) {
        let is_anothers = |state: &mut State| state.turn != lane;
        let waited = self.changed.wait_timeout_while(state, self.patience, is_anothers);
        waited.unwrap_or_else(PoisonError::into_inner).0.turn = lane;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lane that takes turns.
pub struct Entered<'a> {
    turns: &'a Turns,
    lane: usize,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut state = self.turns.lock();
        state.at_work[self.lane] = false;
        state.hand_over(None);
        self.turns.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who took which step, over three lanes of 200 steps.
    fn steps(seed: u64) -> Vec<usize> {
        let (turns, taken) = (Turns::new(3, seed, Duration::MAX), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for lane in 0..3 {
                let (turns, taken) = (&turns, &taken);
                scope.spawn(move || {
                    let _entered = turns.enter(lane);
                    for step in 0..200 {
                        taken.lock().expect("not poisoned").push(lane);
                        turns.step(lane, step % 7 == lane);
                    }
                });
            }
        });
        taken.into_inner().expect("not poisoned")
    }

    #[test]
    fn an_input_takes_the_same_turns_in_every_run() {
        let first = steps(5);
        assert_eq!(first.len(), 600);
        assert_eq!(steps(5), first);
        assert_ne!(steps(6), first);
    }
}
