//! Influence function, by which the mesh's Fourier coefficients are multiplied: the Coulomb kernel without the splines'
//! own transform, and the Gaussians.

use super::grid::resized;
use crate::arithmetic::Scalar;
use crate::arithmetic::vector::{Matrix, dot};
use crate::ewald::kernel::{Kernel, Open, Parallel};
use crate::lattice::{Lattice, dimensions};
use crate::units::COULOMB_CONSTANT;
use rayon::prelude::*;
use std::ops::Range;

/// Wave number of mode `i` of `n`.
#[inline(always)]
pub fn wave(i: usize, n: usize) -> f64 {
    if 2 * i > n {
        i as f64 - n as f64
    } else {
        i as f64
    }
}

/// Factors of the Fourier coefficients.
pub struct Influence<T> {
    points: [usize; 3],
    widths: Vec<f64>,
    /// Wave numbers along x.
    pub waves: Vec<f64>,
    metric: Matrix<T>,
    kernel: Separable<T>,
    /// K/V and the splines' factors along x, y, z.
    scale: T,
    splines: [Vec<f64>; 3],
    /// Factors of all modes, `[y]` and then as in [`Columns`], where they serve many evaluations.
    kept: Option<Vec<T>>,
}

/// Work area for factors that are not stored.
pub struct Factors<T> {
    values: Vec<T>,
    squares: Vec<T>,
}

impl<T> Factors<T> {
    pub fn new() -> Self {
        Self {
            values: Vec::new(),
            squares: Vec::new(),
        }
    }
}

/// Factors of some neighbouring columns of modes along x.
pub struct Columns<'a, T> {
    /// `[weights, then Gaussians of each width][column][x]`.
    values: &'a [T],
    /// Distance between the factors of one mode.
    stride: usize,
    range: Range<usize>,
}

impl<T> Columns<'_, T> {
    /// K G(k) D(k)² / V.
    #[inline(always)]
    pub fn weights(&self) -> &[T] {
        &self.values[self.range.clone()]
    }

    /// exp(-k² w² / 2) of a width, by its place in the list of all.
    #[inline(always)]
    pub fn gaussian(&self, width: usize) -> &[T] {
        &self.values[(1 + width) * self.stride..][self.range.clone()]
    }
}

/// Ŵ / Σ Ŵ(aliases)² of the splines along one axis: with it the mean square error of potentials over the sites'
/// positions between the points is least (Hockney and Eastwood, Computer Simulation Using Particles, section 8-3).
/// Zero at the Nyquist mode.
pub fn deconvolution(n: usize, order: usize) -> Vec<f64> {
    (0..n)
        .map(|i| {
            if i == 0 {
                return 1.0;
            }
            if 2 * i == n {
                return 0.0;
            }
            let x = wave(i, n) / n as f64;
            let sine = (std::f64::consts::PI * x).sin() / std::f64::consts::PI;
            let transform = |m: f64| (sine / (x + m)).abs().powi(order as i32);
            let sum: f64 = (-4..=4).map(|m| transform(m as f64).powi(2)).sum();
            transform(0.0) / sum
        })
        .collect()
}

/// The kernel as tables over the modes along periodic and along open axes.
struct Separable<T> {
    kernel: Kernel,
    dimensions: usize,
    pbc: [bool; 3],
    points: [usize; 3],
    parallel: Vec<Parallel<T>>,
    open: Vec<Open>,
}

impl<T: Scalar> Separable<T> {
    fn new(lattice: &Lattice<T>, points: [usize; 3]) -> Self {
        let kernel = Kernel::new(lattice.pbc, lattice.open_length);
        let mut out = Self {
            kernel,
            dimensions: dimensions(lattice.pbc),
            pbc: lattice.pbc,
            points,
            parallel: Vec::new(),
            open: Vec::new(),
        };
        if out.dimensions == 3 {
            return out;
        }
        let length = |periodic: bool| -> usize {
            (0..3)
                .filter(|&axis| lattice.pbc[axis] == periodic)
                .map(|axis| points[axis])
                .product()
        };
        let modes = |periodic: bool, place: usize| -> [f64; 3] {
            let mut rest = place;
            let mut n = [0.0; 3];
            for axis in (0..3).filter(|&axis| lattice.pbc[axis] == periodic) {
                n[axis] = wave(rest % points[axis], points[axis]);
                rest /= points[axis];
            }
            n
        };
        out.parallel = (0..length(true))
            .into_par_iter()
            .with_min_len(64)
            .map(|place| {
                let n = modes(true, place);
                let k: [T; 3] = std::array::from_fn(|axis| {
                    lattice.reciprocal[0][axis] * n[0]
                        + lattice.reciprocal[1][axis] * n[1]
                        + lattice.reciprocal[2][axis] * n[2]
                });
                kernel.parallel(dot(&k, &k))
            })
            .collect();
        let step = 2.0 * std::f64::consts::PI / lattice.open_length;
        out.open = (0..length(false))
            .into_par_iter()
            .with_min_len(64)
            .map(|place| {
                let n = modes(false, place);
                kernel.open(n.iter().map(|n| (step * n) * (step * n)).sum())
            })
            .collect();
        out
    }

    /// Place of a mode in one of the tables.
    #[inline(always)]
    fn place(&self, periodic: bool, modes: [usize; 3]) -> usize {
        let mut place = 0;
        for axis in (0..3).rev().filter(|&axis| self.pbc[axis] == periodic) {
            place = place * self.points[axis] + modes[axis];
        }
        place
    }

    /// G and dG/d(k∥²) of one mode, k² given.
    #[inline(always)]
    fn evaluate(&self, modes: [usize; 3], square: T) -> (T, T) {
        if modes == [0; 3] {
            return (T::constant(self.kernel.at_zero()), T::zero());
        }
        if self.dimensions == 3 {
            let inverse = square.recip();
            let value = inverse * (4.0 * std::f64::consts::PI);
            return (value, -(value * inverse));
        }
        let parallel = &self.parallel[self.place(true, modes)];
        self.kernel
            .combine(parallel, &self.open[self.place(false, modes)])
    }
}

impl<T: Scalar> Influence<T> {
    /// `widths` are those of all Gaussians, `order` that of the splines.
    pub fn new(lattice: &Lattice<T>, points: [usize; 3], order: usize, widths: &[f64]) -> Self {
        let metric = std::array::from_fn(|i| {
            std::array::from_fn(|j| dot(&lattice.reciprocal[i], &lattice.reciprocal[j]))
        });
        Self {
            points,
            widths: widths.to_vec(),
            waves: (0..points[0]).map(|x| wave(x, points[0])).collect(),
            metric,
            kernel: Separable::new(lattice, points),
            scale: lattice.volume.recip() * COULOMB_CONSTANT,
            splines: points.map(|n| deconvolution(n, order)),
            kept: None,
        }
    }

    /// Numbers in the factors of `width` columns.
    fn length(&self, width: usize) -> usize {
        (1 + self.widths.len()) * width * self.points[0]
    }

    /// Columns along x at one y: half the spectrum.
    fn half(&self) -> usize {
        self.points[2] / 2 + 1
    }

    /// Computes all factors, for many evaluations.
    pub fn keep(&mut self) {
        let (half, row) = (self.half(), self.length(self.half()));
        let mut kept = vec![T::zero(); self.points[1] * row];
        kept.par_chunks_mut(row)
            .enumerate()
            .for_each_init(Vec::new, |squares, (y, row)| {
                self.fill(y, 0, half, squares, row);
            });
        self.kept = Some(kept);
    }

    /// Factors of `width` columns of modes from (y, z) on: kept ones, or fresh ones in `work`.
    #[inline(always)]
    pub fn columns<'a>(
        &'a self,
        y: usize,
        z: usize,
        width: usize,
        work: &'a mut Factors<T>,
    ) -> Columns<'a, T> {
        let (nx, half) = (self.points[0], self.half());
        if let Some(kept) = &self.kept {
            let row = self.length(half);
            return Columns {
                values: &kept[y * row..][..row],
                stride: half * nx,
                range: z * nx..(z + width) * nx,
            };
        }
        let Factors { values, squares } = work;
        let values = resized(values, self.length(width));
        self.fill(y, z, width, squares, values);
        Columns {
            values,
            stride: width * nx,
            range: 0..width * nx,
        }
    }

    /// Computes the factors of `width` columns from (y, z) on, laid out as in [`Columns`].
    #[inline(always)]
    fn fill(&self, y: usize, z: usize, width: usize, squares: &mut Vec<T>, out: &mut [T]) {
        let nx = self.points[0];
        let squares = resized(squares, width * nx);
        for (column, squares) in squares.chunks_exact_mut(nx).enumerate() {
            self.squares(y, z + column, squares);
        }
        let (weights, gaussians) = out.split_at_mut(width * nx);
        let rows = gaussians.chunks_exact_mut(width * nx);
        for (gaussian, &width) in rows.zip(&self.widths) {
            let factor = -0.5 * width * width;
            for (value, &square) in gaussian.iter_mut().zip(&*squares) {
                *value = square * factor;
            }
            T::exp_all(gaussian);
        }
        let columns = weights
            .chunks_exact_mut(nx)
            .zip(squares.chunks_exact_mut(nx));
        for (column, (weights, squares)) in columns.enumerate() {
            let z = z + column;
            if self.periodic() {
                self.bulk_weights(y, z, squares, weights);
                continue;
            }
            for x in 0..nx {
                weights[x] = self.mode([x, y, z], squares[x]).0;
            }
        }
    }

    /// k² along a column of modes in x.
    #[inline(always)]
    pub fn squares(&self, y: usize, z: usize, out: &mut [T]) {
        let [_, ny, nz] = self.points;
        let (n1, n2) = (wave(y, ny), wave(z, nz));
        let g = &self.metric;
        let constant = g[1][1] * (n1 * n1) + g[2][2] * (n2 * n2) + g[1][2] * (2.0 * n1 * n2);
        let linear = (g[0][1] * n1 + g[0][2] * n2) * 2.0;
        for (out, &n0) in out.iter_mut().zip(&self.waves) {
            *out = constant + (linear + g[0][0] * n0) * n0;
        }
    }

    /// True if all axes are periodic, so that G = 4π/k².
    pub fn periodic(&self) -> bool {
        self.kernel.dimensions == 3
    }

    /// 4πK D²/V k² along a column.
    #[inline(always)]
    fn bulk_weights(&self, y: usize, z: usize, squares: &mut [T], out: &mut [T]) {
        let along = self.splines[1][y] * self.splines[2][z];
        let factor = self.scale * (4.0 * std::f64::consts::PI * along * along);
        if y == 0 && z == 0 {
            squares[0] = T::constant(1.0);
        }
        for ((out, &square), spline) in out.iter_mut().zip(&*squares).zip(&self.splines[0]) {
            *out = factor * square.recip() * (spline * spline);
        }
        if y == 0 && z == 0 {
            out[0] = T::zero();
        }
    }

    /// K G D²/V of one mode and its derivative in k∥², from k².
    #[inline(always)]
    pub fn mode(&self, modes: [usize; 3], square: T) -> (T, T) {
        let spline =
            self.splines[0][modes[0]] * self.splines[1][modes[1]] * self.splines[2][modes[2]];
        if spline == 0.0 {
            return (T::zero(), T::zero());
        }
        let factor = self.scale * (spline * spline);
        let (value, slope) = self.kernel.evaluate(modes, square);
        (value * factor, slope * factor)
    }
}
