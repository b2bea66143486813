//! The scalar types that every kernel is written over.
//!
//! [`f64`] gives values and gradients; [`Dual`] carries one tangent along, so that the gradient kernel run on it
//! gives Hessian-vector products.

use crate::pack::{DualPack, F64x8, Pack};
use bytemuck::{Pod, Zeroable};
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

    /// Whether value and tangent are zero.
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
        crate::exponential::exp_all(values);
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

/// A number a + b·t with t² = 0: value and directional derivative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Dual {
    pub value: f64,
    pub tangent: f64,
}

impl Dual {
    #[inline(always)]
    pub fn new(value: f64, tangent: f64) -> Self {
        Self { value, tangent }
    }
}

impl Scalar for Dual {
    type Pack = DualPack;

    #[inline(always)]
    fn constant(value: f64) -> Self {
        Self::new(value, 0.0)
    }
    #[inline(always)]
    fn value(self) -> f64 {
        self.value
    }
    #[inline(always)]
    fn chain(self, value: f64, derivative: f64) -> Self {
        Self::new(value, derivative * self.tangent)
    }
    #[inline(always)]
    fn is_zero(self) -> bool {
        self.value == 0.0 && self.tangent == 0.0
    }

    const PARTS: usize = 2;
    #[inline(always)]
    fn part(self, part: usize) -> f64 {
        if part == 0 { self.value } else { self.tangent }
    }
    #[inline(always)]
    fn from_parts(part: impl Fn(usize) -> f64) -> Self {
        Self::new(part(0), part(1))
    }
}

impl Add for Dual {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self::new(self.value + other.value, self.tangent + other.tangent)
    }
}
impl Sub for Dual {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self::new(self.value - other.value, self.tangent - other.tangent)
    }
}
impl Mul for Dual {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self::new(
            self.value * other.value,
            self.value * other.tangent + self.tangent * other.value,
        )
    }
}
impl Mul<f64> for Dual {
    type Output = Self;
    #[inline(always)]
    fn mul(self, factor: f64) -> Self {
        Self::new(self.value * factor, self.tangent * factor)
    }
}
impl Neg for Dual {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        Self::new(-self.value, -self.tangent)
    }
}
impl AddAssign for Dual {
    #[inline(always)]
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}
impl SubAssign for Dual {
    #[inline(always)]
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dual_numbers_differentiate() {
        let f = |x: Dual| (x * x + x.exp()).sqrt().recip() * x.sin_cos().0;
        let (x, h) = (0.7, 1e-6);
        let exact = f(Dual::new(x, 1.0));
        let difference =
            (f(Dual::constant(x + h)).value - f(Dual::constant(x - h)).value) / (2.0 * h);
        assert!(exact.tangent.abs() > 0.1);
        assert!((exact.tangent - difference).abs() < 1e-9);
    }
}
