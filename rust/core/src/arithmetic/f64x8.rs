//! Eight `f64` side by side, in loops over lanes that the compiler turns into vector instructions.

use bytemuck::{Pod, Zeroable};
use std::ops::{Add, Mul, Neg};

/// Numbers in one pack.
pub const LANES: usize = 8;

/// Eight `f64`.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct F64x8(pub [f64; LANES]);

impl F64x8 {
    pub const ZERO: Self = Self([0.0; LANES]);

    #[inline(always)]
    pub fn splat(value: f64) -> Self {
        Self([value; LANES])
    }
    /// `self * factor + addend`, fused where `FMA` is true.
    #[inline(always)]
    pub fn mul_add<const FMA: bool>(self, factor: Self, addend: Self) -> Self {
        let mut out = [0.0; LANES];
        for lane in 0..LANES {
            out[lane] = if FMA {
                self.0[lane].mul_add(factor.0[lane], addend.0[lane])
            } else {
                self.0[lane] * factor.0[lane] + addend.0[lane]
            };
        }
        Self(out)
    }
    /// `addend - self * factor`, fused where `FMA` is true.
    #[inline(always)]
    pub fn neg_mul_add<const FMA: bool>(self, factor: Self, addend: Self) -> Self {
        let mut out = [0.0; LANES];
        for lane in 0..LANES {
            out[lane] = if FMA {
                (-self.0[lane]).mul_add(factor.0[lane], addend.0[lane])
            } else {
                addend.0[lane] - self.0[lane] * factor.0[lane]
            };
        }
        Self(out)
    }
    /// Sum over the lanes in a fixed order.
    #[inline(always)]
    pub fn sum(self) -> f64 {
        let v = self.0;
        ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
    }
    #[inline(always)]
    pub fn min(self, bound: f64) -> Self {
        let mut out = self;
        for x in &mut out.0 {
            *x = if *x < bound { *x } else { bound };
        }
        out
    }
    #[inline(always)]
    pub fn max(self, bound: f64) -> Self {
        let mut out = self;
        for x in &mut out.0 {
            *x = if *x > bound { *x } else { bound };
        }
        out
    }
    #[inline(always)]
    pub fn sqrt(self) -> Self {
        let mut out = self;
        for x in &mut out.0 {
            *x = x.sqrt();
        }
        out
    }
    /// `numerator / self`
    #[inline(always)]
    pub fn divide(self, numerator: f64) -> Self {
        let mut out = self;
        for x in &mut out.0 {
            *x = numerator / *x;
        }
        out
    }
    /// Lanes with a value below `bound`: all bits set, or none.
    #[inline(always)]
    pub fn below(self, bound: f64) -> [u64; LANES] {
        let mut out = [0; LANES];
        for lane in 0..LANES {
            out[lane] = u64::from(self.0[lane] < bound).wrapping_neg();
        }
        out
    }
    /// The lanes of `self` where `mask` has all bits set, those of `other` where it has none.
    #[inline(always)]
    pub fn select(self, mask: &[u64; LANES], other: Self) -> Self {
        let mut out = self;
        for lane in 0..LANES {
            let (a, b) = (self.0[lane].to_bits(), other.0[lane].to_bits());
            out.0[lane] = f64::from_bits(b ^ ((a ^ b) & mask[lane]));
        }
        out
    }
}

impl Mul for F64x8 {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        let mut out = [0.0; LANES];
        for lane in 0..LANES {
            out[lane] = self.0[lane] * other.0[lane];
        }
        Self(out)
    }
}

impl Add for F64x8 {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        let mut out = [0.0; LANES];
        for lane in 0..LANES {
            out[lane] = self.0[lane] + other.0[lane];
        }
        Self(out)
    }
}

impl Neg for F64x8 {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        let mut out = [0.0; LANES];
        for lane in 0..LANES {
            out[lane] = -self.0[lane];
        }
        Self(out)
    }
}
