//! The mean of the short-range part in three dimensions.
//!
//! The reciprocal sum leaves out k = 0, so the mean potential is zero with a neutralising background. The
//! short-range part [erf(r/√2γ) - erf(r/√2η)]/r has the mean 2π(η² - γ²)/V, which must go as well.

use super::density::{Density, Gradient};
use crate::arithmetic::Scalar;
use crate::arithmetic::vector::{Matrix, add_scaled, reciprocal_rows};
use crate::units::COULOMB_CONSTANT;

/// Adds -2πK/V Σ_ij q_i q_j (η_ij² - γ_ij²), η being the widths raised to `split`.
pub fn add_background<T: Scalar>(
    source: &Density<T>,
    receiver: Option<&Density<T>>,
    split: f64,
    cell: &Matrix<T>,
    volume: T,
    out: &mut Gradient<T>,
) {
    let rec = receiver.unwrap_or(source);
    let half = if receiver.is_none() { 0.5 } else { 1.0 };
    let raised = |width| raised(width, split);
    let charge = |d: &Density<T>| d.weighted_charge(|_, _| 1.0);
    let excess = |d: &Density<T>| d.weighted_charge(|site, channel| raised(d.width(site, channel)));
    let (source_charge, source_excess) = (charge(source), excess(source));
    let (receiver_charge, receiver_excess) = (charge(rec), excess(rec));
    let factor = volume.recip() * (-2.0 * std::f64::consts::PI * COULOMB_CONSTANT);
    let value = factor * (source_excess * receiver_charge + source_charge * receiver_excess) * half;
    out.value += value;
    add_potential(rec, &mut out.receiver, |site, channel| {
        factor * (source_excess + source_charge * raised(rec.width(site, channel)))
    });
    if receiver.is_some() {
        add_potential(source, &mut out.source, |site, channel| {
            factor * (receiver_excess + receiver_charge * raised(source.width(site, channel)))
        });
    }
    // ∂(1/V)/∂h = -h^{-T}/V
    for (row, inverse) in out.cell.iter_mut().zip(reciprocal_rows(cell)) {
        add_scaled(row, &inverse, -value);
    }
}

/// Increase of a squared width that is raised to the split.
fn raised(width: f64, split: f64) -> f64 {
    width.max(split).powi(2) - width * width
}

/// Potential of a unit charge of width σ on one of width s.
pub fn between(sigma: f64, s: f64, split: f64, volume: f64) -> f64 {
    let factor = -2.0 * std::f64::consts::PI * COULOMB_CONSTANT / volume;
    factor * (raised(sigma, split) + raised(s, split))
}

fn add_potential<T: Scalar>(
    density: &Density<T>,
    out: &mut [T],
    potential: impl Fn(usize, usize) -> T,
) {
    let n_lm = density.n_lm();
    for site in 0..density.n_sites() {
        for channel in 0..density.n_channels {
            out[(site * density.n_channels + channel) * n_lm] += potential(site, channel);
        }
    }
}
