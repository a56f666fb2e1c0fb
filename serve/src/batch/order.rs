//! Answers in the order in which their work was taken, where a model asks for it.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// Hands out turns, one for each batch, in the order in which the batches are taken.
///
/// An instance that is done early waits for those before it, and so holds no more than its own batch: answers put
/// aside would have no bound.
#[derive(Default)]
pub struct Order {
    turns: Mutex<Turns>,
    changed: Condvar,
}

#[derive(Default)]
struct Turns {
    given: u64,
    ended: u64,
}

/// The right to answer one batch after all those before it. Its end lets the next one go.
pub struct Turn {
    order: Arc<Order>,
    number: u64,
}

impl Order {
    /// The turn after all that were given.
    pub fn take(self: &Arc<Self>) -> Turn {
        let mut turns = self.turns.lock();
        let number = turns.given;
        turns.given += 1;
        Turn { order: Arc::clone(self), number }
    }
}

impl Turn {
    /// Blocks until every turn before it has ended.
    pub fn wait(&self) {
        let mut turns = self.order.turns.lock();
        self.order.changed.wait_while(&mut turns, |turns| turns.ended != self.number);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // A thread that panicked may not have waited.
        self.wait();
        self.order.turns.lock().ended += 1;
        self.order.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn turns_end_in_the_order_in_which_they_were_taken() {
        let order = Arc::new(Order::default());
        let said = Mutex::new(Vec::new());
        let turns: Vec<_> = (0..8).map(|index| (index, order.take())).collect();
        thread::scope(|scope| {
            let threads: Vec<_> = turns
                .into_iter()
                .rev()
                .map(|(index, turn)| {
                    let said = &said;
                    scope.spawn(move || {
                        turn.wait();
                        said.lock().push(index);
                        assert!(index != 3, "a turn whose thread panics ends all the same");
                    })
                })
                .collect();
            let ends = threads.into_iter().rev().map(|thread| thread.join().is_ok());
            assert!(ends.eq((0..8).map(|index| index != 3)));
        });
        assert_eq!(said.into_inner(), [0, 1, 2, 3, 4, 5, 6, 7]);
    }
}
