//! From structure factors on the mesh to potentials on it, column by column along x: the last transform, the product
//! with the influence function and the first transform back, in one pass through memory.

use super::grid::{Field, Shared, TOGETHER, Transforms, resized};
use super::influence::{Columns, Factors, Influence, wave};
use crate::arithmetic::dispatch::{ANY_DEGREE, dispatch};
use crate::arithmetic::{LANES, Scalar};
use rayon::prelude::*;
use rustfft::num_complex::Complex;

/// The fields of one side: sources or receivers.
pub struct Side<'a> {
    pub fields: &'a mut [Field],
    /// Width of each field, as a place in the influence function's list.
    pub widths: &'a [usize],
    /// True if the fields hold densities.
    pub given: bool,
    /// True if the fields receive potentials.
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

/// A density's transform and the one weighted by -w²/2 of each Gaussian, real and imaginary parts.
struct Spectrum<T> {
    value: [Vec<T>; 2],
    by_width: [Vec<T>; 2],
}

impl<T> Spectrum<T> {
    fn new() -> Self {
        Self {
            value: [Vec::new(), Vec::new()],
            by_width: [Vec::new(), Vec::new()],
        }
    }
}

/// Columns of one field, one array for each part of the scalar.
#[derive(Default)]
struct Buffers {
    columns: [Vec<Complex<f64>>; 2],
    scratch: Vec<Complex<f64>>,
}

pub struct Scratch<T> {
    buffers: Buffers,
    source: Spectrum<T>,
    receiver: Spectrum<T>,
    /// k², and two functions of the modes, along a column.
    rows: [Vec<T>; 3],
    factors: Factors<T>,
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
    let plane = transforms.plane;
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
    let receivers: Option<Vec<Vec<Shared>>> = receiver.as_deref_mut().map(share);
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
            || Scratch {
                buffers: Buffers::default(),
                source: Spectrum::new(),
                receiver: Spectrum::new(),
                rows: [Vec::new(), Vec::new(), Vec::new()],
                factors: Factors::new(),
            },
            |work, y| {
                let mut row = Row {
                    pass: &pass,
                    source: (source, &sources),
                    receiver: receiver.zip(receivers.as_deref()),
                    y,
                    work,
                };
                // The degree plays no part here.
                convolve_row::<T, ANY_DEGREE>(&mut row)
            },
        )
        .collect();
    let mut out = Sums::zero();
    for row in &rows {
        out.add(row);
    }
    out
}

/// One side with access to its grids.
type Shares<'a> = (&'a Side<'a>, &'a [Vec<Shared>]);

/// All columns of one y.
pub struct Row<'a, T> {
    pass: &'a Pass<'a, T>,
    source: Shares<'a>,
    receiver: Option<Shares<'a>>,
    y: usize,
    work: &'a mut Scratch<T>,
}

dispatch! {
    /// Transforms the columns of one y, multiplies them and transforms them back.
    fn convolve_row<T, L>(row: &mut Row<'_, T>) -> Sums<T> => body
}

#[inline(always)]
fn body<T: Scalar, const L: usize, const FMA: bool>(row: &mut Row<'_, T>) -> Sums<T> {
    let Row {
        pass,
        source: (source, sources),
        receiver,
        y,
        work,
    } = row;
    let half = pass.transforms.half();
    let mut sums = Sums::zero();
    for z in (0..half).step_by(TOGETHER) {
        let width = TOGETHER.min(half - z);
        let factors = pass.influence.columns(*y, z, width, &mut work.factors);
        let block = Block {
            y: *y,
            z,
            width,
            factors,
        };
        let buffers = &mut work.buffers;
        // SAFETY: the columns of this y are this call's own.
        unsafe {
            if source.given {
                pass.load(&block, source, sources, &mut work.source, buffers);
            }
            if let Some((receiver, receivers)) = receiver
                && receiver.given
            {
                pass.load(&block, receiver, receivers, &mut work.receiver, buffers);
            }
            if pass.with_value {
                let other = match receiver {
                    Some(_) => &work.receiver,
                    None => &work.source,
                };
                pass.sum(&block, &work.source, other, &mut work.rows, &mut sums);
            }
            match receiver {
                Some((receiver, receivers)) => {
                    if receiver.wanted {
                        pass.store(&block, receiver, receivers, &work.source, buffers);
                    }
                    if source.wanted {
                        pass.store(&block, source, sources, &work.receiver, buffers);
                    }
                }
                None => pass.store(&block, source, sources, &work.source, buffers),
            }
        }
    }
    sums
}

/// Neighbouring columns along x.
struct Block<'a, T> {
    y: usize,
    z: usize,
    width: usize,
    factors: Columns<'a, T>,
}

pub struct Pass<'a, T> {
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
    #[inline(always)]
    unsafe fn load(
        &self,
        block: &Block<T>,
        side: &Side,
        grids: &[Vec<Shared>],
        spectrum: &mut Spectrum<T>,
        work: &mut Buffers,
    ) {
        let nx = self.transforms.points[0];
        let n = block.width * nx;
        let place = block.y * self.transforms.stride + block.z;
        let fft = &*self.transforms.forward_x;
        let by_width = self.with_cell && self.with_value && self.only_width().is_none();
        let Spectrum {
            value: [re, im],
            by_width: [re_width, im_width],
        } = spectrum;
        let [re, im] = [cleared(re, n), cleared(im, n)];
        let n_width = if by_width { n } else { 0 };
        let [re_width, im_width] = [cleared(re_width, n_width), cleared(im_width, n_width)];
        for (parts, &width) in grids.iter().zip(side.widths) {
            let scratch = resized(&mut work.scratch, fft.get_inplace_scratch_len());
            for (part, columns) in parts.iter().zip(&mut work.columns) {
                let columns = resized(columns, n);
                // SAFETY: by contract.
                unsafe { part.load(place, block.width, nx, columns) };
                fft.process_with_scratch(columns, scratch);
            }
            let gaussian = &block.factors.gaussian(width)[..n];
            let first = &work.columns[0][..n];
            let second = &work.columns[T::PARTS - 1][..n];
            let weight = -0.5 * self.widths[width] * self.widths[width];
            let pick = |part: usize, k: usize| if part == 0 { first[k] } else { second[k] };
            for k in 0..n {
                re[k] += gaussian[k] * T::from_parts(|part| pick(part, k).re);
                im[k] += gaussian[k] * T::from_parts(|part| pick(part, k).im);
            }
            if by_width {
                for k in 0..n {
                    let gaussian = gaussian[k] * weight;
                    re_width[k] += gaussian * T::from_parts(|part| pick(part, k).re);
                    im_width[k] += gaussian * T::from_parts(|part| pick(part, k).im);
                }
            }
        }
    }

    /// Potentials of a density's transform at the Gaussians of one side.
    ///
    /// # Safety
    /// As for [`Shared::store`].
    #[inline(always)]
    unsafe fn store(
        &self,
        block: &Block<T>,
        side: &Side,
        grids: &[Vec<Shared>],
        spectrum: &Spectrum<T>,
        work: &mut Buffers,
    ) {
        let nx = self.transforms.points[0];
        let n = block.width * nx;
        let place = block.y * self.transforms.stride + block.z;
        let fft = &*self.transforms.backward_x;
        let weights = &block.factors.weights()[..n];
        let (re, im) = (&spectrum.value[0][..n], &spectrum.value[1][..n]);
        for (parts, &width) in grids.iter().zip(side.widths) {
            let gaussian = &block.factors.gaussian(width)[..n];
            let scratch = resized(&mut work.scratch, fft.get_inplace_scratch_len());
            for (part, (grid, columns)) in parts.iter().zip(&mut work.columns).enumerate() {
                let columns = resized(columns, n);
                for k in 0..n {
                    let factor = weights[k] * gaussian[k];
                    columns[k] = Complex {
                        re: (factor * re[k]).part(part),
                        im: (factor * im[k]).part(part),
                    };
                }
                fft.process_with_scratch(columns, scratch);
                // SAFETY: by contract.
                unsafe { grid.store(place, block.width, nx, columns) };
            }
        }
    }

    /// The width of all Gaussians, if they have one: derivatives in k² through it are then those of one factor.
    #[inline(always)]
    fn only_width(&self) -> Option<f64> {
        match self.widths {
            [width] => Some(*width),
            _ => None,
        }
    }

    /// Adds the block's part of U and of its derivatives.
    #[inline(always)]
    fn sum(
        &self,
        block: &Block<T>,
        a: &Spectrum<T>,
        b: &Spectrum<T>,
        rows: &mut [Vec<T>; 3],
        sums: &mut Sums<T>,
    ) {
        let [nx, ny, nz] = self.transforms.points;
        let weights = block.factors.weights();
        let waves = &self.influence.waves[..nx];
        let [squares, products, derivatives] = rows;
        let squares = cleared(squares, nx);
        let products = cleared(products, nx);
        let derivatives = cleared(derivatives, nx);
        for column in 0..block.width {
            let z = block.z + column;
            // Modes of the other half of the spectrum count too.
            let multiplicity = if z == 0 || 2 * z == nz { 1.0 } else { 2.0 };
            let start = column * nx;
            let weights = &weights[start..][..nx];
            let (ar, ai) = (&a.value[0][start..][..nx], &a.value[1][start..][..nx]);
            let (br, bi) = (&b.value[0][start..][..nx], &b.value[1][start..][..nx]);
            for x in 0..nx {
                products[x] = weights[x] * (ar[x] * br[x] + ai[x] * bi[x]);
            }
            let [value, ..] = moments(products, waves);
            sums.value += value * multiplicity;
            if !self.with_cell {
                continue;
            }
            if let Some(width) = self.only_width() {
                for x in 0..nx {
                    derivatives[x] = products[x] * -(width * width);
                }
            } else {
                let (awr, awi) = (&a.by_width[0][start..][..nx], &a.by_width[1][start..][..nx]);
                let (bwr, bwi) = (&b.by_width[0][start..][..nx], &b.by_width[1][start..][..nx]);
                for x in 0..nx {
                    let widths = awr[x] * br[x] + awi[x] * bi[x] + ar[x] * bwr[x] + ai[x] * bwi[x];
                    derivatives[x] = weights[x] * widths;
                }
            }
            self.influence.squares(block.y, z, squares);
            let n = [wave(block.y, ny), wave(z, nz)];
            if self.influence.periodic() {
                // dG/dk² = -G/k²
                if block.y == 0 && z == 0 {
                    squares[0] = T::constant(1.0);
                }
                for x in 0..nx {
                    derivatives[x] -= products[x] * squares[x].recip();
                }
                let m = moments(derivatives, waves).map(|m| m * multiplicity);
                add_moments(&mut sums.gaussian, m, n);
                continue;
            }
            let m = moments(derivatives, waves).map(|m| m * multiplicity);
            add_moments(&mut sums.gaussian, m, n);
            for x in 0..nx {
                let product = ar[x] * br[x] + ai[x] * bi[x];
                let slope = self.influence.mode([x, block.y, z], squares[x]).1;
                derivatives[x] = slope * product;
            }
            let m = moments(derivatives, waves).map(|m| m * multiplicity);
            add_moments(&mut sums.kernel, m, n);
        }
    }
}

/// Zeros, `n` of them.
fn cleared<T: Scalar>(values: &mut Vec<T>, n: usize) -> &mut [T] {
    values.clear();
    values.resize(n, T::zero());
    values
}

/// Σ f, Σ f n and Σ f n² along a column.
#[inline(always)]
fn moments<T: Scalar>(values: &[T], waves: &[f64]) -> [T; 3] {
    let mut sums = [[T::zero(); LANES]; 3];
    let (packs, rest) = values.as_chunks::<LANES>();
    let (wave_packs, wave_rest) = waves.as_chunks::<LANES>();
    for (values, waves) in packs.iter().zip(wave_packs) {
        for lane in 0..LANES {
            let first = values[lane] * waves[lane];
            sums[0][lane] += values[lane];
            sums[1][lane] += first;
            sums[2][lane] += first * waves[lane];
        }
    }
    for (lane, (&value, &wave)) in rest.iter().zip(wave_rest).enumerate() {
        sums[0][lane] += value;
        sums[1][lane] += value * wave;
        sums[2][lane] += value * (wave * wave);
    }
    sums.map(|lanes| {
        let mut sum = T::zero();
        for lane in lanes {
            sum += lane;
        }
        sum
    })
}

/// Adds Σ f n_i n_j of a column with the wave numbers (n_y, n_z), from its moments.
fn add_moments<T: Scalar>(target: &mut [[T; 3]; 3], m: [T; 3], n: [f64; 2]) {
    target[0][0] += m[2];
    for (i, &ni) in n.iter().enumerate() {
        target[0][i + 1] += m[1] * ni;
        target[i + 1][0] += m[1] * ni;
        for (j, &nj) in n.iter().enumerate() {
            target[i + 1][j + 1] += m[0] * (ni * nj);
        }
    }
}
