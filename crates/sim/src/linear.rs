//! Whether a history could have been made one operation after another.
//!
//! A history is linearizable when its operations can be put into an order that a single machine without any concurrency would
//! have answered alike, and in which an operation that was answered before another was asked comes first. The search is that
//! of Wing and Gong (1993) with the memory of Lowe (2017): operations are taken as long as the machine agrees and given back
//! when it does not, and a set of taken operations with the state they led to is tried once.
//!
//! Who knows in which order the operations were made (the servers of a simulation do) says so: that order is tried first, and a
//! history that it explains needs no search.
//!
//! An operation whose outcome nobody knows may have happened at any time after it was asked, or never; "at the very end"
//! stands for never. One that was refused is not part of the history.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

/// A machine without concurrency.
pub trait Model {
    /// What it remembers.
    type State: Clone + Eq + Hash;
    /// What it is asked.
    type Input: Debug;
    /// What it answers.
    type Output: Debug;

    /// As it is at the beginning.
    fn new() -> Self::State;

    /// The state after `input`, if it would have been answered so. With an unknown answer there is always one.
    fn step(state: &Self::State, input: &Self::Input, output: Option<&Self::Output>) -> Option<Self::State>;
}

/// Somebody asked, and was answered or not.
#[derive(Clone, Debug)]
pub struct Operation<I, O> {
    /// Who asked: only for the report.
    pub client: u64,
    /// What was asked.
    pub input: I,
    /// The answer, when there was one.
    pub output: Option<O>,
    /// When it was asked, on any scale.
    pub asked: u64,
    /// When the answer was there; without meaning when there was none. An operation that is asked at the moment of another's
    /// answer counts as beside it.
    pub answered: u64,
    /// Where in the order it was made, as somebody believes. If any operation has such a place, all should.
    pub place: Option<(u64, u64)>,
}

impl<I, O> Operation<I, O> {
    fn end(&self) -> u64 {
        if self.output.is_some() { self.answered } else { u64::MAX }
    }
}

/// A search that takes more steps is given up.
const STEPS: u64 = 300_000;

/// Whether some order explains the history.
///
/// # Errors
/// A report for people: none does, or none was found before the search took too long.
pub fn check<M: Model>(history: &[Operation<M::Input, M::Output>]) -> Result<(), String> {
    if explained_by_places::<M>(history) {
        return Ok(());
    }
    let mut search = Search::<M>::new(history);
    if search.run() { Ok(()) } else { Err(search.report()) }
}

/// Whether the order of the places explains the history.
fn explained_by_places<M: Model>(history: &[Operation<M::Input, M::Output>]) -> bool {
    let mut order = Vec::with_capacity(history.len());
    for operation in history {
        match operation.place {
            Some(place) => order.push((place, operation.asked, operation)),
            None => return false,
        }
    }
    order.sort_by_key(|(place, asked, _)| (*place, *asked));
    let (mut state, mut last_asked) = (M::new(), 0);
    for (_, asked, operation) in order {
        last_asked = asked.max(last_asked);
        // One that was made before this was asked only when this was answered.
        if operation.end() < last_asked {
            return false;
        }
        match M::step(&state, &operation.input, operation.output.as_ref()) {
            Some(next) => state = next,
            None => return false,
        }
    }
    true
}

/// A place in the list of what is not taken yet, ordered by time: an operation begins or ends.
#[derive(Clone, Copy)]
struct Event {
    operation: usize,
    begins: bool,
    before: usize,
    after: usize,
}

struct Search<'a, M: Model> {
    history: &'a [Operation<M::Input, M::Output>],
    /// The list; the first is its head, and its last is followed by the head again.
    events: Vec<Event>,
    begin_of: Vec<usize>,
    end_of: Vec<usize>,
    taken: Vec<u64>,
    /// Taken operations and the state before each.
    order: Vec<(usize, M::State)>,
    best: Vec<usize>,
    steps: u64,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(history: &'a [Operation<M::Input, M::Output>]) -> Self {
        let mut times: Vec<(u64, bool, usize)> = Vec::with_capacity(history.len() * 2);
        for (number, operation) in history.iter().enumerate() {
            times.push((operation.asked, false, number));
            times.push((operation.end().max(operation.asked), true, number));
        }
        // At one moment the beginnings come before the ends.
        times.sort_unstable();
        let mut events = vec![Event { operation: usize::MAX, begins: false, before: 0, after: 0 }];
        let (mut begin_of, mut end_of) = (vec![0; history.len()], vec![0; history.len()]);
        for (_, ends, operation) in times {
            let at = events.len();
            if ends {
                end_of[operation] = at
            } else {
                begin_of[operation] = at
            }
            events.push(Event { operation, begins: !ends, before: at - 1, after: at + 1 });
        }
        let last = events.len() - 1;
        events[last].after = 0;
        events[0].before = last;
        events[0].after = if last == 0 { 0 } else { 1 };
        let taken = vec![0; history.len().div_ceil(64)];
        Search { history, events, begin_of, end_of, taken, order: Vec::new(), best: Vec::new(), steps: 0 }
    }

    fn run(&mut self) -> bool {
        // Only what was answered must find its place.
        let mut open = self.history.iter().filter(|operation| operation.output.is_some()).count();
        let mut seen: HashSet<(Vec<u64>, M::State)> = HashSet::new();
        let mut state = M::new();
        let mut at = self.events[0].after;
        while open > 0 {
            let event = self.events[at];
            if at != 0 && event.begins {
                let operation = &self.history[event.operation];
                let next = M::step(&state, &operation.input, operation.output.as_ref());
                self.steps += 1;
                if self.steps > STEPS {
                    return false;
                }
                if let Some(next) = next {
                    self.flip(event.operation);
                    if seen.insert((self.taken.clone(), next.clone())) {
                        open -= usize::from(operation.output.is_some());
                        self.order.push((event.operation, std::mem::replace(&mut state, next)));
                        self.take(event.operation);
                        if self.order.len() > self.best.len() {
                            self.best = self.order.iter().map(|(operation, _)| *operation).collect();
                        }
                        at = self.events[0].after;
                        continue;
                    }
                    self.flip(event.operation);
                }
                at = event.after;
                continue;
            }
            // The end of one that is not taken, or of all: nothing may be taken from here on, so the last choice was wrong.
            let Some((operation, before)) = self.order.pop() else { return false };
            open += usize::from(self.history[operation].output.is_some());
            state = before;
            self.flip(operation);
            self.give_back(operation);
            at = self.events[self.begin_of[operation]].after;
        }
        true
    }

    fn flip(&mut self, operation: usize) {
        self.taken[operation / 64] ^= 1 << (operation % 64);
    }

    fn take(&mut self, operation: usize) {
        for at in [self.begin_of[operation], self.end_of[operation]] {
            let Event { before, after, .. } = self.events[at];
            self.events[before].after = after;
            self.events[after].before = before;
        }
    }

    /// In the reverse order of the taking.
    fn give_back(&mut self, operation: usize) {
        for at in [self.end_of[operation], self.begin_of[operation]] {
            let Event { before, after, .. } = self.events[at];
            self.events[before].after = at;
            self.events[after].before = at;
        }
    }

    fn report(&self) -> String {
        let found = if self.steps > STEPS { "was found that explains" } else { "explains" };
        let mut text = format!(
            "no order {found} these {} operations. The best begins with {} of them; the end of it:\n",
            self.history.len(),
            self.best.len()
        );
        let line = |number: usize| {
            let operation = &self.history[number];
            let (asked, client, input) = (operation.asked, operation.client, &operation.input);
            match &operation.output {
                Some(output) => {
                    format!("  {asked:>12} to {:>12}  client {client}: {input:?} → {output:?}\n", operation.answered)
                }
                None => format!("  {asked:>12} to {:>12}  client {client}: {input:?}\n", "?"),
            }
        };
        for &number in self.best.iter().rev().take(12).rev() {
            text += &line(number);
        }
        text += "Behind it none of these fits:\n";
        let mut left: Vec<usize> = (0..self.history.len()).filter(|number| !self.best.contains(number)).collect();
        left.sort_by_key(|&number| self.history[number].asked);
        let first_end = left.iter().map(|&number| self.history[number].end()).min().unwrap_or(u64::MAX);
        for number in left.into_iter().filter(|&number| self.history[number].asked <= first_end).take(12) {
            text += &line(number);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[derive(Clone, Debug)]
    enum Ask {
        Write(u8),
        Read,
        /// From, to.
        Swap(u8, u8),
    }

    struct Register;

    impl Model for Register {
        type State = u8;
        type Input = Ask;
        type Output = u8;

        fn new() -> u8 {
            0
        }

        fn step(state: &u8, input: &Ask, output: Option<&u8>) -> Option<u8> {
            let (next, answer) = match *input {
                Ask::Write(value) => (value, value),
                Ask::Read => (*state, *state),
                Ask::Swap(from, to) if from == *state => (to, to),
                Ask::Swap(..) => (*state, *state),
            };
            output.is_none_or(|output| *output == answer).then_some(next)
        }
    }

    fn operation(asked: u64, answered: u64, input: Ask, output: Option<u8>) -> Operation<Ask, u8> {
        Operation { client: 0, input, output, asked, answered, place: None }
    }

    #[test]
    fn what_one_client_alone_sees_is_in_order() {
        let mut history = vec![operation(0, 1, Ask::Write(1), Some(1)), operation(2, 3, Ask::Read, Some(1))];
        check::<Register>(&history).unwrap();
        history.push(operation(4, 5, Ask::Read, Some(0)));
        check::<Register>(&history).unwrap_err();
        check::<Register>(&[]).unwrap();
    }

    #[test]
    fn a_read_beside_a_write_may_see_either_and_never_go_back() {
        for seen in [0, 1] {
            check::<Register>(&[operation(0, 10, Ask::Write(1), Some(1)), operation(2, 3, Ask::Read, Some(seen))])
                .unwrap();
        }
        let report = check::<Register>(&[
            operation(0, 10, Ask::Write(1), Some(1)),
            operation(2, 3, Ask::Read, Some(1)),
            operation(4, 5, Ask::Read, Some(0)),
        ])
        .unwrap_err();
        assert!(report.contains("Read → 0"), "{report}");
    }

    #[test]
    fn an_answered_write_that_is_lost_is_found() {
        check::<Register>(&[
            operation(0, 1, Ask::Write(1), Some(1)),
            operation(2, 3, Ask::Write(2), Some(2)),
            operation(4, 5, Ask::Read, Some(1)),
        ])
        .unwrap_err();
    }

    #[test]
    fn a_write_without_an_answer_may_show_late_or_never_but_not_vanish_again() {
        let write = operation(0, 0, Ask::Write(1), None);
        check::<Register>(&[write.clone(), operation(2, 3, Ask::Read, Some(0))]).unwrap();
        let late = [write.clone(), operation(2, 3, Ask::Read, Some(0)), operation(4, 5, Ask::Read, Some(1))];
        check::<Register>(&late).unwrap();
        let gone = [write.clone(), operation(2, 3, Ask::Read, Some(1)), operation(4, 5, Ask::Read, Some(0))];
        check::<Register>(&gone).unwrap_err();
        // Nor may it be seen before it was asked.
        check::<Register>(&[operation(5, 5, Ask::Write(1), None), operation(2, 3, Ask::Read, Some(1))]).unwrap_err();
    }

    #[test]
    fn two_swaps_cannot_both_win() {
        let swap = |asked, answered, to, output| operation(asked, answered, Ask::Swap(0, to), Some(output));
        check::<Register>(&[swap(0, 9, 1, 1), swap(1, 8, 2, 1)]).unwrap();
        check::<Register>(&[swap(0, 9, 1, 1), swap(1, 8, 2, 2)]).unwrap_err();
    }

    #[test]
    fn an_order_that_is_known_explains_at_once_and_a_wrong_one_is_no_proof() {
        let placed = |place, operation: Operation<Ask, u8>| Operation { place: Some((place, 0)), ..operation };
        // Beside each other, so many that a search would not end.
        let writes = || (0..60u8).map(|n| operation(u64::from(n), 1_000, Ask::Write(n % 7), Some(n % 7)));
        let read = operation(2_000, 2_001, Ask::Read, Some(3));
        let mut history: Vec<_> =
            writes().enumerate().map(|(n, w)| placed(if n == 3 { 99 } else { n as u64 }, w)).collect();
        history.push(placed(100, read));
        check::<Register>(&history).unwrap();
        // The place says that it was made before it was asked.
        let backwards =
            [placed(2, operation(0, 1, Ask::Write(1), Some(1))), placed(1, operation(2, 3, Ask::Write(2), Some(2)))];
        assert!(!explained_by_places::<Register>(&backwards));
        check::<Register>(&backwards).unwrap();
        let stale = [backwards[0].clone(), backwards[1].clone(), placed(3, operation(4, 5, Ask::Read, Some(1)))];
        check::<Register>(&stale).unwrap_err();
    }

    /// A history that a real register made, with the answers late and some of them lost.
    fn made(seed: u64) -> Vec<Operation<Ask, u8>> {
        let mut dice = StdRng::seed_from_u64(seed);
        let mut value = 0;
        let mut history = Vec::new();
        for number in 0..150u64 {
            let input = match dice.random_range(0..3) {
                0 => Ask::Write(dice.random_range(0..5)),
                1 => Ask::Read,
                _ => Ask::Swap(dice.random_range(0..5), dice.random_range(0..5)),
            };
            // It happens at `number * 10`.
            let (asked, answered) = (number * 10 - dice.random_range(0..=30).min(number * 10), number * 10);
            let answered = answered + dice.random_range(0..30);
            let answer = match input {
                Ask::Write(to) => to,
                Ask::Swap(from, to) if from == value => to,
                _ => value,
            };
            value = answer;
            let output = dice.random_ratio(19, 20).then_some(answer);
            history.push(operation(asked, answered, input, output));
        }
        history
    }

    #[test]
    fn what_a_register_did_is_accepted_and_a_read_of_what_nobody_wrote_is_not() {
        for seed in 0..50 {
            let mut history = made(seed);
            check::<Register>(&history).unwrap_or_else(|report| panic!("seed {seed}: {report}"));
            let read = history.iter_mut().filter(|operation| matches!(operation.input, Ask::Read)).nth(10).unwrap();
            read.output = Some(99);
            check::<Register>(&history).unwrap_err();
        }
    }
}
