//! Operators on packs, for code that is written for any ring.

use crate::harmonics::Ring;
use crate::pack::Pack;
use crate::scalar::Scalar;
use std::ops::{Add, Mul, Sub};

/// A pack with operators.
#[derive(Clone, Copy, Debug)]
pub struct Element<P>(pub P);

impl<P: Pack> Add for Element<P> {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(self.0.add(other.0))
    }
}

impl<P: Pack> Sub for Element<P> {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(self.0.add(other.0.neg()))
    }
}

impl<P: Pack> Mul for Element<P> {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(self.0.mul(other.0))
    }
}

impl<P: Pack> Mul<f64> for Element<P> {
    type Output = Self;
    #[inline(always)]
    fn mul(self, factor: f64) -> Self {
        Self(self.0.mul(P::splat(Scalar::constant(factor))))
    }
}

impl<P: Pack> Ring for Element<P> {
    #[inline(always)]
    fn one() -> Self {
        Self(P::splat(Scalar::constant(1.0)))
    }
    #[inline(always)]
    fn zero() -> Self {
        Self(P::zero())
    }
}
