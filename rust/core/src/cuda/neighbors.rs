//! Neighbour lists on the device: the pairs of [`crate::neighbors`], in the same order and with the same bits.

use super::batch::{Address, ScalarKind};
use super::bins::{Bins, Cells, Frame, Sorted};
use super::driver::unit::Unit;
use super::{Buffer, Module, Queue};
use crate::arithmetic::vector::Matrix;
use crate::error::{Error, Result};
use crate::neighbors::{Criteria, Search, Systems, UnitCell, check_pairs};
use bytemuck::{Pod, Zeroable};
use std::sync::Arc;

/// Addresses of the quantities of pairs, sorted by (i, j, S); 0 for those not written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outputs {
    /// i64 `[pair]`.
    pub i: Address,
    pub j: Address,
    /// i64 `[pair][3]`.
    pub shifts: Address,
    /// f64 `[pair]`, Å.
    pub distances: Address,
    /// f64 `[pair][3]`, r_j - r_i + S·cell, Å.
    pub vectors: Address,
}

/// All quantities of a list, laid out as [`Outputs`].
pub struct List {
    pub n: usize,
    pub i: Buffer,
    pub j: Buffer,
    pub shifts: Buffer,
    pub distances: Buffer,
    pub vectors: Buffer,
}

/// The pairs of some atoms, counted and not yet written.
pub struct DeviceSearch {
    module: Arc<Module>,
    n_atoms: usize,
    n_pairs: usize,
    frames: Buffer,
    system: Buffer,
    bins: Bins,
    sorted: Sorted,
    /// First pair of each atom, and the number of pairs.
    first: Buffer,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Arguments {
    frames: Address,
    grids: Address,
    system: Address,
    start: Address,
    sorted: Address,
    placed: Address,
    counts: Address,
    first: Address,
    found: Address,
    i: Address,
    j: Address,
    shifts: Address,
    distances: Address,
    vectors: Address,
    n_atoms: i32,
    padding: i32,
}

/// Threads of a block: one warp, see `neighbors.cu`.
const THREADS: u32 = 32;
const SCAN_THREADS: u32 = 1024;
/// Bytes of a `Found`.
const FOUND: usize = 16;
/// Largest number of images within the cutoff.
const MAX_IMAGES: f64 = 1e7;

/// The atoms to search, sorted by system.
#[derive(Clone, Copy, Debug)]
pub struct Atoms<'a> {
    /// f64 `[atom][3]` on the device, Å.
    pub positions: Address,
    /// Rows are vectors, Å; rows along open axes are ignored.
    pub cells: &'a [Matrix<f64>],
    pub pbc: &'a [[bool; 3]],
    /// First atom of each system, and the number of atoms.
    pub first: &'a [usize],
}

fn unit() -> Unit {
    Unit::new("neighbors.cu", include_str!("../../cuda/neighbors.cu"))
        .define("SCALAR", ScalarKind::Real.name())
        .mirror::<Arguments>("ListArguments")
}

/// The modules of this file, for checks that they compile.
pub fn units() -> Vec<Unit> {
    vec![unit()]
}

fn check_reach(cell: &UnitCell, cutoff: f64) -> Result<()> {
    let images: f64 = cell.images(cutoff).iter().map(|n| 2.0 * n + 1.0).product();
    if images <= MAX_IMAGES {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!("a cutoff of {cutoff} Å reaches {images:.1e} images of the cell"),
        remedy: "reduce the cutoff, or use a larger cell".into(),
    })
}

impl DeviceSearch {
    /// Finds all pairs nearer than `cutoff`. Waits for their number.
    ///
    /// # Errors
    /// As [`Search::new`].
    pub fn new(queue: &Queue, atoms: Atoms, cutoff: f64) -> Result<Self> {
        let criteria = Criteria {
            cutoff,
            half: false,
            self_interaction: false,
        };
        criteria.check()?;
        let n_systems = atoms.cells.len();
        if atoms.pbc.len() != n_systems || atoms.first.len() != n_systems + 1 {
            return Err(Error::Shape {
                array: "pbc",
                found: format!("[{}, 3]", atoms.pbc.len()),
                expected: format!("[{n_systems}, 3], as there are {n_systems} cells"),
            });
        }
        let n_atoms = atoms.first[n_systems];
        let (mut cells, mut system) = (Vec::new(), Vec::with_capacity(n_atoms));
        for number in 0..n_systems {
            let cell = UnitCell::new(&atoms.cells[number], atoms.pbc[number], number)?;
            check_reach(&cell, cutoff)?;
            cells.push(cell);
            system.resize(atoms.first[number + 1], number as i32);
        }
        let frames: Vec<Frame> = cells.iter().map(Frame::from).collect();
        let filled = (0..n_systems).map(|number| {
            let empty = atoms.first[number] == atoms.first[number + 1];
            (!empty).then(|| (cells[number], cutoff))
        });
        let bins = Bins::new(queue, atoms.first, filled)?;
        let (frames, system) = (queue.upload(&frames)?, queue.upload(&system)?);
        // The number of pairs and that of atoms that no cell holds are read together.
        let first = queue.zeros(8 * (n_atoms + 2))?;
        let total = first.address() + 8 * n_atoms as u64;
        let sorted = bins.sort(
            queue,
            ScalarKind::Real,
            atoms.positions,
            system.address(),
            Cells::Frames(frames.address()),
            total + 8,
        )?;
        let mut out = Self {
            module: queue.module(unit())?,
            n_atoms,
            n_pairs: 0,
            frames,
            system,
            bins,
            sorted,
            first,
        };
        let counts = queue.allocate(4 * n_atoms)?;
        let arguments = Arguments {
            counts: counts.address(),
            ..out.arguments()
        };
        out.launch(queue, "count_pairs", &arguments)?;
        let scan = out.module.kernel("scan_counts")?;
        queue.launch(&scan, [1, 1, 1], SCAN_THREADS, &arguments)?;
        let [n_pairs, bad] = queue.download::<i64>(total, 2)?[..] else {
            unreachable!("two numbers were asked for");
        };
        if bad != 0 {
            return Err(refused(queue, atoms, &criteria));
        }
        out.n_pairs = n_pairs as usize;
        check_pairs(out.n_pairs, n_atoms, cutoff)?;
        Ok(out)
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.n_pairs
    }

    /// True if there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.n_pairs == 0
    }

    /// Writes the pairs.
    pub fn write(&self, queue: &Queue, targets: &Outputs) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let found = queue.allocate(FOUND * self.n_pairs)?;
        let arguments = Arguments {
            found: found.address(),
            i: targets.i,
            j: targets.j,
            shifts: targets.shifts,
            distances: targets.distances,
            vectors: targets.vectors,
            ..self.arguments()
        };
        self.launch(queue, "fill_pairs", &arguments)?;
        self.launch(queue, "write_pairs", &arguments)
    }

    fn launch(&self, queue: &Queue, kernel: &'static str, arguments: &Arguments) -> Result<()> {
        let grid = [self.n_atoms as u32, 1, 1];
        queue.launch(&self.module.kernel(kernel)?, grid, THREADS, arguments)
    }

    fn arguments(&self) -> Arguments {
        Arguments {
            frames: self.frames.address(),
            grids: self.bins.grids(),
            system: self.system.address(),
            start: self.sorted.start,
            sorted: self.sorted.binned,
            placed: self.sorted.placed,
            first: self.first.address(),
            n_atoms: self.n_atoms as i32,
            ..Arguments::zeroed()
        }
    }
}

/// Error of the search on the host for positions that no cell holds.
fn refused(queue: &Queue, atoms: Atoms, criteria: &Criteria) -> Error {
    let n_atoms = atoms.first[atoms.cells.len()];
    let positions = match queue.download::<[f64; 3]>(atoms.positions, n_atoms) {
        Ok(positions) => positions,
        Err(error) => return error,
    };
    let mut batch = Vec::with_capacity(n_atoms);
    for number in 0..atoms.cells.len() {
        batch.resize(atoms.first[number + 1], number as i64);
    }
    let systems = Systems {
        positions: &positions,
        cells: atoms.cells,
        pbc: atoms.pbc,
        batch: Some(&batch),
    };
    let found = Search::new(&systems, criteria);
    found.err().unwrap_or_else(|| Error::Device {
        what: "the device found positions that are not finite, the host did not".into(),
        remedy: "do not change positions during a search".into(),
    })
}

/// All pairs nearer than `cutoff`, with all their quantities.
///
/// # Errors
/// As [`DeviceSearch::new`].
pub fn neighbor_list(queue: &Queue, atoms: Atoms, cutoff: f64) -> Result<List> {
    let search = DeviceSearch::new(queue, atoms, cutoff)?;
    let n = search.len();
    let list = List {
        n,
        i: queue.allocate(8 * n)?,
        j: queue.allocate(8 * n)?,
        shifts: queue.allocate(24 * n)?,
        distances: queue.allocate(8 * n)?,
        vectors: queue.allocate(24 * n)?,
    };
    let targets = Outputs {
        i: list.i.address(),
        j: list.j.address(),
        shifts: list.shifts.address(),
        distances: list.distances.address(),
        vectors: list.vectors.address(),
    };
    search.write(queue, &targets)?;
    Ok(list)
}

#[cfg(test)]
mod tests;
