//! What the mesh's Fourier modes are multiplied with: the Coulomb kernel without the splines' own transform, and the
//! Gaussians.

use super::grid::Transforms;
use crate::ewald::kernel::{Kernel, Open, Parallel};
use crate::lattice::{Lattice, dimensions};
use crate::scalar::Scalar;
use crate::units::COULOMB_CONSTANT;
use crate::vector::{Matrix, dot};
use rayon::prelude::*;

/// Wave number of mode `i` of `n`.
#[inline(always)]
pub fn wave(i: usize, n: usize) -> f64 {
    if 2 * i > n {
        i as f64 - n as f64
    } else {
        i as f64
    }
}

/// Factors of all modes, `[y][z][x]` with the half spectrum along z.
pub struct Influence<T> {
    points: [usize; 3],
    /// Wave numbers along x.
    pub waves: Vec<f64>,
    metric: Matrix<T>,
    kernel: Separable<T>,
    /// K/V and the splines' factors along x, y, z.
    scale: T,
    splines: [Vec<f64>; 3],
    /// K G(k) D(k)² / V.
    pub weights: Vec<T>,
    /// exp(-k² w² / 2) for each width w.
    pub gaussians: Vec<Vec<T>>,
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
    pub fn new(
        lattice: &Lattice<T>,
        transforms: &Transforms,
        order: usize,
        widths: &[f64],
    ) -> Self {
        let points = transforms.points;
        let half = transforms.half();
        let metric = std::array::from_fn(|i| {
            std::array::from_fn(|j| dot(&lattice.reciprocal[i], &lattice.reciprocal[j]))
        });
        let mut out = Self {
            points,
            waves: (0..points[0]).map(|x| wave(x, points[0])).collect(),
            metric,
            kernel: Separable::new(lattice, points),
            scale: lattice.volume.recip() * COULOMB_CONSTANT,
            splines: points.map(|n| deconvolution(n, order)),
            weights: Vec::new(),
            gaussians: Vec::new(),
        };
        let [nx, ny, _] = points;
        let n_modes = nx * ny * half;
        let mut weights = vec![T::zero(); n_modes];
        weights
            .par_chunks_mut(nx * half)
            .enumerate()
            .for_each(|(y, plane)| {
                let mut squares = vec![T::zero(); nx];
                for (z, row) in plane.chunks_mut(nx).enumerate() {
                    out.squares(y, z, &mut squares);
                    if out.periodic() {
                        out.bulk_weights(y, z, &mut squares, row);
                        continue;
                    }
                    for x in 0..nx {
                        row[x] = out.mode([x, y, z], squares[x]).0;
                    }
                }
            });
        let gaussians = widths
            .iter()
            .map(|&width| {
                let mut values = vec![T::zero(); n_modes];
                values
                    .par_chunks_mut(nx * half)
                    .enumerate()
                    .for_each(|(y, plane)| {
                        let factor = -0.5 * width * width;
                        for (z, row) in plane.chunks_mut(nx).enumerate() {
                            out.squares(y, z, row);
                            row.iter_mut().for_each(|value| *value = *value * factor);
                            T::exp_all(row);
                        }
                    });
                values
            })
            .collect();
        out.weights = weights;
        out.gaussians = gaussians;
        out
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

    /// Whether all axes are periodic, so that G = 4π/k².
    pub fn periodic(&self) -> bool {
        self.kernel.dimensions == 3
    }

    /// 4πK D²/V k² along a column.
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

    /// Factors of `width` columns of modes from (y, z) on: a range of `weights` and of each of `gaussians`.
    pub fn columns(&self, y: usize, z: usize, width: usize) -> std::ops::Range<usize> {
        let nx = self.points[0];
        let start = (y * (self.points[2] / 2 + 1) + z) * nx;
        start..start + width * nx
    }
}
