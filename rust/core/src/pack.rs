//! Eight scalars side by side, for loops over atoms and pairs that the compiler turns into vector instructions.

use crate::scalar::{Dual, Scalar};
use crate::simd::Avx512;
use bytemuck::{Pod, Zeroable};

/// Scalars in one [`Pack`].
pub const LANES: usize = 8;

/// Eight scalars, for loops that the compiler turns into vector instructions.
///
/// `FMA` says whether the instruction set in use has a fused multiply-add; without one, `f64::mul_add` would be a
/// library call.
pub trait Pack: Pod + Default + Send + Sync {
    type Scalar: Scalar;
    /// Number of tangents: derivatives that a function of a pack needs beyond its value.
    const TANGENTS: usize;

    fn splat(value: Self::Scalar) -> Self;
    fn get(&self, lane: usize) -> Self::Scalar;
    fn set(&mut self, lane: usize, value: Self::Scalar);
    /// `self * factor + addend`
    fn mul_add<const FMA: bool>(self, factor: Self, addend: Self) -> Self;
    /// `addend - self * factor`
    fn neg_mul_add<const FMA: bool>(self, factor: Self, addend: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn add(self, other: Self) -> Self;
    fn neg(self) -> Self;
    /// Sum over the lanes in a fixed order.
    fn sum(self) -> Self::Scalar;
    /// The parts of the lanes' scalars, see [`Scalar::PARTS`].
    fn part(&self, part: usize) -> F64x8;
    fn from_parts(part: impl Fn(usize) -> F64x8) -> Self;
    /// The first numbers of eight rows, `out.len()` of them, as packs.
    #[inline(always)]
    fn columns(
        values: &[Self::Scalar],
        places: &[usize; LANES],
        _avx512: Avx512,
        out: &mut [Self],
    ) {
        for lane in 0..LANES {
            let row = &values[places[lane]..places[lane] + out.len()];
            for k in 0..out.len() {
                out[k].set(lane, row[k]);
            }
        }
    }
    /// Adds packs to the first numbers of eight rows, one row after the other.
    #[inline(always)]
    fn add_to_rows(
        values: &mut [Self::Scalar],
        places: &[usize; LANES],
        _avx512: Avx512,
        added: &[Self],
    ) {
        for lane in 0..LANES {
            let row = &mut values[places[lane]..places[lane] + added.len()];
            for k in 0..added.len() {
                row[k] += added[k].get(lane);
            }
        }
    }
    /// Values without tangents.
    fn values(self) -> F64x8;
    /// Applies a function known by its values and derivatives at `self.values()`.
    fn chain(self, values: F64x8, derivatives: F64x8) -> Self;

    #[inline(always)]
    fn zero() -> Self {
        Self::splat(Self::Scalar::zero())
    }
}

/// Eight `f64`.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct F64x8(pub [f64; LANES]);

impl F64x8 {
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

impl Pack for F64x8 {
    type Scalar = f64;
    const TANGENTS: usize = 0;

    #[inline(always)]
    fn splat(value: f64) -> Self {
        Self([value; LANES])
    }
    #[inline(always)]
    fn get(&self, lane: usize) -> f64 {
        self.0[lane]
    }
    #[inline(always)]
    fn set(&mut self, lane: usize, value: f64) {
        self.0[lane] = value;
    }
    #[inline(always)]
    fn mul_add<const FMA: bool>(self, factor: Self, addend: Self) -> Self {
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
    #[inline(always)]
    fn neg_mul_add<const FMA: bool>(self, factor: Self, addend: Self) -> Self {
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
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        let mut out = [0.0; LANES];
        for lane in 0..LANES {
            out[lane] = self.0[lane] * other.0[lane];
        }
        Self(out)
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        let mut out = [0.0; LANES];
        for lane in 0..LANES {
            out[lane] = self.0[lane] + other.0[lane];
        }
        Self(out)
    }
    #[inline(always)]
    fn neg(self) -> Self {
        let mut out = [0.0; LANES];
        for lane in 0..LANES {
            out[lane] = -self.0[lane];
        }
        Self(out)
    }
    #[inline(always)]
    fn sum(self) -> f64 {
        let v = self.0;
        ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
    }
    #[inline(always)]
    fn part(&self, _part: usize) -> F64x8 {
        *self
    }
    #[inline(always)]
    fn from_parts(part: impl Fn(usize) -> F64x8) -> Self {
        part(0)
    }
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn columns(values: &[f64], places: &[usize; LANES], avx512: Avx512, out: &mut [Self]) {
        if !avx512.found() || !out.len().is_multiple_of(4) {
            for k in 0..out.len() {
                for lane in 0..LANES {
                    out[k].0[lane] = values[places[lane] + k];
                }
            }
            return;
        }
        for k in (0..out.len()).step_by(4) {
            let mut rows = [values.as_ptr(); LANES];
            for lane in 0..LANES {
                rows[lane] = values[places[lane] + k..places[lane] + k + 4].as_ptr();
            }
            // SAFETY: AVX-512 was detected; rows are four numbers long.
            unsafe { crate::shuffles::columns_of_four(&rows, &mut out[k..k + 4]) };
        }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn add_to_rows(values: &mut [f64], places: &[usize; LANES], avx512: Avx512, added: &[Self]) {
        if !avx512.found() || !added.len().is_multiple_of(4) {
            for lane in 0..LANES {
                for k in 0..added.len() {
                    values[places[lane] + k] += added[k].0[lane];
                }
            }
            return;
        }
        for k in (0..added.len()).step_by(4) {
            let mut rows = [values.as_mut_ptr(); LANES];
            for lane in 0..LANES {
                rows[lane] = values[places[lane] + k..places[lane] + k + 4].as_mut_ptr();
            }
            // SAFETY: AVX-512 was detected; rows are four numbers long, and written one by one.
            unsafe { crate::shuffles::add_to_rows_of_four(&added[k..k + 4], &rows) };
        }
    }
    #[inline(always)]
    fn values(self) -> F64x8 {
        self
    }
    #[inline(always)]
    fn chain(self, values: F64x8, _derivatives: F64x8) -> Self {
        values
    }
}

/// Eight [`Dual`], values and tangents apart.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct DualPack {
    pub value: F64x8,
    pub tangent: F64x8,
}

impl Pack for DualPack {
    type Scalar = Dual;
    const TANGENTS: usize = 1;

    #[inline(always)]
    fn splat(value: Dual) -> Self {
        Self {
            value: F64x8::splat(value.value),
            tangent: F64x8::splat(value.tangent),
        }
    }
    #[inline(always)]
    fn get(&self, lane: usize) -> Dual {
        Dual::new(self.value.get(lane), self.tangent.get(lane))
    }
    #[inline(always)]
    fn set(&mut self, lane: usize, value: Dual) {
        self.value.set(lane, value.value);
        self.tangent.set(lane, value.tangent);
    }
    #[inline(always)]
    fn mul_add<const FMA: bool>(self, factor: Self, addend: Self) -> Self {
        let cross = self.value.mul_add::<FMA>(factor.tangent, addend.tangent);
        Self {
            value: self.value.mul_add::<FMA>(factor.value, addend.value),
            tangent: self.tangent.mul_add::<FMA>(factor.value, cross),
        }
    }
    #[inline(always)]
    fn neg_mul_add<const FMA: bool>(self, factor: Self, addend: Self) -> Self {
        let cross = self
            .value
            .neg_mul_add::<FMA>(factor.tangent, addend.tangent);
        Self {
            value: self.value.neg_mul_add::<FMA>(factor.value, addend.value),
            tangent: self.tangent.neg_mul_add::<FMA>(factor.value, cross),
        }
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self {
            value: self.value.mul(other.value),
            tangent: self
                .value
                .mul(other.tangent)
                .add(self.tangent.mul(other.value)),
        }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self {
            value: self.value.add(other.value),
            tangent: self.tangent.add(other.tangent),
        }
    }
    #[inline(always)]
    fn neg(self) -> Self {
        Self {
            value: self.value.neg(),
            tangent: self.tangent.neg(),
        }
    }
    #[inline(always)]
    fn sum(self) -> Dual {
        Dual::new(self.value.sum(), self.tangent.sum())
    }
    #[inline(always)]
    fn part(&self, part: usize) -> F64x8 {
        if part == 0 { self.value } else { self.tangent }
    }
    #[inline(always)]
    fn from_parts(part: impl Fn(usize) -> F64x8) -> Self {
        Self {
            value: part(0),
            tangent: part(1),
        }
    }
    #[inline(always)]
    fn values(self) -> F64x8 {
        self.value
    }
    #[inline(always)]
    fn chain(self, values: F64x8, derivatives: F64x8) -> Self {
        Self {
            value: values,
            tangent: derivatives.mul(self.tangent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_agree_with_scalars() {
        let mut a = DualPack::zero();
        let mut b = DualPack::zero();
        for lane in 0..LANES {
            a.set(lane, Dual::new(lane as f64 + 0.5, 1.0));
            b.set(lane, Dual::new(2.0 - lane as f64, -0.25));
        }
        let packed = a.mul_add::<true>(b, a).sum();
        let mut sum = Dual::zero();
        for lane in 0..LANES {
            sum += a.get(lane) * b.get(lane) + a.get(lane);
        }
        assert!((packed.value - sum.value).abs() < 1e-12);
        assert!((packed.tangent - sum.tangent).abs() < 1e-12);
    }
}
