//! Energies, features and potentials of batches of systems.

use crate::arithmetic::vector::{Matrix, Vector};
use crate::arithmetic::{Dual, Scalar};
use crate::error::{Result, check_finite, check_lengths};
use crate::ewald::{Density, Gradient, Options, Prepared, Purpose, Want};
use crate::limits::Budget;
use crate::special::harmonics::count;
use crate::systems::{
    Members, Receivers, Sources, Systems, check_length, check_receivers, receiver_factors,
    scale_rows,
};
use rayon::prelude::*;

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

/// Energies ½ U(p, p) with dE/dp and, on request, gradients in positions (cell fixed) and cell (positions fixed).
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
            // One plan with and without a cotangent, so that one is the derivative of the other.
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
