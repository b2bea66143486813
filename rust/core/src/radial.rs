//! Radial functions of the Gaussian pair interaction.
//!
//! With f(r) = erf(r / (√2 γ)) / r, an interaction of multipoles needs F_an = (1/r d/dr)^a (∇²)^n f. They follow
//! from the Boys function, which is smooth at r = 0: (1/r d/dr)^a f = √(2/π)/γ (-1/γ²)^a B_a(r²/2γ²).

use crate::harmonics::MAX_DEGREE;
use crate::scalar::Scalar;
use std::sync::OnceLock;

/// Orders B_0 ... that the table holds: two powers of r d/dr for each Laplacian, one for a tangent.
const MAX_ORDER: usize = MAX_DEGREE + 3;
/// Beyond this argument erf(√t) = 1 to double precision.
const LARGE: f64 = 36.0;
const STEP: f64 = 0.1;
const TAYLOR: usize = 8;

type Row = [f64; MAX_ORDER + TAYLOR + 1];

/// B_m(t) = ∫₀¹ u^(2m) exp(-t u²) du by its series, for the table.
fn boys_series(m: usize, t: f64) -> f64 {
    let mut term = 1.0 / (2 * m + 1) as f64;
    let mut sum = term;
    let mut k = 1;
    while term > 1e-18 * sum {
        term *= 2.0 * t / (2 * (m + k) + 1) as f64;
        sum += term;
        k += 1;
    }
    (-t).exp() * sum
}

fn boys_table() -> &'static [Row] {
    static TABLE: OnceLock<Vec<Row>> = OnceLock::new();
    TABLE.get_or_init(|| {
        (0..=(LARGE / STEP) as usize + 1)
            .map(|k| std::array::from_fn(|m| boys_series(m, k as f64 * STEP)))
            .collect()
    })
}

/// Boys functions B_0(t) ... B_max_order(t), t ≥ 0, to about 1e-15 relative.
pub fn boys(t: f64, max_order: usize, out: &mut [f64]) {
    if t >= LARGE {
        let decay = (-t).exp();
        let inverse = 0.5 / t;
        out[0] = (std::f64::consts::PI * 0.5 * inverse).sqrt();
        for m in 0..max_order {
            out[m + 1] = ((2 * m + 1) as f64 * out[m] - decay) * inverse;
        }
        return;
    }
    let nearest = (t * (1.0 / STEP) + 0.5) as usize;
    let row = &boys_table()[nearest];
    let delta = nearest as f64 * STEP - t;
    // B_m(t0 - delta) = Σ_k B_{m+k}(t0) delta^k / k!
    let mut sum = row[max_order + TAYLOR];
    for k in (0..TAYLOR).rev() {
        sum = row[max_order + k] + sum * delta * (1.0 / (k + 1) as f64);
    }
    out[max_order] = sum;
    if max_order > 0 {
        let decay = (-t).exp();
        for m in (0..max_order).rev() {
            out[m] = (2.0 * t * out[m + 1] + decay) / (2 * m + 1) as f64;
        }
    }
}

/// Number of Laplacians stored per order.
pub const MAX_POWER: usize = crate::harmonics::MAX_L + 1;

/// F[n][a] = (1/r d/dr)^a (∇²)^n f for one pair.
pub type RadialTable<T> = [[T; MAX_ORDER]; MAX_POWER];

/// Adds `factor` times the functions of width γ (`gamma2` = γ²) to `table`, for n ≤ `max_n` and a + 2n ≤ `max_a`.
///
/// For n ≥ 1 only a Gaussian is left: ∇² f = -4π g, and D^a ∇² h = (3 + 2a) D^(a+1) h + r² D^(a+2) h with
/// D = 1/r d/dr.
pub fn add_radial<T: Scalar>(
    table: &mut RadialTable<T>,
    r2: T,
    gamma2: f64,
    factor: f64,
    max_a: usize,
    max_n: usize,
) {
    let mut values = [0.0; MAX_ORDER + 1];
    let inverse = 1.0 / gamma2;
    let t = 0.5 * r2.value() * inverse;
    boys(t, max_a + 1, &mut values);
    let mut prefactor = factor * (2.0 / std::f64::consts::PI * inverse).sqrt();
    for a in 0..=max_a {
        // d/d(r²) of D^a f is half of D^(a+1) f
        let value = prefactor * values[a];
        prefactor *= -inverse;
        table[0][a] += r2.chain(value, 0.5 * prefactor * values[a + 1]);
    }
    if max_n == 0 {
        return;
    }
    let normal = (2.0 * std::f64::consts::PI * gamma2).powf(-1.5);
    let mut value = -4.0 * std::f64::consts::PI * factor * normal * (-t).exp();
    // Orders that can be asked for: a + 2n never exceeds max_a.
    let mut rows = [[T::zero(); MAX_ORDER]; MAX_POWER];
    for a in 0..=max_a - 2 {
        rows[0][a] = r2.chain(value, -0.5 * inverse * value);
        value *= -inverse;
    }
    for n in 1..max_n {
        for a in 0..=max_a - 2 * (n + 1) {
            rows[n][a] = rows[n - 1][a + 1] * (3 + 2 * a) as f64 + r2 * rows[n - 1][a + 2];
        }
    }
    for n in 0..max_n {
        for a in 0..=max_a - 2 * (n + 1) {
            table[n + 1][a] += rows[n][a];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scalar::Dual;

    #[test]
    fn boys_matches_its_series() {
        let mut out = [0.0; 12];
        for k in 0..800 {
            let t = 0.0501 * k as f64;
            boys(t, 11, &mut out);
            for m in 0..12 {
                let exact = boys_series(m, t);
                assert!(
                    (out[m] - exact).abs() < 4e-14 * exact + 1e-300,
                    "B_{m}({t}) = {} against {exact}",
                    out[m]
                );
            }
        }
    }

    #[test]
    fn tangents_and_laplacians_match_finite_differences() {
        let f = |r2: Dual| {
            let mut table = [[Dual::zero(); MAX_ORDER]; MAX_POWER];
            add_radial(&mut table, r2, 0.81, 1.0, 9, 3);
            table
        };
        let h = 1e-5;
        for r2 in [0.3, 2.0, 9.0] {
            let exact = f(Dual::new(r2, 1.0));
            let (plus, minus) = (f(Dual::constant(r2 + h)), f(Dual::constant(r2 - h)));
            for n in 0..=3 {
                for a in 0..=3 {
                    let slope = (plus[n][a].value - minus[n][a].value) / (2.0 * h);
                    let scale = 1.0 + exact[n][a].tangent.abs();
                    assert!((exact[n][a].tangent - slope).abs() < 1e-7 * scale);
                    if a < 3 {
                        // D = 2 d/d(r²)
                        let next = exact[n][a + 1].value;
                        assert!(
                            (2.0 * exact[n][a].tangent - next).abs() < 1e-12 * (1.0 + next.abs())
                        );
                    }
                }
            }
            // ∇² h = 3 D h + r² D² h
            for n in 0..3 {
                let laplacian = 3.0 * exact[n][1].value + r2 * exact[n][2].value;
                let stored = exact[n + 1][0].value;
                assert!((laplacian - stored).abs() < 1e-11 * (1.0 + stored.abs()));
            }
        }
    }
}
