//! Sizes, widths and degrees of the densities of one system, which its plan depends on.

use super::rates::Rates;
use crate::arithmetic::vector::{Matrix, Vector, dot};
use crate::lattice::Lattice;
use crate::limits::Budget;

/// Purpose of a sum, which sets the accuracy that its plan needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Energies of sources with all gradients.
    Energies,
    /// U(p, q) with all gradients.
    Forms,
    /// Potentials at the receivers alone.
    Potentials,
}

/// Positions of sites, or their span along open axes.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    At(&'a [Vector<f64>]),
    /// Their largest distance along the open directions, Å.
    Span(f64),
}

impl Place<'_> {
    pub(super) fn span(&self, cell: &Matrix<f64>, pbc: [bool; 3]) -> f64 {
        match self {
            Place::At(positions) => open_span(positions, cell, pbc),
            Place::Span(span) => *span,
        }
    }
}

/// Sizes that a plan depends on: widths and degrees of sources and receivers, and where the sites are.
#[derive(Clone, Copy, Debug)]
pub struct Extent<'a> {
    pub place: Place<'a>,
    /// Rates of the machine that sums.
    pub rates: &'static Rates,
    /// Bounds of the call, less the parts of other systems of the batch.
    pub budget: &'a Budget,
    pub purpose: Purpose,
    /// Sites of sources, and of receivers that are elsewhere.
    pub n_sites: usize,
    /// Sites × channels.
    pub n_sources: usize,
    pub n_receivers: usize,
    /// Distinct widths of sources and of receivers.
    pub n_widths: [usize; 2],
    /// (smallest, largest) width, and degree.
    pub source: (f64, f64, usize),
    pub receiver: (f64, f64, usize),
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
