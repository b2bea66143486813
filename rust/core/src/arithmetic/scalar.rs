//! The scalars that every sum is written over, and packs of eight of them.
//!
//! `f64` gives values and gradients; [`Dual`](super::Dual) carries one tangent, so that a gradient computed with it
//! gives Hessian-vector products.

use super::dispatch::Avx512;
use super::exponential;
use super::f64x8::{F64x8, LANES};
#[cfg(target_arch = "x86_64")]
use super::shuffles;
use bytemuck::Pod;
use std::ops::{Add, AddAssign, Mul, Neg, Sub, SubAssign};

/// A real number with, perhaps, a tangent.
pub trait Scalar:
    Copy
    + Send
    + Sync
    + std::fmt::Debug
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Mul<f64, Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + Default
    + Pod
{
    type Pack: Pack<Scalar = Self>;

    fn constant(value: f64) -> Self;
    fn value(self) -> f64;
    /// Applies a function known by its value and derivative at `self.value()`.
    fn chain(self, value: f64, derivative: f64) -> Self;

    /// True if value and tangent are zero.
    fn is_zero(self) -> bool;

    /// Real numbers in one scalar: the value, and the tangent of a dual number.
    const PARTS: usize;
    fn part(self, part: usize) -> f64;
    fn from_parts(part: impl Fn(usize) -> f64) -> Self;

    #[inline(always)]
    fn zero() -> Self {
        Self::constant(0.0)
    }
    #[inline]
    fn recip(self) -> Self {
        let inverse = 1.0 / self.value();
        self.chain(inverse, -inverse * inverse)
    }
    #[inline]
    fn sqrt(self) -> Self {
        let root = self.value().sqrt();
        self.chain(root, 0.5 / root)
    }
    #[inline]
    fn exp(self) -> Self {
        let value = self.value().exp();
        self.chain(value, value)
    }
    /// Replaces all by their exponentials.
    fn exp_all(values: &mut [Self]) {
        values.iter_mut().for_each(|value| *value = value.exp());
    }
    #[inline]
    fn sin_cos(self) -> (Self, Self) {
        let (sin, cos) = self.value().sin_cos();
        (self.chain(sin, cos), self.chain(cos, -sin))
    }
}

/// Eight scalars, for loops that the compiler turns into vector instructions.
///
/// `FMA` is true if the instruction set in use has a fused multiply-add; without one, `f64::mul_add` would be a library
/// call.
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

impl Scalar for f64 {
    type Pack = F64x8;

    #[inline(always)]
    fn constant(value: f64) -> Self {
        value
    }
    #[inline(always)]
    fn value(self) -> f64 {
        self
    }
    #[inline(always)]
    fn chain(self, value: f64, _derivative: f64) -> Self {
        value
    }
    #[inline(always)]
    fn is_zero(self) -> bool {
        self == 0.0
    }

    fn exp_all(values: &mut [Self]) {
        exponential::exp_all(values);
    }

    const PARTS: usize = 1;
    #[inline(always)]
    fn part(self, _part: usize) -> f64 {
        self
    }
    #[inline(always)]
    fn from_parts(part: impl Fn(usize) -> f64) -> Self {
        part(0)
    }
}

impl Pack for F64x8 {
    type Scalar = f64;
    const TANGENTS: usize = 0;

    #[inline(always)]
    fn splat(value: f64) -> Self {
        F64x8::splat(value)
    }
    #[inline(always)]
    fn mul_add<const FMA: bool>(self, factor: Self, addend: Self) -> Self {
        F64x8::mul_add::<FMA>(self, factor, addend)
    }
    #[inline(always)]
    fn neg_mul_add<const FMA: bool>(self, factor: Self, addend: Self) -> Self {
        F64x8::neg_mul_add::<FMA>(self, factor, addend)
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self * other
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self + other
    }
    #[inline(always)]
    fn neg(self) -> Self {
        -self
    }
    #[inline(always)]
    fn sum(self) -> f64 {
        F64x8::sum(self)
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
            unsafe { shuffles::columns_of_four(&rows, &mut out[k..k + 4]) };
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
            unsafe { shuffles::add_to_rows_of_four(&added[k..k + 4], &rows) };
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
