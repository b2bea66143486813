//! Dual numbers and packs of eight of them.

use super::f64x8::F64x8;
use super::scalar::{Pack, Scalar};
use bytemuck::{Pod, Zeroable};
use std::ops::{Add, AddAssign, Mul, Neg, Sub, SubAssign};

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
            value: self.value * other.value,
            tangent: self.value * other.tangent + self.tangent * other.value,
        }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self {
            value: self.value + other.value,
            tangent: self.tangent + other.tangent,
        }
    }
    #[inline(always)]
    fn neg(self) -> Self {
        Self {
            value: -self.value,
            tangent: -self.tangent,
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
            tangent: derivatives * self.tangent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::f64x8::LANES;
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
