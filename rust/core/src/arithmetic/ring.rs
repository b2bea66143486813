//! Rings that solid harmonics are computed in: scalars, packs and polynomials.

use super::scalar::{Pack, Scalar};
use std::ops::{Add, Mul, Sub};

/// Numbers, packs or polynomials, as the recursion of solid harmonics needs them.
pub trait Ring:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Mul<f64, Output = Self>
{
    fn one() -> Self;
    fn zero() -> Self;
}

impl<T: Scalar> Ring for T {
    fn one() -> Self {
        T::constant(1.0)
    }
    fn zero() -> Self {
        T::constant(0.0)
    }
}

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

/// A polynomial by its coefficients in an order with the constant first; products are defined beside that order.
#[derive(Clone, Copy)]
pub struct Polynomial<T, const N: usize>(pub [T; N]);

impl<T: Scalar, const N: usize> Add for Polynomial<T, N> {
    type Output = Self;
    fn add(mut self, other: Self) -> Self {
        for (a, b) in self.0.iter_mut().zip(other.0) {
            *a += b;
        }
        self
    }
}
impl<T: Scalar, const N: usize> Sub for Polynomial<T, N> {
    type Output = Self;
    fn sub(mut self, other: Self) -> Self {
        for (a, b) in self.0.iter_mut().zip(other.0) {
            *a -= b;
        }
        self
    }
}
impl<T: Scalar, const N: usize> Mul<f64> for Polynomial<T, N> {
    type Output = Self;
    fn mul(mut self, factor: f64) -> Self {
        for a in &mut self.0 {
            *a = *a * factor;
        }
        self
    }
}
impl<T: Scalar, const N: usize> Ring for Polynomial<T, N>
where
    Self: Mul<Output = Self>,
{
    fn one() -> Self {
        let mut out = <Self as Ring>::zero();
        out.0[0] = T::constant(1.0);
        out
    }
    fn zero() -> Self {
        Self([T::zero(); N])
    }
}
