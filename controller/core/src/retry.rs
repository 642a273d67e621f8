//! When something that failed is tried again. Each pause is twice the one before, up to a longest one, and a part
//! longer that comes of the name: what failed together comes back apart.

use std::time::Duration;

/// The jitter's share of a pause, in percent, is below this.
const JITTER: u32 = 20;
/// Into how many different pauses the jitter parts one.
const GRAINS: u32 = 1_000;

/// The pause after so many failures in a row (one at least), from `first` to `longest` and a fifth. Pure: the dice
/// are the name's and the count's.
#[must_use]
pub fn pause(name: &str, failures: u32, first: Duration, longest: Duration) -> Duration {
    let doubled = first.saturating_mul(1_u32.checked_shl(failures.max(1) - 1).unwrap_or(u32::MAX));
    let base = doubled.min(longest);
    base + base.mul_f64(f64::from(dice(name, failures) * JITTER) / f64::from(GRAINS * 100))
}

/// FNV-1a, and a last stir, as its low digits are poor.
fn dice(name: &str, failures: u32) -> u32 {
    let bytes = name.bytes().chain(failures.to_le_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let stirred = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    u32::try_from(stirred % u64::from(GRAINS)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(60);

    fn after(name: &str, failures: u32) -> Duration {
        pause(name, failures, FIRST, LONGEST)
    }

    proptest! {
        #[test]
        fn a_pause_is_its_step_of_the_schedule_and_at_most_a_fifth_more(name in ".{0,40}", failures: u32) {
            let step = 1_u64.checked_shl(failures.clamp(1, 64) - 1).unwrap_or(u64::MAX).min(60);
            let (pause, step) = (after(&name, failures), Duration::from_secs(step));
            prop_assert!(pause >= step && pause < step.mul_f64(1.2), "{pause:?} for {step:?}");
        }

        #[test]
        fn pauses_grow_until_they_are_the_longest(name in ".{0,40}", failures in 1..6_u32) {
            prop_assert!(after(&name, failures) < after(&name, failures + 1));
        }

        #[test]
        fn what_failed_together_comes_back_apart(failures in 1..40_u32, seed: u32) {
            let pauses: Vec<Duration> =
                (0..200).map(|n| after(&format!("backend/uv-{seed}-{n}"), failures)).collect();
            let different: BTreeSet<Duration> = pauses.iter().copied().collect();
            prop_assert!(different.len() > 120, "{} different pauses of 200", different.len());
            // A tenth of the time of the whole jitter takes no more than a quarter of all.
            let least = *different.first().unwrap();
            let most = *different.last().unwrap();
            let tenth = (most - least) / 10;
            for start in 0..10 {
                let from = least + tenth * start;
                let crowd = pauses.iter().filter(|pause| **pause >= from && **pause < from + tenth).count();
                prop_assert!(crowd <= 50, "{crowd} of 200 within a tenth of the jitter");
            }
        }

        #[test]
        fn the_same_failure_has_the_same_pause(name in ".{0,40}", failures: u32) {
            prop_assert_eq!(after(&name, failures), after(&name, failures));
        }
    }
}
