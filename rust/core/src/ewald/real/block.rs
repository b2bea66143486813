//! One block of pairs: gather, interact, scatter, eight pairs at a time.

use super::charges_dipoles;
use super::list::Block;
use super::widths::{MAX_PARTS, Parts, Widths, complete, parts};
use crate::arithmetic::dispatch::{ANY_DEGREE, Avx512, dispatch};
use crate::arithmetic::vector::{Matrix, Vector};
use crate::arithmetic::{F64x8, LANES, Pack, Scalar};
use crate::ewald::density::Density;
use crate::ewald::pair::{PairOutput, PairTable, square};
use crate::special::boys::BoysTable;
use crate::special::harmonics::count;
use crate::special::radial::{Part, add_radial};

/// One channel of the sources of a block, side by side.
pub struct Gathered<T> {
    /// `[image][x, y, z, coefficients]`, rows of [`row_length`].
    pub values: Vec<T>,
    stride: usize,
    pub widths: Widths,
    pub avx512: Avx512,
}

impl<T: Scalar> Gathered<T> {
    pub fn new(work: &Work<T>) -> Self {
        let Work { block, source, .. } = *work;
        let stride = row_length::<ANY_DEGREE>(source.n_lm());
        let n_lm = source.n_lm();
        let mut values = vec![T::zero(); block.images.len() * stride];
        let rows = values.chunks_exact_mut(stride).zip(&block.images);
        for (row, image) in rows.skip(1) {
            let site = image.site as usize;
            row[..3].copy_from_slice(&source.positions[site]);
            for axis in 0..3 {
                if image.shift[axis] != 0 {
                    let factor = T::constant(image.shift[axis] as f64);
                    for (x, &vector) in row.iter_mut().zip(&work.cell[axis]) {
                        *x += vector * factor;
                    }
                }
            }
            row[3..3 + n_lm].copy_from_slice(source.at(site, work.channel));
        }
        let images = block.images[1..].iter();
        let widths = images.map(|image| source.width(image.site as usize, work.channel));
        Self {
            values,
            stride,
            widths: Widths::new(widths),
            avx512: Avx512::detect(),
        }
    }

    /// Unused lanes hold the first source of the row, without its multipoles.
    #[inline(always)]
    pub fn start_row(&mut self, packs: &[[u32; LANES]]) {
        if let Some(first) = packs.first() {
            let place = first[0] as usize * self.stride;
            self.values.copy_within(place..place + 3, 0);
        }
    }

    #[inline(always)]
    pub fn places(&self, pack: &[u32; LANES]) -> [usize; LANES] {
        let mut out = [0; LANES];
        for lane in 0..LANES {
            out[lane] = pack[lane] as usize * self.stride;
        }
        out
    }

    /// Vectors to a receiver and coefficients of eight images.
    #[inline(always)]
    pub fn gather(&self, places: &[usize; LANES], origin: &Vector<T>, out: &mut [T::Pack]) {
        T::Pack::columns(&self.values, places, self.avx512, out);
        for axis in 0..3 {
            out[axis] = T::Pack::splat(origin[axis]).add(out[axis].neg());
        }
    }
}

/// Length of an image's row, position and coefficients: a multiple of four, and a constant where the degrees are.
#[inline(always)]
pub fn row_length<const DEGREES: usize>(n_lm: usize) -> usize {
    if DEGREES == ANY_DEGREE {
        (3 + n_lm).next_multiple_of(4)
    } else {
        (3 + count(DEGREES / 2)).next_multiple_of(4)
    }
}

/// Results of a block.
pub struct BlockOutput<T> {
    pub value: T,
    /// `[receiver][channel][lm]`.
    pub potentials: Vec<T>,
    /// dU/dR of the receivers.
    pub gradients: Vec<Vector<T>>,
    /// dU/dR and dU/dp of one channel of the images, laid out as [`Gathered`]; empty if not requested.
    pub images: Vec<T>,
}

impl<T: Scalar> BlockOutput<T> {
    pub fn new(work: &Work<T>, n_images: usize) -> Self {
        let n_rows = work.block.receivers.len();
        Self {
            value: T::zero(),
            potentials: Vec::with_capacity(n_rows * work.rec.n_channels * work.rec.n_lm()),
            gradients: Vec::with_capacity(n_rows),
            images: vec![T::zero(); if work.both_sides { n_images } else { 0 }],
        }
    }

    /// Adds the next receiver's potentials, lane by lane, and the value with its coefficients.
    #[inline(always)]
    pub fn push_row(&mut self, potential: &[T::Pack], coefficients: &[T]) {
        for k in 0..coefficients.len() {
            let sum = potential[k].sum();
            self.value += sum * coefficients[k];
            self.potentials.push(sum);
        }
    }
}

/// The work on one block and one channel of the sources.
pub struct Work<'a, T: Scalar> {
    pub block: &'a Block,
    pub source: &'a Density<'a, T>,
    pub rec: &'a Density<'a, T>,
    pub cell: &'a Matrix<T>,
    pub split: Option<f64>,
    pub channel: usize,
    /// True if gradients of the sources are computed.
    pub both_sides: bool,
}

/// Degrees of sources and receivers as one constant: two bits, or any degree.
const CHARGES: usize = 0;
const DIPOLE_RECEIVERS: usize = 1;
const DIPOLE_SOURCES: usize = 2;
const DIPOLES: usize = 3;

/// Sums over the pairs of a block.
pub fn evaluate<T: Scalar>(work: &Work<T>) -> BlockOutput<T> {
    match (work.source.max_l, work.rec.max_l) {
        (0, 0) => kernel::<T, CHARGES>(work),
        (0, 1) => kernel::<T, DIPOLE_RECEIVERS>(work),
        (1, 0) => kernel::<T, DIPOLE_SOURCES>(work),
        (1, 1) => kernel::<T, DIPOLES>(work),
        _ => kernel::<T, ANY_DEGREE>(work),
    }
}

dispatch! {
    fn kernel<T, DEGREES>(work: &Work<T>) -> BlockOutput<T> => body
}

/// Packs that go through each step together. The steps are loops of their own, from memory to memory, which the
/// compiler turns into vector instructions.
const CHUNK: usize = 8;
/// Radial functions of charges and dipoles.
const N_RADIAL: usize = 4;

/// Radial parts of one channel of the receivers.
struct Channel<P> {
    s2: f64,
    /// Parts of all packs, if the widths of the sources are uniform.
    uniform: Option<([Part; MAX_PARTS], usize)>,
    radial: [[P; N_RADIAL]; CHUNK],
}

impl<P: Pack> Channel<P> {
    fn new() -> Self {
        Self {
            s2: f64::NAN,
            uniform: None,
            radial: [[P::zero(); N_RADIAL]; CHUNK],
        }
    }

    /// For a receiver of width `s`.
    #[inline(always)]
    fn prepare(&mut self, widths: &Widths, s: f64, split: Option<f64>) {
        if self.s2 == s * s {
            return;
        }
        self.s2 = s * s;
        if let Widths::Uniform(sigma2) = *widths {
            let (parts, n_parts) = parts(F64x8::splat(sigma2), self.s2, split);
            let complete = complete(sigma2, self.s2, split);
            self.uniform = Some((parts, if complete { 0 } else { n_parts }));
        }
    }

    #[inline(always)]
    fn parts(&self, widths: &Widths, pack: &[u32; LANES], split: Option<f64>) -> Parts {
        match self.uniform {
            Some(parts) => parts,
            None => parts(widths.of(pack), self.s2, split),
        }
    }
}

#[inline(always)]
fn body<T: Scalar, const DEGREES: usize, const FMA: bool>(work: &Work<T>) -> BlockOutput<T> {
    let Work {
        block, source, rec, ..
    } = *work;
    let table = PairTable::of(source.max_l, rec.max_l);
    let boys = BoysTable::up_to(table.order::<T::Pack>());
    let n_receiver = if DEGREES == ANY_DEGREE {
        rec.n_lm()
    } else {
        count(DEGREES % 2)
    };
    let mut images = Gathered::new(work);
    let stride = row_length::<DEGREES>(source.n_lm());
    let n_row = rec.n_channels * n_receiver;
    let mut out = BlockOutput::new(work, images.values.len());
    let mut channels: Vec<Channel<T::Pack>> = Vec::new();
    channels.resize_with(rec.n_channels, Channel::new);
    let mut q = vec![T::Pack::zero(); n_row];
    let mut potential = vec![T::Pack::zero(); n_row];
    let mut rows = vec![T::Pack::zero(); CHUNK * stride];
    let mut added = vec![T::Pack::zero(); CHUNK * stride];
    let mut places = [[0; LANES]; CHUNK];
    for (&site, packs) in block.receivers.iter().zip(block.rows()) {
        let site = site as usize;
        let coefficients = &rec.coefficients[site * n_row..(site + 1) * n_row];
        for k in 0..n_row {
            q[k] = T::Pack::splat(coefficients[k]);
            potential[k] = T::Pack::zero();
        }
        images.start_row(packs);
        for b in 0..rec.n_channels {
            channels[b].prepare(&images.widths, rec.width(site, b), work.split);
        }
        let mut total = [T::Pack::zero(); 3];
        for packs in packs.chunks(CHUNK) {
            let n = packs.len();
            for k in 0..n {
                let row = &mut rows[k * stride..(k + 1) * stride];
                for lane in 0..LANES {
                    places[k][lane] = packs[k][lane] as usize * stride;
                }
                images.gather(&places[k], &rec.positions[site], row);
            }
            for k in 0..n * stride {
                added[k] = T::Pack::zero();
            }
            for b in 0..rec.n_channels {
                let channel = &mut channels[b];
                if let Some((_, 0)) = channel.uniform {
                    continue;
                }
                if DEGREES != ANY_DEGREE {
                    let top = DEGREES / 2 + DEGREES % 2 + 1;
                    for k in 0..n {
                        let row = &rows[k * stride..(k + 1) * stride];
                        let (parts, n_parts) = channel.parts(&images.widths, &packs[k], work.split);
                        let f = &mut channel.radial[k];
                        let r2 = square::<T::Pack, FMA>(&[row[0], row[1], row[2]]);
                        *f = [T::Pack::zero(); N_RADIAL];
                        for part in 0..n_parts {
                            add_radial::<T::Pack, FMA>(f, r2, &parts[part], top, boys);
                        }
                    }
                }
                let receiver = b * n_receiver..(b + 1) * n_receiver;
                let (q, potential) = (&q[receiver.clone()], &mut potential[receiver]);
                for k in 0..n {
                    let row = &rows[k * stride..(k + 1) * stride];
                    let added = &mut added[k * stride..(k + 1) * stride];
                    let (d, p) = row.split_at(3);
                    let (gradient, at_source) = added.split_at_mut(3);
                    let mut out = PairOutput {
                        source: at_source,
                        receiver: potential,
                        gradient,
                    };
                    if DEGREES == ANY_DEGREE {
                        let (parts, n_parts) = channel.parts(&images.widths, &packs[k], work.split);
                        let parts = &parts[..n_parts];
                        table.add_gradients::<T::Pack, FMA>(d, parts, boys, p, q, &mut out);
                    } else {
                        let f = &channel.radial[k];
                        charges_and_dipoles::<T::Pack, DEGREES, FMA>(d, f, p, q, &mut out);
                    }
                }
            }
            for k in 0..n {
                for axis in 0..3 {
                    let gradient = &mut added[k * stride + axis];
                    total[axis] = total[axis].add(*gradient);
                    *gradient = gradient.neg();
                }
            }
            if work.both_sides {
                for k in 0..n {
                    let added = &added[k * stride..(k + 1) * stride];
                    T::Pack::add_to_rows(&mut out.images, &places[k], images.avx512, added);
                }
            }
        }
        out.push_row(&potential, coefficients);
        let [x, y, z] = total;
        out.gradients.push([x.sum(), y.sum(), z.sum()]);
    }
    out
}

/// Adds the gradients of eight interactions.
#[inline(always)]
fn charges_and_dipoles<P: Pack, const DEGREES: usize, const FMA: bool>(
    d: &[P],
    f: &[P; N_RADIAL],
    p: &[P],
    q: &[P],
    out: &mut PairOutput<P>,
) {
    match DEGREES {
        CHARGES => charges_dipoles::add_gradients::<P, 0, 0, FMA>(d, f, p, q, out),
        DIPOLE_RECEIVERS => charges_dipoles::add_gradients::<P, 0, 1, FMA>(d, f, p, q, out),
        DIPOLE_SOURCES => charges_dipoles::add_gradients::<P, 1, 0, FMA>(d, f, p, q, out),
        _ => charges_dipoles::add_gradients::<P, 1, 1, FMA>(d, f, p, q, out),
    }
}
