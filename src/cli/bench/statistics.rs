//! What becomes of many measurements: percentiles of one run, medians of several. Pure, and ignorant of what was measured.

/// The smallest value that at least this share (0 to 1) of all values do not exceed. `sorted` ascends; nothing has no percentile.
pub fn percentile(sorted: &[u64], share: f64) -> Option<u64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

/// The middle value; of an even count the mean of the two in the middle. Nothing has no median.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 { Some(upper) } else { Some((sorted[middle - 1] + upper) / 2.0) }
}

/// Where a latency curve is read: many points, so that the plot shows its tail.
pub const CURVE_SHARES: [f64; 14] =
    [0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999, 1.0];

/// The values at [`CURVE_SHARES`], in milliseconds, of latencies in nanoseconds.
pub fn curve_ms(sorted_ns: &[u64]) -> Vec<f64> {
    CURVE_SHARES
        .iter()
        .filter_map(|share| percentile(sorted_ns, *share))
        .map(|ns| ns as f64 / 1_000_000.0)
        .collect()
}

/// How many of these moments fall into each bucket from nought on. A moment is one of `moments_ns`.
pub fn buckets(moments_ns: impl Iterator<Item = u64>, bucket_ns: u64) -> Vec<u32> {
    let mut counts = Vec::new();
    for moment in moments_ns {
        let bucket = (moment / bucket_ns) as usize;
        if counts.len() <= bucket {
            counts.resize(bucket + 1, 0);
        }
        counts[bucket] += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let hundred: Vec<u64> = (1..=100).collect();
        for (values, share, expected) in [
            (&hundred[..], 0.5, Some(50)),
            (&hundred, 0.99, Some(99)),
            (&hundred, 0.991, Some(100)),
            (&hundred, 1.0, Some(100)),
            (&hundred, 0.0, Some(1)),
            (&[7], 0.99, Some(7)),
            (&[1, 9], 0.5, Some(1)),
            (&[], 0.5, None),
        ] {
            assert_eq!(percentile(values, share), expected, "{share} of {} values", values.len());
        }
    }

    #[test]
    fn a_median_is_in_the_middle_whatever_the_order() {
        for (values, expected) in [
            (&[3.0, 1.0, 2.0][..], Some(2.0)),
            (&[4.0, 1.0, 2.0, 100.0], Some(3.0)),
            (&[5.0], Some(5.0)),
            (&[], None),
        ] {
            assert_eq!(median(values), expected, "{values:?}");
        }
    }

    #[test]
    fn a_curve_ends_at_the_slowest() {
        let curve = curve_ms(&[1_000_000, 2_000_000, 9_000_000]);
        assert_eq!((curve.len(), curve.first(), curve.last()), (CURVE_SHARES.len(), Some(&1.0), Some(&9.0)));
        assert!(curve.is_sorted());
        assert!(curve_ms(&[]).is_empty());
    }

    #[test]
    fn buckets_without_a_moment_are_there_all_the_same() {
        assert_eq!(buckets([5, 31, 32, 0].into_iter(), 10), [2, 0, 0, 2]);
        assert!(buckets(std::iter::empty(), 10).is_empty());
    }
}
