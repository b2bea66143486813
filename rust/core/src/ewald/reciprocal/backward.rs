//! Potentials and gradients: k-vectors to sites.

use super::columns::Columns;
use super::forward::multipole_polynomial;
use super::sites::{Group, Phases};
use crate::arithmetic::dispatch::{degree_or, dispatch};
use crate::arithmetic::vector::{Matrix, Vector};
use crate::arithmetic::{Pack, Scalar};
use crate::special::harmonics::{MAX_L, count, degree};
use std::ops::Range;

/// Y(k) = w(k) S(k) exp(-k² s²/2) of one receiver width, in the combinations that the loop over n3 uses.
pub struct Field<T> {
    /// `[entry][a]`: Re and Im of Y₊ n^a + Y₋ (-n)^a, Re and Im of Y₊ n^a - Y₋ (-n)^a.
    pub combinations: Vec<[T; 4]>,
    /// Powers of n3 held.
    pub n_powers: usize,
}

/// Arguments of one tile of packs.
pub struct Input<'a, T: Scalar> {
    pub phases: &'a Phases<T>,
    pub columns: &'a Columns<T>,
    pub group: &'a Group<T>,
    /// Range of the group's packs.
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
/// Columns gone through before the next packs, so that their part of the field stays in the cache.
const BLOCK: usize = 16;
/// Packs that share each load of the field.
const SHARED: usize = 2;

/// Σ_n3 n3^a Y(n3) e^{iθ}, a ≤ max_l + 1.
type Sums<P> = [[P; 2]; MAX_L + 2];

dispatch! {
    /// Potentials at one tile of packs of multipoles up to degree L.
    fn potentials<T, L>(input: &Input<'_, T>) -> Output<T> => body
}

#[inline(always)]
fn body<T: Scalar, const L: usize, const FMA: bool>(input: &Input<'_, T>) -> Output<T> {
    let max_l = degree_or::<L>(input.group.max_l);
    let zero = T::Pack::zero();
    let mut packs: Vec<PackOutput<T>> = input
        .tile
        .clone()
        .map(|_| PackOutput {
            potential: vec![zero; count(max_l)],
            position: [zero; 3],
        })
        .collect();
    let mut harmonics = [[zero; 3]; 3];
    let mut sums: [Sums<T::Pack>; SHARED] = [[[zero; 2]; MAX_L + 2]; SHARED];
    let n_columns = input.columns.columns.len();
    for start in (0..n_columns).step_by(BLOCK) {
        let block = start..(start + BLOCK).min(n_columns);
        for (together, outputs) in packs.chunks_mut(SHARED).enumerate() {
            let place = input.tile.start + together * SHARED;
            for column in block.clone() {
                let count = input.counts[column] as usize;
                if count == 0 {
                    continue;
                }
                if outputs.len() == SHARED {
                    sum_column::<T, SHARED, FMA>(input, place, column, count, &mut sums);
                } else {
                    sum_column::<T, 1, FMA>(input, place, column, count, &mut sums);
                }
                for (sums, (place, output)) in sums.iter_mut().zip((place..).zip(&mut *outputs)) {
                    finish::<T, L, FMA>(input, place, column, sums, output, &mut harmonics);
                }
            }
        }
    }
    Output {
        packs,
        harmonics: harmonics.map(|row| row.map(|value| value.sum())),
    }
}

/// Sums along one column for `B` packs of the group.
#[inline(always)]
fn sum_column<T: Scalar, const B: usize, const FMA: bool>(
    input: &Input<'_, T>,
    place: usize,
    column: usize,
    count: usize,
    sums: &mut [Sums<T::Pack>; SHARED],
) {
    let n_powers = input.field.n_powers;
    let offset = input.columns.columns[column].offset;
    let field = &input.field.combinations[offset * n_powers..(offset + count) * n_powers];
    let packs: [usize; B] = std::array::from_fn(|b| input.group.packs[place + b] as usize);
    let mut a = 0;
    while a < n_powers {
        match (n_powers - a).min(POWERS) {
            1 => accumulate::<T, 1, B, FMA>(input.phases, packs, field, n_powers, a, sums),
            2 => accumulate::<T, 2, B, FMA>(input.phases, packs, field, n_powers, a, sums),
            _ => accumulate::<T, 3, B, FMA>(input.phases, packs, field, n_powers, a, sums),
        }
        a += POWERS;
    }
}

/// sums[a] = Σ_n3 n3^a Y(n3) e^{i n3 θ} for a in `a0 .. a0 + A`.
#[inline(always)]
fn accumulate<T: Scalar, const A: usize, const B: usize, const FMA: bool>(
    phases: &Phases<T>,
    packs: [usize; B],
    field: &[[T; 4]],
    n_powers: usize,
    a0: usize,
    sums: &mut [Sums<T::Pack>; SHARED],
) {
    let mut acc = [[[T::Pack::zero(); 2]; A]; B];
    for (n, row) in field.chunks_exact(n_powers).enumerate() {
        let table = &phases.tables[2][n * phases.n_packs..(n + 1) * phases.n_packs];
        let row = &row[a0..a0 + A];
        for b in 0..B {
            let [cos, sin] = table[packs[b]];
            for a in 0..A {
                let [sum_re, sum_im, difference_re, difference_im] = row[a].map(T::Pack::splat);
                let re = sum_re.mul_add::<FMA>(cos, acc[b][a][0]);
                let im = sum_im.mul_add::<FMA>(cos, acc[b][a][1]);
                acc[b][a][0] = difference_im.neg_mul_add::<FMA>(sin, re);
                acc[b][a][1] = difference_re.mul_add::<FMA>(sin, im);
            }
        }
    }
    for b in 0..B {
        sums[b][a0..a0 + A].copy_from_slice(&acc[b]);
    }
}

/// Turns one column's sums into potentials and gradients of one pack.
#[inline(always)]
fn finish<T: Scalar, const L: usize, const FMA: bool>(
    input: &Input<'_, T>,
    place: usize,
    column: usize,
    sums: &mut Sums<T::Pack>,
    output: &mut PackOutput<T>,
    harmonics: &mut [[T::Pack; 3]; 3],
) {
    let max_l = degree_or::<L>(input.group.max_l);
    let pack = input.group.packs[place] as usize;
    let phase = input
        .phases
        .base::<FMA>(input.columns.columns[column].n, pack);
    let n_powers = if input.gradients {
        max_l + 2
    } else {
        max_l + 1
    };
    for [re, im] in &mut sums[..n_powers] {
        let rotated = [
            im.neg_mul_add::<FMA>(phase[1], re.mul(phase[0])),
            re.mul_add::<FMA>(phase[1], im.mul(phase[0])),
        ];
        (*re, *im) = (rotated[0], rotated[1]);
    }
    add_potential::<T, L, FMA>(input, column, sums, &mut output.potential);
    if input.gradients {
        add_force::<T, L, FMA>(input, column, place, sums, &mut output.position);
        if max_l > 0 {
            add_harmonics::<T, L, FMA>(input, column, place, sums, harmonics);
        }
    }
}

/// Adds Σ_a c_a Re[i^l Z_a], without the parity sign and (2l-1)!!, which the caller applies once.
#[inline(always)]
fn add_potential<T: Scalar, const L: usize, const FMA: bool>(
    input: &Input<'_, T>,
    column: usize,
    sums: &Sums<T::Pack>,
    potential: &mut [T::Pack],
) {
    let max_l = degree_or::<L>(input.group.max_l);
    let potential = &mut potential[..count(max_l)];
    potential[0] = potential[0].add(sums[0][0]);
    for l in 1..=max_l {
        for lm in l * l..(l + 1) * (l + 1) {
            let polynomial = input.columns.polynomial(column, lm);
            for a in 0..=l {
                let coefficient = T::Pack::splat(polynomial[a]);
                potential[lm] = sums[a][l % 2].mul_add::<FMA>(coefficient, potential[lm]);
            }
        }
    }
}

/// Adds dU/dr = Re[i k conj(F) Z] = -k Im[conj(F) Z].
#[inline(always)]
fn add_force<T: Scalar, const L: usize, const FMA: bool>(
    input: &Input<'_, T>,
    column: usize,
    place: usize,
    sums: &Sums<T::Pack>,
    position: &mut [T::Pack; 3],
) {
    let max_l = degree_or::<L>(input.group.max_l);
    let zero = T::Pack::zero();
    let mut source = [[zero; 2]; MAX_L + 1];
    multipole_polynomial::<T, L, FMA>(input.columns, input.group, place, column, &mut source);
    let (mut along_base, mut along_step) = (zero, zero);
    for a in 0..=max_l {
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
///
/// ∂C_of/∂k is a combination of harmonics one degree lower, so each of those is contracted with Z once.
#[inline(always)]
fn add_harmonics<T: Scalar, const L: usize, const FMA: bool>(
    input: &Input<'_, T>,
    column: usize,
    place: usize,
    sums: &Sums<T::Pack>,
    harmonics: &mut [[T::Pack; 3]; 3],
) {
    let max_l = degree_or::<L>(input.group.max_l);
    let coefficients = &input.group.coefficients[place * count(max_l)..(place + 1) * count(max_l)];
    let zero = T::Pack::zero();
    let mut lowered = [[zero; 2]; count(MAX_L - 1)];
    for l in 0..max_l {
        for lm in l * l..(l + 1) * (l + 1) {
            let polynomial = input.columns.polynomial(column, lm);
            let (mut flat, mut weighted) = (zero, zero);
            for a in 0..=l {
                let coefficient = T::Pack::splat(polynomial[a]);
                flat = sums[a][(l + 1) % 2].mul_add::<FMA>(coefficient, flat);
                weighted = sums[a + 1][(l + 1) % 2].mul_add::<FMA>(coefficient, weighted);
            }
            lowered[lm] = [flat, weighted];
        }
    }
    let mut flat = [zero; 3];
    for term in input.columns.gradients() {
        if degree(term.of as usize) > max_l {
            break;
        }
        let weight =
            coefficients[term.of as usize].mul(T::Pack::splat(T::constant(term.coefficient)));
        let [plain, weighted] = lowered[term.lower as usize];
        let axis = term.axis as usize;
        flat[axis] = weight.mul_add::<FMA>(plain, flat[axis]);
        harmonics[2][axis] = weight.mul_add::<FMA>(weighted, harmonics[2][axis]);
    }
    for (row, n) in input.columns.columns[column].n.into_iter().enumerate() {
        let n = T::Pack::splat(T::constant(n as f64));
        for axis in 0..3 {
            harmonics[row][axis] = flat[axis].mul_add::<FMA>(n, harmonics[row][axis]);
        }
    }
}
