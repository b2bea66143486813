//! Which method a system is summed with, and its parameters.

use super::corrections::Correction;
use crate::error::{Error, Result};
use crate::harmonics::count;
use crate::lattice::{Lattice, dimensions, periodic_measure};
use crate::vector::{Matrix, Vector, dot, norm};

/// Methods a user can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Auto,
    Direct,
    Reciprocal,
    Ewald,
}

impl std::str::FromStr for Method {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Self::Auto),
            "direct" => Ok(Self::Direct),
            "reciprocal" => Ok(Self::Reciprocal),
            "ewald" => Ok(Self::Ewald),
            _ => Err(Error::Unsupported {
                what: format!("method {name:?} is unknown"),
                remedy: "use \"auto\", \"direct\", \"reciprocal\" or \"ewald\"".into(),
            }),
        }
    }
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

/// What the user chooses.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub method: Method,
    pub correction: Option<Correction>,
    /// Relative accuracy.
    pub accuracy: f64,
    pub self_interaction: bool,
}

impl Options {
    pub fn check(&self) -> Result<()> {
        if self.accuracy >= 1e-15 && self.accuracy <= 1e-1 {
            return Ok(());
        }
        Err(Error::Value {
            array: "accuracy",
            index: 0,
            value: self.accuracy,
            remedy: "give a relative accuracy between 1e-15 and 1e-1",
        })
    }
}

/// What the plan looks at: widths and degrees of sources and receivers, and where the sites are.
#[derive(Clone, Copy, Debug)]
pub struct Extent<'a> {
    pub positions: &'a [Vector<f64>],
    pub n_sources: usize,
    pub n_receivers: usize,
    /// (smallest, largest) width, and degree.
    pub source: (f64, f64, usize),
    pub receiver: (f64, f64, usize),
}

/// A reciprocal sum, with or without a real-space part.
#[derive(Clone, Copy, Debug)]
pub struct Split {
    /// Widths are raised to this in the reciprocal sum; 0 for no real-space part.
    pub floor: f64,
    /// k² γ² / 2 at which the reciprocal sum ends.
    pub exponent: f64,
    /// Cutoff of the real-space sum, Å.
    pub cutoff: f64,
    /// Length of the lattice along open axes, Å.
    pub open_length: f64,
}

/// How one system is summed.
#[derive(Clone, Copy, Debug)]
pub enum Plan {
    /// All pairs, open systems only.
    Direct,
    Split(Split),
}

impl Plan {
    /// The name that users see.
    pub fn name(&self) -> &'static str {
        match self {
            Plan::Direct => "direct",
            Plan::Split(split) if split.floor == 0.0 => "reciprocal",
            Plan::Split(_) => "ewald",
        }
    }

    /// Chooses for one system. `pbc` are the axes that are summed periodically.
    pub fn new(
        extent: &Extent,
        cell: &Matrix<f64>,
        pbc: [bool; 3],
        options: &Options,
    ) -> Result<Self> {
        let open = dimensions(pbc) == 0;
        match options.method {
            Method::Direct if !open => Err(Error::Unsupported {
                what: "method \"direct\" sums all pairs of an open system, but an axis is periodic"
                    .into(),
                remedy: "use method=\"auto\", \"reciprocal\" or \"ewald\"".into(),
            }),
            Method::Direct => Ok(Plan::Direct),
            Method::Auto if open => Ok(Plan::Direct),
            Method::Reciprocal => {
                let split = split(extent, cell, pbc, options, 0.0);
                check_modes(extent, cell, pbc, &split)?;
                Ok(Plan::Split(split))
            }
            Method::Auto | Method::Ewald => {
                let split = cheapest(extent, cell, pbc, options);
                check_modes(extent, cell, pbc, &split)?;
                Ok(Plan::Split(split))
            }
        }
    }
}

/// More k-vectors than this (some 10 GB) are refused.
const MAX_MODES: f64 = 5e7;

/// Refuses sums that would exhaust time and memory.
fn check_modes(extent: &Extent, cell: &Matrix<f64>, pbc: [bool; 3], split: &Split) -> Result<()> {
    let modes = n_modes(extent, cell, pbc, split);
    if modes < MAX_MODES {
        return Ok(());
    }
    let remedy = if dimensions(pbc) == 0 {
        "use method=\"direct\" for open systems"
    } else {
        "use method=\"auto\", wider Gaussians or a lower accuracy, and check that no atom is far from the others \
         along an open axis"
    };
    Err(Error::Unsupported {
        what: format!(
            "the sum would need {modes:.1e} k-vectors (smallest widths {} and {} Å, length {:.1} Å along open axes)",
            extent.source.0, extent.receiver.0, split.open_length
        ),
        remedy: remedy.into(),
    })
}

/// Number of k-vectors, counting each pair ±k once.
fn n_modes(extent: &Extent, cell: &Matrix<f64>, pbc: [bool; 3], split: &Split) -> f64 {
    let floor = split.floor;
    let gamma2 = extent.source.0.max(floor).powi(2) + extent.receiver.0.max(floor).powi(2);
    let cutoff = (2.0 * split.exponent / gamma2).sqrt();
    let n_open = 3 - dimensions(pbc) as i32;
    let volume = periodic_measure(cell, pbc) * split.open_length.powi(n_open);
    let half_sphere = 2.0 / 3.0 * std::f64::consts::PI * cutoff.powi(3);
    (half_sphere * volume / (2.0 * std::f64::consts::PI).powi(3)).max(1.0)
}

/// Largest distance of two sites along the open directions.
fn open_span(positions: &[Vector<f64>], cell: &Matrix<f64>, pbc: [bool; 3]) -> f64 {
    // A lattice with unit vectors along open axes gives the directions.
    let lattice = Lattice::new(cell, pbc, 1.0);
    let mut squares = 0.0;
    for axis in (0..3).filter(|&axis| !pbc[axis]) {
        let direction = &lattice.vectors[axis];
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for position in positions {
            let along = dot(position, direction);
            low = low.min(along);
            high = high.max(along);
        }
        if high > low {
            squares += (high - low) * (high - low);
        }
    }
    squares.sqrt()
}

/// Where exp(-x) x^degree falls below the accuracy.
fn exponent(accuracy: f64, degree: usize) -> f64 {
    let target = -accuracy.ln() + 1.0;
    let mut x = target;
    for _ in 0..20 {
        x = target + 0.5 * degree as f64 * x.ln();
    }
    x
}

fn split(
    extent: &Extent,
    cell: &Matrix<f64>,
    pbc: [bool; 3],
    options: &Options,
    floor: f64,
) -> Split {
    let degree = extent.source.2 + extent.receiver.2 + 1;
    let exponent = exponent(options.accuracy, degree);
    let widest = |range: (f64, f64, usize)| range.1.max(floor);
    let gamma2 = widest(extent.source).powi(2) + widest(extent.receiver).powi(2);
    let tail = (2.0 * exponent * gamma2).sqrt();
    let open_length = if dimensions(pbc) == 3 {
        1.0
    } else {
        2.0 * (open_span(extent.positions, cell, pbc) + tail)
    };
    // Only pairs with a Gaussian narrower than the split are left to real space.
    let raised2 = |narrow: (f64, f64, usize), other: (f64, f64, usize)| {
        if narrow.0 < floor {
            floor * floor + other.1.max(floor).powi(2)
        } else {
            0.0
        }
    };
    let reach2 =
        raised2(extent.source, extent.receiver).max(raised2(extent.receiver, extent.source));
    Split {
        floor,
        exponent,
        cutoff: (2.0 * exponent * reach2).sqrt(),
        open_length,
    }
}

/// Nanoseconds per (k-vector, atom) and coefficient, and per pair and product of coefficients: estimates from
/// operation counts, good enough to choose a split and not calibrated machine by machine.
const RECIPROCAL_COST: f64 = 0.7;
const PAIR_COST: f64 = 60.0;

fn cost(extent: &Extent, cell: &Matrix<f64>, pbc: [bool; 3], split: &Split) -> f64 {
    let n_open = 3 - dimensions(pbc) as i32;
    let n_modes = n_modes(extent, cell, pbc, split);
    let sites = (extent.n_sources * (extent.source.2 + 2)
        + extent.n_receivers * (extent.receiver.2 + 2)) as f64;
    let reciprocal = RECIPROCAL_COST * n_modes * sites;
    if split.cutoff == 0.0 {
        return reciprocal;
    }
    let occupied =
        periodic_measure(cell, pbc) * (open_span(extent.positions, cell, pbc) + 2.0).powi(n_open);
    let density = extent.n_sources as f64 / occupied;
    let sphere = 4.0 / 3.0 * std::f64::consts::PI * split.cutoff.powi(3);
    let neighbours = (density * sphere).max(1.0);
    let products = (count(extent.source.2) + count(extent.receiver.2)) as f64;
    reciprocal + PAIR_COST * extent.n_receivers as f64 * neighbours * (4.0 + products)
}

/// The split width that costs least; for `ewald` the sum without a split is left out.
fn cheapest(extent: &Extent, cell: &Matrix<f64>, pbc: [bool; 3], options: &Options) -> Split {
    let narrowest = extent.source.0.min(extent.receiver.0).max(1e-3);
    let longest = (0..3)
        .filter(|&axis| pbc[axis])
        .map(|axis| norm(&cell[axis]))
        .fold(10.0, f64::max);
    let mut best = split(extent, cell, pbc, options, 0.0);
    let mut lowest = if options.method == Method::Ewald {
        f64::INFINITY
    } else {
        cost(extent, cell, pbc, &best)
    };
    let mut floor = narrowest * 1.05;
    while floor < longest || lowest.is_infinite() {
        let candidate = split(extent, cell, pbc, options, floor);
        let cost = cost(extent, cell, pbc, &candidate);
        if cost < lowest {
            (best, lowest) = (candidate, cost);
        }
        floor *= 1.1;
    }
    best
}
