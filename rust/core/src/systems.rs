//! Batches of systems in flat arrays: atoms, cells, sources and receivers, and their checks.

use crate::arithmetic::Scalar;
use crate::arithmetic::vector::{Matrix, Vector, values};
use crate::error::{Error, Result, check_finite, check_lengths};
use crate::ewald::Boundary;
use crate::ewald::density::{check_max_l, check_widths};
use crate::special::harmonics::{count, degree};

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

    /// Writes rows of the atoms of one system to their places.
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

pub(crate) fn check_length(
    array: &'static str,
    found: usize,
    expected: usize,
    layout: &str,
) -> Result<()> {
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
