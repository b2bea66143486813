//! Parameters of a split sum, and their estimated cost.

use super::extent::Extent;
use crate::ewald::mesh::Size;
use crate::limits::Estimate;

/// Longer meshes than this are refused: coordinates on them would lose digits.
pub(in crate::ewald) const MAX_LENGTH: f64 = 1e6;

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
    /// The mesh that takes the place of the sum over k-vectors.
    pub mesh: Option<Size>,
}

/// A split with its cost for the choice, and its time and memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub split: Split,
    pub cost: f64,
    pub estimate: Estimate,
}

impl Candidate {
    pub fn fits(&self, extent: &Extent) -> bool {
        self.estimate.fits(extent.n_sites)
    }
}
