//! Particle-mesh Ewald sums of Gaussian multipoles of any degree.
//!
//! Sources are spread onto a mesh by B-splines, multipoles by the splines' derivatives; potentials are the mesh's
//! convolution with the Coulomb kernel and the Gaussians, interpolated by the same splines (Essmann et al., J. Chem.
//! Phys. 103, 8577; for multipoles Toukmaji et al., J. Chem. Phys. 113, 10913). Each width has a mesh of its own.
//! Gradients are those of the interpolated energy, exactly.

pub mod accuracy;
mod convolve;
mod gather;
mod grid;
mod influence;
mod monomials;
mod sites;
mod splines;
mod spread;

use super::density::{Density, Gradient, Want};
use crate::arithmetic::Scalar;
use crate::arithmetic::vector::{Matrix, Vector, add_scaled, scale, zero_matrix};
use crate::arithmetic::workspace::Workspace;
use crate::lattice::Lattice;
use convolve::{Side, Sums, convolve};
use grid::Field;
use grid::Transforms;
use influence::Influence;
pub(crate) use influence::deconvolution;
use monomials::{Expansion, Monomials, n_monomials};
use rayon::prelude::*;
use sites::Group;
pub use splines::MAX_ORDER;
use splines::Splines;
use std::f64::consts::PI;

/// A mesh and its splines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Order of the B-splines.
    pub order: usize,
    /// Mesh points along the three axes of the lattice.
    pub points: [usize; 3],
}

/// Precomputation of one geometry.
pub struct Mesh<T: Scalar> {
    lattice: Lattice<T>,
    transforms: Transforms,
    influence: Influence<T>,
    widths: Vec<f64>,
    source: Sites<T>,
    receiver: Option<Sites<T>>,
    /// Splines of receivers on other sites than the sources.
    elsewhere: Option<Splines<T>>,
    splines: Splines<T>,
}

/// Sources or receivers by width.
struct Sites<T> {
    groups: Vec<Group>,
    /// Width of each group as a place in the list of all.
    widths: Vec<usize>,
    expansion: Expansion<T>,
}

impl<T: Scalar> Mesh<T> {
    /// Prepares the mesh for densities whose widths below `floor` are raised to it.
    pub fn new(
        lattice: Lattice<T>,
        source: &Density<T>,
        receiver: Option<&Density<T>>,
        floor: f64,
        size: Size,
    ) -> Self {
        let Size { order, points } = size;
        let elsewhere = receiver.filter(|r| !std::ptr::eq(r.positions, source.positions));
        let max_l = match (receiver, elsewhere) {
            (Some(receiver), None) => source.max_l.max(receiver.max_l),
            _ => source.max_l,
        };
        let make = |positions: &[Vector<T>], max_l: usize| {
            Splines::new(positions, &lattice, points, order, max_l + 1)
        };
        let splines = make(source.positions, max_l);
        let elsewhere = elsewhere.map(|receiver| make(receiver.positions, receiver.max_l));
        let basis: Matrix<T> = std::array::from_fn(|axis| {
            let factor = points[axis] as f64 / (2.0 * PI);
            scale(&lattice.reciprocal[axis], T::constant(factor))
        });
        let mut widths: Vec<f64> = Vec::new();
        let mut sites = |density: &Density<T>, splines: &Splines<T>| {
            let groups = Group::split(density, splines, floor);
            let places = groups
                .iter()
                .map(|group| {
                    let known = widths.iter().position(|&width| width == group.width);
                    known.unwrap_or_else(|| {
                        widths.push(group.width);
                        widths.len() - 1
                    })
                })
                .collect();
            Sites {
                groups,
                widths: places,
                expansion: Expansion::new(&basis, density.max_l),
            }
        };
        let source = sites(source, &splines);
        let receiver =
            receiver.map(|receiver| sites(receiver, elsewhere.as_ref().unwrap_or(&splines)));
        let transforms = Transforms::new(points);
        let influence = Influence::new(&lattice, points, order, &widths);
        Self {
            lattice,
            transforms,
            influence,
            widths,
            source,
            receiver,
            elsewhere,
            splines,
        }
    }

    /// Computes what many evaluations share.
    pub fn cache(&mut self) {
        self.influence.keep();
    }

    /// U(p, q), or with `receiver` = None the energy ½ U(p, p), whose gradient in p is `receiver` of the result.
    pub fn evaluate(
        &self,
        source: &Density<T>,
        receiver: Option<&Density<T>>,
        want: Want,
    ) -> Gradient<T> {
        let rec = receiver.unwrap_or(source);
        let mut out = Gradient::zero(source, rec);
        let receiving_splines = self.elsewhere.as_ref().unwrap_or(&self.splines);
        let gradients = want.positions || want.cell;
        let symmetric = receiver.is_none();
        // Potentials at one side need the other side's density only.
        let source_given = want != Want::SOURCE || symmetric;
        let receiver_given = !symmetric && want != Want::RECEIVER;
        let source_coefficients = self.source.expand(source, source_given);
        let mut source_fields = self.spread(
            &self.source,
            &self.splines,
            &source_coefficients,
            source_given,
        );
        let mut receiver_coefficients = Vec::new();
        let mut receiver_fields = Vec::new();
        if let (Some(receiver), Some(sites)) = (receiver, &self.receiver) {
            receiver_coefficients = sites.expand(receiver, receiver_given);
            receiver_fields = self.spread(
                sites,
                receiving_splines,
                &receiver_coefficients,
                receiver_given,
            );
        }
        let with_value = if symmetric {
            want != Want::RECEIVER
        } else {
            source_given && receiver_given
        };
        let source_wanted = symmetric || want.source || gradients;
        let receiver_wanted = want.receiver || gradients;
        let mut source_side = Side {
            fields: &mut source_fields,
            widths: &self.source.widths,
            given: source_given,
            wanted: source_wanted,
        };
        let mut receiver_side = self.receiver.as_ref().map(|sites| Side {
            fields: &mut receiver_fields,
            widths: &sites.widths,
            given: receiver_given,
            wanted: receiver_wanted,
        });
        let sums = convolve(
            &self.transforms,
            &self.influence,
            &self.widths,
            &mut source_side,
            receiver_side.as_mut(),
            with_value,
            want.cell,
        );
        let mut reciprocal = zero_matrix();
        let half = if symmetric { 0.5 } else { 1.0 };
        if with_value {
            out.value = sums.value * half;
            if want.cell {
                self.add_metric(&sums, half, &mut reciprocal);
            }
        }
        let receiving = self.receiver.as_ref().unwrap_or(&self.source);
        if receiver_wanted {
            let (fields, coefficients) = if symmetric {
                (&mut source_fields, &source_coefficients)
            } else {
                (&mut receiver_fields, &receiver_coefficients)
            };
            let mut target = Target {
                density: rec,
                coefficients,
                potentials: &mut out.receiver,
                positions: &mut out.receiver_positions,
                reciprocal: &mut reciprocal,
            };
            self.interpolate(receiving, receiving_splines, fields, want, &mut target);
        }
        if !symmetric && source_wanted {
            let mut target = Target {
                density: source,
                coefficients: &source_coefficients,
                potentials: &mut out.source,
                positions: &mut out.source_positions,
                reciprocal: &mut reciprocal,
            };
            self.interpolate(
                &self.source,
                &self.splines,
                &mut source_fields,
                want,
                &mut target,
            );
        }
        if want.cell {
            let lattice = &self.lattice;
            lattice.add_phases(source.positions, &out.source_positions, &mut reciprocal);
            lattice.add_phases(rec.positions, &out.receiver_positions, &mut reciprocal);
            let volume = -(out.value * self.lattice.volume.recip());
            out.cell = self.lattice.pull_back(&reciprocal, volume);
        }
        out
    }

    /// Fields of all groups of one side, with their densities where these are `given`.
    fn spread(
        &self,
        sites: &Sites<T>,
        splines: &Splines<T>,
        coefficients: &[Vec<T>],
        given: bool,
    ) -> Vec<Field> {
        let n = self.transforms.points[0] * self.transforms.plane;
        let field = |_| (0..T::PARTS).map(|_| Workspace::take(n)).collect();
        let mut fields: Vec<Field> = sites.groups.iter().map(field).collect();
        if given {
            for ((field, group), coefficients) in
                fields.iter_mut().zip(&sites.groups).zip(coefficients)
            {
                spread::spread(
                    splines,
                    group,
                    sites.expansion.max_l,
                    coefficients,
                    sites.expansion.n_monomials,
                    &self.transforms,
                    field,
                );
            }
        }
        fields
    }

    /// dU/db from the derivatives in the metric b_i·b_j.
    fn add_metric(&self, sums: &Sums<T>, half: f64, reciprocal: &mut Matrix<T>) {
        let lattice = &self.lattice;
        for i in 0..3 {
            for j in 0..3 {
                let mut derivative = sums.gaussian[i][j];
                if lattice.pbc[i] && lattice.pbc[j] {
                    derivative += sums.kernel[i][j];
                }
                add_scaled(
                    &mut reciprocal[i],
                    &lattice.reciprocal[j],
                    derivative * (2.0 * half),
                );
            }
        }
    }

    /// Transforms potentials back and adds potentials and gradients at the sites of one side.
    fn interpolate(
        &self,
        sites: &Sites<T>,
        splines: &Splines<T>,
        fields: &mut [Field],
        want: Want,
        target: &mut Target<T>,
    ) {
        let gradients = want.positions || want.cell;
        let max_l = sites.expansion.max_l;
        let total = max_l + usize::from(gradients);
        for ((group, field), coefficients) in
            sites.groups.iter().zip(fields).zip(target.coefficients)
        {
            for grid in field.iter_mut() {
                self.transforms.backward_planes(grid);
            }
            let derivatives = gather::gather(splines, group, total, &self.transforms, field);
            let n_lm = target.density.n_lm();
            let n = n_monomials(total);
            let row = |member: usize| &derivatives[member * n..][..n];
            target
                .potentials
                .par_chunks_mut(n_lm)
                .with_min_len(256)
                .enumerate()
                .for_each(|(place, out)| {
                    if let Some(member) = group.member(place) {
                        sites.expansion.contract(row(member), out);
                    }
                });
            if !gradients {
                continue;
            }
            let n_channels = target.density.n_channels;
            let n_coefficients = sites.expansion.n_monomials;
            target
                .positions
                .par_iter_mut()
                .with_min_len(256)
                .enumerate()
                .for_each(|(site, out)| {
                    for channel in 0..n_channels {
                        if let Some(member) = group.member(site * n_channels + channel) {
                            let t = &coefficients[member * n_coefficients..][..n_coefficients];
                            let gradient = sites.expansion.cartesian(&along(t, row(member)));
                            add_scaled(out, &gradient, T::constant(1.0));
                        }
                    }
                });
            if want.cell && max_l > 0 {
                let basis = sites.pull_back(group, &derivatives, n, target.density);
                for (axis, row) in basis.iter().enumerate() {
                    let factor = self.transforms.points[axis] as f64 / (2.0 * PI);
                    add_scaled(&mut target.reciprocal[axis], row, T::constant(factor));
                }
            }
        }
    }
}

/// Destinations of the results at one side.
struct Target<'a, T> {
    density: &'a Density<'a, T>,
    coefficients: &'a [Vec<T>],
    potentials: &'a mut [T],
    positions: &'a mut [Vector<T>],
    reciprocal: &'a mut Matrix<T>,
}

/// dU/du along the mesh coordinates, from a member's coefficients and the derivatives at it.
fn along<T: Scalar>(coefficients: &[T], derivatives: &[T]) -> [T; 3] {
    let table = Monomials::table();
    std::array::from_fn(|axis| {
        let mut sum = T::zero();
        for (monomial, &t) in coefficients.iter().enumerate() {
            sum += t * derivatives[table.raised(monomial, axis)];
        }
        sum
    })
}

impl<T: Scalar> Sites<T> {
    /// Coefficients of all groups, empty where the density does not matter.
    fn expand(&self, density: &Density<T>, given: bool) -> Vec<Vec<T>> {
        self.groups
            .iter()
            .map(|group| {
                if given {
                    group.expand(density, &self.expansion)
                } else {
                    Vec::new()
                }
            })
            .collect()
    }

    /// dU/dB through the expansion of a group's multipoles.
    fn pull_back(
        &self,
        group: &Group,
        derivatives: &[T],
        n: usize,
        density: &Density<T>,
    ) -> Matrix<T> {
        let n_lm = density.n_lm();
        let n_monomials = self.expansion.n_monomials;
        // Parts of fixed size, so that the order of sums does not depend on the threads.
        let parts: Vec<Vec<T>> = derivatives
            .par_chunks(512 * n)
            .zip(group.rows.par_chunks(512))
            .map(|(derivatives, rows)| {
                let mut sums = vec![T::zero(); n_lm * n_monomials];
                for (derivatives, &row) in derivatives.chunks_exact(n).zip(rows) {
                    let p = &density.coefficients[row as usize * n_lm..][..n_lm];
                    for (sums, &p) in sums.chunks_exact_mut(n_monomials).zip(p) {
                        for (sum, &derivative) in sums.iter_mut().zip(derivatives) {
                            *sum += p * derivative;
                        }
                    }
                }
                sums
            })
            .collect();
        let mut sums = vec![T::zero(); n_lm * n_monomials];
        for part in parts {
            for (sum, value) in sums.iter_mut().zip(part) {
                *sum += value;
            }
        }
        self.expansion.pull_back(&sums)
    }
}
