//! The atoms of one bin against their common candidates.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::Criteria;
use super::bins::{Grid, SortedAtoms};
use crate::error::{Error, Result};

/// Fewer atoms than this are searched on the calling thread: waking others costs more.
const PARALLEL_ATOMS: usize = 256;
/// A list of more pairs is refused before memory runs out (it would take over 100 GB).
const MAX_PAIRS: usize = 1 << 31;
/// Candidates compared at a time: the bits of a mask.
pub(super) const LANES: usize = 64;

/// A periodic image of the cell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Image {
    pub cells: [i32; 3],
    pub vector: [f64; 3],
}

/// An atom, in an image of the cell, that may be a neighbour of an atom of the bin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    /// Place in [`SortedAtoms`].
    pub slot: u32,
    /// Place in [`Block::images`].
    pub image: u32,
}

/// What was found for the atoms of one bin.
#[derive(Debug)]
pub(super) struct Block {
    start: u32,
    end: u32,
    /// Sorted by (index of the atom, cell shift).
    pub candidates: Vec<Candidate>,
    pub images: Vec<Image>,
    /// For each atom of the bin one bit per candidate, set where the two are neighbours.
    pub masks: Vec<u64>,
    /// Number of neighbours of each atom of the bin.
    pub counts: Vec<u32>,
}

impl Block {
    /// The atoms of the bin, as places in [`SortedAtoms`].
    pub fn atoms(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// The mask of the n-th atom of the bin.
    pub fn mask(&self, atom: usize) -> &[u64] {
        let words = self.candidates.len().div_ceil(LANES);
        &self.masks[atom * words..(atom + 1) * words]
    }
}

/// Buffers of one thread.
#[derive(Debug, Default)]
struct Scratch {
    found: Vec<Candidate>,
    keys: Vec<u64>,
    coordinates: Vec<[[f64; LANES]; 6]>,
}

/// Searches every bin that holds an atom.
pub(super) fn find_all(
    grids: &[Grid],
    atoms: &SortedAtoms,
    criteria: &Criteria,
) -> Result<Vec<Block>> {
    let bins: Vec<(u32, u32)> = grids
        .iter()
        .enumerate()
        .flat_map(|(system, grid)| {
            (0..grid.start.len() - 1)
                .filter(|&bin| grid.start[bin] < grid.start[bin + 1])
                .map(move |bin| (system as u32, bin as u32))
        })
        .collect();
    let total = AtomicUsize::new(0);
    let limit = squared_limit(criteria.cutoff);
    let find = |scratch: &mut Scratch, &(system, bin): &(u32, u32)| {
        if total.load(Ordering::Relaxed) > MAX_PAIRS {
            return Err(too_many_pairs(criteria.cutoff));
        }
        let block = find(
            &grids[system as usize],
            bin as usize,
            atoms,
            criteria,
            limit,
            scratch,
        );
        let count = block.counts.iter().map(|&count| count as usize).sum();
        total.fetch_add(count, Ordering::Relaxed);
        Ok(block)
    };
    let blocks: Result<Vec<Block>> = if atoms.positions.len() < PARALLEL_ATOMS {
        let mut scratch = Scratch::default();
        bins.iter().map(|bin| find(&mut scratch, bin)).collect()
    } else {
        bins.par_iter().map_init(Scratch::default, find).collect()
    };
    if total.into_inner() > MAX_PAIRS {
        return Err(too_many_pairs(criteria.cutoff));
    }
    blocks
}

fn too_many_pairs(cutoff: f64) -> Error {
    Error::Unsupported {
        what: format!("a cutoff of {cutoff} Å gives more than {MAX_PAIRS} pairs"),
        remedy: "reduce the cutoff".into(),
    }
}

/// The smallest number whose square root is not below the cutoff: comparing squares with it is comparing distances.
fn squared_limit(cutoff: f64) -> f64 {
    let mut limit = cutoff * cutoff;
    while limit.sqrt() < cutoff {
        limit = limit.next_up();
    }
    while limit.next_down().sqrt() >= cutoff {
        limit = limit.next_down();
    }
    limit
}

fn find(
    grid: &Grid,
    bin: usize,
    atoms: &SortedAtoms,
    criteria: &Criteria,
    limit: f64,
    scratch: &mut Scratch,
) -> Block {
    let range = grid.atoms(bin);
    let (candidates, images) = collect_candidates(grid, bin, atoms, criteria.cutoff, scratch);
    load_candidates(&candidates, &images, atoms, &mut scratch.coordinates);
    let words = scratch.coordinates.len();
    let mut masks = vec![0_u64; words * range.len()];
    let mut counts = Vec::with_capacity(range.len());
    for (atom, mask) in range.clone().zip(masks.chunks_exact_mut(words)) {
        compare(&scratch.coordinates, atoms.positions[atom], limit, mask);
        // Candidates are sorted by (j, S): those after the atom itself are the ones that a half list keeps.
        let own = own_place(&candidates, &images, atoms, atom);
        if criteria.half {
            mask[..own / LANES].fill(0);
            mask[own / LANES] &= u64::MAX << (own % LANES);
        }
        if !criteria.self_interaction {
            mask[own / LANES] &= !(1 << (own % LANES));
        }
        counts.push(mask.iter().map(|word| word.count_ones()).sum());
    }
    Block {
        start: range.start as u32,
        end: range.end as u32,
        candidates,
        images,
        masks,
        counts,
    }
}

/// Where an atom of the bin stands, unshifted, among the candidates.
fn own_place(
    candidates: &[Candidate],
    images: &[Image],
    atoms: &SortedAtoms,
    atom: usize,
) -> usize {
    let index = atoms.index[atom];
    let mut place =
        candidates.partition_point(|candidate| atoms.index[candidate.slot as usize] < index);
    while images[candidates[place].image as usize].cells != [0; 3] {
        place += 1;
    }
    place
}

/// Atoms near the box around the atoms of a bin, sorted by (index, cell shift).
fn collect_candidates(
    grid: &Grid,
    bin: usize,
    atoms: &SortedAtoms,
    cutoff: f64,
    scratch: &mut Scratch,
) -> (Vec<Candidate>, Vec<Image>) {
    let range = grid.atoms(bin);
    let mut low = atoms.positions[range.start];
    let mut high = low;
    for position in &atoms.positions[range] {
        for axis in 0..3 {
            low[axis] = low[axis].min(position[axis]);
            high[axis] = high[axis].max(position[axis]);
        }
    }
    // The margin covers the rounding of this test, which must not lose a pair.
    let size = low
        .iter()
        .chain(&high)
        .fold(cutoff, |size, entry| size.max(entry.abs()));
    let near = cutoff + 1e-12 * size;
    let [_, bins_b, bins_c] = grid.bins.map(|n| n as i64);
    let bin = bin as i64;
    let home = [bin / (bins_b * bins_c), bin / bins_c % bins_b, bin % bins_c];
    scratch.found.clear();
    scratch.keys.clear();
    let mut images: Vec<Image> = Vec::new();
    // Bins are visited in the order of their images, so that the candidates of one atom come in the order of S.
    for (cells_a, a) in visits(grid, home, 0) {
        for (cells_b, b) in visits(grid, home, 1) {
            for (cells_c, c) in visits(grid, home, 2) {
                let bin = (a * bins_b + b) * bins_c + c;
                let range = grid.atoms(bin as usize);
                if range.is_empty() {
                    continue;
                }
                let cells = [cells_a, cells_b, cells_c];
                if images.last().is_none_or(|image| image.cells != cells) {
                    images.push(Image {
                        cells,
                        vector: grid.cell.shift(cells),
                    });
                }
                let image = (images.len() - 1) as u32;
                let shift = images[image as usize].vector;
                for slot in range {
                    let position = atoms.positions[slot];
                    let mut distance = 0.0;
                    for axis in 0..3 {
                        let at = position[axis] + shift[axis];
                        let outside = (low[axis] - at).max(at - high[axis]).max(0.0);
                        distance += outside * outside;
                    }
                    if distance <= near * near {
                        // Order of (index, visit): the number found so far breaks ties.
                        scratch
                            .keys
                            .push(u64::from(atoms.index[slot]) << 32 | scratch.found.len() as u64);
                        scratch.found.push(Candidate {
                            slot: slot as u32,
                            image,
                        });
                    }
                }
            }
        }
    }
    scratch.keys.sort_unstable();
    let candidates = scratch
        .keys
        .iter()
        .map(|key| scratch.found[(key & 0xffff_ffff) as usize])
        .collect();
    (candidates, images)
}

/// Bins along one axis around `home`, with the image they lie in.
fn visits(grid: &Grid, home: [i64; 3], axis: usize) -> impl Iterator<Item = (i32, i64)> {
    let n = grid.bins[axis] as i64;
    let (mut low, mut high) = (home[axis] - grid.reach[axis], home[axis] + grid.reach[axis]);
    if !grid.cell.pbc[axis] {
        low = low.max(0);
        high = high.min(n - 1);
    }
    (low..=high).map(move |bin| (bin.div_euclid(n) as i32, bin.rem_euclid(n)))
}

/// Positions and shift vectors of the candidates, component by component, in groups of [`LANES`].
pub(super) fn load_candidates(
    candidates: &[Candidate],
    images: &[Image],
    atoms: &SortedAtoms,
    groups: &mut Vec<[[f64; LANES]; 6]>,
) {
    groups.clear();
    for chunk in candidates.chunks(LANES) {
        // Places that are left over lie infinitely far away.
        let mut group = [[f64::INFINITY; LANES]; 6];
        for (place, candidate) in chunk.iter().enumerate() {
            let position = atoms.positions[candidate.slot as usize];
            let vector = images[candidate.image as usize].vector;
            for axis in 0..3 {
                group[axis][place] = position[axis];
                group[3 + axis][place] = vector[axis];
            }
        }
        groups.push(group);
    }
}

/// Sets the bits of the candidates whose squared distance from `origin` is below `limit`.
#[inline(always)]
fn compare(groups: &[[[f64; LANES]; 6]], origin: [f64; 3], limit: f64, mask: &mut [u64]) {
    for (group, word) in groups.iter().zip(mask) {
        let mut squares = [0.0; LANES];
        for place in 0..LANES {
            let x = (group[0][place] - origin[0]) + group[3][place];
            let y = (group[1][place] - origin[1]) + group[4][place];
            let z = (group[2][place] - origin[2]) + group[5][place];
            squares[place] = x * x + y * y + z * z;
        }
        *word = 0;
        for place in 0..LANES {
            *word |= u64::from(squares[place] < limit) << place;
        }
    }
}
