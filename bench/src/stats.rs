//! Numbers in few words: quantiles of many samples, and the spread of a figure over rounds.

use serde::{Deserialize, Serialize};

/// The least, middle and greatest of a figure over the rounds of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    /// The least.
    pub(crate) min: f64,
    /// The middle one.
    pub(crate) median: f64,
    /// The greatest.
    pub(crate) max: f64,
}

impl Spread {
    /// Of these figures; zeros when there are none.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Spread {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else { return Spread::default() };
        let middle = sorted.len() / 2;
        let median =
            if sorted.len().is_multiple_of(2) { (sorted[middle - 1] + sorted[middle]) / 2.0 } else { sorted[middle] };
        Spread { min, median, max }
    }
}

/// Quantiles of samples, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Quantiles {
    /// How many samples.
    pub(crate) count: usize,
    /// The middle.
    pub(crate) p50_us: f64,
    /// 90 of 100 are not greater.
    pub(crate) p90_us: f64,
    /// 99 of 100 are not greater.
    pub(crate) p99_us: f64,
    /// The least.
    pub(crate) min_us: f64,
    /// The greatest.
    pub(crate) max_us: f64,
}

impl Quantiles {
    /// Of samples in nanoseconds, which it sorts.
    pub(crate) fn of_ns<T: Copy + Ord + Into<i64>>(samples: &mut [T]) -> Quantiles {
        samples.sort_unstable();
        let at = |share: f64| {
            let index = ((samples.len() as f64 * share).ceil() as usize).saturating_sub(1);
            samples.get(index).map_or(0.0, |&ns| ns.into() as f64 / 1_000.0)
        };
        Quantiles {
            count: samples.len(),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            min_us: at(0.0),
            max_us: at(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_an_even_number_lies_between_two() {
        assert_eq!(Spread::of([4.0, 1.0, 3.0, 2.0]), Spread { min: 1.0, median: 2.5, max: 4.0 });
        assert_eq!(Spread::of([5.0]).median, 5.0);
    }

    #[test]
    fn a_quantile_is_a_sample() {
        let mut samples: Vec<u32> = (1..=100).rev().map(|n| n * 1_000).collect();
        let q = Quantiles::of_ns(&mut samples);
        assert_eq!((q.min_us, q.p50_us, q.p90_us, q.p99_us, q.max_us), (1.0, 50.0, 90.0, 99.0, 100.0));
        assert_eq!(Quantiles::of_ns::<u32>(&mut []).p99_us, 0.0);
    }
}
