//! Batches, and passes over them. A term is applied to receivers in the field of sources; energies
//! take one pass (sources on sources), forms two (receivers in the field of sources, and the other way round).

use super::{Address, Buffer, CellGradients, Precision, Queue, ScalarKind, Scalars, Side};
use crate::arithmetic::vector::Matrix;
use crate::error::Result;
use crate::ewald::plan::Plan;
use crate::special::harmonics::count;

/// Sources or receivers of a batch on the host: where systems begin, and widths. Sites are sorted by system.
#[derive(Clone, Debug)]
pub struct Layout {
    /// First site of each system, and the number of sites: `[n_systems + 1]`.
    pub first: Vec<usize>,
    /// `[site][channel]`, Å.
    pub widths: Vec<f64>,
    pub n_channels: usize,
    pub max_l: usize,
}

impl Layout {
    pub fn n_sites(&self) -> usize {
        self.first.last().copied().unwrap_or(0)
    }

    pub fn n_systems(&self) -> usize {
        self.first.len() - 1
    }

    /// Coefficients of one site: channels × (max_l + 1)².
    pub fn n_row(&self) -> usize {
        self.n_channels * count(self.max_l)
    }

    /// Widths of one system, `[site][channel]`.
    pub fn widths_of(&self, system: usize) -> &[f64] {
        &self.widths[self.first[system] * self.n_channels..self.first[system + 1] * self.n_channels]
    }
}

/// How one system is summed.
#[derive(Clone, Debug)]
pub struct SystemPlan {
    pub plan: Plan,
    /// Axes that are summed periodically.
    pub summed: [bool; 3],
    /// Values of the cell when it was planned, Å.
    pub cell: Matrix<f64>,
}

/// Plan of a batch from which terms are made.
#[derive(Clone, Debug)]
pub struct Batch {
    pub systems: Vec<SystemPlan>,
    pub source: Layout,
    /// None when the sources receive (energies).
    pub receiver: Option<Layout>,
    /// True if receivers sit on the sources' sites, in the same order. True for energies.
    pub same_sites: bool,
    pub precision: Precision,
}

impl Batch {
    pub fn receiving(&self) -> &Layout {
        self.receiver.as_ref().unwrap_or(&self.source)
    }
}

/// A layout's tables on the device.
pub struct Tables {
    pub widths: Buffer,
    pub system: Buffer,
    pub first: Buffer,
}

impl Tables {
    pub fn new(queue: &Queue, layout: &Layout) -> Result<Self> {
        let mut system = Vec::with_capacity(layout.n_sites());
        for k in 0..layout.n_systems() {
            system.resize(layout.first[k + 1], k as i32);
        }
        let first: Vec<i32> = layout.first.iter().map(|&site| site as i32).collect();
        Ok(Self {
            widths: queue.table(&layout.widths)?,
            system: queue.table(&system)?,
            first: queue.table(&first)?,
        })
    }

    /// The kernels' view, with arrays of scalars `[site][3]` and `[site][channel][lm]`.
    pub fn side(
        &self,
        layout: &Layout,
        positions: Address,
        coefficients: Address,
        rounded: Address,
        potentials: Address,
        gradients: Address,
    ) -> Side {
        Side {
            positions,
            coefficients,
            rounded,
            potentials,
            gradients,
            widths: self.widths.address(),
            system: self.system.address(),
            first: self.first.address(),
            n_sites: layout.n_sites() as i32,
            n_channels: layout.n_channels as i32,
        }
    }
}

/// Direction of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Sources (or, for energies, the sources themselves) act on the receivers.
    Forward,
    /// Receivers act on the sources.
    Transposed,
}

/// One application of a term: `receivers.potentials` += the sources' potentials at the receivers and, with `gradients`,
/// `receivers.gradients` += dU/d(receiver position), U being Σ receiver coefficient × potential.
pub struct Pass<'a> {
    pub queue: &'a Queue,
    pub scalar: ScalarKind,
    pub precision: Precision,
    pub direction: Direction,
    pub receivers: Side,
    pub sources: Side,
    /// `Lattice[system]` of `batch.cuh`.
    pub lattices: Address,
    pub gradients: bool,
    /// True to add to `cells`; only together with `gradients`.
    pub cell: bool,
    /// Factor on derivatives in the cell through factors of both sides, which are counted once: ½ for energies, 1 in a
    /// form's pass to the receivers, 0 in its pass to the sources. Derivatives through the receivers alone (their
    /// phases b·r, their harmonics C_lm(k)) are added whole in each pass.
    pub once: f64,
    pub cells: CellGradients,
}

impl Pass<'_> {
    /// Scalars of the modules of long sums.
    pub fn scalars(&self) -> Scalars {
        Scalars {
            kind: self.scalar,
            precision: self.precision,
        }
    }
}
