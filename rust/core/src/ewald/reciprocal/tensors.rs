//! Lattice sums of single pairs, for matrices: T = Σ_k w(k) (-k²)^n Re[i^L e^{ik·d}] C_LM(k) exp(-k²γ²/2).
//!
//! They depend on a pair through d and the two widths alone, and serve all multipoles of both sites in both directions.
//! (-k²)^n C_LM(k) is a homogeneous polynomial in (n1, n2, n3), so all of them follow from the moments
//! Σ_k w(k) exp(-k²γ²/2) n1^c n2^b n3^a e^{ik·d}, which are summed axis by axis.

use super::Reciprocal;
use super::sites::{Phase, Phases, parity_sign};
use crate::arithmetic::dispatch::{degree_or, dispatch};
use crate::arithmetic::ring::Ring;
use crate::arithmetic::vector::{Vector, add_scaled, dot, scale};
use crate::arithmetic::{F64x8, LANES, Pack, Scalar};
use crate::special::harmonics::{MAX_L, count, degree, solid_harmonics};
use crate::units::COULOMB_CONSTANT;
use std::ops::{Add, Mul, Sub};

/// Highest total degree of source and receiver.
pub const MAX_TOTAL: usize = MAX_L;
/// Moments n1^c n2^b n3^a with a + b + c ≤ [`MAX_TOTAL`].
const MAX_MONOMIALS: usize = (MAX_TOTAL + 1) * (MAX_TOTAL + 2) * (MAX_TOTAL + 3) / 6;
/// Powers (a, b) with a + b ≤ [`MAX_TOTAL`].
const MAX_PLANE: usize = (MAX_TOTAL + 1) * (MAX_TOTAL + 2) / 2;
/// Powers of n3 summed in one pass.
const POWERS: usize = 3;
/// Packs that share each load of the spectrum.
const SHARED: usize = 2;

/// Exponents (a, b, c) of n3, n2, n1 in the order of the moments.
fn monomials(max_l: usize) -> impl Iterator<Item = [usize; 3]> {
    (0..=max_l).flat_map(move |a| {
        (0..=max_l - a).flat_map(move |b| (0..=max_l - a - b).map(move |c| [a, b, c]))
    })
}

/// w(k) exp(-k²γ²/2) of two widths.
struct Spectrum {
    /// `[entry][a]`: Y₊ n^a + Y₋ (-n)^a and Y₊ n^a - Y₋ (-n)^a at n3 = ±n.
    combinations: Vec<[f64; 2]>,
    /// n3 beyond which it is negligible, per column.
    counts: Vec<u32>,
}

/// Tables that do not depend on the vectors between the pairs.
pub struct LatticeSums<'a> {
    reciprocal: &'a Reciprocal<f64>,
    max_l: usize,
    /// Terms of each tensor: moments with factors, signs and units included.
    expansions: Vec<Vec<(usize, f64)>>,
    spectra: Vec<Spectrum>,
}

/// Arguments of one run over a tile of points.
pub struct Input<'a> {
    sums: &'a LatticeSums<'a>,
    spectrum: &'a Spectrum,
    phases: &'a Phases<f64>,
}

impl<'a> LatticeSums<'a> {
    /// `kinds` are (index of C_LM, n) of the tensors, with L + 2n ≤ `max_l` ≤ [`MAX_TOTAL`]; `widths` the widths (σ, s)
    /// that pairs occur with, and the narrowest of all sources and of all receivers.
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
                    combinations: reciprocal.combinations(sigma * sigma + s * s, max_l),
                    counts,
                }
            })
            .collect();
        let axes = reciprocal.columns.axes;
        Self {
            reciprocal,
            max_l,
            expansions: expansions(
                axes.map(|axis| reciprocal.lattice.reciprocal[axis]),
                max_l,
                kinds,
            ),
            spectra,
        }
    }

    /// The tensors at some points d, added to `out[point][slot][tensor]` for the slots' spectra.
    pub fn evaluate(&self, points: &[Vector<f64>], slots: &[usize], out: &mut [f64]) {
        let reciprocal = self.reciprocal;
        let phases = Phases::new(points, &reciprocal.lattice, &reciprocal.columns);
        let n = self.expansions.len();
        let n_moments = monomials(self.max_l).count();
        for (slot, &which) in slots.iter().enumerate() {
            let input = Input {
                sums: self,
                spectrum: &self.spectra[which],
                phases: &phases,
            };
            let moments = match self.max_l {
                0 => moments::<f64, 0>(&input),
                1 => moments::<f64, 1>(&input),
                2 => moments::<f64, 2>(&input),
                _ => moments::<f64, { crate::arithmetic::dispatch::ANY_DEGREE }>(&input),
            };
            for (pack, moments) in moments.chunks_exact(n_moments).enumerate() {
                for (tensor, expansion) in self.expansions.iter().enumerate() {
                    let mut total = F64x8::zero();
                    for &(moment, factor) in expansion {
                        total = moments[moment].mul_add::<false>(F64x8::splat(factor), total);
                    }
                    for lane in 0..LANES.min(points.len() - pack * LANES) {
                        let point = pack * LANES + lane;
                        out[(point * slots.len() + slot) * n + tensor] += total.get(lane);
                    }
                }
            }
        }
    }
}

impl Reciprocal<f64> {
    fn combinations(&self, gamma2: f64, max_l: usize) -> Vec<[f64; 2]> {
        let step = self.step();
        let mut out = Vec::with_capacity(self.columns.n_entries * (max_l + 1));
        for column in &self.columns.columns {
            for n3 in 0..column.count {
                let value = |sign: f64, weight: f64| {
                    let mut k = column.base;
                    add_scaled(&mut k, &scale(&step, n3 as f64), sign);
                    weight * (-0.5 * gamma2 * dot(&k, &k)).exp()
                };
                let plus = value(1.0, self.weights.plus[column.offset + n3].0);
                let minus = value(-1.0, self.weights.minus[column.offset + n3].0);
                let (mut power, mut sign) = (1.0, 1.0);
                for _ in 0..=max_l {
                    out.push([(plus + minus * sign) * power, (plus - minus * sign) * power]);
                    power *= n3 as f64;
                    sign = -sign;
                }
            }
        }
        out
    }
}

/// A polynomial in (n1, n2, n3).
#[derive(Clone, Copy)]
struct Polynomial([f64; MAX_MONOMIALS]);

/// Place of each product of two monomials, for polynomials of total degree up to [`MAX_TOTAL`].
fn product_places() -> &'static [(u8, u8, u8)] {
    static TABLE: std::sync::OnceLock<Vec<(u8, u8, u8)>> = std::sync::OnceLock::new();
    TABLE.get_or_init(|| {
        let all: Vec<[usize; 3]> = monomials(MAX_TOTAL).collect();
        let mut out = Vec::new();
        for (i, first) in all.iter().enumerate() {
            for (j, second) in all.iter().enumerate() {
                let product: [usize; 3] = std::array::from_fn(|axis| first[axis] + second[axis]);
                if let Some(place) = all.iter().position(|m| *m == product) {
                    out.push((i as u8, j as u8, place as u8));
                }
            }
        }
        out
    })
}

impl Add for Polynomial {
    type Output = Self;
    fn add(mut self, other: Self) -> Self {
        for (a, b) in self.0.iter_mut().zip(other.0) {
            *a += b;
        }
        self
    }
}
impl Sub for Polynomial {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + other * -1.0
    }
}
impl Mul for Polynomial {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        let mut out = <Self as Ring>::zero();
        for &(i, j, place) in product_places() {
            out.0[place as usize] += self.0[i as usize] * other.0[j as usize];
        }
        out
    }
}
impl Mul<f64> for Polynomial {
    type Output = Self;
    fn mul(mut self, factor: f64) -> Self {
        for a in &mut self.0 {
            *a *= factor;
        }
        self
    }
}
impl Ring for Polynomial {
    fn one() -> Self {
        let mut out = <Self as Ring>::zero();
        out.0[0] = 1.0;
        out
    }
    fn zero() -> Self {
        Self([0.0; MAX_MONOMIALS])
    }
}

/// (-k²)^n C_LM(k) in moments of total degree up to `max_l`, k = n1 b_u + n2 b_v + n3 b_w.
fn expansions(
    b: [Vector<f64>; 3],
    max_l: usize,
    kinds: &[(usize, usize)],
) -> Vec<Vec<(usize, f64)>> {
    let all: Vec<[usize; 3]> = monomials(MAX_TOTAL).collect();
    let k: [Polynomial; 3] = std::array::from_fn(|axis| {
        let mut out = <Polynomial as Ring>::zero();
        for (place, monomial) in all.iter().enumerate() {
            match monomial {
                [0, 0, 1] => out.0[place] = b[0][axis],
                [0, 1, 0] => out.0[place] = b[1][axis],
                [1, 0, 0] => out.0[place] = b[2][axis],
                _ => {}
            }
        }
        out
    });
    let mut harmonics = vec![<Polynomial as Ring>::zero(); count(max_l)];
    solid_harmonics(k[0], k[1], k[2], max_l, &mut harmonics);
    let laplacian = (k[0] * k[0] + k[1] * k[1] + k[2] * k[2]) * -1.0;
    kinds
        .iter()
        .map(|&(lm, power)| {
            // Pair tables hold the Coulomb constant, as do the weights.
            let mut polynomial = harmonics[lm] * (parity_sign(degree(lm)) / COULOMB_CONSTANT);
            for _ in 0..power {
                polynomial = polynomial * laplacian;
            }
            monomials(max_l)
                .enumerate()
                .filter_map(|(moment, monomial)| {
                    let place = all.iter().position(|m| *m == monomial)?;
                    let factor = polynomial.0[place];
                    (factor != 0.0).then_some((moment, factor))
                })
                .collect()
        })
        .collect()
}

dispatch! {
    /// Moments `[pack][monomial]` at the points of a table of phases, of total degree L: of even ones the real part, of
    /// odd ones the imaginary part.
    fn moments<T, L>(input: &Input<'_>) -> Vec<F64x8> => body
}

// `dispatch!` names a scalar; matrices are of plain numbers.
#[allow(clippy::extra_unused_type_parameters)]
#[inline(always)]
fn body<T: Scalar, const L: usize, const FMA: bool>(input: &Input<'_>) -> Vec<F64x8> {
    let max_l = degree_or::<L>(input.sums.max_l);
    let n_moments = (max_l + 1) * (max_l + 2) * (max_l + 3) / 6;
    let n_packs = input.phases.n_packs;
    let columns = &input.sums.reciprocal.columns.columns;
    let mut out = vec![F64x8::zero(); n_packs * n_moments];
    let mut scratch = Scratch {
        plane: [[[F64x8::zero(); 2]; MAX_PLANE]; SHARED],
        sums: [[[F64x8::zero(); 2]; MAX_TOTAL + 1]; SHARED],
    };
    let mut first = 0;
    // Columns of one n1 together: their part of the spectrum stays in the cache.
    while first < columns.len() {
        let n1 = columns[first].n[0];
        let length = columns[first..].iter().take_while(|c| c.n[0] == n1).count();
        for (together, outputs) in out.chunks_mut(SHARED * n_moments).enumerate() {
            let start = together * SHARED;
            if outputs.len() == SHARED * n_moments {
                sheet::<L, SHARED, FMA>(input, first..first + length, start, &mut scratch, outputs);
            } else {
                sheet::<L, 1, FMA>(input, first..first + length, start, &mut scratch, outputs);
            }
        }
        first += length;
    }
    out
}

/// Sums over n3 and over (n2, n3) for packs that go together.
struct Scratch {
    plane: [[Phase<F64x8>; MAX_PLANE]; SHARED],
    sums: [[Phase<F64x8>; MAX_TOTAL + 1]; SHARED],
}

/// Adds the columns of one n1 to the moments of `B` packs.
#[inline(always)]
fn sheet<const L: usize, const B: usize, const FMA: bool>(
    input: &Input<'_>,
    range: std::ops::Range<usize>,
    start: usize,
    scratch: &mut Scratch,
    out: &mut [F64x8],
) {
    let max_l = degree_or::<L>(input.sums.max_l);
    let stride = max_l + 1;
    let n_plane = (max_l + 1) * (max_l + 2) / 2;
    let zero = F64x8::zero();
    let columns = &input.sums.reciprocal.columns.columns;
    let n1 = columns[range.start].n[0];
    // Clears only the part that this degree needs, which saves time at a few dozen columns.
    for plane in &mut scratch.plane {
        plane[..n_plane].fill([zero; 2]);
    }
    let (plane, sums) = (&mut scratch.plane, &mut scratch.sums);
    for column in range {
        let count = input.spectrum.counts[column] as usize;
        if count == 0 {
            continue;
        }
        let offset = columns[column].offset * stride;
        let rows = &input.spectrum.combinations[offset..offset + count * stride];
        let mut a = 0;
        while a < stride {
            match (stride - a).min(POWERS) {
                1 => accumulate::<1, B, FMA>(input.phases, start, rows, stride, a, sums),
                2 => accumulate::<2, B, FMA>(input.phases, start, rows, stride, a, sums),
                _ => accumulate::<3, B, FMA>(input.phases, start, rows, stride, a, sums),
            }
            a += POWERS;
        }
        let n2 = columns[column].n[1];
        for b in 0..B {
            let phase = phase(input.phases, 1, n2, start + b);
            let plane = &mut plane[b][..n_plane];
            let mut place = 0;
            for a in 0..stride {
                let mut value = rotated::<FMA>(sums[b][a], phase);
                for power in 0..stride - a {
                    if power > 0 {
                        let n2 = F64x8::splat(n2 as f64);
                        value = [value[0] * n2, value[1] * n2];
                    }
                    plane[place] = [plane[place][0] + value[0], plane[place][1] + value[1]];
                    place += 1;
                }
            }
        }
    }
    for (b, out) in out.chunks_exact_mut(out.len() / B).enumerate() {
        let phase = phase(input.phases, 0, n1, start + b);
        let (mut place, mut moment) = (0, 0);
        for a in 0..stride {
            for power in 0..stride - a {
                let value = rotated::<FMA>(plane[b][place], phase);
                place += 1;
                let mut weight = 1.0;
                for c in 0..stride - a - power {
                    let part = value[(a + power + c) % 2];
                    out[moment] = part.mul_add::<FMA>(F64x8::splat(weight), out[moment]);
                    moment += 1;
                    weight *= n1 as f64;
                }
            }
        }
    }
}

/// e^{inθ} along one axis.
#[inline(always)]
fn phase(phases: &Phases<f64>, axis: usize, n: i32, pack: usize) -> Phase<F64x8> {
    let [cos, sin] = phases.tables[axis][n.unsigned_abs() as usize * phases.n_packs + pack];
    [cos, if n < 0 { sin.neg() } else { sin }]
}

#[inline(always)]
fn rotated<const FMA: bool>([re, im]: Phase<F64x8>, [cos, sin]: Phase<F64x8>) -> Phase<F64x8> {
    [
        im.neg_mul_add::<FMA>(sin, re * cos),
        re.mul_add::<FMA>(sin, im * cos),
    ]
}

/// sums[a] = Σ_n3 n3^a Y(n3) e^{i n3 θ} for a in `a0 .. a0 + A`.
#[inline(always)]
fn accumulate<const A: usize, const B: usize, const FMA: bool>(
    phases: &Phases<f64>,
    start: usize,
    rows: &[[f64; 2]],
    stride: usize,
    a0: usize,
    sums: &mut [[Phase<F64x8>; MAX_TOTAL + 1]; SHARED],
) {
    let mut acc = [[[F64x8::zero(); 2]; A]; B];
    for (n, row) in rows.chunks_exact(stride).enumerate() {
        let first = n * phases.n_packs + start;
        let table = &phases.tables[2][first..first + B];
        let row = &row[a0..a0 + A];
        for b in 0..B {
            let [cos, sin] = table[b];
            for a in 0..A {
                let [sum, difference] = row[a].map(F64x8::splat);
                acc[b][a][0] = cos.mul_add::<FMA>(sum, acc[b][a][0]);
                acc[b][a][1] = sin.mul_add::<FMA>(difference, acc[b][a][1]);
            }
        }
    }
    for b in 0..B {
        sums[b][a0..a0 + A].copy_from_slice(&acc[b]);
    }
}
