//! A real field on the mesh and its transforms along y and z, plane by plane.
//!
//! Layout `[x][y][z]`; a row along z holds the real values with room for splines that reach beyond its end, and after
//! the transform the half spectrum in the same place.

use super::splines::MAX_ORDER;
use crate::arithmetic::workspace::Workspace;
use rayon::prelude::*;
use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};
use rustfft::{Fft, FftPlanner, num_complex::Complex};
use std::sync::{Arc, LazyLock, Mutex};

/// One real field for each part of the scalar.
pub type Field = Vec<Workspace<Complex<f64>>>;

/// Columns transformed together: two cache lines of complex numbers.
pub const TOGETHER: usize = 8;

/// Plans of the one-dimensional transforms, in both directions.
pub struct Transforms {
    pub points: [usize; 3],
    /// Complex numbers in a row along z.
    pub stride: usize,
    /// Complex numbers in a plane.
    pub plane: usize,
    pub forward_x: Arc<dyn Fft<f64>>,
    pub backward_x: Arc<dyn Fft<f64>>,
    forward_y: Arc<dyn Fft<f64>>,
    backward_y: Arc<dyn Fft<f64>>,
    forward_z: Arc<dyn RealToComplex<f64>>,
    backward_z: Arc<dyn ComplexToReal<f64>>,
}

/// Plans are made once per length.
static PLANNERS: LazyLock<Mutex<(FftPlanner<f64>, RealFftPlanner<f64>)>> =
    LazyLock::new(|| Mutex::new((FftPlanner::new(), RealFftPlanner::new())));

/// Complex numbers that fill an odd number of cache lines, so that columns through memory use all sets of the caches.
fn odd_lines(n: usize) -> usize {
    (n.div_ceil(4) | 1) * 4
}

impl Transforms {
    pub fn new(points: [usize; 3]) -> Self {
        let mut planners = PLANNERS
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let (complex, real) = &mut *planners;
        let [nx, ny, nz] = points;
        // Room for a spline that starts at the last point, and whole cache lines.
        let stride = odd_lines((nz / 2 + 1).max((nz + MAX_ORDER).div_ceil(2)));
        Self {
            points,
            stride,
            plane: odd_lines(ny * stride),
            forward_x: complex.plan_fft_forward(nx),
            backward_x: complex.plan_fft_inverse(nx),
            forward_y: complex.plan_fft_forward(ny),
            backward_y: complex.plan_fft_inverse(ny),
            forward_z: real.plan_fft_forward(nz),
            backward_z: real.plan_fft_inverse(nz),
        }
    }

    /// Complex numbers along z.
    pub fn half(&self) -> usize {
        self.points[2] / 2 + 1
    }

    /// Adds the points beyond the ends to those that they repeat, and transforms planes along z and y.
    pub fn forward_planes(&self, planes: &mut [Complex<f64>]) {
        let [_, ny, nz] = self.points;
        planes
            .par_chunks_mut(self.plane)
            .for_each_init(Scratch::default, |work, plane| {
                let scratch = resized(&mut work.scratch, self.forward_z.get_scratch_len());
                let input = resized(&mut work.real, nz);
                for row in plane[..ny * self.stride].chunks_mut(self.stride) {
                    let values: &mut [f64] = bytemuck::cast_slice_mut(row);
                    for z in nz..nz + MAX_ORDER {
                        values[z % nz] += values[z];
                    }
                    input.copy_from_slice(&values[..nz]);
                    let row = &mut row[..nz / 2 + 1];
                    self.forward_z
                        .process_with_scratch(input, row, scratch)
                        .expect("lengths are those of the plan");
                }
                self.columns(&*self.forward_y, plane, ny, work);
            });
    }

    /// Transforms all planes back along y and z, and repeats the beginning of each row after its end.
    pub fn backward_planes(&self, grid: &mut [Complex<f64>]) {
        let [_, ny, nz] = self.points;
        grid.par_chunks_mut(self.plane)
            .for_each_init(Scratch::default, |work, plane| {
                self.columns(&*self.backward_y, plane, ny, work);
                let scratch = resized(&mut work.scratch, self.backward_z.get_scratch_len());
                let input = resized(&mut work.complex, nz / 2 + 1);
                for row in plane[..ny * self.stride].chunks_mut(self.stride) {
                    input.copy_from_slice(&row[..nz / 2 + 1]);
                    // Real by symmetry, up to rounding.
                    input[0].im = 0.0;
                    if nz.is_multiple_of(2) {
                        input[nz / 2].im = 0.0;
                    }
                    let values: &mut [f64] = bytemuck::cast_slice_mut(row);
                    self.backward_z
                        .process_with_scratch(input, &mut values[..nz], scratch)
                        .expect("lengths are those of the plan");
                    for z in nz..nz + MAX_ORDER {
                        values[z] = values[z - nz];
                    }
                }
            });
    }

    /// Transforms the columns of a plane along y.
    fn columns(
        &self,
        fft: &dyn Fft<f64>,
        plane: &mut [Complex<f64>],
        ny: usize,
        work: &mut Scratch,
    ) {
        let half = self.half();
        let scratch = resized(&mut work.scratch, fft.get_inplace_scratch_len());
        let columns = resized(&mut work.complex, TOGETHER * ny);
        for first in (0..half).step_by(TOGETHER) {
            let width = TOGETHER.min(half - first);
            for y in 0..ny {
                let row = &plane[y * self.stride + first..][..width];
                for (column, &value) in row.iter().enumerate() {
                    columns[column * ny + y] = value;
                }
            }
            fft.process_with_scratch(&mut columns[..width * ny], scratch);
            for y in 0..ny {
                let row = &mut plane[y * self.stride + first..][..width];
                for (column, value) in row.iter_mut().enumerate() {
                    *value = columns[column * ny + y];
                }
            }
        }
    }
}

#[derive(Default)]
struct Scratch {
    real: Vec<f64>,
    complex: Vec<Complex<f64>>,
    scratch: Vec<Complex<f64>>,
}

/// The first `n` entries, allocated if need be; their contents are arbitrary.
#[inline(always)]
pub fn resized<V: Clone + Default>(values: &mut Vec<V>, n: usize) -> &mut [V] {
    if values.len() < n {
        values.resize(n, V::default());
    }
    &mut values[..n]
}

/// Access to a grid by columns along x from many threads, each (y, z) by one thread only.
#[derive(Clone, Copy)]
pub struct Shared {
    first: *mut Complex<f64>,
    length: usize,
    plane: usize,
}

// SAFETY: `load` and `store` are the only accesses, and callers touch disjoint columns.
unsafe impl Send for Shared {}
unsafe impl Sync for Shared {}

impl Shared {
    pub fn new(grid: &mut [Complex<f64>], plane: usize) -> Self {
        Self {
            first: grid.as_mut_ptr(),
            length: grid.len(),
            plane,
        }
    }

    #[inline(always)]
    fn check(&self, place: usize, width: usize, nx: usize) {
        assert!(nx == 0 || (nx - 1) * self.plane + place + width <= self.length);
    }

    /// Copies `width` neighbouring columns into `out[column][x]`.
    ///
    /// # Safety
    /// No other thread writes these columns, and the grid is borrowed mutably for as long as `self` is used.
    #[inline(always)]
    pub unsafe fn load(&self, place: usize, width: usize, nx: usize, out: &mut [Complex<f64>]) {
        self.check(place, width, nx);
        for x in 0..nx {
            for column in 0..width {
                // SAFETY: inside the grid by the check above; not written elsewhere by contract.
                out[column * nx + x] = unsafe { *self.first.add(x * self.plane + place + column) };
            }
        }
    }

    /// Copies `values[column][x]` into `width` neighbouring columns.
    ///
    /// # Safety
    /// As for `load`, and no other thread reads them.
    #[inline(always)]
    pub unsafe fn store(&self, place: usize, width: usize, nx: usize, values: &[Complex<f64>]) {
        self.check(place, width, nx);
        for x in 0..nx {
            for column in 0..width {
                // SAFETY: inside the grid by the check above; not used elsewhere by contract.
                unsafe {
                    *self.first.add(x * self.plane + place + column) = values[column * nx + x]
                };
            }
        }
    }
}
