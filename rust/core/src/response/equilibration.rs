//! Charge equilibration: charges that minimise χᵀq + ½ qᵀ(A + η)q - F·D at fixed total charge or fixed Fermi level
//! (Rappé and Goddard, J. Phys. Chem. 95, 3358, with Gaussian charges).

use super::jacobian::{Blocks, Jacobian, Method, Settings, Status};
use super::operator::Operator;
use crate::arithmetic::vector::{Vector, add_scaled, dot};
use crate::electrostatics::coulomb;
use crate::error::{Error, Result, check_finite};
use crate::ewald::Options;
use crate::geometry::Geometry;
use crate::systems::{Normalization, Receivers, Sources, Systems};
use crate::units::COULOMB_CONSTANT;
use std::f64::consts::PI;
use std::sync::Arc;

/// Parameters of each atom.
#[derive(Clone, Copy, Debug)]
pub struct Elements<'a> {
    /// χ, V.
    pub electronegativity: &'a [f64],
    /// η, V/e, without the self-interaction of the Gaussian.
    pub hardness: &'a [f64],
    /// Å.
    pub sigma: &'a [f64],
}

/// Condition of each system, `[system]`.
#[derive(Clone, Copy, Debug)]
pub enum Reservoir<'a> {
    /// Total charge, e.
    Charge(&'a [f64]),
    /// Fermi level, eV.
    FermiLevel(&'a [f64]),
}

/// Equilibrated charges.
#[derive(Clone, Debug)]
pub struct Equilibrium {
    /// `[atom]`.
    pub charges: Vec<f64>,
    /// μ with dE/dq + μ = 0, `[system]`.
    pub fermi_level: Vec<f64>,
    /// E without μQ, `[system]`.
    pub energy: Vec<f64>,
    /// dE/dr at fixed charges, which is also that of the minimum, `[atom]`.
    pub positions: Vec<Vector<f64>>,
    /// `[system]`.
    pub dipole: Vec<Vector<f64>>,
}

fn check_length(array: &'static str, found: usize, expected: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Shape {
        array,
        found: format!("{found} entries"),
        expected: expected.to_string(),
    })
}

/// η + K / (√π σ): hardness of each atom with the self-interaction of its Gaussian, V/e.
fn own_hardness(elements: &Elements) -> Vec<f64> {
    let own = elements.hardness.iter().zip(elements.sigma);
    own.map(|(hardness, sigma)| hardness + COULOMB_CONSTANT / (PI.sqrt() * sigma))
        .collect()
}

/// Error for a system whose energy has no minimum, with the atom of largest weight in the softest mode.
fn no_minimum(
    jacobian: &Jacobian,
    systems: &Systems<f64>,
    elements: &Elements,
    system: usize,
    held: &str,
) -> Error {
    let atoms: Vec<usize> = (0..systems.batch.len())
        .filter(|&atom| systems.batch[atom] as usize == system)
        .collect();
    let softest = jacobian.softest(system);
    let value = softest.map_or(String::new(), |(value, _)| {
        format!(" (smallest eigenvalue {value:.4} V/e)")
    });
    let hardness = own_hardness(elements);
    let atom = match softest {
        Some((_, row)) => Some(atoms[row]),
        None => atoms
            .into_iter()
            .min_by(|&a, &b| hardness[a].total_cmp(&hardness[b])),
    };
    let place = atom.map_or(String::new(), |atom| {
        format!(
            "; hardness[{atom}] = {} has the largest part in it",
            elements.hardness[atom]
        )
    });
    Error::Unsupported {
        what: format!(
            "the energy of system {system} has no minimum at fixed {held}: A + diag(hardness) is not positive \
             definite{value}{place}"
        ),
        remedy: "raise the hardness or lower sigma there, or check for atoms that are too close"
            .into(),
    }
}

/// Equilibrates the charges of a batch in the uniform fields F `[system]`.
pub fn equilibrate(
    systems: &Systems<f64>,
    elements: &Elements,
    reservoir: Reservoir,
    field: &[Vector<f64>],
    options: &Options,
) -> Result<Equilibrium> {
    let (n_atoms, n_systems) = (systems.positions.len(), systems.cells.len());
    for (array, values) in [
        ("electronegativity", elements.electronegativity),
        ("hardness", elements.hardness),
    ] {
        check_length(array, values.len(), n_atoms)?;
        check_finite(array, values)?;
    }
    let (held, values) = match reservoir {
        Reservoir::Charge(values) => ("total_charge", values),
        Reservoir::FermiLevel(values) => ("fermi_level", values),
    };
    check_length(held, values.len(), n_systems)?;
    check_finite(held, values)?;
    check_length("external_field", field.len(), n_systems)?;
    check_finite("external_field", field.as_flattened())?;

    let receivers = Receivers {
        widths: &[],
        max_l: 0,
        normalization: Normalization::Multipoles,
    };
    // A is positive, so that positive hardnesses imply a minimum. Other hardnesses may have one, because A contains the
    // self-interaction of Gaussians; it is then added to the hardness, which the preconditioner contains, and factors or
    // iterations decide.
    let certain = elements.hardness.iter().all(|&hardness| hardness > 0.0);
    let hardness: Vec<f64> = match certain {
        true => elements.hardness.to_vec(),
        false => own_hardness(elements),
    };
    let apart = Options {
        self_interaction: certain,
        ..*options
    };
    let geometry = Geometry::new(systems, elements.sigma, 0, &receivers, &apart, options)?;
    let constrained = vec![matches!(reservoir, Reservoir::Charge(_)); n_systems];
    let blocks = Blocks {
        left: Some(&hardness),
        right: None,
        column: None,
        flow: None,
        constrained: &constrained,
    };
    let settings = Settings {
        method: Method::Auto,
        tolerance: 1e-13,
        max_iterations: None,
    };
    let jacobian = Jacobian::new(Arc::new(geometry), Operator::Coulomb, &blocks, settings)?;
    let jacobian = if certain {
        jacobian
    } else {
        jacobian.definite()
    };
    let atoms = || systems.positions.iter().zip(systems.batch);
    // -(χ - F·r)
    let driving: Vec<f64> = atoms()
        .zip(elements.electronegativity)
        .map(|((r, &system), chi)| dot(&field[system as usize], r) - chi)
        .collect();
    let solution = jacobian.solve(&driving, values, false)?;
    if let Some(system) = solution
        .status
        .iter()
        .position(|&status| status != Status::Ok)
    {
        return Err(match solution.status[system] {
            Status::Indefinite => no_minimum(&jacobian, systems, elements, system, held),
            status => Error::Unsupported {
                what: format!(
                    "the charges of system {system} could not be equilibrated ({status:?})"
                ),
                remedy: "check that it has atoms, and values of sensible size".into(),
            },
        });
    }
    let charges = solution.x;
    let sources = Sources {
        multipoles: &charges,
        max_l: 0,
        sigma: elements.sigma,
    };
    let interaction = coulomb(systems, &sources, options, true)?;
    let mut out = Equilibrium {
        fermi_level: solution.y,
        energy: interaction.value,
        positions: interaction.positions,
        dipole: vec![[0.0; 3]; n_systems],
        charges,
    };
    for (index, (r, &system)) in atoms().enumerate() {
        let (system, q) = (system as usize, out.charges[index]);
        let chi = elements.electronegativity[index];
        out.energy[system] += q * (chi + 0.5 * elements.hardness[index] * q);
        add_scaled(&mut out.dipole[system], r, q);
        add_scaled(&mut out.positions[index], &field[system], -q);
    }
    for ((energy, field), dipole) in out.energy.iter_mut().zip(field).zip(&out.dipole) {
        *energy -= dot(field, dipole);
    }
    Ok(out)
}
