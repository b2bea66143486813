//! Accuracy of a mesh: relative error of forces (or potentials) for a spacing and an order of the splines.
//!
//! Splines of order P fold the modes k + 2πm/h onto k with the weight (κ/(κ + m))^P, κ = kh/2π, on each axis, and a
//! multipole of degree l brings (|κ + m|/κ)^l. Averaged over positions of uncorrelated sites, the squared error of a
//! force is ∫ F(k)² Σ_axes Σ_m≠0 (..)² d³k with F the force's spectrum k^(lp + lq - 1) exp(-k²γ²/2), and modes beyond
//! the mesh are missing from the sum.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

/// Interaction of the narrowest Gaussians: order of splines, degrees, purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Interaction {
    pub order: usize,
    pub source_l: usize,
    pub receiver_l: usize,
    /// True if forces are computed, not potentials only.
    pub forces: bool,
}

/// Logarithms of h/γ and of the relative error.
type Curve = Vec<[f64; 2]>;

static CURVES: LazyLock<Mutex<HashMap<Interaction, Curve>>> = LazyLock::new(Default::default);

/// Structure makes errors relative to forces larger than those of uncorrelated sites: in an ionic lattice the forces
/// cancel but for the displacements, the errors do not, and the longest waves of the density may run along the mesh.
/// These factors are those of rock salt and caesium chloride with displacements of 0.1 Å
/// (`benches/mesh_accuracy.py`); other systems have smaller errors, mostly by 10 and more.
///
/// Potentials do not cancel as forces do.
fn safety(interaction: Interaction) -> f64 {
    if !interaction.forces {
        return 0.3;
    }
    match interaction.source_l + interaction.receiver_l {
        0 => 0.007,
        1 | 2 => 0.1,
        _ => 0.05,
    }
}

impl Interaction {
    /// Largest spacing in units of γ = √(σ² + s²) with a relative error of forces below `accuracy`.
    pub fn spacing(self, accuracy: f64) -> f64 {
        let mut curves = CURVES
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let curve = curves.entry(self).or_insert_with(|| self.curve());
        let target = (safety(self) * accuracy).ln();
        let above = curve.partition_point(|point| point[1] < target);
        let [low, high] = match above {
            0 => [curve[0], curve[1]],
            n if n == curve.len() => return curve[n - 1][0].exp(),
            n => [curve[n - 1], curve[n]],
        };
        let slope = (high[0] - low[0]) / (high[1] - low[1]);
        (low[0] + slope * (target - low[1])).exp()
    }

    fn curve(self) -> Curve {
        const N: usize = 36;
        let (first, last) = (0.02f64.ln(), 3f64.ln());
        let mut out: Curve = (0..=N)
            .map(|k| {
                let x = first + (last - first) * k as f64 / N as f64;
                [x, self.error(x.exp()).max(1e-300).ln()]
            })
            .collect();
        // Monotonic, in spite of the error of the quadrature.
        for k in (0..N).rev() {
            out[k][1] = out[k][1].min(out[k + 1][1] - 1e-6);
        }
        out
    }

    /// Relative error for a spacing in units of γ.
    pub fn error(self, spacing: f64) -> f64 {
        const RADIAL: usize = 96;
        const ANGLES: usize = 12;
        // k in units of 1/γ: F² k² = k^power exp(-k²). Uncorrelated charges have potentials of any range, so that
        // those are weighted as forces are.
        let power = 2 * (self.source_l + self.receiver_l);
        let largest = 9.0 + (power as f64).sqrt();
        let (mut error, mut total) = (0.0, 0.0);
        for step in 0..RADIAL {
            let k = largest * (step as f64 + 0.5) / RADIAL as f64;
            let weight = k.powi(power as i32) * (-k * k).exp();
            total += weight;
            let mut mean = 0.0;
            for angle in 0..ANGLES {
                let cos = (angle as f64 + 0.5) / ANGLES as f64;
                let kappa = k * cos * spacing / (2.0 * std::f64::consts::PI);
                mean += self.aliases(kappa);
            }
            error += weight * (3.0 * mean / ANGLES as f64).min(1.0);
        }
        (error / total).sqrt()
    }

    /// Squared weight of the modes folded onto κ along one axis, for both sides.
    fn aliases(self, kappa: f64) -> f64 {
        if kappa >= 0.5 {
            return 1.0;
        }
        let power = |l: usize| 2 * self.order.saturating_sub(l) as i32;
        let receiver_l = self.receiver_l + usize::from(self.forces);
        let mut sum = 0.0;
        for m in [-3.0, -2.0, -1.0, 1.0, 2.0, 3.0] {
            let ratio = (kappa / (kappa + m)).abs();
            sum += ratio.powi(power(self.source_l)) + ratio.powi(power(receiver_l));
        }
        sum.min(1.0)
    }
}

/// The next length that transforms quickly: even, without prime factors beyond 7.
pub fn good_length(n: usize) -> usize {
    let mut n = n.max(4);
    loop {
        let mut rest = n;
        for factor in [2, 3, 5, 7] {
            while rest.is_multiple_of(factor) {
                rest /= factor;
            }
        }
        if rest == 1 && n.is_multiple_of(2) {
            return n;
        }
        n += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finer_meshes_and_higher_orders_are_better() {
        for (source_l, receiver_l) in [(0, 0), (1, 1), (2, 3)] {
            let mut last = f64::INFINITY;
            for order in [6, 8, 10, 12] {
                let interaction = Interaction {
                    order,
                    source_l,
                    receiver_l,
                    forces: true,
                };
                let error = interaction.error(0.4);
                assert!(error < last);
                last = error;
                assert!(interaction.spacing(1e-6) < interaction.spacing(1e-4));
                let spacing = interaction.spacing(1e-6);
                let error = interaction.error(spacing);
                assert!(
                    (error / (1e-6 * safety(interaction))).ln().abs() < 0.3,
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn lengths() {
        assert_eq!(good_length(1), 4);
        assert_eq!(good_length(47), 48);
        assert_eq!(good_length(97), 98);
        assert_eq!(good_length(121), 126);
    }
}
