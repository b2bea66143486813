//! Batches of systems in flat arrays, as the outside world has them.

use crate::error::{Error, Result, check_finite, check_lengths};
use crate::ewald::density::{check_max_l, check_widths};
use crate::ewald::{Boundary, Density, Gradient, Options, Prepared, Purpose, Want};
use crate::harmonics::{count, degree};
use crate::limits::Budget;
use crate::scalar::{Dual, Scalar};
use crate::vector::{Matrix, Vector, values};
use rayon::prelude::*;

/// Atoms of many systems. Each system has its own cell and boundary.
#[derive(Clone, Copy, Debug)]
pub struct Systems<'a, T> {
    pub positions: &'a [Vector<T>],
    pub cells: &'a [Matrix<T>],
    pub pbc: &'a [[bool; 3]],
    /// System of each atom, in any order.
    pub batch: &'a [i64],
}

/// The atoms of each system.
pub struct Members {
    order: Vec<usize>,
    first: Vec<usize>,
}

impl Members {
    pub fn new(batch: &[i64], n_systems: usize) -> Result<Self> {
        let mut first = vec![0; n_systems + 1];
        for (index, &system) in batch.iter().enumerate() {
            if system < 0 || system as usize >= n_systems {
                return Err(Error::Value {
                    array: "batch",
                    index,
                    value: system as f64,
                    remedy: "the system of an atom must be 0 .. n_systems - 1, with a cell and a pbc each",
                });
            }
            first[system as usize + 1] += 1;
        }
        for system in 0..n_systems {
            first[system + 1] += first[system];
        }
        let mut next = first.clone();
        let mut order = vec![0; batch.len()];
        for (atom, &system) in batch.iter().enumerate() {
            order[next[system as usize]] = atom;
            next[system as usize] += 1;
        }
        Ok(Self { order, first })
    }

    pub fn n_systems(&self) -> usize {
        self.first.len() - 1
    }

    /// Atoms of one system.
    pub fn of(&self, system: usize) -> &[usize] {
        &self.order[self.first[system]..self.first[system + 1]]
    }

    /// The rows (of `width` entries) of one system's atoms.
    pub fn gather<V: Copy>(&self, system: usize, array: &[V], width: usize) -> Vec<V> {
        let atoms = self.of(system);
        let mut out = Vec::with_capacity(atoms.len() * width);
        for &atom in atoms {
            out.extend_from_slice(&array[atom * width..(atom + 1) * width]);
        }
        out
    }

    /// Puts rows of one system's atoms back in place.
    pub fn scatter<V: Copy>(&self, system: usize, rows: &[V], width: usize, array: &mut [V]) {
        for (row, &atom) in self.of(system).iter().enumerate() {
            array[atom * width..(atom + 1) * width]
                .copy_from_slice(&rows[row * width..(row + 1) * width]);
        }
    }
}

/// Gaussian multipoles of the atoms of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a, T> {
    /// `[atom][lm]`.
    pub multipoles: &'a [T],
    pub max_l: usize,
    /// One width per atom, Å.
    pub sigma: &'a [f64],
}

/// Receivers of several widths on every atom.
#[derive(Clone, Copy, Debug)]
pub struct Receivers<'a> {
    pub widths: &'a [f64],
    pub max_l: usize,
    pub normalization: Normalization,
}

/// Normalisation of the receiving Gaussians.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalization {
    /// Unit integral of r^(l+2) exp(-r²/2s²) dr.
    Receiver,
    /// Unit multipole moment: at s = sigma the features are dE/dp.
    Multipoles,
}

impl std::str::FromStr for Normalization {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "receiver" => Ok(Self::Receiver),
            "multipoles" => Ok(Self::Multipoles),
            _ => Err(Error::Unsupported {
                what: format!("normalization {name:?} is unknown"),
                remedy: "use \"receiver\" or \"multipoles\"".into(),
            }),
        }
    }
}

impl Normalization {
    /// Factor on a receiver of unit moment: √(4π/(2l+1)) I_(2l+2)/I_(l+2), I_n = ∫ r^n exp(-r²/2s²) dr.
    pub fn factor(self, l: usize, width: f64) -> f64 {
        if self == Self::Multipoles {
            return 1.0;
        }
        // I_n = (n-1) s² I_(n-2), so lower both to l+2 or l+3 and take Γ only of halves.
        let integral = |n: usize| {
            0.5 * (2.0 * width * width).powf(0.5 * (n + 1) as f64)
                * libm::tgamma(0.5 * (n + 1) as f64)
        };
        (4.0 * std::f64::consts::PI / (2 * l + 1) as f64).sqrt() * integral(2 * l + 2)
            / integral(l + 2)
    }
}

/// Checks degree and widths.
pub fn check_receivers(receivers: &Receivers) -> Result<()> {
    check_max_l("features max_l", receivers.max_l)?;
    check_widths("widths", receivers.widths)
}

/// Factors of one atom's features, `[width][lm]`.
pub fn receiver_factors(receivers: &Receivers) -> Vec<f64> {
    let n_lm = count(receivers.max_l);
    let mut out = Vec::with_capacity(receivers.widths.len() * n_lm);
    for &width in receivers.widths {
        for lm in 0..n_lm {
            out.push(receivers.normalization.factor(degree(lm), width));
        }
    }
    out
}

fn check_length(array: &'static str, found: usize, expected: usize, layout: &str) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Shape {
        array,
        found: format!("{found} entries"),
        expected: format!("{expected} ({layout})"),
    })
}

impl<T: Scalar> Systems<'_, T> {
    /// Checks shapes and values, and sorts the atoms into systems.
    pub fn members(&self) -> Result<Members> {
        check_length("pbc", self.pbc.len(), self.cells.len(), "one row per cell")?;
        check_length(
            "batch",
            self.batch.len(),
            self.positions.len(),
            "one per atom",
        )?;
        let flat: Vec<f64> = self.positions.iter().flat_map(values).collect();
        check_lengths("positions", &flat)?;
        let flat: Vec<f64> = self.cells.iter().flatten().flat_map(values).collect();
        check_lengths("cell", &flat)?;
        Members::new(self.batch, self.cells.len())
    }

    pub(crate) fn boundary(&self, system: usize) -> Boundary<T> {
        Boundary {
            cell: self.cells[system],
            pbc: self.pbc[system],
        }
    }
}

impl<T: Scalar> Sources<'_, T> {
    pub(crate) fn check(&self, n_atoms: usize) -> Result<()> {
        check_max_l("multipoles max_l", self.max_l)?;
        let flat: Vec<f64> = self.multipoles.iter().map(|p| p.value()).collect();
        check_finite("multipoles", &flat)?;
        check_length(
            "multipoles",
            flat.len(),
            n_atoms * count(self.max_l),
            "n_atoms × (max_l + 1)²",
        )?;
        check_length("sigma", self.sigma.len(), n_atoms, "one per atom")?;
        check_widths("sigma", self.sigma)
    }
}

/// Results over a batch: a value and gradients per system and atom.
#[derive(Clone, Debug)]
pub struct Output<T> {
    /// `[system]`.
    pub value: Vec<T>,
    /// dU/d(source multipoles), `[atom][lm]`; for energies dE/dp.
    pub sources: Vec<T>,
    /// dU/d(receiver coefficients), `[atom][width][lm]`; empty for energies.
    pub receivers: Vec<T>,
    pub positions: Vec<Vector<T>>,
    pub cells: Vec<Matrix<T>>,
}

/// Scalars for which the sums over a batch are compiled, in this crate and not again in each crate that calls them.
pub trait Compiled: Scalar {
    fn coulomb(
        systems: &Systems<Self>,
        sources: &Sources<Self>,
        options: &Options,
        gradients: bool,
    ) -> Result<Output<Self>>;

    fn features(
        systems: &Systems<Self>,
        sources: &Sources<Self>,
        receivers: &Receivers,
        cotangent: Option<&[Self]>,
        options: &Options,
    ) -> Result<Output<Self>>;
}

macro_rules! compiled {
    ($scalar:ty) => {
        impl Compiled for $scalar {
            fn coulomb(
                systems: &Systems<Self>,
                sources: &Sources<Self>,
                options: &Options,
                gradients: bool,
            ) -> Result<Output<Self>> {
                coulomb_over(systems, sources, options, gradients)
            }

            fn features(
                systems: &Systems<Self>,
                sources: &Sources<Self>,
                receivers: &Receivers,
                cotangent: Option<&[Self]>,
                options: &Options,
            ) -> Result<Output<Self>> {
                features_over(systems, sources, receivers, cotangent, options)
            }
        }
    };
}
compiled!(f64);
compiled!(Dual);

/// Energies ½ U(p, p) with dE/dp and, when asked for, gradients in positions (cell fixed) and cell (positions
/// fixed).
pub fn coulomb<T: Compiled>(
    systems: &Systems<T>,
    sources: &Sources<T>,
    options: &Options,
    gradients: bool,
) -> Result<Output<T>> {
    T::coulomb(systems, sources, options, gradients)
}

fn coulomb_over<T: Scalar>(
    systems: &Systems<T>,
    sources: &Sources<T>,
    options: &Options,
    gradients: bool,
) -> Result<Output<T>> {
    options.check()?;
    let members = systems.members()?;
    sources.check(systems.positions.len())?;
    let n_lm = count(sources.max_l);
    let want = Want {
        source: false,
        receiver: true,
        positions: gradients,
        cell: gradients,
    };
    let budget = Budget::new(systems.positions.len());
    let results: Vec<Gradient<T>> = (0..members.n_systems())
        .into_par_iter()
        .map(|system| {
            let positions = members.gather(system, systems.positions, 1);
            let density = Density {
                positions: &positions,
                widths: &members.gather(system, sources.sigma, 1),
                n_channels: 1,
                max_l: sources.max_l,
                coefficients: &members.gather(system, sources.multipoles, n_lm),
            };
            let (boundary, purpose) = (systems.boundary(system), Purpose::Energies);
            let prepared =
                Prepared::new(system, boundary, &density, None, purpose, options, &budget)?;
            Ok(prepared.evaluate(&density, None, want))
        })
        .collect::<Result<_>>()?;
    let n_atoms = systems.positions.len();
    let mut out = Output {
        value: Vec::with_capacity(results.len()),
        sources: vec![T::zero(); n_atoms * n_lm],
        receivers: Vec::new(),
        positions: vec![[T::zero(); 3]; n_atoms],
        cells: Vec::with_capacity(results.len()),
    };
    for (system, result) in results.iter().enumerate() {
        out.value.push(result.value);
        members.scatter(system, &result.receiver, n_lm, &mut out.sources);
        members.scatter(system, &result.receiver_positions, 1, &mut out.positions);
        out.cells.push(result.cell);
    }
    Ok(out)
}

/// U(p, g) = Σ features · g with its gradients; with `cotangent` = None the features alone, as `receivers`.
pub fn features<T: Compiled>(
    systems: &Systems<T>,
    sources: &Sources<T>,
    receivers: &Receivers,
    cotangent: Option<&[T]>,
    options: &Options,
) -> Result<Output<T>> {
    T::features(systems, sources, receivers, cotangent, options)
}

fn features_over<T: Scalar>(
    systems: &Systems<T>,
    sources: &Sources<T>,
    receivers: &Receivers,
    cotangent: Option<&[T]>,
    options: &Options,
) -> Result<Output<T>> {
    options.check()?;
    let members = systems.members()?;
    let n_atoms = systems.positions.len();
    sources.check(n_atoms)?;
    check_receivers(receivers)?;
    let factors = receiver_factors(receivers);
    let n_lm = count(sources.max_l);
    let n_rows = factors.len();
    if let Some(cotangent) = cotangent {
        let flat: Vec<f64> = cotangent.iter().map(|g| g.value()).collect();
        check_length("cotangent", flat.len(), n_atoms * n_rows, "as the features")?;
        check_finite("cotangent", &flat)?;
    }
    let want = match cotangent {
        None => Want::RECEIVER,
        Some(_) => Want::ALL,
    };
    let budget = Budget::new(systems.positions.len());
    let results: Vec<Gradient<T>> = (0..members.n_systems())
        .into_par_iter()
        .map(|system| {
            let positions = members.gather(system, systems.positions, 1);
            let n_local = positions.len();
            let source = Density {
                positions: &positions,
                widths: &members.gather(system, sources.sigma, 1),
                n_channels: 1,
                max_l: sources.max_l,
                coefficients: &members.gather(system, sources.multipoles, n_lm),
            };
            let mut coefficients = match cotangent {
                Some(cotangent) => members.gather(system, cotangent, n_rows),
                None => vec![T::zero(); n_local * n_rows],
            };
            scale_rows(&mut coefficients, &factors);
            let receiver = Density {
                positions: &positions,
                widths: &receivers.widths.repeat(n_local),
                n_channels: receivers.widths.len(),
                max_l: receivers.max_l,
                coefficients: &coefficients,
            };
            // The same sum with and without a cotangent, so that one is the derivative of the other.
            let (boundary, purpose) = (systems.boundary(system), Purpose::Forms);
            let rec = Some(&receiver);
            let prepared =
                Prepared::new(system, boundary, &source, rec, purpose, options, &budget)?;
            let mut result = prepared.evaluate(&source, Some(&receiver), want);
            scale_rows(&mut result.receiver, &factors);
            Ok(result)
        })
        .collect::<Result<_>>()?;
    let mut out = Output {
        value: Vec::with_capacity(results.len()),
        sources: vec![T::zero(); n_atoms * n_lm],
        receivers: vec![T::zero(); n_atoms * n_rows],
        positions: vec![[T::zero(); 3]; n_atoms],
        cells: Vec::with_capacity(results.len()),
    };
    for (system, result) in results.iter().enumerate() {
        out.value.push(result.value);
        members.scatter(system, &result.source, n_lm, &mut out.sources);
        members.scatter(system, &result.receiver, n_rows, &mut out.receivers);
        let mut positions = result.receiver_positions.clone();
        for (total, source) in positions.iter_mut().zip(&result.source_positions) {
            for axis in 0..3 {
                total[axis] += source[axis];
            }
        }
        members.scatter(system, &positions, 1, &mut out.positions);
        out.cells.push(result.cell);
    }
    Ok(out)
}

/// Multiplies each atom's row by the factors.
pub(crate) fn scale_rows<T: Scalar>(rows: &mut [T], factors: &[f64]) {
    if factors.is_empty() {
        return;
    }
    for row in rows.chunks_exact_mut(factors.len()) {
        for (value, &factor) in row.iter_mut().zip(factors) {
            *value = *value * factor;
        }
    }
}

/// Electrostatic potential of the atoms at points in space, V.
pub fn potential(
    systems: &Systems<f64>,
    sources: &Sources<f64>,
    points: &[Vector<f64>],
    points_batch: &[i64],
    options: &Options,
) -> Result<Vec<f64>> {
    options.check()?;
    let members = systems.members()?;
    sources.check(systems.positions.len())?;
    check_lengths("points", points.as_flattened())?;
    check_length(
        "points_batch",
        points_batch.len(),
        points.len(),
        "one per point",
    )?;
    let point_members = Members::new(points_batch, members.n_systems())?;
    let n_lm = count(sources.max_l);
    let budget = Budget::new(systems.positions.len() + points.len());
    let results: Vec<Vec<f64>> = (0..members.n_systems())
        .into_par_iter()
        .map(|system| {
            let positions = members.gather(system, systems.positions, 1);
            let local_points = point_members.gather(system, points, 1);
            let source = Density {
                positions: &positions,
                widths: &members.gather(system, sources.sigma, 1),
                n_channels: 1,
                max_l: sources.max_l,
                coefficients: &members.gather(system, sources.multipoles, n_lm),
            };
            let receiver = Density {
                positions: &local_points,
                widths: &vec![0.0; local_points.len()],
                n_channels: 1,
                max_l: 0,
                coefficients: &vec![0.0; local_points.len()],
            };
            let (boundary, purpose) = (systems.boundary(system), Purpose::Potentials);
            let rec = Some(&receiver);
            let prepared =
                Prepared::new(system, boundary, &source, rec, purpose, options, &budget)?;
            Ok(prepared
                .evaluate(&source, Some(&receiver), Want::RECEIVER)
                .receiver)
        })
        .collect::<Result<_>>()?;
    let mut out = vec![0.0; points.len()];
    for (system, result) in results.iter().enumerate() {
        point_members.scatter(system, result, 1, &mut out);
    }
    Ok(out)
}
