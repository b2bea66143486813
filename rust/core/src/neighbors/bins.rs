//! Linked cells: the atoms of every system, wrapped and sorted by the bin they lie in.

use super::systems::Systems;
use super::unit_cell::UnitCell;
use crate::error::{Error, Result, check_row};
use crate::lattice::periodic_measure;
use crate::limits::{Budget, Estimate};

/// Atoms that a bin should hold: enough to share the search for candidates, few enough to keep them close.
const ATOMS_PER_BIN: f64 = 16.0;
/// Bins are at most this many times smaller than the cutoff.
const MAX_REACH: f64 = 4.0;
/// Bins are at most this many times larger: a sparse system may have dense regions.
const MAX_EDGE: f64 = 2.0;
/// More bins around one than this (the images of a cell far smaller than the cutoff) are refused.
const MAX_VISITS: f64 = 134_217_728.0;
/// Nanoseconds of a bin that is looked at, and of a pair; bytes of a pair that is found and not yet written.
const VISIT: f64 = 15.0;
const PAIR: f64 = 2.0;
const FOUND: f64 = 16.0;
/// Bytes of a bin.
const BIN: f64 = 52.0;

/// An atom in its bin. The atoms of all bins, in order, form one array.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BinnedAtom {
    /// Position, wrapped into the cell, Å.
    pub position: [f64; 3],
    /// Cell vectors subtracted to bring the atom into its cell, less those of the crossing: shifts are differences of
    /// these, and stay as they are when an atom drifts through a face.
    pub cells: [i32; 3],
    /// Cells by which the wrapped position has moved back since the bins were made: an atom that has left the cell
    /// through a face, and entered it through the opposite one, has its neighbours in other images.
    pub crossed: [i8; 3],
    /// Index of the atom in the arrays given.
    pub index: u32,
}

/// The bins of one system.
#[derive(Debug)]
pub(super) struct Grid {
    pub cell: UnitCell,
    /// Bins along each axis.
    pub bins: [usize; 3],
    /// Bins on either side of one that can hold neighbours.
    pub reach: [i64; 3],
    /// First atom of each bin, and the end.
    pub start: Vec<u32>,
    /// The box around the atoms of each bin: lowest and highest coordinates, Å.
    pub boxes: Vec<Bounds>,
}

/// Lowest and highest coordinates.
pub(super) type Bounds = [[f64; 3]; 2];

/// A box without atoms.
const EMPTY: Bounds = [[f64::INFINITY; 3], [f64::NEG_INFINITY; 3]];

impl Grid {
    pub fn atoms(&self, bin: usize) -> std::ops::Range<usize> {
        self.start[bin] as usize..self.start[bin + 1] as usize
    }
}

/// Sorts the atoms of all systems into bins.
/// Bins suit a search for what lies within `reach`.
pub(super) fn sort_atoms(systems: &Systems, reach: f64) -> Result<(Vec<Grid>, Vec<BinnedAtom>)> {
    let n_atoms = systems.positions.len();
    let (members, start) = members_of_systems(systems)?;
    let mut atoms = Vec::with_capacity(n_atoms);
    let mut grids = Vec::with_capacity(systems.cells.len());
    let mut scratch = Scratch::default();
    let budget = Budget::new(n_atoms);
    for system in 0..systems.cells.len() {
        let cell = UnitCell::new(&systems.cells[system], systems.pbc(system), system)?;
        let range = start[system]..start[system + 1];
        // Without a batch the members are all atoms in their order and no list of them is made.
        if members.is_empty() {
            scratch.wrap(&cell, systems, range.map(|atom| atom as u32))?;
        } else {
            scratch.wrap(&cell, systems, members[range].iter().copied())?;
        }
        grids.push(scratch.sort(cell, system, reach, &budget, &mut atoms)?);
    }
    Ok((grids, atoms))
}

/// The atoms of each system in order of their index, and where each system starts. The list is empty where the
/// atoms already stand in the order of their systems.
fn members_of_systems(systems: &Systems) -> Result<(Vec<u32>, Vec<usize>)> {
    let n_systems = systems.cells.len();
    let n_atoms = systems.positions.len();
    let Some(batch) = systems.batch else {
        return Ok((Vec::new(), vec![0, n_atoms]));
    };
    let mut start = vec![0_usize; n_systems + 1];
    for (index, &system) in batch.iter().enumerate() {
        match usize::try_from(system) {
            Ok(system) if system < n_systems => start[system + 1] += 1,
            _ => {
                return Err(Error::Value {
                    array: "batch",
                    index,
                    value: system as f64,
                    remedy: "give each atom the index of its system, from 0 to the number of cells less one",
                });
            }
        }
    }
    for system in 0..n_systems {
        start[system + 1] += start[system];
    }
    if batch.is_sorted() {
        return Ok((Vec::new(), start));
    }
    let mut next = start.clone();
    let mut members = vec![0_u32; n_atoms];
    for (index, &system) in batch.iter().enumerate() {
        let slot = &mut next[system as usize];
        members[*slot] = index as u32;
        *slot += 1;
    }
    Ok((members, start))
}

/// A position inside the cell, its coordinates, and the cell vectors subtracted.
pub(super) fn wrap(
    cell: &UnitCell,
    position: [f64; 3],
    atom: usize,
) -> Result<([f64; 3], [f64; 3], [i32; 3])> {
    check_row("positions", &position, atom)?;
    cell.wrap(position).ok_or_else(|| Error::Value {
        array: "positions",
        index: atom,
        value: position.into_iter().fold(0.0, |far, entry| {
            if entry.abs() > f64::abs(far) {
                entry
            } else {
                far
            }
        }),
        remedy: "the atom lies more than 2^28 cells away; wrap the positions into the cell",
    })
}

/// Wrapped atoms of one system before sorting; reused from system to system.
#[derive(Debug, Default)]
struct Scratch {
    atoms: Vec<BinnedAtom>,
    coordinates: Vec<[f64; 3]>,
    bin: Vec<u32>,
}

impl Scratch {
    fn wrap(
        &mut self,
        cell: &UnitCell,
        systems: &Systems,
        atoms: impl Iterator<Item = u32>,
    ) -> Result<()> {
        self.atoms.clear();
        self.coordinates.clear();
        for atom in atoms {
            let (wrapped, coordinates, cells) =
                wrap(cell, systems.positions[atom as usize], atom as usize)?;
            self.coordinates.push(coordinates);
            self.atoms.push(BinnedAtom {
                position: wrapped,
                cells,
                crossed: [0; 3],
                index: atom,
            });
        }
        Ok(())
    }

    /// Chooses the bins of a system and appends its atoms in their order.
    fn sort(
        &mut self,
        cell: UnitCell,
        system: usize,
        reach: f64,
        budget: &Budget,
        atoms: &mut Vec<BinnedAtom>,
    ) -> Result<Grid> {
        let n_atoms = self.atoms.len();
        let (origin, extent) = self.extents(&cell);
        let (bins, bin_reach, estimate) = choose_bins(&cell, system, extent, n_atoms, reach)?;
        budget.spend(estimate, || {
            let pairs = n_pairs(&cell, extent, n_atoms, reach);
            words(system, reach, images(&cell, reach), pairs)
        })?;
        let scale: [f64; 3] = std::array::from_fn(|axis| {
            let length = if cell.pbc[axis] { 1.0 } else { extent[axis] };
            if bins[axis] > 1 {
                bins[axis] as f64 / length
            } else {
                0.0
            }
        });
        let mut start = vec![0_u32; bins.iter().product::<usize>() + 1];
        self.bin.clear();
        for coordinates in &self.coordinates {
            let [a, b, c]: [usize; 3] = std::array::from_fn(|axis| {
                // A negative number becomes 0; both ends are reached by rounding only.
                (((coordinates[axis] - origin[axis]) * scale[axis]) as usize).min(bins[axis] - 1)
            });
            let bin = (a * bins[1] + b) * bins[2] + c;
            start[bin + 1] += 1;
            self.bin.push(bin as u32);
        }
        let first = atoms.len();
        start[0] = first as u32;
        for bin in 1..start.len() {
            start[bin] += start[bin - 1];
        }
        atoms.resize(first + n_atoms, BinnedAtom::default());
        let mut boxes = vec![EMPTY; start.len() - 1];
        // Filling moves each start to the next bin's; shifting the array by one afterwards restores it.
        for atom in 0..n_atoms {
            let next = &mut start[self.bin[atom] as usize];
            let slot = *next as usize;
            *next += 1;
            atoms[slot] = self.atoms[atom];
            let [low, high] = &mut boxes[self.bin[atom] as usize];
            for (axis, &x) in self.atoms[atom].position.iter().enumerate() {
                low[axis] = low[axis].min(x);
                high[axis] = high[axis].max(x);
            }
        }
        start.rotate_right(1);
        start[0] = first as u32;
        Ok(Grid {
            cell,
            bins,
            reach: bin_reach,
            start,
            boxes,
        })
    }

    /// Origin and length of the region to divide along each axis: the cell along periodic axes (its coordinates
    /// are fractions, its length the height), the span of the atoms along open ones.
    fn extents(&self, cell: &UnitCell) -> ([f64; 3], [f64; 3]) {
        let mut low = [f64::INFINITY; 3];
        let mut high = [f64::NEG_INFINITY; 3];
        for coordinates in &self.coordinates {
            for axis in 0..3 {
                low[axis] = low[axis].min(coordinates[axis]);
                high[axis] = high[axis].max(coordinates[axis]);
            }
        }
        let heights = cell.heights();
        let mut extent = [0.0; 3];
        for axis in 0..3 {
            if cell.pbc[axis] {
                low[axis] = 0.0;
                extent[axis] = heights[axis];
            } else {
                extent[axis] = (high[axis] - low[axis]).max(0.0);
            }
        }
        (low, extent)
    }
}

/// How many images of the cell lie within a distance, those of its height along each axis.
fn images(cell: &UnitCell, reach: f64) -> f64 {
    cell.images(reach).iter().map(|n| 2.0 * n + 1.0).product()
}

/// About how many pairs lie within a distance, of atoms that are spread over the whole system.
fn n_pairs(cell: &UnitCell, extent: [f64; 3], n_atoms: usize, reach: f64) -> f64 {
    let mut images = 1.0;
    let mut share = 1.0;
    for axis in 0..3 {
        if cell.pbc[axis] {
            images *= 2.0 * reach;
        } else {
            share *= (2.0 * reach / extent[axis]).min(1.0);
        }
    }
    // A ball is half of the cube around it.
    let images = 0.5 * images / periodic_measure(&cell.vectors, cell.pbc);
    let n = n_atoms as f64;
    n * (n * images * share).max(images)
}

/// Description of the refused search, and the remedy.
fn words(system: usize, reach: f64, images: f64, pairs: f64) -> [String; 2] {
    [
        format!(
            "a cutoff of {reach} Å reaches {images:.1e} images of cell[{system}] and gives some {pairs:.1e} pairs"
        ),
        "reduce the cutoff, or give a larger cell or shorter vectors of the same lattice (ase.geometry.minkowski_reduce)"
            .into(),
    ]
}

/// Number of bins along each axis, how many on either side can hold neighbours, and what a search takes.
fn choose_bins(
    cell: &UnitCell,
    system: usize,
    extent: [f64; 3],
    n_atoms: usize,
    cutoff: f64,
) -> Result<([usize; 3], [i64; 3], Estimate)> {
    // A flat system is as thick as the cutoff here, so that it has a finite density.
    let volume: f64 = extent.iter().map(|length| length.max(cutoff)).product();
    let per_volume = n_atoms.max(1) as f64 / volume;
    let max_bins = 0.5 * n_atoms as f64 + (n_atoms as f64).powi(2).min(1e6) + 1.0;
    let mut edge = (ATOMS_PER_BIN / per_volume)
        .cbrt()
        .clamp(cutoff / MAX_REACH, cutoff * MAX_EDGE)
        // Bins that are mostly empty cost more time than they save; atoms far from all others must still fall into
        // different bins.
        .max((volume / max_bins).cbrt());
    let counts = |edge: f64| extent.map(|length| ((length / edge).floor()).clamp(1.0, 1e6));
    let mut bins = counts(edge);
    // Bins of a needle or a plate are thicker than it.
    while bins.iter().product::<f64>() > 8.0 * max_bins {
        edge *= 1.5;
        bins = counts(edge);
    }
    let bins = bins.map(|n| n as usize);
    let reach: [f64; 3] = std::array::from_fn(|axis| {
        let width = extent[axis] / bins[axis] as f64;
        // Bins n apart leave a gap of n - 1 widths; the margin is far above the rounding of binning.
        let reach = (cutoff / width * (1.0 + 1e-9) + 1e-6).floor() + 1.0;
        if cell.pbc[axis] {
            reach
        } else {
            reach.min((bins[axis] - 1) as f64)
        }
    });
    let visits: f64 = reach.iter().map(|n| 2.0 * n + 1.0).product();
    let pairs = n_pairs(cell, extent, n_atoms, cutoff);
    if visits.is_nan() || visits > MAX_VISITS {
        let [what, remedy] = words(system, cutoff, images(cell, cutoff), pairs);
        return Err(Error::Unsupported { what, remedy });
    }
    let n_bins: usize = bins.iter().product();
    let filled = n_bins.min(n_atoms) as f64;
    let bytes = BIN * n_bins as f64 + FOUND * pairs;
    let estimate = Estimate::new(VISIT * filled * visits + PAIR * pairs, bytes);
    Ok((bins, reach.map(|n| n as i64), estimate))
}
