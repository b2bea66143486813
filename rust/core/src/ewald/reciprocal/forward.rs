//! Structure factors: sites to k-vectors.

use super::columns::Columns;
use super::sites::{Group, Phases};
use crate::arithmetic::dispatch::{degree_or, dispatch};
use crate::arithmetic::vector::{Vector, add_scaled, dot};
use crate::arithmetic::{Pack, Scalar};
use crate::special::harmonics::count;
use std::ops::Range;

/// A complex number for +n3 and one for -n3, over the entries of a block of columns.
#[derive(Clone, Debug)]
pub struct Spectrum<T> {
    pub plus: Vec<[T; 2]>,
    pub minus: Vec<[T; 2]>,
}

impl<T: Scalar> Spectrum<T> {
    pub fn zero(n_entries: usize) -> Self {
        Self {
            plus: vec![[T::zero(); 2]; n_entries],
            minus: vec![[T::zero(); 2]; n_entries],
        }
    }
}

/// The structure factor of a density, and the one weighted by each Gaussian's width squared (its derivative in -k²/2).
pub struct StructureFactor<T> {
    pub value: Spectrum<T>,
    pub by_width: Spectrum<T>,
}

/// Arguments of the structure factor of one block of columns.
pub struct Input<'a, T: Scalar> {
    pub phases: &'a Phases<T>,
    pub columns: &'a Columns<T>,
    pub block: Range<usize>,
    pub groups: &'a [Group<T>],
    /// n3 beyond which a group's Gaussian is negligible: `[group][column]`.
    pub counts: &'a [Vec<u32>],
    /// Reciprocal vector along the columns.
    pub step: Vector<T>,
}

/// Packs handled together, so that their part of the phase table stays in the cache over a block of columns.
const TILE: usize = 32;

/// Polynomial degrees handled in one pass over the atoms.
const DEGREES: usize = 3;

dispatch! {
    /// Structure factors of one block of columns, of multipoles up to degree L.
    fn structure_factor<T, L>(input: &Input<'_, T>) -> StructureFactor<T> => body
}

#[inline(always)]
fn body<T: Scalar, const L: usize, const FMA: bool>(input: &Input<'_, T>) -> StructureFactor<T> {
    let columns = &input.columns.columns[input.block.clone()];
    let first = columns.first().map_or(0, |column| column.offset);
    let n_entries: usize = columns.iter().map(|column| column.count).sum();
    let mut value = Spectrum::zero(n_entries);
    let mut by_width = Spectrum::zero(n_entries);
    let max_l = degree_or::<L>(
        input
            .groups
            .iter()
            .map(|group| group.max_l)
            .max()
            .unwrap_or(0),
    );
    let stride = max_l + 1;
    let mut raw = vec![[T::zero(); 4]; n_entries * stride];
    let mut amplitudes = vec![[T::Pack::zero(); 2]; TILE * stride];
    for (which, group) in input.groups.iter().enumerate() {
        raw.fill([T::zero(); 4]);
        for places in group.charged.chunks(TILE) {
            for (column_index, column) in input.block.clone().zip(columns) {
                let count = input.counts[which][column_index] as usize;
                if count == 0 {
                    continue;
                }
                for (slot, &place) in places.iter().enumerate() {
                    amplitude::<T, L, FMA>(
                        input,
                        group,
                        place as usize,
                        column_index,
                        &mut amplitudes[slot * stride..(slot + 1) * stride],
                    );
                }
                let start = (column.offset - first) * stride;
                let out = &mut raw[start..start + count * stride];
                let mut a = 0;
                while a <= max_l {
                    match (max_l + 1 - a).min(DEGREES) {
                        1 => accumulate::<T, 1, FMA>(
                            (input.phases, group, places),
                            &amplitudes,
                            stride,
                            a,
                            out,
                        ),
                        2 => accumulate::<T, 2, FMA>(
                            (input.phases, group, places),
                            &amplitudes,
                            stride,
                            a,
                            out,
                        ),
                        _ => accumulate::<T, 3, FMA>(
                            (input.phases, group, places),
                            &amplitudes,
                            stride,
                            a,
                            out,
                        ),
                    }
                    a += DEGREES;
                }
            }
        }
        let half_width2 = -0.5 * group.width * group.width;
        for (column_index, column) in input.block.clone().zip(columns) {
            for n in 0..input.counts[which][column_index] as usize {
                let entry = column.offset - first + n;
                let sums = &raw[entry * stride..(entry + 1) * stride];
                for (sign, value, by_width) in [
                    (1.0, &mut value.plus, &mut by_width.plus),
                    (-1.0, &mut value.minus, &mut by_width.minus),
                ] {
                    let signed = sign * n as f64;
                    let mut k = column.base;
                    add_scaled(&mut k, &input.step, T::constant(signed));
                    let decay = (dot(&k, &k) * half_width2).exp();
                    let mut power = 1.0;
                    let (mut re, mut im) = (T::zero(), T::zero());
                    for [rc, ic, rs, is] in &sums[..=max_l] {
                        // (re + i im)(cos - i sign sin)
                        re += (*rc + *is * sign) * power;
                        im += (*ic - *rs * sign) * power;
                        power *= signed;
                    }
                    let (re, im) = (re * decay, im * decay);
                    value[entry][0] += re;
                    value[entry][1] += im;
                    let width2 = group.width * group.width;
                    by_width[entry][0] += re * width2;
                    by_width[entry][1] += im * width2;
                }
            }
        }
    }
    StructureFactor { value, by_width }
}

/// Coefficients of n3^a of a pack's multipoles along a column, times the column's phase e^{-iθ}.
#[inline(always)]
fn amplitude<T: Scalar, const L: usize, const FMA: bool>(
    input: &Input<'_, T>,
    group: &Group<T>,
    place: usize,
    column: usize,
    out: &mut [[T::Pack; 2]],
) {
    let max_l = degree_or::<L>(group.max_l);
    let n = input.columns.columns[column].n;
    let phase = input.phases.base::<FMA>(n, group.packs[place] as usize);
    multipole_polynomial::<T, L, FMA>(input.columns, group, place, column, out);
    for [re, im] in &mut out[..=max_l] {
        let rotated = [
            re.mul(phase[0]).add(im.mul(phase[1])),
            re.neg_mul_add::<FMA>(phase[1], im.mul(phase[0])),
        ];
        (*re, *im) = (rotated[0], rotated[1]);
    }
}

/// Coefficients of n3^a in Σ p_lm (-i)^l C_lm(k) / (2l-1)!! for one pack.
#[inline(always)]
pub fn multipole_polynomial<T: Scalar, const L: usize, const FMA: bool>(
    columns: &Columns<T>,
    group: &Group<T>,
    place: usize,
    column: usize,
    out: &mut [[T::Pack; 2]],
) {
    let max_l = degree_or::<L>(group.max_l);
    let coefficients = &group.coefficients[place * count(max_l)..(place + 1) * count(max_l)];
    let out = &mut out[..=max_l];
    out.fill([T::Pack::zero(); 2]);
    out[0][0] = coefficients[0];
    for l in 1..=max_l {
        for lm in l * l..(l + 1) * (l + 1) {
            let polynomial = columns.polynomial(column, lm);
            for a in 0..=l {
                let part = &mut out[a][l % 2];
                *part = coefficients[lm].mul_add::<FMA>(T::Pack::splat(polynomial[a]), *part);
            }
        }
    }
}

/// Adds Σ_atoms amplitude_a (cos n3 θ, sin n3 θ) to `out[n3][a]` for a in `a0 .. a0 + A`.
#[inline(always)]
fn accumulate<T: Scalar, const A: usize, const FMA: bool>(
    (phases, group, places): (&Phases<T>, &Group<T>, &[u32]),
    amplitudes: &[[T::Pack; 2]],
    stride: usize,
    a0: usize,
    out: &mut [[T; 4]],
) {
    for (n, sums) in out.chunks_exact_mut(stride).enumerate() {
        let row = &phases.tables[2][n * phases.n_packs..(n + 1) * phases.n_packs];
        let mut acc = [[T::Pack::zero(); 4]; A];
        for (slot, &place) in places.iter().enumerate() {
            let [cos, sin] = row[group.packs[place as usize] as usize];
            let amplitude = &amplitudes[slot * stride + a0..slot * stride + a0 + A];
            for a in 0..A {
                let [re, im] = amplitude[a];
                acc[a][0] = re.mul_add::<FMA>(cos, acc[a][0]);
                acc[a][1] = im.mul_add::<FMA>(cos, acc[a][1]);
                acc[a][2] = re.mul_add::<FMA>(sin, acc[a][2]);
                acc[a][3] = im.mul_add::<FMA>(sin, acc[a][3]);
            }
        }
        // A copy: a reference to `acc` itself would keep it in memory instead of registers.
        let lanes: [[T::Pack; 4]; A] =
            std::array::from_fn(|a| std::array::from_fn(|part| acc[a][part]));
        add_sums::<T::Pack, A>(&lanes, &mut sums[a0..a0 + A]);
    }
}

/// Adds the lanes' sums. Not inlined: inlined, it makes the compiler vectorise the loop above across the four sums
/// instead of across the lanes.
#[inline(never)]
fn add_sums<P: Pack, const A: usize>(acc: &[[P; 4]; A], sums: &mut [[P::Scalar; 4]]) {
    for a in 0..A {
        for part in 0..4 {
            sums[a][part] += acc[a][part].sum();
        }
    }
}
