//! Says something that anybody outside can make happen as often as they like once an interval instead of each time.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Between two lines about the same thing.
const EVERY: Duration = Duration::from_secs(10);

/// Counts until it is worth a line.
#[derive(Debug, Default)]
pub struct Tally(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    said: Option<Instant>,
    since: u64,
}

impl Tally {
    /// It happened again. Where it is time for a line: how often since the last one.
    #[must_use]
    pub fn note(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        state.since += 1;
        if state.said.is_some_and(|said| now < said + EVERY) {
            return None;
        }
        state.said = Some(now);
        Some(std::mem::take(&mut state.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_said_at_once_and_then_an_interval_in_one_line() {
        let (tally, begin) = (Tally::default(), Instant::now());
        assert_eq!(tally.note(begin), Some(1));
        for millis in 1..1000 {
            assert_eq!(tally.note(begin + Duration::from_millis(millis)), None);
        }
        assert_eq!(tally.note(begin + EVERY), Some(1000));
        assert_eq!(tally.note(begin + EVERY), None);
    }
}
