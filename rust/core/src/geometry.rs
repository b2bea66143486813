//! Electrostatics at fixed atoms: operators of the geometry are computed once and applied to many multipoles.

use crate::arithmetic::vector::Vector;
use crate::error::{Error, Result, check_finite};
use crate::ewald::{Density, Gradient, Options, Prepared, Purpose, Want, Waves};
use crate::limits::Budget;
use crate::special::harmonics::count;
use crate::systems::{
    Members, Receivers, Sources, Systems, check_receivers, receiver_factors, scale_rows,
};
use rayon::prelude::*;
use std::sync::OnceLock;

/// Numbers cached per system for the real-space part (128 MiB).
const CACHE_LIMIT: usize = 1 << 24;

/// One system's operators.
struct Operators {
    positions: Vec<Vector<f64>>,
    sigma: Vec<f64>,
    widths: Vec<f64>,
    coulomb: Prepared<f64>,
    features: Option<Prepared<f64>>,
    /// Made at first use, and shared by Jacobians with different blocks.
    coulomb_matrix: OnceLock<Vec<f64>>,
    features_matrix: OnceLock<Vec<f64>>,
    coulomb_waves: OnceLock<Option<Waves>>,
    features_waves: OnceLock<Option<Waves>>,
}

/// Cached operators of a batch: multipoles to energies and potentials, multipoles to features.
pub struct Geometry {
    members: Members,
    n_atoms: usize,
    max_l: usize,
    n_widths: usize,
    features_max_l: usize,
    factors: Vec<f64>,
    operators: Vec<Operators>,
}

impl Geometry {
    /// `max_l` is the degree of the multipoles; without widths there are no features.
    pub fn new(
        systems: &Systems<f64>,
        sigma: &[f64],
        max_l: usize,
        receivers: &Receivers,
        coulomb: &Options,
        features: &Options,
    ) -> Result<Self> {
        coulomb.check()?;
        features.check()?;
        let members = systems.members()?;
        let n_atoms = systems.positions.len();
        let zeros = vec![0.0; n_atoms * count(max_l)];
        let sources = Sources {
            multipoles: &zeros,
            max_l,
            sigma,
        };
        sources.check(n_atoms)?;
        check_receivers(receivers)?;
        let budget = Budget::new(n_atoms);
        let operators = (0..members.n_systems())
            .into_par_iter()
            .map(|system| {
                let positions = members.gather(system, systems.positions, 1);
                let sigma = members.gather(system, sigma, 1);
                let widths = receivers.widths.repeat(positions.len());
                let n_rows = receivers.widths.len() * count(receivers.max_l);
                let source = Density {
                    positions: &positions,
                    widths: &sigma,
                    n_channels: 1,
                    max_l,
                    coefficients: &vec![0.0; positions.len() * count(max_l)],
                };
                let boundary = systems.boundary(system);
                let mut energy = Prepared::new(
                    system,
                    boundary,
                    &source,
                    None,
                    Purpose::Potentials,
                    coulomb,
                    &budget,
                )?;
                energy.cache(&source, None, CACHE_LIMIT);
                let mut operator = None;
                if !receivers.widths.is_empty() {
                    let receiver = Density {
                        positions: &positions,
                        widths: &widths,
                        n_channels: receivers.widths.len(),
                        max_l: receivers.max_l,
                        coefficients: &vec![0.0; positions.len() * n_rows],
                    };
                    let mut prepared = Prepared::new(
                        system,
                        boundary,
                        &source,
                        Some(&receiver),
                        Purpose::Potentials,
                        features,
                        &budget,
                    )?;
                    prepared.cache(&source, Some(&receiver), CACHE_LIMIT);
                    operator = Some(prepared);
                }
                Ok(Operators {
                    positions,
                    sigma,
                    widths,
                    coulomb: energy,
                    features: operator,
                    coulomb_matrix: OnceLock::new(),
                    features_matrix: OnceLock::new(),
                    coulomb_waves: OnceLock::new(),
                    features_waves: OnceLock::new(),
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            members,
            n_atoms,
            max_l,
            n_widths: receivers.widths.len(),
            features_max_l: receivers.max_l,
            factors: receiver_factors(receivers),
            operators,
        })
    }

    pub fn n_systems(&self) -> usize {
        self.members.n_systems()
    }

    pub fn n_lm(&self) -> usize {
        count(self.max_l)
    }

    /// Multipoles of one system: atoms × (max_l + 1)².
    pub fn n_columns(&self, system: usize) -> usize {
        self.members.of(system).len() * self.n_lm()
    }

    /// (n_widths, (features_max_l + 1)²).
    pub fn feature_shape(&self) -> (usize, usize) {
        (self.n_widths, count(self.features_max_l))
    }

    /// The methods chosen for energies and for features, per system.
    pub fn methods(&self) -> Vec<(&'static str, Option<&'static str>)> {
        self.operators
            .iter()
            .map(|o| {
                (
                    o.coulomb.method(),
                    o.features.as_ref().map(Prepared::method),
                )
            })
            .collect()
    }

    /// Methods with their parameters as text.
    pub fn plans(&self) -> Vec<(String, Option<String>)> {
        self.operators
            .iter()
            .map(|o| {
                (
                    o.coulomb.description(),
                    o.features.as_ref().map(Prepared::description),
                )
            })
            .collect()
    }

    fn check(&self, multipoles: &[f64]) -> Result<()> {
        let expected = self.n_atoms * self.n_lm();
        if multipoles.len() != expected {
            return Err(Error::Shape {
                array: "multipoles",
                found: format!("{} entries", multipoles.len()),
                expected: format!("{expected}: [{}, {}]", self.n_atoms, self.n_lm()),
            });
        }
        check_finite("multipoles", multipoles)
    }

    /// Energies ½ pᵀAp `[system]` and potentials dE/dp = Ap `[atom][lm]`.
    pub fn energy(&self, multipoles: &[f64]) -> Result<(Vec<f64>, Vec<f64>)> {
        self.check(multipoles)?;
        let n_lm = self.n_lm();
        let potentials: Vec<Vec<f64>> = (0..self.n_systems())
            .into_par_iter()
            .map(|system| {
                let local = self.members.gather(system, multipoles, n_lm);
                self.apply_coulomb(system, &local)
            })
            .collect();
        let mut potential = vec![0.0; multipoles.len()];
        let mut energies = Vec::with_capacity(potentials.len());
        for (system, local) in potentials.iter().enumerate() {
            self.members.scatter(system, local, n_lm, &mut potential);
            let own = self.members.gather(system, multipoles, n_lm);
            energies.push(0.5 * own.iter().zip(local).map(|(p, v)| p * v).sum::<f64>());
        }
        Ok((energies, potential))
    }

    /// Features `[atom][width][lm]`.
    pub fn features(&self, multipoles: &[f64]) -> Result<Vec<f64>> {
        self.check(multipoles)?;
        let results: Vec<Vec<f64>> = (0..self.n_systems())
            .into_par_iter()
            .map(|system| {
                let local = self.members.gather(system, multipoles, self.n_lm());
                self.apply_features(system, &local)
            })
            .collect();
        let n_rows = self.factors.len();
        let mut out = vec![0.0; self.n_atoms * n_rows];
        for (system, local) in results.iter().enumerate() {
            self.members.scatter(system, local, n_rows, &mut out);
        }
        Ok(out)
    }

    /// Bᵀ: the potentials `[atom][lm]` at the sources of densities `[atom][width][lm]` placed on the receivers.
    pub fn features_transpose(&self, cotangent: &[f64]) -> Result<Vec<f64>> {
        let n_rows = self.factors.len();
        let expected = self.n_atoms * n_rows;
        if cotangent.len() != expected {
            return Err(Error::Shape {
                array: "cotangent",
                found: format!("{} entries", cotangent.len()),
                expected: format!("{expected}: [{}, {n_rows}]", self.n_atoms),
            });
        }
        check_finite("cotangent", cotangent)?;
        let results: Vec<Vec<f64>> = (0..self.n_systems())
            .into_par_iter()
            .map(|system| {
                let local = self.members.gather(system, cotangent, n_rows);
                self.apply_features_transpose(system, &local)
            })
            .collect();
        let mut out = vec![0.0; self.n_atoms * self.n_lm()];
        for (system, local) in results.iter().enumerate() {
            self.members.scatter(system, local, self.n_lm(), &mut out);
        }
        Ok(out)
    }

    /// The symmetric matrix A of one system, rows and columns `[atom][lm]`, row after row. Stored for later calls.
    ///
    /// Its elements are sums, also where a mesh serves the evaluations: the two then agree to the accuracy.
    pub fn coulomb_matrix(&self, system: usize) -> Result<&[f64]> {
        self.check_system(system)?;
        let operators = &self.operators[system];
        cached(&operators.coulomb_matrix, || {
            let zeros = vec![0.0; self.n_columns(system)];
            let made = operators
                .coulomb
                .matrix(&self.source(system, &zeros), None)?;
            Ok(made
                .unwrap_or_else(|| self.columns(system, |unit| self.apply_coulomb(system, unit))))
        })
        .map(Vec::as_slice)
    }

    /// The operator of one system from multipoles (columns `[atom][lm]`) to features (rows `[atom][width][lm]`). Stored
    /// for later calls.
    pub fn features_matrix(&self, system: usize) -> Result<&[f64]> {
        self.check_system(system)?;
        let operators = &self.operators[system];
        cached(&operators.features_matrix, || {
            let Some(prepared) = &operators.features else {
                return Ok(Vec::new());
            };
            let zeros = vec![0.0; self.n_columns(system)];
            let receiver = vec![0.0; operators.positions.len() * self.factors.len()];
            let receiver = self.receiver(system, &receiver);
            let mut out = prepared.matrix(&self.source(system, &zeros), Some(&receiver))?;
            if let Some(matrix) = &mut out {
                let n = zeros.len().max(1);
                matrix
                    .par_chunks_exact_mut(n * self.factors.len())
                    .for_each(|rows| {
                        for (row, factor) in rows.chunks_exact_mut(n).zip(&self.factors) {
                            row.iter_mut().for_each(|value| *value *= factor);
                        }
                    });
            }
            Ok(out
                .unwrap_or_else(|| self.columns(system, |unit| self.apply_features(system, unit))))
        })
        .map(Vec::as_slice)
    }

    /// The long waves of A of one system, at most `limit` pairs ±k at the first call. Stored for later ones.
    pub(crate) fn coulomb_waves(&self, system: usize, limit: usize) -> Option<&Waves> {
        let operators = &self.operators[system];
        let waves = cached(&operators.coulomb_waves, || {
            let zeros = vec![0.0; self.n_columns(system)];
            let source = self.source(system, &zeros);
            Ok(operators.coulomb.waves(&source, None, limit))
        });
        waves.ok()?.as_ref()
    }

    /// Matrix of the operator to features.
    pub(crate) fn features_waves(&self, system: usize, limit: usize) -> Option<&Waves> {
        let operators = &self.operators[system];
        let make = || {
            let zeros = vec![0.0; self.n_columns(system)];
            let receiver = vec![0.0; operators.positions.len() * self.factors.len()];
            let receiver = self.receiver(system, &receiver);
            let source = self.source(system, &zeros);
            let prepared = operators.features.as_ref()?;
            let mut waves = prepared.waves(&source, Some(&receiver), limit)?;
            let rows = waves.receiver.chunks_exact_mut(waves.n_modes);
            for (row, factor) in rows.zip(self.factors.iter().cycle()) {
                row.iter_mut().for_each(|value| *value *= factor);
            }
            Some(waves)
        };
        let waves = cached(&operators.features_waves, || Ok(make()));
        waves.ok()?.as_ref()
    }

    pub fn n_atoms(&self) -> usize {
        self.n_atoms
    }

    /// The atoms of each system.
    pub(crate) fn members(&self) -> &Members {
        &self.members
    }

    fn check_system(&self, system: usize) -> Result<()> {
        if system < self.n_systems() {
            return Ok(());
        }
        Err(Error::Value {
            array: "system",
            index: 0,
            value: system as f64,
            remedy: "give a number below the number of systems",
        })
    }

    fn columns(&self, system: usize, apply: impl Fn(&[f64]) -> Vec<f64> + Sync) -> Vec<f64> {
        let n = self.operators[system].positions.len() * self.n_lm();
        let columns: Vec<Vec<f64>> = (0..n)
            .into_par_iter()
            .map(|k| {
                let mut unit = vec![0.0; n];
                unit[k] = 1.0;
                apply(&unit)
            })
            .collect();
        let n_rows = columns.first().map_or(0, Vec::len);
        let mut out = Vec::with_capacity(n * n_rows);
        for row in 0..n_rows {
            out.extend(columns.iter().map(|column| column[row]));
        }
        out
    }

    fn source<'a>(&'a self, system: usize, multipoles: &'a [f64]) -> Density<'a, f64> {
        let operators = &self.operators[system];
        Density {
            positions: &operators.positions,
            widths: &operators.sigma,
            n_channels: 1,
            max_l: self.max_l,
            coefficients: multipoles,
        }
    }

    fn receiver<'a>(&'a self, system: usize, coefficients: &'a [f64]) -> Density<'a, f64> {
        let operators = &self.operators[system];
        Density {
            positions: &operators.positions,
            widths: &operators.widths,
            n_channels: self.n_widths,
            max_l: self.features_max_l,
            coefficients,
        }
    }

    pub(crate) fn apply_coulomb(&self, system: usize, multipoles: &[f64]) -> Vec<f64> {
        let source = self.source(system, multipoles);
        let result: Gradient<f64> =
            self.operators[system]
                .coulomb
                .evaluate(&source, None, Want::RECEIVER);
        result.receiver
    }

    pub(crate) fn apply_features(&self, system: usize, multipoles: &[f64]) -> Vec<f64> {
        let operators = &self.operators[system];
        let Some(prepared) = &operators.features else {
            return Vec::new();
        };
        let source = self.source(system, multipoles);
        let zeros = vec![0.0; operators.positions.len() * self.factors.len()];
        let receiver = self.receiver(system, &zeros);
        let mut out = prepared
            .evaluate(&source, Some(&receiver), Want::RECEIVER)
            .receiver;
        scale_rows(&mut out, &self.factors);
        out
    }

    pub(crate) fn apply_features_transpose(&self, system: usize, cotangent: &[f64]) -> Vec<f64> {
        let operators = &self.operators[system];
        let Some(prepared) = &operators.features else {
            return vec![0.0; self.n_columns(system)];
        };
        let zeros = vec![0.0; self.n_columns(system)];
        let source = self.source(system, &zeros);
        let mut coefficients = cotangent.to_vec();
        scale_rows(&mut coefficients, &self.factors);
        let receiver = self.receiver(system, &coefficients);
        prepared
            .evaluate(&source, Some(&receiver), Want::SOURCE)
            .source
    }
}

/// Content of a slot, computed if it is empty.
///
/// Two threads may compute it at the same time, with the same result: waiting for one another inside the thread pool
/// could lock up, since a waiting thread takes up other work.
fn cached<V>(slot: &OnceLock<V>, compute: impl FnOnce() -> Result<V>) -> Result<&V> {
    if let Some(values) = slot.get() {
        return Ok(values);
    }
    let values = compute()?;
    Ok(slot.get_or_init(|| values))
}
