//! Latencies in a fixed number of buckets, so that memory does not grow with the number of probes.
//!
//! Each power of two has 64 buckets of equal width: a value read from a bucket is at most 0.8 % away from the one that
//! was recorded. Pure.

use std::time::Duration;

/// The exponent of [`SPLIT`], which is a power of two.
const SPLIT_BITS: u32 = 6;
/// Number of buckets for the times from one power of two to the next.
const SPLIT: u64 = 1 << SPLIT_BITS;
/// Longer times count as the longest; 2^42 ns are 73 minutes.
const NANOS_BITS: u32 = 42;
const BUCKETS: usize = ((NANOS_BITS - SPLIT_BITS + 1) as usize) << SPLIT_BITS;

pub struct Histogram {
    counts: Vec<u64>,
    count: u64,
    min: u64,
    max: u64,
}

impl Histogram {
    /// An empty one, of 19 KiB.
    pub fn new() -> Self {
        Histogram {
            counts: vec![0; BUCKETS],
            count: 0,
            min: u64::MAX,
            max: 0,
        }
    }

    pub fn record(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get_mut(bucket(nanos)) {
            *count += 1;
        }
        self.count += 1;
        self.min = self.min.min(nanos);
        self.max = self.max.max(nanos);
    }

    /// How many were recorded.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The shortest, exactly; 0 if there is none.
    pub fn min(&self) -> Duration {
        Duration::from_nanos(self.min.min(self.max))
    }

    /// The longest, exactly; 0 if there is none.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }

    /// The time that is not exceeded by `thousandths` of all: the nearest rank, and exactly if that is the longest;
    /// 0 if there is none.
    pub fn quantile(&self, thousandths: u64) -> Duration {
        let rank = (u128::from(self.count) * u128::from(thousandths)).div_ceil(1000);
        let rank = u64::try_from(rank).unwrap_or(u64::MAX).max(1);
        if rank >= self.count {
            return self.max();
        }
        let mut seen = 0;
        for (time, count) in self.times() {
            seen += count;
            if seen >= rank {
                return time;
            }
        }
        Duration::ZERO
    }

    /// The times that were recorded, in order, and how often each.
    pub fn times(&self) -> impl Iterator<Item = (Duration, u64)> {
        let used = self.counts.iter().enumerate();
        used.filter(|(_, count)| **count > 0)
            .map(|(bucket, count)| {
                let nanos = middle(bucket).clamp(self.min, self.max);
                (Duration::from_nanos(nanos), *count)
            })
    }
}

/// The bucket of a number of nanoseconds.
fn bucket(nanos: u64) -> usize {
    let nanos = nanos.min((1 << NANOS_BITS) - 1);
    let shift = (u64::BITS - nanos.leading_zeros()).saturating_sub(SPLIT_BITS + 1);
    // The first bits of the number are from SPLIT to 2 * SPLIT, but for numbers below SPLIT.
    let index = u64::from(shift) * SPLIT + (nanos >> shift);
    index as usize
}

/// The number in the middle of a bucket.
fn middle(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket / SPLIT).saturating_sub(1);
    let first = (bucket - shift * SPLIT) << shift;
    first + (1 << shift) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanos(nanos: u64) -> Duration {
        Duration::from_nanos(nanos)
    }

    #[test]
    fn every_time_is_near_the_middle_of_its_bucket() {
        let powers = (6..NANOS_BITS).flat_map(|bits| {
            let power = 1 << bits;
            [power - 1, power, power + power / 65, power + power / 3]
        });
        let mut last = 0;
        for time in (0..64).chain(powers) {
            let bucket = bucket(time);
            assert!(bucket >= last && bucket < BUCKETS, "{time}");
            last = bucket;
            let error = middle(bucket).abs_diff(time) as f64;
            assert!(error <= time as f64 * 0.008, "{time}: {error}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_the_nearest_rank() {
        let mut times = Histogram::new();
        assert_eq!(times.quantile(500), Duration::ZERO);
        assert_eq!((times.min(), times.max()), (Duration::ZERO, Duration::ZERO));
        for time in [30, 10, 20, 50, 40] {
            times.record(nanos(time));
        }
        assert_eq!(times.quantile(500), nanos(30));
        assert_eq!(times.quantile(990), nanos(50));
        assert_eq!(times.quantile(0), nanos(10));
        assert_eq!(times.quantile(1000), nanos(50));
        for _ in 0..995 {
            times.record(nanos(60));
        }
        assert_eq!(times.quantile(500), nanos(60));
        assert_eq!(times.quantile(5), nanos(50));
        assert_eq!(times.times().map(|(_, count)| count).sum::<u64>(), 1000);
    }

    #[test]
    fn the_extremes_are_exact() {
        let mut times = Histogram::new();
        times.record(nanos(123_456_789));
        assert_eq!(times.min(), nanos(123_456_789));
        assert_eq!(times.quantile(990), nanos(123_456_789));
        times.record(Duration::MAX);
        assert_eq!(times.max(), nanos(u64::MAX));
        assert_eq!(times.count(), 2);
    }
}
