//! The k-vectors, in columns along the axis that has most of them.
//!
//! k = n1 b_u + n2 b_v + n3 b_w; a column has fixed (n1, n2) in a half plane and holds n3 = 0, ±1, ±2, ... so that
//! every pair ±k is met once.

use crate::arithmetic::Scalar;
use crate::arithmetic::ring::{Polynomial, Ring};
use crate::arithmetic::vector::{Vector, add_scaled, dot, values, zero_vector};
use crate::lattice::Lattice;
use crate::special::harmonics::{GradientTerm, MAX_L, count, gradients, solid_harmonics};
use std::ops::Mul;

/// A polynomial in n3, for the harmonics along a column.
type Along<T> = Polynomial<T, { MAX_L + 1 }>;

impl<T: Scalar> Mul for Along<T> {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        let mut out = [T::zero(); MAX_L + 1];
        for i in 0..out.len() {
            for j in 0..=i {
                out[i] += self.0[j] * other.0[i - j];
            }
        }
        Self(out)
    }
}

/// One column of k-vectors.
#[derive(Clone, Debug)]
pub struct Column<T> {
    /// (n1 ≥ 0, n2).
    pub n: [i32; 2],
    /// n1 b_u + n2 b_v.
    pub base: Vector<T>,
    /// n3 runs over 0 ..= count - 1.
    pub count: usize,
    /// First entry in arrays over (column, n3).
    pub offset: usize,
}

/// All columns of one lattice within a cutoff.
#[derive(Clone, Debug)]
pub struct Columns<T> {
    /// (u, v, w): the lattice axes that n1, n2, n3 belong to.
    pub axes: [usize; 3],
    pub columns: Vec<Column<T>>,
    /// Largest |n| along each of u, v, w.
    pub largest: [usize; 3],
    pub n_entries: usize,
    /// Coefficients of n3^a in C_lm(k): `[column][lm][a]`, a ≤ max_l.
    polynomials: Vec<T>,
    pub max_l: usize,
    gradients: &'static [GradientTerm],
}

impl<T: Scalar> Columns<T> {
    pub fn new(lattice: &Lattice<T>, cutoff: f64, max_l: usize) -> Self {
        // |n_j| ≤ cutoff |h_j| / 2π
        let reach: [usize; 3] = std::array::from_fn(|axis| {
            let h = values(&lattice.vectors[axis]);
            (cutoff * dot(&h, &h).sqrt() / (2.0 * std::f64::consts::PI)) as usize
        });
        let mut axes = [0, 1, 2];
        axes.sort_by_key(|&axis| reach[axis]);
        let b: [Vector<f64>; 3] = axes.map(|axis| values(&lattice.reciprocal[axis]));
        let [reach1, reach2, _] = axes.map(|axis| reach[axis] as i32);
        let mut columns = Vec::new();
        let mut largest = [0; 3];
        let mut n_entries = 0;
        let w2 = dot(&b[2], &b[2]);
        // Normal to b_w, where |n1 b_u + n2 b_v| ≤ cutoff: for each n1 the n2 that columns may have, and one more.
        let normal = |v: &Vector<f64>| {
            let mut out = *v;
            add_scaled(&mut out, &b[2], -dot(v, &b[2]) / w2);
            out
        };
        let [u, v] = [normal(&b[0]), normal(&b[1])];
        let (uv, v2) = (dot(&u, &v) / dot(&v, &v), dot(&v, &v));
        let rest = dot(&u, &u) - uv * uv * v2;
        for n1 in 0..=reach1 {
            let square = (cutoff * cutoff - rest * f64::from(n1).powi(2)).max(0.0) / v2;
            let (middle, half) = (-uv * f64::from(n1), square.sqrt() * (1.0 + 1e-9) + 1.0);
            let first = ((middle - half).floor() as i32).clamp(-reach2, reach2);
            let last = ((middle + half).ceil() as i32).clamp(-reach2, reach2);
            for n2 in first..=last {
                if n1 == 0 && n2 < 0 {
                    continue;
                }
                let mut base = zero_vector::<f64>();
                add_scaled(&mut base, &b[0], n1 as f64);
                add_scaled(&mut base, &b[1], n2 as f64);
                // |base + n3 b_w|² ≤ cutoff²
                let along = dot(&base, &b[2]);
                let discriminant = along * along - w2 * (dot(&base, &base) - cutoff * cutoff);
                if discriminant < 0.0 {
                    continue;
                }
                let count = ((discriminant.sqrt() + along.abs()) / w2) as usize + 1;
                let mut base = zero_vector::<T>();
                for (axis, n) in [(0, n1), (1, n2)] {
                    add_scaled(
                        &mut base,
                        &lattice.reciprocal[axes[axis]],
                        T::constant(n as f64),
                    );
                }
                columns.push(Column {
                    n: [n1, n2],
                    base,
                    count,
                    offset: n_entries,
                });
                n_entries += count;
                largest[0] = largest[0].max(n1 as usize);
                largest[1] = largest[1].max(n2.unsigned_abs() as usize);
                largest[2] = largest[2].max(count - 1);
            }
        }
        let mut out = Self {
            axes,
            columns,
            largest,
            n_entries,
            polynomials: Vec::new(),
            max_l,
            gradients: gradients(max_l),
        };
        out.fill_polynomials(lattice);
        out
    }

    fn fill_polynomials(&mut self, lattice: &Lattice<T>) {
        let step = lattice.reciprocal[self.axes[2]];
        let stride = self.max_l + 1;
        let mut harmonics = vec![<Along<T> as Ring>::zero(); count(self.max_l)];
        self.polynomials
            .reserve(self.columns.len() * harmonics.len() * stride);
        for column in &self.columns {
            let linear = |axis: usize| {
                let mut out = <Along<T> as Ring>::zero();
                out.0[0] = column.base[axis];
                out.0[1] = step[axis];
                out
            };
            solid_harmonics(linear(0), linear(1), linear(2), self.max_l, &mut harmonics);
            for polynomial in &harmonics {
                self.polynomials.extend_from_slice(&polynomial.0[..stride]);
            }
        }
    }

    /// Gradients of the harmonics up to max_l, by ascending degree.
    #[inline(always)]
    pub fn gradients(&self) -> &'static [GradientTerm] {
        self.gradients
    }

    /// Coefficients of n3^a, a ≤ l, in C_lm along a column.
    #[inline(always)]
    pub fn polynomial(&self, column: usize, lm: usize) -> &[T] {
        let stride = self.max_l + 1;
        let start = (column * count(self.max_l) + lm) * stride;
        &self.polynomials[start..start + stride]
    }
}
