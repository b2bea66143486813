//! The exponential of eight numbers at a time.
//!
//! e^x = 2^n e^r with n = round(x / ln 2), |r| ≤ ln 2 / 2, and e^r = 1 + r + r² q(r), q the polynomial of degree 10
//! that fits best (Remez; 1.3e-17 relative to e^r). The result is within 2 ulp of
//! the library's.

use super::f64x8::{F64x8, LANES};

/// ln 2 in two parts; n times the first is exact.
const LN_2: [f64; 2] = [0.6931471803691238, 1.9082149292705877e-10];
/// Adding 1.5 · 2^52 rounds to a whole number, which is then in the low bits.
const ROUND: f64 = 6755399441055744.0;
/// Below this the result would be subnormal: it is set to zero.
const LOWEST: f64 = -708.0;
const HIGHEST: f64 = 709.0;

/// q, highest power first.
const COEFFICIENTS: [f64; 10] = [
    2.510038549551032e-08,
    2.7620088445409746e-07,
    2.7557268459997064e-06,
    2.4801521295954376e-05,
    0.00019841269863053618,
    0.0013888888917213717,
    0.008333333333330062,
    0.04166666666662413,
    0.16666666666666669,
    0.5,
];

/// e^x of each lane; zero below x = -708, e^709 above x = 709.
///
/// To be called from functions that are compiled for each instruction set (see [`crate::arithmetic::dispatch`]).
#[inline(always)]
pub fn exp<const FMA: bool>(x: F64x8) -> F64x8 {
    let clamped = x.max(LOWEST).min(HIGHEST);
    let log2_e = F64x8::splat(std::f64::consts::LOG2_E);
    let rounded = clamped.mul_add::<FMA>(log2_e, F64x8::splat(ROUND));
    let whole = rounded + F64x8::splat(-ROUND);
    let mut power = rounded;
    for x in &mut power.0 {
        *x = f64::from_bits((x.to_bits() << 52).wrapping_add(1023 << 52));
    }
    let r = whole.neg_mul_add::<FMA>(F64x8::splat(LN_2[0]), clamped);
    let r = whole.neg_mul_add::<FMA>(F64x8::splat(LN_2[1]), r);
    let mut q = F64x8::splat(COEFFICIENTS[0]);
    for &coefficient in &COEFFICIENTS[1..] {
        q = q.mul_add::<FMA>(r, F64x8::splat(coefficient));
    }
    let sum = q.mul_add::<FMA>(r * r, r);
    let result = sum.mul_add::<FMA>(power, power);
    F64x8::ZERO.select(&x.below(LOWEST), result)
}

/// Replaces every number by its exponential, with the best instruction set of this machine.
pub fn exp_all(values: &mut [f64]) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn avx2(values: &mut [f64]) {
            body::<true>(values)
        }
        #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma")]
        fn avx512(values: &mut [f64]) {
            body::<true>(values)
        }
        use super::dispatch::{Instructions, instructions};
        match instructions() {
            // SAFETY: the features were detected on this machine.
            Instructions::Avx512 => return unsafe { avx512(values) },
            Instructions::Avx2 => return unsafe { avx2(values) },
            Instructions::Portable => {}
        }
    }
    body::<false>(values)
}

#[inline(always)]
fn body<const FMA: bool>(values: &mut [f64]) {
    let (packs, rest) = values.as_chunks_mut::<LANES>();
    for pack in packs {
        *pack = exp::<FMA>(F64x8(*pack)).0;
    }
    let mut last = F64x8::ZERO;
    last.0[..rest.len()].copy_from_slice(rest);
    let last = exp::<FMA>(last).0;
    rest.copy_from_slice(&last[..rest.len()]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_two_ulp_of_the_library() {
        let points: Vec<f64> = (-70_790..70_890)
            .map(|k| 0.01 * k as f64 + 1e-4 * (k as f64).sin())
            .chain((0..1000).map(|k| 1e-3 * k as f64 - 0.5))
            .collect();
        let mut values = points.clone();
        exp_all(&mut values);
        let mut portable = points.clone();
        body::<false>(&mut portable);
        for ((&x, &value), &portable) in points.iter().zip(&values).zip(&portable) {
            let exact = x.exp();
            for value in [value, portable] {
                let ulps = (value.to_bits() as i64 - exact.to_bits() as i64).abs();
                assert!(ulps <= 2, "exp({x}) = {value:e} against {exact:e}");
            }
        }
    }

    #[test]
    fn ends_of_the_range() {
        let mut values = [0.0, -0.0, -708.5, -1e300, f64::NEG_INFINITY, 709.0, 1e-300];
        exp_all(&mut values);
        assert_eq!(values[..5], [1.0, 1.0, 0.0, 0.0, 0.0]);
        assert!((values[5] / 709f64.exp() - 1.0).abs() < 1e-15);
        assert_eq!(values[6], 1.0);
    }
}
