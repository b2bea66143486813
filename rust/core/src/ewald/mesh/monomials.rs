//! Multipoles as derivatives along the mesh: C_lm(∇) with ∇ = Σ_a B_a ∂/∂u_a, B_a = N_a b_a / 2π, is a polynomial in
//! the derivatives along the mesh coordinates.

use crate::arithmetic::Scalar;
use crate::arithmetic::ring::{Polynomial, Ring};
use crate::arithmetic::vector::{Matrix, zero_matrix};
use crate::special::harmonics::{
    MAX_L, count, degree, double_factorial_odd, gradients, solid_harmonics,
};
use std::ops::Mul;
use std::sync::OnceLock;

/// Highest total degree: one gradient beyond the multipoles.
pub const MAX_TOTAL: usize = MAX_L + 1;

/// Number of monomials up to a total degree.
pub const fn n_monomials(total: usize) -> usize {
    (total + 1) * (total + 2) * (total + 3) / 6
}

/// Monomials (a, b, c) by ascending total degree, and their places.
pub struct Monomials {
    pub exponents: Vec<[usize; 3]>,
    place: [[[u8; MAX_TOTAL + 1]; MAX_TOTAL + 1]; MAX_TOTAL + 1],
}

impl Monomials {
    pub fn table() -> &'static Self {
        static TABLE: OnceLock<Monomials> = OnceLock::new();
        TABLE.get_or_init(|| {
            let mut exponents = Vec::new();
            let mut place = [[[0; MAX_TOTAL + 1]; MAX_TOTAL + 1]; MAX_TOTAL + 1];
            for total in 0..=MAX_TOTAL {
                for a in 0..=total {
                    for b in 0..=total - a {
                        let c = total - a - b;
                        place[a][b][c] = exponents.len() as u8;
                        exponents.push([a, b, c]);
                    }
                }
            }
            Monomials { exponents, place }
        })
    }

    #[inline(always)]
    pub fn at(&self, a: usize, b: usize, c: usize) -> usize {
        self.place[a][b][c] as usize
    }

    /// The monomial with one more power of `axis`.
    #[inline(always)]
    pub fn raised(&self, monomial: usize, axis: usize) -> usize {
        let mut e = self.exponents[monomial];
        e[axis] += 1;
        self.at(e[0], e[1], e[2])
    }
}

/// A polynomial in the three derivatives, up to the total degree `MAX_L`.
type Derivatives<T> = Polynomial<T, { n_monomials(MAX_L) }>;

impl<T: Scalar> Mul for Derivatives<T> {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        let table = Monomials::table();
        let mut out = [T::zero(); n_monomials(MAX_L)];
        for (i, &first) in self.0.iter().enumerate() {
            if first.is_zero() {
                continue;
            }
            let e = table.exponents[i];
            for (j, &second) in other.0.iter().enumerate() {
                if second.is_zero() {
                    continue;
                }
                let f = table.exponents[j];
                out[table.at(e[0] + f[0], e[1] + f[1], e[2] + f[2])] += first * second;
            }
        }
        Self(out)
    }
}

/// C_lm(∇) / (2l-1)!! in derivatives along the mesh.
pub struct Expansion<T> {
    pub max_l: usize,
    pub n_monomials: usize,
    /// `[lm][monomial]`.
    coefficients: Vec<T>,
    /// Monomials that any coefficient of this degree may have: the range of each l.
    basis: Matrix<T>,
}

impl<T: Scalar> Expansion<T> {
    /// `basis` has the rows B_a.
    pub fn new(basis: &Matrix<T>, max_l: usize) -> Self {
        let n = n_monomials(max_l);
        let mut coefficients = vec![T::zero(); count(max_l) * n];
        coefficients[0] = T::constant(1.0);
        if max_l > 0 {
            let table = Monomials::table();
            let linear = |axis: usize| {
                let mut out = <Derivatives<T> as Ring>::zero();
                for (a, row) in basis.iter().enumerate() {
                    let mut e = [0; 3];
                    e[a] = 1;
                    out.0[table.at(e[0], e[1], e[2])] = row[axis];
                }
                out
            };
            let mut harmonics = vec![<Derivatives<T> as Ring>::zero(); count(max_l)];
            solid_harmonics(linear(0), linear(1), linear(2), max_l, &mut harmonics);
            for (lm, polynomial) in harmonics.iter().enumerate() {
                let inverse = 1.0 / double_factorial_odd(degree(lm));
                for k in 0..n {
                    coefficients[lm * n + k] = polynomial.0[k] * inverse;
                }
            }
        }
        Self {
            max_l,
            n_monomials: n,
            coefficients,
            basis: *basis,
        }
    }

    /// Monomials of the degree of `lm`.
    #[inline(always)]
    fn range(lm: usize) -> std::ops::Range<usize> {
        let l = degree(lm);
        let first = if l == 0 { 0 } else { n_monomials(l - 1) };
        first..n_monomials(l)
    }

    /// Coefficients of derivatives along the mesh, of multipoles `p`.
    pub fn expand(&self, p: &[T], out: &mut [T]) {
        out.fill(T::zero());
        for (lm, &p) in p.iter().enumerate() {
            for k in Self::range(lm) {
                out[k] += p * self.coefficients[lm * self.n_monomials + k];
            }
        }
    }

    /// Potentials on multipoles, of derivatives of the potential along the mesh: the transpose of `expand`.
    pub fn contract(&self, derivatives: &[T], out: &mut [T]) {
        for (lm, out) in out.iter_mut().enumerate() {
            let mut sum = T::zero();
            for k in Self::range(lm) {
                sum += derivatives[k] * self.coefficients[lm * self.n_monomials + k];
            }
            *out = sum;
        }
    }

    /// dU/dB from X[lm][monomial] = dU/d(coefficient), that is Σ p_lm ∂^monomial φ.
    pub fn pull_back(&self, x: &[T]) -> Matrix<T> {
        let mut out = zero_matrix();
        let table = Monomials::table();
        for term in gradients(self.max_l) {
            let (of, lower) = (term.of as usize, term.lower as usize);
            if degree(of) > self.max_l {
                continue;
            }
            // `coefficients` hold 1/(2l-1)!! of their own degree.
            let factor = term.coefficient / (2 * degree(of) - 1) as f64;
            for k in Self::range(lower) {
                let coefficient = self.coefficients[lower * self.n_monomials + k] * factor;
                for (axis, row) in out.iter_mut().enumerate() {
                    let raised = table.raised(k, axis);
                    row[term.axis as usize] += coefficient * x[of * self.n_monomials + raised];
                }
            }
        }
        out
    }

    /// dU/dr from dU/du.
    #[inline(always)]
    pub fn cartesian(&self, along: &[T; 3]) -> [T; 3] {
        std::array::from_fn(|axis| {
            along[0] * self.basis[0][axis]
                + along[1] * self.basis[1][axis]
                + along[2] * self.basis[2][axis]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::Dual;

    const BASIS: Matrix<f64> = [[1.1, 0.2, -0.3], [0.4, -0.9, 0.1], [0.25, 0.5, 1.3]];

    fn monomials(u: [f64; 3], n: usize) -> Vec<f64> {
        let power = |x: f64, n: usize| x.powi(n as i32);
        Monomials::table().exponents[..n]
            .iter()
            .map(|e| power(u[0], e[0]) * power(u[1], e[1]) * power(u[2], e[2]))
            .collect()
    }

    #[test]
    fn expansions_are_the_harmonics() {
        let u = [0.7, -0.4, 0.9];
        let expansion = Expansion::new(&BASIS, MAX_L);
        let r = expansion.cartesian(&u);
        let mut exact = vec![0.0; count(MAX_L)];
        solid_harmonics(r[0], r[1], r[2], MAX_L, &mut exact);
        let mut found = vec![0.0; count(MAX_L)];
        expansion.contract(&monomials(u, expansion.n_monomials), &mut found);
        for lm in 0..count(MAX_L) {
            let exact = exact[lm] / double_factorial_odd(degree(lm));
            assert!((exact - found[lm]).abs() < 1e-13 * (1.0 + exact.abs()));
        }
    }

    #[test]
    fn pull_back_is_the_derivative() {
        let x: Vec<f64> = (0..count(MAX_L) * n_monomials(MAX_L))
            .map(|k| (1.7 * k as f64).sin())
            .collect();
        let exact = Expansion::new(&BASIS, MAX_L).pull_back(&x);
        for a in 0..3 {
            for axis in 0..3 {
                let mut basis = BASIS.map(|row| row.map(Dual::constant));
                basis[a][axis].tangent = 1.0;
                let expansion = Expansion::new(&basis, MAX_L);
                let tangent: f64 = expansion
                    .coefficients
                    .iter()
                    .zip(&x)
                    .map(|(c, x)| c.tangent * x)
                    .sum();
                assert!((tangent - exact[a][axis]).abs() < 1e-11 * (1.0 + tangent.abs()));
            }
        }
    }
}
