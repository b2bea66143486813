//! The sum of one system: its plan and tables, and the terms added by name.

use super::background;
use super::corrections::{self, Correction};
use super::density::{Density, Gradient, Want};
use super::mesh::Mesh;
use super::options::Options;
use super::own::{self, OwnWeights};
use super::plan::{Extent, Place, Plan, Purpose, Split, rates};
use super::real::{Pairs, RealSpace, Rows};
use super::reciprocal::{Reciprocal, Settings};
use crate::arithmetic::Scalar;
use crate::arithmetic::vector::{Matrix, Vector, add_scaled, values, zero_matrix};
use crate::error::{Error, Result, check_finite};
use crate::lattice::{Lattice, check_cell, combination, compact, dimensions, periodic_measure};
use crate::limits::{Budget, Estimate};

/// Cell and boundary of one system.
#[derive(Clone, Copy, Debug)]
pub struct Boundary<T> {
    /// Rows are vectors, Å; rows along open axes are ignored unless a correction needs the box.
    pub cell: Matrix<T>,
    pub pbc: [bool; 3],
}

/// Tables that depend on the geometry alone, kept to evaluate many multipoles.
pub struct Prepared<T: Scalar> {
    /// With compact vectors along the periodic axes.
    pub(super) boundary: Boundary<T>,
    /// Whole numbers of the given vectors in those, where they are others.
    pub(super) numbers: Option<Matrix<f64>>,
    pub(super) options: Options,
    pub(super) purpose: Purpose,
    pub(super) plan: Plan,
    /// Estimated time and memory of preparing and one evaluation.
    pub(super) estimate: Estimate,
    pub(super) long_range: Option<LongRange<T>>,
    pub(super) real: Option<RealSpace<T>>,
}

/// The smooth part of a split, or all of it.
pub(super) enum LongRange<T: Scalar> {
    Sum(Box<Reciprocal<T>>),
    Mesh(Box<Mesh<T>>),
}

impl<T: Scalar> LongRange<T> {
    fn evaluate(
        &self,
        source: &Density<T>,
        receiver: Option<&Density<T>>,
        want: Want,
    ) -> Gradient<T> {
        match self {
            Self::Sum(sum) => sum.evaluate(source, receiver, want),
            Self::Mesh(mesh) => mesh.evaluate(source, receiver, want),
        }
    }
}

/// The axes summed periodically: all of them under a correction to the three-dimensional sum.
pub(crate) fn summed_axes(
    system: usize,
    pbc: [bool; 3],
    correction: Option<Correction>,
) -> Result<[bool; 3]> {
    let wrong = |what: &str, remedy: &str| {
        Err(Error::Unsupported {
            what: format!("system {system} has pbc = {pbc:?}, but {what}"),
            remedy: remedy.into(),
        })
    };
    match correction {
        None => Ok(pbc),
        Some(Correction::SlabDipole) if dimensions(pbc) != 2 => wrong(
            "boundary \"slab_dipole_correction\" needs exactly one open axis",
            "set pbc to False along the slab's normal only",
        ),
        Some(Correction::MoleculeInBox) if dimensions(pbc) != 0 => wrong(
            "boundary \"molecule_in_box\" is for open systems in a box",
            "set pbc to False along every axis and give the box as the cell",
        ),
        Some(_) => Ok([true; 3]),
    }
}

impl<T: Scalar> Prepared<T> {
    /// Plans and precomputes. Without a receiver the sources receive (energies).
    ///
    /// `system` only names the system in errors.
    pub fn new(
        system: usize,
        boundary: Boundary<T>,
        source: &Density<T>,
        receiver: Option<&Density<T>>,
        purpose: Purpose,
        options: &Options,
        budget: &Budget,
    ) -> Result<Self> {
        let summed = summed_axes(system, boundary.pbc, options.correction)?;
        let mut cell: Matrix<f64> = boundary.cell.map(|row| values(&row));
        for row in 0..3 {
            if summed[row] {
                check_finite("cell", &cell[row])?;
            }
        }
        check_cell(&cell, summed, system)?;
        let numbers = compact(&cell, boundary.pbc);
        let mut boundary = boundary;
        if let Some(numbers) = &numbers {
            boundary.cell = numbers.map(|row| combination(&row, &boundary.cell));
            cell = boundary.cell.map(|row| values(&row));
        }
        let rec = receiver.unwrap_or(source);
        let mut positions: Vec<Vector<f64>> = source.positions.iter().map(values).collect();
        if !std::ptr::eq(rec.positions, source.positions) {
            positions.extend(rec.positions.iter().map(values));
        }
        let extent = Extent {
            place: Place::At(&positions),
            rates: &rates::CPU,
            budget,
            purpose,
            n_sites: positions.len(),
            n_sources: source.n_sites() * source.n_channels,
            n_receivers: rec.n_sites() * rec.n_channels,
            n_widths: [source.n_distinct_widths(), rec.n_distinct_widths()],
            source: (
                source.smallest_width(),
                source.largest_width(),
                source.max_l,
            ),
            receiver: (rec.smallest_width(), rec.largest_width(), rec.max_l),
        };
        let (plan, estimate) = if source.n_sites() == 0 || rec.n_sites() == 0 {
            (Plan::Direct, Estimate::default())
        } else {
            Plan::new(&extent, &cell, summed, options)?
        };
        let mut out = Self {
            boundary,
            numbers,
            options: *options,
            purpose,
            plan,
            estimate,
            long_range: None,
            real: None,
        };
        match plan {
            Plan::Direct => out.real = Some(RealSpace::new(Pairs::All, None, boundary.cell)),
            Plan::Split(split) => {
                let Split {
                    floor,
                    cutoff,
                    exponent,
                    ..
                } = split;
                let lattice = Lattice::new(&boundary.cell, summed, split.open_length);
                let long_range = || match split.mesh {
                    Some(size) => {
                        LongRange::Mesh(Box::new(Mesh::new(lattice, source, receiver, floor, size)))
                    }
                    None => {
                        let settings = Settings { floor, exponent };
                        let sum = Reciprocal::new(lattice, source, receiver, settings);
                        LongRange::Sum(Box::new(sum))
                    }
                };
                if cutoff > 0.0 {
                    let rows = || Rows::new(source, receiver, &boundary.cell, summed, cutoff);
                    let (long_range, rows) = rayon::join(long_range, rows);
                    let pairs = Pairs::Listed(rows?);
                    out.long_range = Some(long_range);
                    out.real = Some(RealSpace::new(pairs, Some(floor), boundary.cell));
                } else {
                    out.long_range = Some(long_range());
                }
            }
        }
        Ok(out)
    }

    /// Caches what potentials at fixed atoms reuse, of the pair sum up to `limit` numbers.
    pub fn cache(&mut self, source: &Density<T>, receiver: Option<&Density<T>>, limit: usize) {
        if let Some(real) = &mut self.real {
            real.cache(source, receiver, limit);
        }
        if let Some(LongRange::Mesh(mesh)) = &mut self.long_range {
            mesh.cache();
        }
    }

    /// The method in use.
    pub fn method(&self) -> &'static str {
        self.plan.name()
    }

    /// The method and its parameters as text.
    pub fn description(&self) -> String {
        let n_modes = match &self.long_range {
            Some(LongRange::Sum(sum)) => Some(sum.n_modes()),
            _ => None,
        };
        self.plan.description(n_modes)
    }

    /// U(p, q) and its gradients; without a receiver the energy ½ U(p, p), whose gradient dE/dp is `receiver` and
    /// dE/dR `receiver_positions` of the result.
    ///
    /// The densities must have the positions and widths that this was prepared with.
    pub fn evaluate(
        &self,
        source: &Density<T>,
        receiver: Option<&Density<T>>,
        want: Want,
    ) -> Gradient<T> {
        let nothing = || Gradient::zero(source, receiver.unwrap_or(source));
        if source.n_sites() == 0 || receiver.is_some_and(|r| r.n_sites() == 0) {
            return nothing();
        }
        let mut out = match (&self.long_range, &self.real) {
            (Some(long_range), Some(real)) => {
                let (mut sum, pairs) = rayon::join(
                    || long_range.evaluate(source, receiver, want),
                    || real.evaluate(source, receiver, want),
                );
                sum.add(&pairs);
                sum
            }
            (Some(long_range), None) => long_range.evaluate(source, receiver, want),
            (None, Some(real)) => real.evaluate(source, receiver, want),
            (None, None) => nothing(),
        };
        let cell = &self.boundary.cell;
        let periodic = self.boundary.pbc == [true; 3] || self.options.correction.is_some();
        if let (Plan::Split(split), true) = (self.plan, periodic) {
            let volume = periodic_measure(cell, [true; 3]);
            if split.cutoff > 0.0 {
                background::add_background(source, receiver, split.floor, cell, volume, &mut out);
            }
            if let Some(correction) = self.options.correction {
                let box_ = (cell, self.boundary.pbc, volume);
                corrections::add_correction(correction, source, receiver, box_, &mut out);
            }
        }
        let same_sites = receiver.is_none_or(|r| std::ptr::eq(r.positions, source.positions));
        if !self.options.self_interaction && same_sites {
            own::add_own_terms(source, receiver, want, OwnWeights::excluded(), &mut out);
        }
        if receiver.is_none() && want == Want::RECEIVER {
            // Terms that compute potentials only leave the value out; it follows from E = ½ p·dE/dp.
            let mut sum = T::zero();
            for (&p, &v) in source.coefficients.iter().zip(&out.receiver) {
                sum += p * v;
            }
            out.value = sum * 0.5;
        }
        if let Some(numbers) = &self.numbers {
            let mut given = zero_matrix();
            for (row, derivative) in numbers.iter().zip(&out.cell) {
                for (target, &n) in given.iter_mut().zip(row) {
                    add_scaled(target, derivative, T::constant(n));
                }
            }
            out.cell = given;
        }
        out
    }
}
