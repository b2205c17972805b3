//! A stand-in for the crate of the same name, with what the consensus engine uses of it.
//!
//! The engine counts batch sizes and latencies in histograms. The original keeps look-up tables for sixteen widths of
//! buckets, 26 MB in all, of which the engine uses one; an idle server would consist mostly of them. This one computes
//! the bucket instead: four buckets to a power of two, so that a percentile is right to within a quarter.
//!
//! Remove it, and the `[patch]` that brings it in, when the original makes its tables on demand.

#![forbid(unsafe_code)]

use std::fmt;
use std::marker::PhantomData;

/// Buckets for every value of 64 bits: 0 to 3 have one each, then four to a power of two.
const BUCKETS: usize = 4 + 62 * 4;

/// Counts of values in buckets of logarithmic width. The parameter is the original's and has no use here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: Vec<u64>,
    samples: u64,
    unused: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Histogram<T> {
    /// Nothing counted; takes no memory until something is.
    #[must_use]
    pub fn new() -> Self {
        Histogram { counts: Vec::new(), samples: 0, unused: PhantomData }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value `count` times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        if self.counts.is_empty() {
            self.counts = vec![0; BUCKETS];
        }
        self.counts[bucket(value)] += count;
        self.samples += count;
    }

    /// The smallest value of the bucket in which this share of the values is reached; 0 when there is none.
    #[must_use]
    pub fn percentile(&self, share: f64) -> u64 {
        let wanted = ((self.samples as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return least(index);
            }
        }
        0
    }

    /// The usual percentiles.
    #[must_use]
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.samples,
            p0_1: self.percentile(0.001),
            p1: self.percentile(0.01),
            p5: self.percentile(0.05),
            p10: self.percentile(0.1),
            p50: self.percentile(0.5),
            p90: self.percentile(0.9),
            p99: self.percentile(0.99),
            p99_9: self.percentile(0.999),
        }
    }
}

fn bucket(value: u64) -> usize {
    if value < 4 {
        return value as usize;
    }
    let power = value.ilog2() as usize;
    4 + (power - 2) * 4 + (value >> (power - 2) & 3) as usize
}

fn least(bucket: usize) -> u64 {
    if bucket < 4 {
        return bucket as u64;
    }
    let (power, quarter) = ((bucket - 4) / 4, (bucket - 4) % 4);
    (4 + quarter as u64) << power
}

/// Percentiles of a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PercentileStats {
    /// Values counted.
    pub samples: u64,
    /// 0.1 % of the values are at most this.
    pub p0_1: u64,
    /// 1 %.
    pub p1: u64,
    /// 5 %.
    pub p5: u64,
    /// 10 %.
    pub p10: u64,
    /// The median.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PercentileStats { samples, p0_1, p1, p5, p10, p50, p90, p99, p99_9 } = self;
        write!(f, "n={samples} {p0_1} {p1} {p5} {p10} {p50} {p90} {p99} {p99_9}")
    }
}

/// Several histograms as text, one line each.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart {
    lines: Vec<String>,
}

impl AsciiChart {
    /// An empty chart.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a line.
    #[must_use]
    #[allow(clippy::should_implement_trait)]
    pub fn add<T>(mut self, name: &str, histogram: Histogram<T>) -> Self {
        self.lines.push(format!("{name}: {}", histogram.percentile_stats()));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_a_bucket_that_begins_at_most_a_quarter_below_it() {
        let mut last = 0;
        for power in 0..64 {
            for offset in [0u64, 1, 2, 3] {
                let value = (1u64 << power) + ((u128::from(offset) << power) >> 2) as u64;
                let index = bucket(value);
                assert!(index < BUCKETS && index >= last, "{value}");
                assert!(least(index) <= value && value - least(index) <= value / 4, "{value}");
                last = index;
            }
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn percentiles_are_those_of_the_values() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats().p50, 0);
        for value in 1..=1_000 {
            histogram.record(value);
        }
        let stats = histogram.percentile_stats();
        assert_eq!(stats.samples, 1_000);
        assert!((384..=512).contains(&stats.p50), "{stats}");
        assert!((768..=1_000).contains(&stats.p99), "{stats}");
    }
}
