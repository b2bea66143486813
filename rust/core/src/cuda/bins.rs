//! Sites sorted into bins on the device, for searches of sites within a cutoff.

use super::batch::{Address, ScalarKind};
use super::driver::unit::Unit;
use super::{Buffer, Queue, blocks};
use crate::error::Result;
use crate::neighbors::{UnitCell, squared_limit};
use bytemuck::{Pod, Zeroable};

/// Bins of one system's sites; see `bins.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Grid {
    pub cutoff: f64,
    limit: f64,
    period: [f64; 3],
    bins: [i32; 3],
    first_bin: i32,
    n_bins: i32,
    first_slot: i32,
    first_site: i32,
    n_sites: i32,
}

/// A cell, with the arithmetic of the neighbour list.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Frame {
    vectors: [[f64; 3]; 3],
    dual: [[f64; 3]; 3],
    pbc: [i32; 3],
    padding: i32,
}

impl From<&UnitCell> for Frame {
    fn from(cell: &UnitCell) -> Self {
        Self {
            vectors: cell.vectors,
            dual: cell.dual,
            pbc: cell.pbc.map(i32::from),
            padding: 0,
        }
    }
}

/// Bytes of a `Binned`.
const BINNED: usize = 40;

/// Bins are this many times smaller than the cutoff.
const FINENESS: f64 = 2.0;
/// Fewest and most bins along an open axis.
const OPEN: (f64, f64) = (8.0, 1024.0);

impl Grid {
    /// Bins for the sites of a cell; a later change of the cell costs speed only.
    fn new(cell: &UnitCell, n_sites: usize, cutoff: f64) -> Self {
        let edge = cutoff / FINENESS;
        let mut bins = cell.heights().map(|height| {
            if height.is_finite() {
                (height / edge).floor().max(1.0)
            } else {
                1.0
            }
        });
        // Bins that are mostly empty cost more time than they save.
        let most = 2.0 * n_sites as f64 + 64.0;
        let product = |bins: &[f64; 3]| bins.iter().product::<f64>();
        while product(&bins) > most {
            let factor = (most / product(&bins)).cbrt().min(0.9);
            bins = bins.map(|n| (n * factor).floor().max(1.0));
        }
        let n_open = cell.pbc.iter().filter(|&&periodic| !periodic).count();
        let open = (n_sites as f64 / product(&bins))
            .powf(1.0 / n_open as f64)
            .floor()
            .clamp(OPEN.0, OPEN.1);
        let mut period = [1.0; 3];
        for axis in (0..3).filter(|&axis| !cell.pbc[axis]) {
            bins[axis] = open;
            period[axis] = open * edge;
        }
        let bins = bins.map(|n| n as i32);
        Self {
            cutoff,
            limit: squared_limit(cutoff),
            period,
            bins,
            first_bin: 0,
            n_bins: bins.iter().product(),
            first_slot: 0,
            first_site: 0,
            n_sites: n_sites as i32,
        }
    }
}

/// Bins of a batch, fixed when it is planned.
pub struct Bins {
    grids: Buffer,
    listed: Buffer,
    n_listed: usize,
    n_bins: usize,
    n_slots: usize,
    n_sites: usize,
    /// Sites or bins of the largest system.
    largest: usize,
}

impl Bins {
    /// Sites that are binned.
    pub fn n_slots(&self) -> usize {
        self.n_slots
    }
}

/// Sites in their bins, valid until they move.
pub struct Sorted {
    /// First slot of each bin, and the end.
    pub start: Address,
    /// `Binned[slot]`.
    pub binned: Address,
    /// `Binned[site]`.
    pub placed: Address,
    _memory: Buffer,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Arguments {
    positions: Address,
    system: Address,
    lattices: Address,
    frames: Address,
    grids: Address,
    listed: Address,
    counts: Address,
    bins: Address,
    placed: Address,
    order: Address,
    start: Address,
    sorted: Address,
    bad: Address,
    n_sites: i32,
    n_bins: i32,
    n_slots: i32,
    padding: i32,
}

/// Origin of the cells.
#[derive(Clone, Copy)]
pub enum Cells {
    /// `Lattice[system]`.
    Lattices(Address),
    /// `Frame[system]`.
    Frames(Address),
}

/// A block sorts a whole system up to this many sites and bins.
const SMALL: usize = 2048;
const SMALL_THREADS: u32 = 512;
const THREADS: u32 = 256;
const MOST_THREADS: u32 = 1024;

impl Bins {
    /// For systems whose first sites are `first`: a cell and a cutoff for each that is to be binned.
    pub fn new(
        queue: &Queue,
        first: &[usize],
        systems: impl Iterator<Item = Option<(UnitCell, f64)>>,
    ) -> Result<Self> {
        let (mut grids, mut listed) = (Vec::new(), Vec::new());
        let (mut n_bins, mut n_slots, mut largest) = (0, 0, 0);
        for (number, system) in systems.enumerate() {
            let n_sites = first[number + 1] - first[number];
            let Some((cell, cutoff)) = system else {
                grids.push(Grid::zeroed());
                continue;
            };
            let mut grid = Grid::new(&cell, n_sites, cutoff);
            grid.first_bin = n_bins as i32;
            grid.first_slot = n_slots as i32;
            grid.first_site = first[number] as i32;
            n_bins += grid.n_bins as usize;
            n_slots += n_sites;
            largest = largest.max(n_sites).max(grid.n_bins as usize);
            grids.push(grid);
            listed.push(number as i32);
        }
        Ok(Self {
            grids: queue.table(&grids)?,
            listed: queue.table(&listed)?,
            n_listed: listed.len(),
            n_bins,
            n_slots,
            n_sites: first.last().copied().unwrap_or(0),
            largest,
        })
    }

    pub fn grids(&self) -> Address {
        self.grids.address()
    }

    /// True if no system is binned.
    pub fn is_empty(&self) -> bool {
        self.n_listed == 0
    }

    /// Sorts sites; those that no cell holds are counted in the integer at `bad`, where that is not 0.
    pub fn sort(
        &self,
        queue: &Queue,
        scalar: ScalarKind,
        positions: Address,
        system: Address,
        cells: Cells,
        bad: Address,
    ) -> Result<Sorted> {
        // One allocation for all: the number of allocations costs more time than their size.
        let sizes = [
            BINNED * self.n_slots,
            BINNED * self.n_sites,
            4 * self.n_bins,
            4 * (self.n_bins + 1),
            4 * self.n_sites,
            4 * self.n_slots,
        ];
        let memory = queue.allocate(sizes.iter().sum())?;
        let mut end = memory.address();
        let [binned, placed, counts, start, bins, order] = sizes.map(|bytes| {
            let address = end;
            end += bytes as u64;
            address
        });
        let out = Sorted {
            start,
            binned,
            placed,
            _memory: memory,
        };
        let (lattices, frames) = match cells {
            Cells::Lattices(address) => (address, 0),
            Cells::Frames(address) => (0, address),
        };
        let arguments = Arguments {
            positions,
            system,
            lattices,
            frames,
            grids: self.grids.address(),
            listed: self.listed.address(),
            counts,
            bins,
            placed,
            order,
            start,
            sorted: binned,
            bad,
            n_sites: self.n_sites as i32,
            n_bins: self.n_bins as i32,
            n_slots: self.n_slots as i32,
            padding: 0,
        };
        let module = queue.module(unit(scalar))?;
        let launch = |name, n_blocks: u32, threads| {
            queue.launch(&module.kernel(name)?, [n_blocks, 1, 1], threads, &arguments)
        };
        if self.largest <= SMALL {
            launch("sort_small", self.n_listed as u32, SMALL_THREADS)?;
            return Ok(out);
        }
        queue.fill_zeros(counts, 4 * self.n_bins)?;
        launch("bin_sites", blocks(self.n_sites, THREADS), THREADS)?;
        launch("scan_bins", 1, MOST_THREADS)?;
        launch("place_sites", blocks(self.n_sites, THREADS), THREADS)?;
        launch("settle_slots", blocks(self.n_slots, THREADS), THREADS)?;
        Ok(out)
    }
}

fn unit(scalar: ScalarKind) -> Unit {
    Unit::new("bins.cu", include_str!("../../cuda/bins.cu"))
        .define("SCALAR", scalar.name())
        .mirror::<Arguments>("BinArguments")
        .mirror::<Grid>("Grid")
        .mirror::<Frame>("Frame")
}

/// The modules of this file, for checks that they compile.
pub fn units() -> Vec<Unit> {
    [ScalarKind::Real, ScalarKind::Dual].map(unit).into()
}
