//! The two boundary corrections of plane-wave codes, added to a three-dimensional sum, for parity with them.
//!
//! Both depend on a density through its charge Q, dipole D and spherical second moment M = Σ q r² + 2 d·r only, so
//! each is a bilinear form of those moments.

use super::density::{Density, Gradient};
use crate::lattice::dimensions;
use crate::scalar::Scalar;
use crate::units::COULOMB_CONSTANT;
use crate::vector::{
    Matrix, Vector, add_scaled, cross, dot, norm, reciprocal_rows, scale, sub, zero_vector,
};
use std::f64::consts::PI;

/// Madelung constant of a point charge in a cubic cell with background.
pub const CUBIC_MADELUNG: f64 = 2.837297479480619;

/// Boundaries that are not exact for their dimension, but asked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correction {
    /// 3-D sum + 2πK D_n²/V, D_n the dipole normal to the slab (Yeh and Berkowitz, J. Chem. Phys. 111, 3155).
    SlabDipole,
    /// 3-D sum + K[α Q²/2L + 2π D²/3V - 2π Q M/3V], L = V^(1/3) (Makov and Payne, Phys. Rev. B 51, 4014; Dabo et
    /// al., Phys. Rev. B 77, 115139).
    MoleculeInBox,
}

/// The moments that act on a density, from those of another.
type Response<T> = Box<dyn Fn(&Moments<T>) -> Moments<T>>;

/// Moments of a density.
struct Moments<T> {
    charge: T,
    dipole: Vector<T>,
    second: T,
}

impl<T: Scalar> Moments<T> {
    fn of(density: &Density<T>) -> Self {
        let mut out = Self {
            charge: T::zero(),
            dipole: zero_vector(),
            second: T::zero(),
        };
        for site in 0..density.n_sites() {
            let position = &density.positions[site];
            for channel in 0..density.n_channels {
                let p = density.at(site, channel);
                out.charge += p[0];
                add_scaled(&mut out.dipole, position, p[0]);
                out.second += p[0] * dot(position, position);
                if density.max_l > 0 {
                    let local = cartesian_dipole(p);
                    add_scaled(&mut out.dipole, &local, T::constant(1.0));
                    out.second += dot(&local, position) * 2.0;
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

/// Pulls derivatives in the moments back to multipoles and positions of a density.
fn pull_back<T: Scalar>(
    density: &Density<T>,
    moments: &Moments<T>,
    coefficients: &mut [T],
    positions: &mut [Vector<T>],
) {
    let n_lm = density.n_lm();
    for site in 0..density.n_sites() {
        let position = &density.positions[site];
        for channel in 0..density.n_channels {
            let p = density.at(site, channel);
            let start = (site * density.n_channels + channel) * n_lm;
            let out = &mut coefficients[start..start + n_lm];
            out[0] += moments.charge
                + dot(&moments.dipole, position)
                + moments.second * dot(position, position);
            add_scaled(&mut positions[site], &moments.dipole, p[0]);
            add_scaled(&mut positions[site], position, moments.second * p[0] * 2.0);
            if density.max_l > 0 {
                let mut field = moments.dipole;
                add_scaled(&mut field, position, moments.second * 2.0);
                out[3] += field[0];
                out[1] += field[1];
                out[2] += field[2];
                let local = cartesian_dipole(p);
                add_scaled(&mut positions[site], &local, moments.second * 2.0);
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
    // V dU/dV; what U depends on beyond moments and volume is added to the cell at once.
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
            let (d1, d2) = (dot(&first.dipole, &normal), dot(&other.dipole, &normal));
            value = strength * d1 * d2;
            by_volume = -value;
            // U depends on the normal n = A/|A|: dU/dA = (1 - n n·) dU/dn / |A|
            let mut d_normal = scale(&first.dipole, strength * d2);
            add_scaled(&mut d_normal, &other.dipole, strength * d1);
            let along = dot(&normal, &d_normal);
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
            Box::new(move |m| Moments {
                charge: T::zero(),
                dipole: scale(&normal, strength * dot(&m.dipole, &normal)),
                second: T::zero(),
            })
        }
        Correction::MoleculeInBox => {
            // L = V^(1/3) by its logarithm's derivative
            let root = volume.value().cbrt();
            let length = volume.chain(root, root / (3.0 * volume.value()));
            let image = length.recip() * (CUBIC_MADELUNG * COULOMB_CONSTANT);
            let dipolar = inverse * (4.0 * PI / 3.0 * COULOMB_CONSTANT);
            let charges = image * first.charge * other.charge;
            let rest = dipolar
                * (dot(&first.dipole, &other.dipole)
                    - (first.charge * other.second + first.second * other.charge) * 0.5);
            value = charges + rest;
            by_volume = -(charges * (1.0 / 3.0)) - rest;
            Box::new(move |m| Moments {
                charge: image * m.charge - dipolar * m.second * 0.5,
                dipole: scale(&m.dipole, dipolar),
                second: -(dipolar * m.charge * 0.5),
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
