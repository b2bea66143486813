//! The longest waves of the interaction as vectors over the atoms.
//!
//! The part of U(p, q) at small k is the collective interaction of distant atoms. It needs no sum over all k-vectors,
//! so that approximate inverses are built from it.

use super::density::Density;
use super::density::check_max_l;
use super::prepared::Prepared;
use super::reciprocal::lm_factor;
use crate::arithmetic::vector::{Matrix, Vector, add_scaled, dot, norm, zero_vector};
use crate::arithmetic::workspace::Workspace;
use crate::error::{Result, check_finite};
use crate::lattice::{Lattice, check_cell};
use crate::special::harmonics::{count, degree, solid_harmonics};
use crate::units::COULOMB_CONSTANT;
use rayon::prelude::*;
use std::f64::consts::PI;

/// U(p, q) ≈ Σ_mode (p · source_mode)(q · receiver_mode).
pub struct Waves {
    /// Two for each pair ±k.
    pub n_modes: usize,
    /// `[site][channel][lm][mode]`.
    pub source: Workspace<f64>,
    /// Waves of the receivers; empty where the sources receive.
    pub receiver: Workspace<f64>,
}

impl Waves {
    /// The modes at the receivers.
    pub fn at_receivers(&self) -> &[f64] {
        if self.receiver.is_empty() {
            &self.source
        } else {
            &self.receiver
        }
    }
}

impl Prepared<f64> {
    /// At most `limit` pairs ±k, by whole shells of length. None where the cell is not periodic along every axis, or
    /// not even the first shell fits.
    pub fn waves(
        &self,
        source: &Density<f64>,
        receiver: Option<&Density<f64>>,
        limit: usize,
    ) -> Option<Waves> {
        if self.boundary.pbc != [true; 3] || source.n_sites() == 0 {
            return None;
        }
        let lattice = Lattice::new(&self.boundary.cell, [true; 3], 0.0);
        let vectors = longest(&lattice, limit);
        if vectors.is_empty() {
            return None;
        }
        Some(Waves {
            n_modes: 2 * vectors.len(),
            source: amplitudes(source, &lattice, &vectors),
            receiver: receiver
                .map_or_else(|| Workspace::take(0), |r| amplitudes(r, &lattice, &vectors)),
        })
    }
}

/// The longest waves of a cell periodic along every axis, at most `limit` pairs ±k: their vectors (1/Å), and for each
/// wave and unit multipole √w(k) C_lm(k) / (2l-1)!! with the sign of parity, `[mode][lm]`, the charge's at K in eV Å.
///
/// # Errors
/// A cell that is not finite or singular.
pub fn longest_waves(
    cell: &Matrix<f64>,
    limit: usize,
    max_l: usize,
) -> Result<(Vec<Vector<f64>>, Vec<f64>)> {
    check_finite("cell", cell.as_flattened())?;
    check_cell(cell, [true; 3], 0)?;
    check_max_l("max_l", max_l)?;
    let lattice = Lattice::new(cell, [true; 3], 0.0);
    let modes = longest(&lattice, limit);
    let factors = factors(&lattice, &modes, max_l);
    Ok((modes.iter().map(|mode| mode.k).collect(), factors))
}

/// A k-vector n1 b1 + n2 b2 + n3 b3.
struct Mode {
    n: [i32; 3],
    k: Vector<f64>,
    square: f64,
}

/// No waves are returned for cells so oblique that more combinations of vectors would be tried.
const MAX_TRIED: f64 = 1e7;

/// The shortest k-vectors, one of each pair ±k.
fn longest(lattice: &Lattice<f64>, limit: usize) -> Vec<Mode> {
    // A half sphere holds 2/3 π k³ V / (2π)³ of them.
    let wanted = 1.5 * limit as f64 + 10.0;
    let cutoff = (12.0 * PI * PI * wanted / lattice.volume).cbrt();
    let reach: [i32; 3] = lattice
        .vectors
        .map(|h| (cutoff * norm(&h) / (2.0 * PI)) as i32);
    let mut out = Vec::new();
    let tried: f64 = reach.iter().map(|&n| 2.0 * f64::from(n) + 1.0).product();
    if tried > MAX_TRIED {
        return out;
    }
    for n1 in 0..=reach[0] {
        for n2 in -reach[1]..=reach[1] {
            for n3 in -reach[2]..=reach[2] {
                let n = [n1, n2, n3];
                if n <= [0, 0, 0] {
                    continue;
                }
                let mut k = zero_vector::<f64>();
                for (b, n) in lattice.reciprocal.iter().zip(n) {
                    add_scaled(&mut k, b, f64::from(n));
                }
                let square = dot(&k, &k);
                if square <= cutoff * cutoff {
                    out.push(Mode { n, k, square });
                }
            }
        }
    }
    out.sort_by(|a, b| a.square.total_cmp(&b.square));
    if let Some(first_left_out) = out.get(limit) {
        let end = first_left_out.square * (1.0 - 1e-6);
        out.retain(|mode| mode.square < end);
    }
    out
}

/// √w(k) times the factor on the phases of each unit multipole, `[mode][lm]`.
fn factors(lattice: &Lattice<f64>, modes: &[Mode], max_l: usize) -> Vec<f64> {
    let mut harmonics = vec![0.0; count(max_l)];
    let mut out = Vec::with_capacity(modes.len() * harmonics.len());
    for mode in modes {
        let [x, y, z] = mode.k;
        solid_harmonics(x, y, z, max_l, &mut harmonics);
        // each pair ±k is counted once, hence 2 · 4π
        let weight = (COULOMB_CONSTANT * 8.0 * PI / (lattice.volume * mode.square)).sqrt();
        let scaled = harmonics.iter().enumerate();
        out.extend(scaled.map(|(lm, harmonic)| weight * lm_factor(lm) * harmonic));
    }
    out
}

/// √w(k) times real and imaginary part of the structure factor of each unit multipole, `[site][channel][lm][mode]`.
fn amplitudes(density: &Density<f64>, lattice: &Lattice<f64>, modes: &[Mode]) -> Workspace<f64> {
    let n_lm = count(density.max_l);
    let factors = factors(lattice, modes, density.max_l);
    let largest = (0..3)
        .map(|axis| modes.iter().map(|mode| mode.n[axis].unsigned_abs()).max())
        .map(|n| n.unwrap_or(0) as usize);
    let largest: Vec<usize> = largest.collect();
    let n_modes = 2 * modes.len();
    let mut out = Workspace::take(density.n_sites() * density.n_channels * n_lm * n_modes);
    let per_site = density.n_channels * n_lm * n_modes;
    out.par_chunks_exact_mut(per_site)
        .with_min_len(16)
        .enumerate()
        .for_each(|(site, out)| {
            let powers: [Vec<[f64; 2]>; 3] = std::array::from_fn(|axis| {
                let angle = dot(&lattice.reciprocal[axis], &density.positions[site]);
                powers([angle.cos(), angle.sin()], largest[axis])
            });
            for (which, mode) in modes.iter().enumerate() {
                let mut phase = [1.0, 0.0];
                for axis in 0..3 {
                    let [re, im] = powers[axis][mode.n[axis].unsigned_abs() as usize];
                    let sign = f64::from(mode.n[axis].signum());
                    phase = multiply(phase, [re, if sign < 0.0 { -im } else { im }]);
                }
                let [cos, sin] = phase;
                for channel in 0..density.n_channels {
                    let decay = (-0.5 * mode.square * density.width(site, channel).powi(2)).exp();
                    for lm in 0..n_lm {
                        let amplitude = decay * factors[which * n_lm + lm];
                        // e^{-iθ}, or i e^{-iθ} of odd degrees
                        let [re, im] = if degree(lm).is_multiple_of(2) {
                            [cos, -sin]
                        } else {
                            [sin, cos]
                        };
                        let place = (channel * n_lm + lm) * n_modes + 2 * which;
                        out[place] = amplitude * re;
                        out[place + 1] = amplitude * im;
                    }
                }
            }
        });
    out
}

/// z⁰ to z^`largest`.
fn powers(z: [f64; 2], largest: usize) -> Vec<[f64; 2]> {
    let mut out = vec![[1.0, 0.0]];
    for n in 0..largest {
        out.push(multiply(out[n], z));
    }
    out
}

fn multiply(a: [f64; 2], b: [f64; 2]) -> [f64; 2] {
    [a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]]
}
