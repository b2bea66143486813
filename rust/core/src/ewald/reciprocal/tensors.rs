//! Lattice sums of single pairs, for matrices: T = Σ_k w(k) (-k²)^n Re[i^L e^{ik·d}] C_LM(k) exp(-k²γ²/2).
//!
//! They depend on a pair through d and the two widths alone, and serve all multipoles of both sites in both directions.

use super::backward::{BLOCK, Field, SHARED, Sums, rotate, sum_packs};
use super::columns::Columns;
use super::sites::{Phases, parity_sign};
use super::{Reciprocal, push_combinations};
use crate::harmonics::{MAX_L, degree};
use crate::scalar::{LANES, Pack, Scalar};
use crate::simd::{degree_or, dispatch};
use crate::units::COULOMB_CONSTANT;
use crate::vector::{Vector, add_scaled, dot, scale};

/// Highest total degree of source and receiver.
pub const MAX_TOTAL: usize = MAX_L;

/// w(k) exp(-k²γ²/2) of two widths, and n3 beyond which it is negligible, per column.
struct Spectrum {
    field: Field<f64>,
    counts: Vec<u32>,
}

/// Everything but the vectors between the pairs.
pub struct LatticeSums<'a> {
    reciprocal: &'a Reciprocal<f64>,
    max_l: usize,
    /// Whether each component is even (real part of the sum) or odd (imaginary part): 0 or 1.
    parities: Vec<usize>,
    /// Coefficients of n3^a in (-k²)^n C_LM(k), signs and units included: `[column][component][a]`.
    polynomials: Vec<f64>,
    spectra: Vec<Spectrum>,
}

/// What one run over a tile of points needs.
pub struct Input<'a> {
    sums: &'a LatticeSums<'a>,
    spectrum: &'a Spectrum,
    phases: &'a Phases<f64>,
}

impl<'a> LatticeSums<'a> {
    /// `kinds` are (index of C_LM, n) of the components, with L + 2n ≤ `max_l` ≤ [`MAX_TOTAL`]; `widths` the widths
    /// (σ, s) that pairs occur with, and the narrowest of all sources and of all receivers.
    pub fn new(
        reciprocal: &'a Reciprocal<f64>,
        max_l: usize,
        kinds: &[(usize, usize)],
        widths: &[[f64; 2]],
        narrowest: [f64; 2],
    ) -> Self {
        let floor = reciprocal.floor;
        let spectra = widths
            .iter()
            .map(|&[sigma, s]| {
                let (sigma, s) = (sigma.max(floor), s.max(floor));
                // Both Gaussians end the sum, as in products with multipoles.
                let counts = reciprocal
                    .counts_of(sigma, narrowest[1])
                    .into_iter()
                    .zip(reciprocal.counts_of(s, narrowest[0]))
                    .map(|(a, b)| a.min(b))
                    .collect();
                Spectrum {
                    field: reciprocal.pair_field(sigma * sigma + s * s, max_l),
                    counts,
                }
            })
            .collect();
        let columns = reciprocal.columns.with_degree(&reciprocal.lattice, max_l);
        Self {
            reciprocal,
            max_l,
            parities: kinds.iter().map(|&(lm, _)| degree(lm) % 2).collect(),
            polynomials: polynomials(&columns, &reciprocal.step(), max_l, kinds),
            spectra,
        }
    }

    /// The tensors at some points d, added to `out[point][slot][component]` for the slots' spectra.
    pub fn evaluate(&self, points: &[Vector<f64>], slots: &[usize], out: &mut [f64]) {
        let reciprocal = self.reciprocal;
        let phases = Phases::new(points, &reciprocal.lattice, &reciprocal.columns);
        let n = self.parities.len();
        for (slot, &which) in slots.iter().enumerate() {
            let input = Input {
                sums: self,
                spectrum: &self.spectra[which],
                phases: &phases,
            };
            let packs = match self.max_l {
                0 => run::<f64, 0>(&input),
                1 => run::<f64, 1>(&input),
                2 => run::<f64, 2>(&input),
                _ => run::<f64, { crate::simd::ANY_DEGREE }>(&input),
            };
            for (point, out) in out.chunks_exact_mut(slots.len() * n).enumerate() {
                let pack = &packs[point / LANES * n..(point / LANES + 1) * n];
                for (value, pack) in out[slot * n..(slot + 1) * n].iter_mut().zip(pack) {
                    *value += pack.get(point % LANES);
                }
            }
        }
    }
}

impl Reciprocal<f64> {
    /// w(k) exp(-k²γ²/2), in the combinations that sums along a column use.
    fn pair_field(&self, gamma2: f64, max_l: usize) -> Field<f64> {
        let step = self.step();
        let n_powers = max_l + 1;
        let mut combinations = Vec::with_capacity(self.columns.n_entries * n_powers);
        for column in &self.columns.columns {
            for n3 in 0..column.count {
                let value = |sign: f64, weight: f64| {
                    let mut k = column.base;
                    add_scaled(&mut k, &scale(&step, n3 as f64), sign);
                    [weight * (-0.5 * gamma2 * dot(&k, &k)).exp(), 0.0]
                };
                let plus = value(1.0, self.weights.plus[column.offset + n3].0);
                let minus = value(-1.0, self.weights.minus[column.offset + n3].0);
                push_combinations(&mut combinations, plus, minus, n3, n_powers);
            }
        }
        Field {
            combinations,
            n_powers,
        }
    }
}

fn polynomials(
    columns: &Columns<f64>,
    step: &Vector<f64>,
    max_l: usize,
    kinds: &[(usize, usize)],
) -> Vec<f64> {
    let stride = max_l + 1;
    let mut out = Vec::with_capacity(columns.columns.len() * kinds.len() * stride);
    for (index, column) in columns.columns.iter().enumerate() {
        // -k² = -(base + n3 step)²
        let laplacian = [
            -dot(&column.base, &column.base),
            -2.0 * dot(&column.base, step),
            -dot(step, step),
        ];
        for &(lm, power) in kinds {
            let mut polynomial = vec![0.0; stride];
            // the tables of pairs hold the Coulomb constant, as do the weights
            let factor = parity_sign(degree(lm)) / COULOMB_CONSTANT;
            for (value, c) in polynomial.iter_mut().zip(columns.polynomial(index, lm)) {
                *value = factor * c;
            }
            for _ in 0..power {
                for a in (0..stride).rev() {
                    polynomial[a] = (0..=a.min(2))
                        .map(|b| laplacian[b] * polynomial[a - b])
                        .sum();
                }
            }
            out.extend(polynomial);
        }
    }
    out
}

dispatch! {
    /// Tensors `[pack][component]` at the points of a table of phases, of total degree L.
    fn run<T, L>(input: &Input<'_>) -> Vec<crate::scalar::F64x8> => body
}

#[inline(always)]
fn body<T: Scalar, const L: usize, const FMA: bool>(
    input: &Input<'_>,
) -> Vec<crate::scalar::F64x8> {
    type P = crate::scalar::F64x8;
    let sums_of = input.sums;
    let max_l = degree_or::<L>(sums_of.max_l);
    let stride = max_l + 1;
    let n = sums_of.parities.len();
    let n_packs = input.phases.n_packs;
    let columns = &sums_of.reciprocal.columns.columns;
    let mut out = vec![P::zero(); n_packs * n];
    let mut sums: [Sums<P>; SHARED] = [[[P::zero(); 2]; MAX_L + 2]; SHARED];
    for start in (0..columns.len()).step_by(BLOCK) {
        for (together, outputs) in out.chunks_mut(SHARED * n).enumerate() {
            let first = together * SHARED;
            for column in start..(start + BLOCK).min(columns.len()) {
                let count = input.spectrum.counts[column] as usize;
                if count == 0 {
                    continue;
                }
                let offset = columns[column].offset;
                let entries = offset..offset + count;
                let (phases, field) = (input.phases, &input.spectrum.field);
                if outputs.len() == SHARED * n {
                    let packs = std::array::from_fn(|b| first + b);
                    sum_packs::<f64, SHARED, FMA>(phases, packs, field, entries, &mut sums);
                } else {
                    sum_packs::<f64, 1, FMA>(phases, [first], field, entries, &mut sums);
                }
                let block = column * n * stride;
                let polynomials = &sums_of.polynomials[block..block + n * stride];
                for (b, output) in outputs.chunks_exact_mut(n).enumerate() {
                    let sums = &mut sums[b][..stride];
                    let phase = phases.base::<FMA>(columns[column].n, first + b);
                    rotate::<f64, FMA>(sums, phase);
                    for ((value, polynomial), &parity) in output
                        .iter_mut()
                        .zip(polynomials.chunks_exact(stride))
                        .zip(&sums_of.parities)
                    {
                        let mut total = *value;
                        for a in 0..stride {
                            total = sums[a][parity].mul_add::<FMA>(P::splat(polynomial[a]), total);
                        }
                        *value = total;
                    }
                }
            }
        }
    }
    out
}
