//! From structure factors on the mesh to potentials on it, column by column along x: the last transform, the product
//! with the influence function and the first transform back, in one pass through memory.

use super::Field;
use super::grid::{Shared, TOGETHER, Transforms, resized};
use super::influence::{Influence, wave};
use crate::scalar::Scalar;
use rayon::prelude::*;
use rustfft::num_complex::Complex;

/// The fields of one side: sources or receivers.
pub struct Side<'a> {
    pub fields: &'a mut [Field],
    /// Width of each field, as a place in the influence function's list.
    pub widths: &'a [usize],
    /// Whether the fields hold densities.
    pub given: bool,
    /// Whether the fields shall receive potentials.
    pub wanted: bool,
}

/// U and its derivatives in the metric of the reciprocal lattice, through the Gaussians and through the kernel.
#[derive(Clone, Copy)]
pub struct Sums<T> {
    pub value: T,
    pub gaussian: [[T; 3]; 3],
    pub kernel: [[T; 3]; 3],
}

impl<T: Scalar> Sums<T> {
    fn zero() -> Self {
        Self {
            value: T::zero(),
            gaussian: [[T::zero(); 3]; 3],
            kernel: [[T::zero(); 3]; 3],
        }
    }

    fn add(&mut self, other: &Self) {
        self.value += other.value;
        for i in 0..3 {
            for j in 0..3 {
                self.gaussian[i][j] += other.gaussian[i][j];
                self.kernel[i][j] += other.kernel[i][j];
            }
        }
    }
}

/// A density's transform and the one weighted by -w²/2 of each Gaussian.
struct Spectrum<T> {
    value: Vec<[T; 2]>,
    by_width: Vec<[T; 2]>,
}

impl<T> Spectrum<T> {
    fn new() -> Self {
        Self {
            value: Vec::new(),
            by_width: Vec::new(),
        }
    }
}

/// Columns of one field, one array for each part of the scalar.
#[derive(Default)]
struct Buffers {
    columns: [Vec<Complex<f64>>; 2],
    scratch: Vec<Complex<f64>>,
}

struct Workspace<T> {
    buffers: Buffers,
    source: Spectrum<T>,
    receiver: Spectrum<T>,
    squares: Vec<T>,
}

/// Turns the densities' transforms along y and z into potentials'. Without receivers the potentials of the sources
/// replace them. Sums are made where both sides (or the sources alone) are given and `with_value`.
pub fn convolve<T: Scalar>(
    transforms: &Transforms,
    influence: &Influence<T>,
    widths: &[f64],
    source: &mut Side,
    mut receiver: Option<&mut Side>,
    with_value: bool,
    with_cell: bool,
) -> Sums<T> {
    let plane = transforms.plane();
    let share = |side: &mut Side| -> Vec<Vec<Shared>> {
        side.fields
            .iter_mut()
            .map(|field| {
                field
                    .iter_mut()
                    .map(|grid| Shared::new(grid, plane))
                    .collect()
            })
            .collect()
    };
    let sources = share(source);
    let receivers = receiver.as_deref_mut().map(share);
    let pass = Pass {
        transforms,
        influence,
        widths,
        with_value,
        with_cell,
    };
    let (source, receiver) = (&*source, receiver.as_deref());
    let rows: Vec<Sums<T>> = (0..transforms.points[1])
        .into_par_iter()
        .map_init(
            || Workspace {
                buffers: Buffers::default(),
                source: Spectrum::new(),
                receiver: Spectrum::new(),
                squares: Vec::new(),
            },
            |work, y| {
                let mut sums = Sums::zero();
                for z in (0..transforms.half()).step_by(TOGETHER) {
                    let width = TOGETHER.min(transforms.half() - z);
                    let block = Block { y, z, width };
                    // SAFETY: this row's columns are this iteration's own.
                    unsafe {
                        if source.given {
                            let buffers = &mut work.buffers;
                            pass.load(&block, source, &sources, &mut work.source, buffers);
                        }
                        if let (Some(receiver), Some(receivers)) = (receiver, &receivers)
                            && receiver.given
                        {
                            let buffers = &mut work.buffers;
                            pass.load(&block, receiver, receivers, &mut work.receiver, buffers);
                        }
                        if with_value {
                            let other = match receiver {
                                Some(_) => &work.receiver,
                                None => &work.source,
                            };
                            pass.sum(&block, &work.source, other, &mut work.squares, &mut sums);
                        }
                        let buffers = &mut work.buffers;
                        match (receiver, &receivers) {
                            (Some(receiver), Some(receivers)) => {
                                if receiver.wanted {
                                    pass.store(&block, receiver, receivers, &work.source, buffers);
                                }
                                if source.wanted {
                                    pass.store(&block, source, &sources, &work.receiver, buffers);
                                }
                            }
                            _ => pass.store(&block, source, &sources, &work.source, buffers),
                        }
                    }
                }
                sums
            },
        )
        .collect();
    let mut out = Sums::zero();
    for row in &rows {
        out.add(row);
    }
    out
}

/// Neighbouring columns along x.
struct Block {
    y: usize,
    z: usize,
    width: usize,
}

struct Pass<'a, T> {
    transforms: &'a Transforms,
    influence: &'a Influence<T>,
    widths: &'a [f64],
    with_value: bool,
    with_cell: bool,
}

impl<T: Scalar> Pass<'_, T> {
    /// The transform of one side's density in a block.
    ///
    /// # Safety
    /// As for [`Shared::load`].
    unsafe fn load(
        &self,
        block: &Block,
        side: &Side,
        grids: &[Vec<Shared>],
        spectrum: &mut Spectrum<T>,
        work: &mut Buffers,
    ) {
        let nx = self.transforms.points[0];
        let n = block.width * nx;
        let place = block.y * self.transforms.stride + block.z;
        let fft = &*self.transforms.forward_x;
        let range = self.influence.columns(block.y, block.z, block.width);
        spectrum.value.clear();
        spectrum.value.resize(n, [T::zero(); 2]);
        let by_width = self.with_cell && self.with_value;
        spectrum.by_width.clear();
        if by_width {
            spectrum.by_width.resize(n, [T::zero(); 2]);
        }
        for (parts, &width) in grids.iter().zip(side.widths) {
            let scratch = resized(&mut work.scratch, fft.get_inplace_scratch_len());
            for (part, columns) in parts.iter().zip(&mut work.columns) {
                let columns = resized(columns, n);
                // SAFETY: by contract.
                unsafe { part.load(place, block.width, nx, columns) };
                fft.process_with_scratch(columns, scratch);
            }
            let gaussian = &self.influence.gaussians[width][range.clone()];
            let [first, second] = &work.columns;
            let weight = -0.5 * self.widths[width] * self.widths[width];
            for k in 0..n {
                let pick = |part: usize| if part == 0 { &first[k] } else { &second[k] };
                let re = gaussian[k] * T::from_parts(|part| pick(part).re);
                let im = gaussian[k] * T::from_parts(|part| pick(part).im);
                spectrum.value[k][0] += re;
                spectrum.value[k][1] += im;
                if by_width {
                    spectrum.by_width[k][0] += re * weight;
                    spectrum.by_width[k][1] += im * weight;
                }
            }
        }
    }

    /// Potentials of a density's transform at the Gaussians of one side.
    ///
    /// # Safety
    /// As for [`Shared::store`].
    unsafe fn store(
        &self,
        block: &Block,
        side: &Side,
        grids: &[Vec<Shared>],
        spectrum: &Spectrum<T>,
        work: &mut Buffers,
    ) {
        let nx = self.transforms.points[0];
        let n = block.width * nx;
        let place = block.y * self.transforms.stride + block.z;
        let fft = &*self.transforms.backward_x;
        let range = self.influence.columns(block.y, block.z, block.width);
        let weights = &self.influence.weights[range.clone()];
        for (parts, &width) in grids.iter().zip(side.widths) {
            let gaussian = &self.influence.gaussians[width][range.clone()];
            for (part, columns) in work.columns.iter_mut().enumerate().take(T::PARTS) {
                let columns = resized(columns, n);
                for (k, column) in columns.iter_mut().enumerate() {
                    let factor = weights[k] * gaussian[k];
                    column.re = (factor * spectrum.value[k][0]).part(part);
                    column.im = (factor * spectrum.value[k][1]).part(part);
                }
            }
            let scratch = resized(&mut work.scratch, fft.get_inplace_scratch_len());
            for (part, columns) in parts.iter().zip(&mut work.columns) {
                let columns = &mut columns[..n];
                fft.process_with_scratch(columns, scratch);
                // SAFETY: by contract.
                unsafe { part.store(place, block.width, nx, columns) };
            }
        }
    }

    /// Adds the block's part of U and of its derivatives.
    fn sum(
        &self,
        block: &Block,
        a: &Spectrum<T>,
        b: &Spectrum<T>,
        squares: &mut Vec<T>,
        sums: &mut Sums<T>,
    ) {
        let [nx, ny, nz] = self.transforms.points;
        let range = self.influence.columns(block.y, block.z, block.width);
        let weights = &self.influence.weights[range];
        let zero = T::zero();
        squares.clear();
        squares.resize(nx, zero);
        for column in 0..block.width {
            let z = block.z + column;
            // Modes of the other half of the spectrum count too.
            let multiplicity = if z == 0 || 2 * z == nz { 1.0 } else { 2.0 };
            let start = column * nx;
            let (a_value, b_value) = (&a.value[start..][..nx], &b.value[start..][..nx]);
            let weights = &weights[start..][..nx];
            if !self.with_cell {
                let mut partial = [zero; 4];
                for x in 0..nx {
                    let (a, b) = (a_value[x], b_value[x]);
                    partial[x % 4] += weights[x] * (a[0] * b[0] + a[1] * b[1]);
                }
                let total = (partial[0] + partial[2]) + (partial[1] + partial[3]);
                sums.value += total * multiplicity;
                continue;
            }
            let (a_width, b_width) = (&a.by_width[start..][..nx], &b.by_width[start..][..nx]);
            self.influence.squares(block.y, z, squares);
            let mut value = zero;
            // Moments 1, n_x, n_x² of the two derivatives.
            let (mut gaussian, mut kernel) = ([zero; 3], [zero; 3]);
            for x in 0..nx {
                let (a, b) = (a_value[x], b_value[x]);
                let (aw, bw) = (a_width[x], b_width[x]);
                let product = a[0] * b[0] + a[1] * b[1];
                value += weights[x] * product;
                let widths = aw[0] * b[0] + aw[1] * b[1] + a[0] * bw[0] + a[1] * bw[1];
                let first = weights[x] * widths;
                let second = self.influence.mode([x, block.y, z], squares[x]).1 * product;
                let n = wave(x, nx);
                for (moment, power) in [1.0, n, n * n].into_iter().enumerate() {
                    gaussian[moment] += first * power;
                    kernel[moment] += second * power;
                }
            }
            sums.value += value * multiplicity;
            let n = [wave(block.y, ny), wave(z, nz)];
            for (target, m) in [
                (&mut sums.gaussian, gaussian),
                (&mut sums.kernel, kernel),
            ] {
                let m = m.map(|m| m * multiplicity);
                target[0][0] += m[2];
                for (i, &ni) in n.iter().enumerate() {
                    target[0][i + 1] += m[1] * ni;
                    target[i + 1][0] += m[1] * ni;
                    for (j, &nj) in n.iter().enumerate() {
                        target[i + 1][j + 1] += m[0] * (ni * nj);
                    }
                }
            }
        }
    }
}
