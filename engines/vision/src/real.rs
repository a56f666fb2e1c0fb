//! The number type of the formulas: `f32` in service, `f64` when they are checked against references.

use num_traits::Float;

/// `f32` or `f64`.
pub trait Real: Float + Default + std::fmt::Debug + Send + Sync + 'static {
    /// Widens (or keeps) a stored value.
    fn from_f32(value: f32) -> Self;
    /// Rounds (or keeps) a value computed in double precision.
    fn from_f64(value: f64) -> Self;
    /// Rounds (or keeps) the value for an answer.
    fn as_f32(self) -> f32;
    /// Widens (or keeps) the value.
    fn as_f64(self) -> f64;
    /// A whole number of a value and an index.
    type Rank: Copy + Default + Ord + std::fmt::Debug + Send + Sync;
    /// Ranks values in falling order, equal ones by index; +0 and -0 are equal.
    fn rank(self, index: u32) -> Self::Rank;
    /// The index in a rank.
    fn ranked(rank: Self::Rank) -> usize;
}

impl Real for f32 {
    fn from_f32(value: f32) -> Self {
        value
    }
    fn from_f64(value: f64) -> Self {
        value as f32
    }
    fn as_f32(self) -> f32 {
        self
    }
    fn as_f64(self) -> f64 {
        f64::from(self)
    }
    type Rank = u64;
    #[inline]
    fn rank(self, index: u32) -> u64 {
        // The bits of a float grow with its magnitude. Turned around: all of a positive one, the sign of a negative one.
        let bits = (self + 0.0).to_bits();
        let falling = if bits >> 31 == 0 { !bits & (u32::MAX >> 1) } else { bits };
        u64::from(falling) << 32 | u64::from(index)
    }
    #[inline]
    fn ranked(rank: u64) -> usize {
        (rank & u64::from(u32::MAX)) as usize
    }
}

impl Real for f64 {
    fn from_f32(value: f32) -> Self {
        Self::from(value)
    }
    fn from_f64(value: f64) -> Self {
        value
    }
    fn as_f32(self) -> f32 {
        self as f32
    }
    fn as_f64(self) -> f64 {
        self
    }
    type Rank = u128;
    #[inline]
    fn rank(self, index: u32) -> u128 {
        let bits = (self + 0.0).to_bits();
        let falling = if bits >> 63 == 0 { !bits & (u64::MAX >> 1) } else { bits };
        u128::from(falling) << 32 | u128::from(index)
    }
    #[inline]
    fn ranked(rank: u128) -> usize {
        (rank & u128::from(u32::MAX)) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_follow_the_falling_order_of_numbers() {
        let numbers = [f32::NEG_INFINITY, -2.5, -1.0, -1e-40, 0.0, 1e-40, 0.5, 1.0, f32::MAX];
        for pair in numbers.windows(2) {
            assert!(pair[0].rank(0) > pair[1].rank(9), "{pair:?}");
            assert!(f64::from(pair[0]).rank(0) > f64::from(pair[1]).rank(9), "{pair:?}");
        }
        assert!((-0.0_f32).rank(1) < 0.0_f32.rank(2));
        assert!((-0.0_f64).rank(2) > 0.0_f64.rank(1));
        assert_eq!((f32::ranked(0.3_f32.rank(7)), f64::ranked(0.3_f64.rank(7))), (7, 7));
    }
}
