//! Radial functions of the Gaussian pair interaction, of eight pairs at a time.
//!
//! With f(r) = erf(r / (√2 γ)) / r, an interaction of multipoles needs F_an = (1/r d/dr)^a (∇²)^n f. They follow
//! from the Boys function, which is smooth at r = 0: (1/r d/dr)^a f = √(2/π)/γ (-1/γ²)^a B_a(r²/2γ²).

use crate::arithmetic::exp;
use crate::arithmetic::{F64x8, Pack};
use crate::special::boys::{BoysTable, MAX_ORDER, boys};
use crate::special::harmonics::MAX_L;

/// A width γ per pair, and a factor on its functions.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// 1/γ²
    inverse: F64x8,
    /// The factor times √(2/π)/γ.
    prefactor: F64x8,
}

impl Part {
    #[inline(always)]
    pub fn new(gamma2: F64x8, factor: f64) -> Self {
        let inverse = gamma2.divide(1.0);
        let squared = inverse.mul(F64x8::splat(std::f64::consts::FRAC_2_PI));
        let prefactor = squared.sqrt().mul(F64x8::splat(factor));
        Self { inverse, prefactor }
    }
}

/// Adds (1/r d/dr)^a f for a ≤ `top`, which is at least one; `table` is that of order `top` and the tangents.
#[inline(always)]
pub fn add_radial<P: Pack, const FMA: bool>(
    out: &mut [P],
    r2: P,
    part: &Part,
    top: usize,
    table: &BoysTable,
) {
    let mut values = [F64x8::zero(); MAX_ORDER + 1];
    let t = r2.values().mul(part.inverse).mul(F64x8::splat(0.5));
    boys::<FMA>(t, top + P::TANGENTS, table, &mut values);
    let step = part.inverse.neg();
    let mut prefactor = part.prefactor;
    for a in 0..=top {
        let value = prefactor.mul(values[a]);
        prefactor = prefactor.mul(step);
        // d/d(r²) of D^a f is half of D^(a+1) f
        let slope = prefactor.mul(values[a + 1]).mul(F64x8::splat(0.5));
        out[a] = out[a].add(r2.chain(value, slope));
    }
}

/// F[n][a] = (1/r d/dr)^a (∇²)^n f.
pub type RadialTable<P> = [[P; MAX_ORDER + 1]; MAX_L + 1];

/// Adds the functions with n ≥ 1, for a + 2n ≤ `top`.
///
/// They reduce to a Gaussian: ∇² f = -4π g, and D^a ∇² h = (3 + 2a) D^(a+1) h + r² D^(a+2) h with D = 1/r d/dr.
#[inline(always)]
pub fn add_laplacians<P: Pack, const FMA: bool>(
    out: &mut RadialTable<P>,
    r2: P,
    part: &Part,
    top: usize,
) {
    if top < 2 {
        return;
    }
    let t = r2.values().mul(part.inverse).mul(F64x8::splat(0.5));
    let step = part.inverse.neg();
    let mut value = part.prefactor.mul(step).mul(exp::<FMA>(t.neg()));
    let mut rows = [[P::zero(); MAX_ORDER + 1]; 2];
    for a in 0..=top - 2 {
        let next = value.mul(step);
        rows[0][a] = r2.chain(value, next.mul(F64x8::splat(0.5)));
        out[1][a] = out[1][a].add(rows[0][a]);
        value = next;
    }
    for n in 2..=top / 2 {
        let [current, next] = &mut rows;
        for a in 0..=top - 2 * n {
            let factor = P::splat(crate::arithmetic::Scalar::constant((3 + 2 * a) as f64));
            next[a] = r2.mul_add::<FMA>(current[a + 2], current[a + 1].mul(factor));
            out[n][a] = out[n][a].add(next[a]);
        }
        rows.swap(0, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::DualPack;
    use crate::arithmetic::{Dual, Scalar};

    fn functions(r2: DualPack, top: usize) -> RadialTable<DualPack> {
        let mut table = [[DualPack::zero(); MAX_ORDER + 1]; MAX_L + 1];
        let part = Part::new(F64x8::splat(0.81), 1.0);
        let boys = BoysTable::up_to(top + 1);
        add_radial::<_, true>(&mut table[0], r2, &part, top, boys);
        add_laplacians::<_, true>(&mut table, r2, &part, top);
        table
    }

    #[test]
    fn tangents_and_laplacians_match_finite_differences() {
        let f = |r2: Dual| functions(DualPack::splat(r2), 9);
        let h = 1e-5;
        for r2 in [0.3, 2.0, 9.0] {
            let exact = f(Dual::new(r2, 1.0));
            let (plus, minus) = (f(Dual::constant(r2 + h)), f(Dual::constant(r2 - h)));
            for n in 0..=3 {
                for a in 0..=3 {
                    let slope = (plus[n][a].get(1).value - minus[n][a].get(1).value) / (2.0 * h);
                    let found = exact[n][a].get(2);
                    let scale = 1.0 + found.tangent.abs();
                    assert!((found.tangent - slope).abs() < 1e-7 * scale);
                    if a < 3 {
                        // D = 2 d/d(r²)
                        let next = exact[n][a + 1].get(0).value;
                        assert!((2.0 * found.tangent - next).abs() < 1e-12 * (1.0 + next.abs()));
                    }
                }
            }
            // ∇² h = 3 D h + r² D² h
            for n in 0..3 {
                let at = |a: usize| exact[n][a].get(7).value;
                let laplacian = 3.0 * at(1) + r2 * at(2);
                let stored = exact[n + 1][0].get(7).value;
                assert!((laplacian - stored).abs() < 1e-11 * (1.0 + stored.abs()));
            }
        }
    }
}
