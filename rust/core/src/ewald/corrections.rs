//! The two boundary corrections of plane-wave codes, added to a three-dimensional sum, for parity with them.
//!
//! Both depend on a density through its charge Q, dipole D and second moment S = ∫ρ r rᵀ only, so each is a
//! bilinear form of those moments.

use super::density::{Density, Gradient};
use crate::arithmetic::Scalar;
use crate::arithmetic::vector::{
    Matrix, Vector, add_scaled, apply, cross, dot, norm, reciprocal_rows, scale, sub, trace,
    zero_matrix, zero_vector,
};
use crate::error::{Error, Result};
use crate::lattice::dimensions;
use crate::units::COULOMB_CONSTANT;
use std::f64::consts::PI;

/// Madelung constant of a point charge in a cubic cell with background.
pub const CUBIC_MADELUNG: f64 = 2.837297479480619;

/// Boundaries that are approximate for their dimension and chosen by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correction {
    /// 3-D sum + 2πK/V [D_n² - Q S_nn - Q² c²/12], n the normal of the slab and c the height of the cell along it
    /// (Yeh and Berkowitz, J. Chem. Phys. 111, 3155; with a net charge Ballenegger, Arnold and Cerdà, J. Chem.
    /// Phys. 131, 094107).
    SlabDipole,
    /// 3-D sum + K[α Q²/2L + 2π D²/3V - 2π Q tr S/3V], L = V^(1/3) (Makov and Payne, Phys. Rev. B 51, 4014; Dabo et
    /// al., Phys. Rev. B 77, 115139).
    MoleculeInBox,
}

impl std::str::FromStr for Correction {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "slab_dipole_correction" => Ok(Self::SlabDipole),
            "molecule_in_box" => Ok(Self::MoleculeInBox),
            _ => Err(Error::Unsupported {
                what: format!("boundary {name:?} is unknown"),
                remedy: "leave boundary=None for the exact boundary given by pbc, or use \
                         \"slab_dipole_correction\" or \"molecule_in_box\""
                    .into(),
            }),
        }
    }
}

/// The moments that act on a density, from those of another.
type Response<T> = Box<dyn Fn(&Moments<T>) -> Moments<T>>;

/// Moments of a density.
struct Moments<T> {
    charge: T,
    dipole: Vector<T>,
    /// ∫ρ r rᵀ, with the widths of the Gaussians.
    second: Matrix<T>,
}

impl<T: Scalar> Moments<T> {
    fn of(density: &Density<T>) -> Self {
        let mut out = Self {
            charge: T::zero(),
            dipole: zero_vector(),
            second: zero_matrix(),
        };
        for site in 0..density.n_sites() {
            let position = &density.positions[site];
            for channel in 0..density.n_channels {
                let p = density.at(site, channel);
                let spread = p[0] * density.width(site, channel).powi(2);
                out.charge += p[0];
                add_scaled(&mut out.dipole, position, p[0]);
                for axis in 0..3 {
                    add_scaled(&mut out.second[axis], position, p[0] * position[axis]);
                    out.second[axis][axis] += spread;
                }
                if density.max_l > 0 {
                    let local = cartesian_dipole(p);
                    add_scaled(&mut out.dipole, &local, T::constant(1.0));
                    for axis in 0..3 {
                        add_scaled(&mut out.second[axis], position, local[axis]);
                        add_scaled(&mut out.second[axis], &local, position[axis]);
                    }
                }
                if density.max_l > 1 {
                    for (row, own) in out.second.iter_mut().zip(cartesian_quadrupole(p)) {
                        add_scaled(row, &own, T::constant(1.0));
                    }
                }
            }
        }
        out
    }
}

/// (x, y, z) of the l = 1 coefficients, stored as (y, z, x).
#[inline]
pub fn cartesian_dipole<T: Scalar>(p: &[T]) -> Vector<T> {
    [p[3], p[1], p[2]]
}

/// Traceless second moment of the l = 2 coefficients, stored as (xy, yz, 3z² - r², xz, x² - y²).
fn cartesian_quadrupole<T: Scalar>(p: &[T]) -> Matrix<T> {
    let root = (1.0 / 3.0_f64).sqrt();
    let (xy, yz, xz) = (p[4] * root, p[5] * root, p[7] * root);
    let (along, across) = (p[6] * (1.0 / 3.0), p[8] * root);
    [
        [across - along, xy, xz],
        [xy, -(across + along), yz],
        [xz, yz, along * 2.0],
    ]
}

/// Adds the derivative of M : S in the l = 2 coefficients, M symmetric.
fn add_quadrupole_potential<T: Scalar>(m: &Matrix<T>, out: &mut [T]) {
    let root = (1.0 / 3.0_f64).sqrt();
    out[4] += m[0][1] * (2.0 * root);
    out[5] += m[1][2] * (2.0 * root);
    out[6] += m[2][2] * (2.0 / 3.0) - (m[0][0] + m[1][1]) * (1.0 / 3.0);
    out[7] += m[0][2] * (2.0 * root);
    out[8] += (m[0][0] - m[1][1]) * root;
}

/// Pulls derivatives in the moments back to multipoles and positions of a density.
fn pull_back<T: Scalar>(
    density: &Density<T>,
    moments: &Moments<T>,
    coefficients: &mut [T],
    positions: &mut [Vector<T>],
) {
    let n_lm = density.n_lm();
    let second = &moments.second;
    for site in 0..density.n_sites() {
        let position = &density.positions[site];
        let slope = apply(second, position);
        let mut field = moments.dipole;
        add_scaled(&mut field, &slope, T::constant(2.0));
        let potential = moments.charge + dot(&moments.dipole, position) + dot(&slope, position);
        for channel in 0..density.n_channels {
            let p = density.at(site, channel);
            let start = (site * density.n_channels + channel) * n_lm;
            let out = &mut coefficients[start..start + n_lm];
            out[0] += potential + trace(second) * density.width(site, channel).powi(2);
            add_scaled(&mut positions[site], &field, p[0]);
            if density.max_l > 0 {
                out[3] += field[0];
                out[1] += field[1];
                out[2] += field[2];
                let local = apply(second, &cartesian_dipole(p));
                add_scaled(&mut positions[site], &local, T::constant(2.0));
            }
            if density.max_l > 1 {
                add_quadrupole_potential(second, out);
            }
        }
    }
}

/// Adds the correction; `pbc` are the axes that are periodic in truth.
pub fn add_correction<T: Scalar>(
    correction: Correction,
    source: &Density<T>,
    receiver: Option<&Density<T>>,
    (cell, pbc, volume): (&Matrix<T>, [bool; 3], T),
    out: &mut Gradient<T>,
) {
    let first = Moments::of(source);
    let second = receiver.map(Moments::of);
    let other = second.as_ref().unwrap_or(&first);
    let half = if receiver.is_none() { 0.5 } else { 1.0 };
    let inverse = volume.recip();
    // V dU/dV; derivatives in the cell other than through moments and volume are added here.
    let (value, by_volume);
    let apply: Response<T> = match correction {
        Correction::SlabDipole => {
            let open = (0..3).find(|&axis| !pbc[axis]).unwrap_or(2);
            debug_assert_eq!(dimensions(pbc), 2);
            let (a, b) = ((open + 1) % 3, (open + 2) % 3);
            let area = cross(&cell[a], &cell[b]);
            let length = norm(&area);
            let normal = scale(&area, length.recip());
            let strength = inverse * (4.0 * PI * COULOMB_CONSTANT);
            let height = volume * length.recip();
            let image = strength * height * height * (1.0 / 12.0); // proportional to V/|A|²
            let (d1, d2) = (dot(&first.dipole, &normal), dot(&other.dipole, &normal));
            let (s1, s2) = (apply(&first.second, &normal), apply(&other.second, &normal));
            let (s1n, s2n) = (dot(&s1, &normal), dot(&s2, &normal));
            let charges = image * first.charge * other.charge;
            let rest = strength * (d1 * d2 - (first.charge * s2n + other.charge * s1n) * 0.5);
            value = rest - charges;
            by_volume = -rest - charges;
            // U depends on the normal n = A/|A|: dU/dA = (1 - n n·) dU/dn / |A|, and on |A|
            let mut d_normal = scale(&first.dipole, strength * d2);
            add_scaled(&mut d_normal, &other.dipole, strength * d1);
            add_scaled(&mut d_normal, &s2, -(strength * first.charge));
            add_scaled(&mut d_normal, &s1, -(strength * other.charge));
            let along = dot(&normal, &d_normal) - charges * 2.0;
            let d_area = scale(
                &sub(&d_normal, &scale(&normal, along)),
                length.recip() * half,
            );
            add_scaled(
                &mut out.cell[a],
                &cross(&cell[b], &d_area),
                T::constant(1.0),
            );
            add_scaled(
                &mut out.cell[b],
                &cross(&d_area, &cell[a]),
                T::constant(1.0),
            );
            Box::new(move |m| {
                let along = -(strength * m.charge * 0.5);
                Moments {
                    charge: -(strength * dot(&apply(&m.second, &normal), &normal) * 0.5)
                        - image * m.charge,
                    dipole: scale(&normal, strength * dot(&m.dipole, &normal)),
                    second: normal.map(|component| scale(&normal, along * component)),
                }
            })
        }
        Correction::MoleculeInBox => {
            // L = V^(1/3) by its logarithm's derivative
            let root = volume.value().cbrt();
            let length = volume.chain(root, root / (3.0 * volume.value()));
            let image = length.recip() * (CUBIC_MADELUNG * COULOMB_CONSTANT);
            let dipolar = inverse * (4.0 * PI / 3.0 * COULOMB_CONSTANT);
            let charges = image * first.charge * other.charge;
            let spread = first.charge * trace(&other.second) + trace(&first.second) * other.charge;
            let rest = dipolar * (dot(&first.dipole, &other.dipole) - spread * 0.5);
            value = charges + rest;
            by_volume = -(charges * (1.0 / 3.0)) - rest;
            Box::new(move |m| {
                let mut second = zero_matrix();
                for (axis, row) in second.iter_mut().enumerate() {
                    row[axis] = -(dipolar * m.charge * 0.5);
                }
                Moments {
                    charge: image * m.charge - dipolar * trace(&m.second) * 0.5,
                    dipole: scale(&m.dipole, dipolar),
                    second,
                }
            })
        }
    };
    out.value += value * half;
    pull_back(
        receiver.unwrap_or(source),
        &apply(&first),
        &mut out.receiver,
        &mut out.receiver_positions,
    );
    if receiver.is_some() {
        pull_back(
            source,
            &apply(other),
            &mut out.source,
            &mut out.source_positions,
        );
    }
    for (row, inverse) in out.cell.iter_mut().zip(reciprocal_rows(cell)) {
        add_scaled(row, &inverse, by_volume * half);
    }
}
