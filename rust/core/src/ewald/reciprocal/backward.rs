//! Potentials and gradients: k-vectors to sites.

use super::columns::Columns;
use super::forward::multipole_polynomial;
use super::sites::{Group, Phases};
use crate::harmonics::{MAX_L, count, degree, gradients};
use crate::scalar::{Pack, Scalar};
use crate::simd::dispatch;
use crate::vector::{Matrix, Vector};
use std::ops::Range;

/// Y(k) = w(k) S(k) exp(-k² s²/2) of one receiver width, in the combinations that the loop over n3 uses.
pub struct Field<T> {
    /// `[entry][a]`: Re and Im of Y₊ n^a + Y₋ (-n)^a, Re and Im of Y₊ n^a - Y₋ (-n)^a.
    pub combinations: Vec<[T; 4]>,
    /// Powers of n3 held.
    pub n_powers: usize,
}

/// What one tile of packs needs.
pub struct Input<'a, T: Scalar> {
    pub phases: &'a Phases<T>,
    pub columns: &'a Columns<T>,
    pub group: &'a Group<T>,
    /// Which of the group's packs.
    pub tile: Range<usize>,
    pub field: &'a Field<T>,
    /// n3 beyond which the group's Gaussian is negligible, per column.
    pub counts: &'a [u32],
    pub step: Vector<T>,
    /// Gradients in positions and in k, or only potentials.
    pub gradients: bool,
}

/// Potentials and gradients of one pack.
pub struct PackOutput<T: Scalar> {
    /// dU/d(coefficient), `[lm]`.
    pub potential: Vec<T::Pack>,
    /// dU/d(position).
    pub position: [T::Pack; 3],
}

/// Output of one tile.
pub struct Output<T: Scalar> {
    pub packs: Vec<PackOutput<T>>,
    /// Σ_k n_j ∂U/∂k through the harmonics only: rows for u, v, w.
    pub harmonics: Matrix<T>,
}

/// Powers of n3 summed in one pass.
const POWERS: usize = 3;
/// Columns gone through before the next pack, so that their part of the field stays in the cache.
const BLOCK: usize = 16;

dispatch! {
    /// Potentials at one tile of packs.
    fn potentials<T>(input: &Input<'_, T>) -> Output<T> => body
}

#[inline(always)]
fn body<T: Scalar, const FMA: bool>(input: &Input<'_, T>) -> Output<T> {
    let n_lm = input.group.n_lm();
    let n_powers = input.field.n_powers;
    let zero = T::Pack::zero();
    let mut packs: Vec<PackOutput<T>> = input
        .tile
        .clone()
        .map(|_| PackOutput {
            potential: vec![zero; n_lm],
            position: [zero; 3],
        })
        .collect();
    let mut harmonics = [[zero; 3]; 3];
    let mut sums = [[zero; 2]; MAX_L + 2];
    let mut source = [[zero; 2]; MAX_L + 1];
    let n_columns = input.columns.columns.len();
    for start in (0..n_columns).step_by(BLOCK) {
        for (place, out) in input.tile.clone().zip(&mut packs) {
            let pack = input.group.packs[place] as usize;
            for column_index in start..(start + BLOCK).min(n_columns) {
                let count = input.counts[column_index] as usize;
                if count == 0 {
                    continue;
                }
                let column = &input.columns.columns[column_index];
                let field = &input.field.combinations
                    [column.offset * n_powers..(column.offset + count) * n_powers];
                let mut a = 0;
                while a < n_powers {
                    match (n_powers - a).min(POWERS) {
                        1 => accumulate::<T, 1, FMA>(
                            input.phases,
                            pack,
                            field,
                            n_powers,
                            a,
                            &mut sums,
                        ),
                        2 => accumulate::<T, 2, FMA>(
                            input.phases,
                            pack,
                            field,
                            n_powers,
                            a,
                            &mut sums,
                        ),
                        _ => accumulate::<T, 3, FMA>(
                            input.phases,
                            pack,
                            field,
                            n_powers,
                            a,
                            &mut sums,
                        ),
                    }
                    a += POWERS;
                }
                let phase = input.phases.base::<FMA>(column.n, pack);
                for [re, im] in &mut sums[..n_powers] {
                    let rotated = [
                        im.neg_mul_add::<FMA>(phase[1], re.mul(phase[0])),
                        re.mul_add::<FMA>(phase[1], im.mul(phase[0])),
                    ];
                    (*re, *im) = (rotated[0], rotated[1]);
                }
                add_potential::<T, FMA>(
                    input.columns,
                    column_index,
                    n_lm,
                    &sums,
                    &mut out.potential,
                );
                if input.gradients {
                    multipole_polynomial::<T, FMA>(
                        input.columns,
                        input.group,
                        place,
                        column_index,
                        &mut source,
                    );
                    add_force::<T, FMA>(input, column_index, &source, &sums, &mut out.position);
                    if input.group.max_l > 0 {
                        add_harmonics::<T, FMA>(input, column_index, place, &sums, &mut harmonics);
                    }
                }
            }
        }
    }
    Output {
        packs,
        harmonics: harmonics.map(|row| row.map(|value| value.sum())),
    }
}

/// sums[a] = Σ_n3 n3^a Y(n3) e^{i n3 θ} for a in `a0 .. a0 + A`.
#[inline(always)]
fn accumulate<T: Scalar, const A: usize, const FMA: bool>(
    phases: &Phases<T>,
    pack: usize,
    field: &[[T; 4]],
    n_powers: usize,
    a0: usize,
    sums: &mut [[T::Pack; 2]],
) {
    let mut acc = [[T::Pack::zero(); 2]; A];
    for (n, row) in field.chunks_exact(n_powers).enumerate() {
        let [cos, sin] = phases.tables[2][n * phases.n_packs + pack];
        let row = &row[a0..a0 + A];
        for a in 0..A {
            let [sum_re, sum_im, difference_re, difference_im] = row[a].map(T::Pack::splat);
            let re = sum_re.mul_add::<FMA>(cos, acc[a][0]);
            let im = sum_im.mul_add::<FMA>(cos, acc[a][1]);
            acc[a][0] = difference_im.neg_mul_add::<FMA>(sin, re);
            acc[a][1] = difference_re.mul_add::<FMA>(sin, im);
        }
    }
    sums[a0..a0 + A].copy_from_slice(&acc);
}

/// Adds Σ_a c_a Re[i^l Z_a], without the parity sign and (2l-1)!!, which the caller applies once.
#[inline(always)]
fn add_potential<T: Scalar, const FMA: bool>(
    columns: &Columns<T>,
    column: usize,
    n_lm: usize,
    sums: &[[T::Pack; 2]],
    potential: &mut [T::Pack],
) {
    potential[0] = potential[0].add(sums[0][0]);
    for lm in 1..n_lm {
        let l = degree(lm);
        let polynomial = columns.polynomial(column, lm);
        for a in 0..=l {
            potential[lm] =
                sums[a][l % 2].mul_add::<FMA>(T::Pack::splat(polynomial[a]), potential[lm]);
        }
    }
}

/// Adds dU/dr = Re[i k conj(F) Z] = -k Im[conj(F) Z].
#[inline(always)]
fn add_force<T: Scalar, const FMA: bool>(
    input: &Input<'_, T>,
    column: usize,
    source: &[[T::Pack; 2]],
    sums: &[[T::Pack; 2]],
    position: &mut [T::Pack; 3],
) {
    let (mut along_base, mut along_step) = (T::Pack::zero(), T::Pack::zero());
    for a in 0..=input.group.max_l {
        let [re, im] = source[a];
        let [z_re, z_im] = sums[a];
        along_base = im.mul_add::<FMA>(z_re, re.neg_mul_add::<FMA>(z_im, along_base));
        let [z_re, z_im] = sums[a + 1];
        along_step = im.mul_add::<FMA>(z_re, re.neg_mul_add::<FMA>(z_im, along_step));
    }
    let base = &input.columns.columns[column].base;
    for axis in 0..3 {
        let sum = along_base.mul_add::<FMA>(T::Pack::splat(base[axis]), position[axis]);
        position[axis] = along_step.mul_add::<FMA>(T::Pack::splat(input.step[axis]), sum);
    }
}

/// Adds Re[conj(∂F/∂k) Z], weighted by n1, n2, n3.
#[inline(always)]
fn add_harmonics<T: Scalar, const FMA: bool>(
    input: &Input<'_, T>,
    column: usize,
    place: usize,
    sums: &[[T::Pack; 2]],
    harmonics: &mut [[T::Pack; 3]; 3],
) {
    let max_l = input.group.max_l;
    let n_lm = count(max_l);
    let coefficients = &input.group.coefficients[place * n_lm..(place + 1) * n_lm];
    let zero = T::Pack::zero();
    // gradient[axis][a]: coefficients of n3^a in ∂F/∂k_axis
    let mut gradient = [[[zero; 2]; MAX_L]; 3];
    for term in gradients(max_l) {
        let l = degree(term.of as usize);
        let polynomial = input.columns.polynomial(column, term.lower as usize);
        let weight = coefficients[term.of as usize];
        for a in 0..l {
            let part = &mut gradient[term.axis as usize][a][l % 2];
            let factor = T::Pack::splat(polynomial[a] * term.coefficient);
            *part = weight.mul_add::<FMA>(factor, *part);
        }
    }
    let n = input.columns.columns[column].n;
    for axis in 0..3 {
        let (mut flat, mut weighted) = (zero, zero);
        for a in 0..max_l {
            let [re, im] = gradient[axis][a];
            let [z_re, z_im] = sums[a];
            flat = im.mul_add::<FMA>(z_im, re.mul_add::<FMA>(z_re, flat));
            let [z_re, z_im] = sums[a + 1];
            weighted = im.mul_add::<FMA>(z_im, re.mul_add::<FMA>(z_re, weighted));
        }
        for (row, n) in n.into_iter().enumerate() {
            let n = T::Pack::splat(T::constant(n as f64));
            harmonics[row][axis] = flat.mul_add::<FMA>(n, harmonics[row][axis]);
        }
        harmonics[2][axis] = harmonics[2][axis].add(weighted);
    }
}
