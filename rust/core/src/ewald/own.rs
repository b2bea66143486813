//! Each site's interaction with itself, where only multipoles of the same (l, m) meet.
//!
//! At d = 0 the pair interaction of widths γ² is K √(2/π) / ((2l+1)!! γ^(2l+1)) for each (l, m): C_lm(∇)² leaves
//! (∇²)^l/(2l+1), and (-∇²)^l f = √(2/π) (2l-1)!!/γ^(2l+1) at the origin.

use super::density::{Density, Gradient, Want};
use crate::arithmetic::Scalar;
use crate::special::harmonics::{MAX_L, degree};
use crate::units::COULOMB_CONSTANT;

/// Interactions by degree, as a function of the two widths.
pub struct OwnWeights {
    /// Factor on the whole interaction,
    factor: f64,
    /// and less that of widths raised to this.
    floor: Option<f64>,
    /// Terms computed last, by widths.
    known: Vec<([f64; 2], [f64; MAX_L + 1])>,
}

impl OwnWeights {
    /// Number of pairs of widths that are stored.
    const MAX_KNOWN: usize = 8;

    /// Weights of the part that is missing from the reciprocal sum.
    pub fn short_range(split: Option<f64>) -> Self {
        Self {
            factor: 1.0,
            floor: split,
            known: Vec::new(),
        }
    }

    /// The whole interaction, to be subtracted.
    pub fn excluded() -> Self {
        Self {
            factor: -1.0,
            floor: None,
            known: Vec::new(),
        }
    }

    pub fn of(&mut self, sigma: f64, s: f64) -> [f64; MAX_L + 1] {
        let widths = [sigma, s];
        if let Some((_, weights)) = self.known.iter().find(|(known, _)| *known == widths) {
            return *weights;
        }
        let mut weights = [0.0; MAX_L + 1];
        let mut add = |sigma: f64, s: f64, factor: f64| {
            let inverse = 1.0 / (sigma * sigma + s * s);
            let leading = COULOMB_CONSTANT * (std::f64::consts::FRAC_2_PI * inverse).sqrt();
            let mut weight = factor * leading;
            for (l, total) in weights.iter_mut().enumerate() {
                *total += weight;
                weight *= inverse / (2 * l + 3) as f64;
            }
        };
        add(sigma, s, self.factor);
        if let Some(floor) = self.floor {
            add(sigma.max(floor), s.max(floor), -self.factor);
        }
        if self.known.len() < Self::MAX_KNOWN {
            self.known.push((widths, weights));
        }
        weights
    }
}

/// Adds the terms between source and receiver on the same site.
pub fn add_own_terms<T: Scalar>(
    source: &Density<T>,
    receiver: Option<&Density<T>>,
    want: Want,
    mut weights: OwnWeights,
    out: &mut Gradient<T>,
) {
    let rec = receiver.unwrap_or(source);
    let half = if receiver.is_none() { 0.5 } else { 1.0 };
    let (n_source, n_receiver) = (source.n_lm(), rec.n_lm());
    let want_source = receiver.is_some() && want.source;
    for site in 0..source.n_sites() {
        for a in 0..source.n_channels {
            let from = (site * source.n_channels + a) * n_source;
            for b in 0..rec.n_channels {
                let weights = weights.of(source.width(site, a), rec.width(site, b));
                let to = (site * rec.n_channels + b) * n_receiver;
                for lm in 0..n_source.min(n_receiver) {
                    let weight = weights[degree(lm)];
                    let p = source.coefficients[from + lm] * weight;
                    let q = rec.coefficients[to + lm];
                    out.value += p * q * half;
                    out.receiver[to + lm] += p;
                    if want_source {
                        out.source[from + lm] += q * weight;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::{F64x8, LANES, Pack};
    use crate::ewald::pair::{PairOutput, PairTable};
    use crate::special::boys::BoysTable;
    use crate::special::harmonics::count;
    use crate::special::radial::Part;

    #[test]
    fn limit_of_the_pair_interaction() {
        let (sigma, s, floor): (f64, f64, f64) = (0.4, 0.9, 0.7);
        let table = PairTable::of(MAX_L, MAX_L);
        let gamma2 = [sigma * sigma + s * s, floor * floor + s * s];
        let parts = [(gamma2[0], 1.0), (gamma2[1], -1.0)];
        let parts = parts.map(|(gamma2, factor)| Part::new(F64x8::splat(gamma2), factor));
        let n = count(MAX_L);
        let p: Vec<F64x8> = (0..n).map(|k| F64x8::splat((k as f64).cos())).collect();
        let (mut dp, mut dq) = (vec![F64x8::zero(); n], vec![F64x8::zero(); n]);
        table.add_gradients::<F64x8, true>(
            &[F64x8::zero(); 3],
            &parts,
            BoysTable::up_to(table.order::<F64x8>()),
            &p,
            &p,
            &mut PairOutput {
                source: &mut dp,
                receiver: &mut dq,
                gradient: &mut [F64x8::zero(); 3],
            },
        );
        let weights = OwnWeights::short_range(Some(floor)).of(sigma, s);
        for lm in 0..n {
            let exact = weights[degree(lm)] * p[lm].get(0);
            for found in [dp[lm].get(LANES - 1), dq[lm].get(0)] {
                assert!((found - exact).abs() < 1e-12 * exact.abs(), "{lm}");
            }
        }
    }
}
