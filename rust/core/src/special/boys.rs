//! Boys functions B_m(t) = ∫₀¹ u^(2m) exp(-t u²) du, t ≥ 0, of eight arguments at a time.
//!
//! Below t = 40 the two highest orders come from a table: in each interval of 1/8, a polynomial of degree 7 for
//! B_(n-1), whose derivative is -B_n. Lower orders follow from B_m = (2t B_(m+1) + e^-t)/(2m+1), which is stable.
//! Beyond, erf(√t) = 1 to double precision, B_0 = √(π/4t), and B_(m+1) = ((2m+1) B_m - e^-t)/2t. The relative error is
//! below 1e-14 (8e-15 from the polynomials at the highest order, less at low ones).

use crate::arithmetic::dispatch::Avx512;
use crate::arithmetic::exp;
use crate::arithmetic::{F64x8, LANES, Pack};
use std::sync::OnceLock;

/// Highest order: a product of two harmonics, a gradient and a tangent.
pub const MAX_ORDER: usize = crate::special::harmonics::MAX_DEGREE + 1;
/// End of the table.
const LARGE: f64 = 40.0;
/// Beyond this t^m e^-t vanishes at any order.
const NO_DECAY: f64 = 128.0;
const INTERVALS: f64 = 8.0;
/// Adding 1.5 · 2^52 rounds to a whole number, which is then in the low bits.
const ROUND: f64 = 6755399441055744.0;
/// A power of two, so that an index needs no check.
const N_ROWS: usize = 512;

/// Coefficients of one interval, lowest power first: a cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Row([f64; 8]);

/// Polynomials of one order.
#[derive(Debug)]
pub struct BoysTable {
    rows: [Row; N_ROWS],
    avx512: Avx512,
}

/// B_m by its series.
fn series(m: usize, t: f64) -> f64 {
    let mut term = 1.0 / (2 * m + 1) as f64;
    let mut sum = term;
    let mut k = 1;
    while term.abs() > 1e-18 * sum {
        term *= 2.0 * t / (2 * (m + k) + 1) as f64;
        sum += term;
        k += 1;
    }
    (-t).exp() * sum
}

impl BoysTable {
    /// The table for orders up to `top` ≥ 1, made at first use.
    pub fn up_to(top: usize) -> &'static Self {
        static TABLES: [OnceLock<Box<BoysTable>>; MAX_ORDER] =
            [const { OnceLock::new() }; MAX_ORDER];
        TABLES[top - 1].get_or_init(|| Box::new(Self::new(top - 1)))
    }

    fn new(order: usize) -> Self {
        let mut rows = [Row([0.0; 8]); N_ROWS];
        for (k, row) in rows.iter_mut().enumerate() {
            let middle = k as f64 / INTERVALS;
            if middle <= LARGE {
                row.0 = interval(order, middle);
            }
        }
        Self {
            rows,
            avx512: Avx512::detect(),
        }
    }
}

impl BoysTable {
    /// Coefficients of all intervals, `[interval][8]`.
    pub fn coefficients(&self) -> Vec<f64> {
        self.rows.iter().flat_map(|row| row.0).collect()
    }

    /// The rows of eight intervals, whose numbers are in the low bits of `place`, as columns.
    #[inline(always)]
    fn rows_at(&self, place: &F64x8) -> [F64x8; 8] {
        let mut rows = [&self.rows[0].0; LANES];
        for lane in 0..LANES {
            rows[lane] = &self.rows[place.0[lane].to_bits() as usize % N_ROWS].0;
        }
        let mut out = [F64x8::zero(); 8];
        #[cfg(target_arch = "x86_64")]
        if self.avx512.found() {
            // SAFETY: AVX-512 was detected on this machine.
            unsafe { crate::arithmetic::shuffles::columns_of_eight(&rows, &mut out) };
            return out;
        }
        for lane in 0..LANES {
            for k in 0..8 {
                out[k].0[lane] = rows[lane][k];
            }
        }
        out
    }
}

/// B_order around `middle`: the integral of the Chebyshev interpolation of its derivative.
fn interval(order: usize, middle: f64) -> [f64; 8] {
    const NODES: usize = 12;
    const DEGREE: usize = 6;
    let half = 0.5 / INTERVALS;
    let mut chebyshev = [0.0; DEGREE + 1];
    for node in 0..NODES {
        let angle = std::f64::consts::PI * (node as f64 + 0.5) / NODES as f64;
        let value = series(order + 1, middle + half * angle.cos());
        for (k, coefficient) in chebyshev.iter_mut().enumerate() {
            let weight = if k == 0 { 1.0 } else { 2.0 } / NODES as f64;
            *coefficient += weight * value * (k as f64 * angle).cos();
        }
    }
    // Powers from T_(k+1) = 2x T_k - T_(k-1)
    let mut powers = [0.0; DEGREE + 1];
    let (mut before, mut current) = ([0.0; DEGREE + 2], [0.0; DEGREE + 2]);
    before[1] = 1.0;
    current[0] = 1.0;
    for coefficient in chebyshev {
        for (power, term) in powers.iter_mut().zip(current) {
            *power += coefficient * term;
        }
        let mut next = [0.0; DEGREE + 2];
        for k in 0..DEGREE + 2 {
            let shifted = if k == 0 { 0.0 } else { current[k - 1] };
            next[k] = 2.0 * shifted - before[k];
        }
        (before, current) = (current, next);
    }
    let mut out = [0.0; 8];
    out[0] = series(order, middle);
    for (k, power) in powers.into_iter().enumerate() {
        out[k + 1] = -power / half.powi(k as i32) / (k + 1) as f64;
    }
    out
}

/// B_0 ... B_top of `table` = [`BoysTable::up_to`]`(top)`, top ≥ 1.
#[inline(always)]
pub fn boys<const FMA: bool>(t: F64x8, top: usize, table: &BoysTable, out: &mut [F64x8]) {
    let small = t.below(LARGE);
    let near = small.iter().fold(0, |any, lane| any | lane) != 0;
    let far = small.iter().fold(u64::MAX, |all, lane| all & lane) == 0;
    let decays = t.below(NO_DECAY).iter().fold(0, |any, lane| any | lane) != 0;
    let mut decay = F64x8::zero();
    if top > 1 && decays {
        decay = exp::<FMA>(t.neg());
    }
    if near {
        let t = t.min(LARGE);
        let place = t.mul_add::<FMA>(F64x8::splat(INTERVALS), F64x8::splat(ROUND));
        let middle = place.add(F64x8::splat(-ROUND));
        let delta = middle.neg_mul_add::<FMA>(F64x8::splat(1.0 / INTERVALS), t);
        let coefficients = table.rows_at(&place);
        // Two coefficients at a time, so that fewer steps wait for one another.
        let [c0, c1, c2, c3, c4, c5, c6, c7] = coefficients;
        let square = delta.mul(delta);
        let fourth = square.mul(square);
        let low = c3.mul_add::<FMA>(delta, c2);
        let low = low.mul_add::<FMA>(square, c1.mul_add::<FMA>(delta, c0));
        let high = c7.mul_add::<FMA>(delta, c6);
        let high = high.mul_add::<FMA>(square, c5.mul_add::<FMA>(delta, c4));
        out[top - 1] = high.mul_add::<FMA>(fourth, low);
        // The derivative with the opposite sign.
        let twice = delta.mul(F64x8::splat(-2.0));
        let d4 = c4.mul(F64x8::splat(4.0));
        let d6 = c6.mul(F64x8::splat(6.0));
        let d3 = c3.mul(F64x8::splat(-3.0));
        let d5 = c5.mul(F64x8::splat(-5.0));
        let d7 = c7.mul(F64x8::splat(-7.0));
        let low = d4.neg_mul_add::<FMA>(delta, d3);
        let low = low.mul_add::<FMA>(square, c2.mul_add::<FMA>(twice, c1.neg()));
        let high = d7.mul_add::<FMA>(square, d6.neg_mul_add::<FMA>(delta, d5));
        out[top] = high.mul_add::<FMA>(fourth, low);
        let twice = t.add(t);
        for m in (0..top - 1).rev() {
            let sum = twice.mul_add::<FMA>(out[m + 1], decay);
            out[m] = sum.mul(F64x8::splat(1.0 / (2 * m + 1) as f64));
        }
    }
    if far {
        let t = t.max(LARGE);
        let inverse = t.divide(0.5);
        let mut value = inverse
            .mul(F64x8::splat(std::f64::consts::FRAC_PI_2))
            .sqrt();
        for m in 0..=top {
            out[m] = if near {
                out[m].select(&small, value)
            } else {
                value
            };
            let factor = F64x8::splat((2 * m + 1) as f64);
            value = value.mul_add::<FMA>(factor, decay.neg()).mul(inverse);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packs(t: [f64; LANES], top: usize) -> Vec<F64x8> {
        let mut out = vec![F64x8::zero(); top + 1];
        boys::<false>(F64x8(t), top, BoysTable::up_to(top), &mut out);
        out
    }

    #[test]
    fn exact_values() {
        // mpmath with 40 digits: (t, B_0, B_1, B_3, B_8, B_14)
        let exact = [
            (
                0.0,
                [
                    1.0,
                    0.3333333333333333,
                    0.14285714285714285,
                    0.058823529411764705,
                    0.034482758620689655,
                ],
            ),
            (
                0.001,
                [
                    0.9996667666428618,
                    0.33313340474339004,
                    0.14274607718775947,
                    0.05877092163509644,
                    0.0344505157029279,
                ],
            ),
            (
                0.0625,
                [
                    0.9795515487210233,
                    0.32110788726038053,
                    0.13608716714522728,
                    0.0556253176847735,
                    0.03252466960163395,
                ],
            ),
            (
                0.5,
                [
                    0.8556243918921488,
                    0.2490937321795154,
                    0.09722202441693015,
                    0.037649546503491,
                    0.021610567884730963,
                ],
            ),
            (
                1.0,
                [
                    0.746824132812427,
                    0.18947234582049235,
                    0.06673227477682225,
                    0.024155294145404172,
                    0.013556514179749592,
                ],
            ),
            (
                3.3,
                [
                    0.48287681308381286,
                    0.06757479480038983,
                    0.013447593667388966,
                    0.0032516713249392307,
                    0.001609166893292328,
                ],
            ),
            (
                9.94,
                [
                    0.2810917940287862,
                    0.01413700134427333,
                    0.0005335221146416879,
                    1.6805951040509758e-05,
                    4.118880976293194e-06,
                ],
            ),
            (
                17.0625,
                [
                    0.21454757308172673,
                    0.006287107229028894,
                    8.098224257019373e-05,
                    2.345707634481248e-07,
                    1.206820791445934e-08,
                ],
            ),
            (
                28.3,
                [
                    0.16659107202686108,
                    0.002943305159476128,
                    1.3781411105329216e-05,
                    3.206104959501674e-09,
                    1.025267160746748e-11,
                ],
            ),
            (
                39.95,
                [
                    0.14021244058768698,
                    0.0017548490686819394,
                    4.12322913501525e-06,
                    1.7110843502171318e-10,
                    6.925380648042248e-14,
                ],
            ),
            (
                40.01,
                [
                    0.14010726809588747,
                    0.001750903125417239,
                    4.10162812977995e-06,
                    1.6893957352876284e-10,
                    6.776306440642131e-14,
                ],
            ),
            (
                55.0,
                [
                    0.11949881425029427,
                    0.001086352856820857,
                    1.346718417546517e-06,
                    1.130007223520179e-11,
                    6.717049281837e-16,
                ],
            ),
            (
                127.0,
                [
                    0.07863992311203338,
                    0.00030960599650406846,
                    7.198353815427222e-08,
                    9.200945373397201e-15,
                    3.608141646200533e-21,
                ],
            ),
            (
                500.0,
                [
                    0.03963327297606011,
                    3.963327297606011e-05,
                    5.944990946409016e-10,
                    8.033763515429825e-20,
                    8.460041032881168e-30,
                ],
            ),
            (
                10000000.0,
                [
                    0.00028024956081989643,
                    1.4012478040994822e-11,
                    5.254679265373059e-25,
                    2.219034632894338e-56,
                    3.65121605436201e-92,
                ],
            ),
        ];
        for (t, orders) in exact {
            for top in 1..=MAX_ORDER {
                let found = packs([t; LANES], top);
                for (m, exact) in [0, 1, 3, 8, 14].into_iter().zip(orders) {
                    if m <= top {
                        let error = (found[m].0[3] / exact - 1.0).abs();
                        assert!(error < 1e-14, "B_{m}({t}) up to B_{top}: {error:e}");
                    }
                }
            }
        }
    }

    #[test]
    fn series_everywhere_and_mixed_packs() {
        for top in [1, 2, 3, 4, 9, MAX_ORDER] {
            for k in 0..900 {
                let t = std::array::from_fn(|lane| 0.0503 * k as f64 + 5.7 * lane as f64);
                let found = packs(t, top);
                for (m, values) in found.iter().enumerate() {
                    for (lane, &t) in t.iter().enumerate().filter(|(_, t)| **t < 60.0) {
                        let exact = series(m, t);
                        let error = (values.0[lane] / exact - 1.0).abs();
                        assert!(error < 2e-14, "B_{m}({t}) up to B_{top}: {error:e}");
                    }
                }
            }
        }
    }
}
