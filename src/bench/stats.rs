//! Medians and spread: pure.

use serde::Serialize;

/// What a series of measurements comes to. Quartiles are interpolated
/// linearly between neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// How many there were.
    pub n: usize,
    /// The middle one.
    pub median: f64,
    /// The median distance from the median.
    pub mad: f64,
    /// A quarter lies below.
    pub q1: f64,
    /// A quarter lies above.
    pub q3: f64,
    /// The smallest.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Summary {
    /// Sums up; `None` if there is nothing to.
    pub fn of(values: &[f64]) -> Option<Self> {
        let sorted = sorted(values);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let median = quantile(&sorted, 0.5);
        let distances: Vec<f64> = sorted.iter().map(|value| (value - median).abs()).collect();
        Some(Self {
            n: sorted.len(),
            median,
            mad: quantile(&self::sorted(&distances), 0.5),
            q1: quantile(&sorted, 0.25),
            q3: quantile(&sorted, 0.75),
            min,
            max,
        })
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// Returns a quantile of sorted values, of which there is at least one.
fn quantile(sorted: &[f64], at: f64) -> f64 {
    let position = at * (sorted.len() - 1) as f64;
    let below = position.floor() as usize;
    let above = position.ceil() as usize;
    sorted[below] + (sorted[above] - sorted[below]) * (position - below as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_has_no_summary() {
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn one_value_is_its_own_summary() {
        let summary = Summary::of(&[3.0]).unwrap();
        assert_eq!((summary.median, summary.mad, summary.q1, summary.max), (3.0, 0.0, 3.0, 3.0));
    }

    #[test]
    fn quartiles_are_interpolated_and_outliers_do_not_move_the_median() {
        let summary = Summary::of(&[4.0, 1.0, 1000.0, 2.0, 3.0]).unwrap();
        assert_eq!(summary.median, 3.0);
        assert_eq!(summary.mad, 1.0);
        assert_eq!((summary.q1, summary.q3), (2.0, 4.0));
        assert_eq!((summary.min, summary.max, summary.n), (1.0, 1000.0, 5));
        assert_eq!(Summary::of(&[1.0, 2.0, 3.0, 4.0]).unwrap().median, 2.5);
    }
}
