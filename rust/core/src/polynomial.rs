//! Polynomials by their coefficients, for harmonics of arguments that are polynomials themselves.

use crate::harmonics::Ring;
use crate::scalar::Scalar;
use std::ops::{Add, Mul, Sub};

/// Coefficients in an order with the constant first; where products are needed they are defined beside that order.
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
