//! The atoms of one bin against their common candidates.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::Criteria;
use super::bins::{BinnedAtom, Grid};
use crate::error::{Error, Result};
use crate::simd::{Instructions, instructions};

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
    /// Place in the array of binned atoms.
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
    /// The atoms of the bin, as places in the array of binned atoms.
    pub fn atoms(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// The mask of the n-th atom of the bin.
    pub fn mask(&self, atom: usize) -> &[u64] {
        let words = self.candidates.len().div_ceil(LANES);
        &self.masks[atom * words..(atom + 1) * words]
    }

    /// Takes the pairs that are not asked for out of the masks, and counts the rest.
    fn choose(&mut self, atoms: &[BinnedAtom], criteria: &Criteria) {
        let words = self.candidates.len().div_ceil(LANES);
        for (number, slot) in self.atoms().enumerate() {
            let own = self.own_place(atoms, atoms[slot].index);
            let mask = &mut self.masks[number * words..(number + 1) * words];
            // Candidates are sorted by (j, S): those after the atom itself are the ones that a half list keeps.
            if criteria.half {
                mask[..own / LANES].fill(0);
                mask[own / LANES] &= u64::MAX << (own % LANES);
            }
            if !criteria.self_interaction {
                mask[own / LANES] &= !(1 << (own % LANES));
            }
            self.counts
                .push(mask.iter().map(|word| word.count_ones()).sum());
        }
    }

    /// Where the atom of this index stands, unshifted, among the candidates.
    fn own_place(&self, atoms: &[BinnedAtom], index: u32) -> usize {
        let mut place = self
            .candidates
            .partition_point(|candidate| atoms[candidate.slot as usize].index < index);
        while self.images[self.candidates[place].image as usize].cells != [0; 3] {
            place += 1;
        }
        place
    }
}

/// Buffers of one thread.
#[derive(Debug, Default)]
struct Scratch {
    found: Vec<Candidate>,
    keys: Vec<u64>,
    coordinates: Vec<Group>,
}

/// Positions and shift vectors of [`LANES`] candidates, component by component.
type Group = [[f64; LANES]; 6];

/// Searches every bin that holds an atom.
pub(super) fn find_all(
    grids: &[Grid],
    atoms: &[BinnedAtom],
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
    let squared = squared_limit(criteria.cutoff);
    let find = |scratch: &mut Scratch, &(system, bin): &(u32, u32)| {
        if total.load(Ordering::Relaxed) > MAX_PAIRS {
            return Err(too_many_pairs(criteria.cutoff));
        }
        let grid = &grids[system as usize];
        let (candidates, images) = collect(grid, bin as usize, atoms, criteria.cutoff, scratch);
        let range = grid.atoms(bin as usize);
        // Of so many comparisons more than the allowed pairs would be near; their masks would fill the memory.
        if range.len().saturating_mul(candidates.len()) > 4 * MAX_PAIRS {
            return Err(too_many_pairs(criteria.cutoff));
        }
        load(&candidates, &images, atoms, &mut scratch.coordinates);
        let mut block = Block {
            start: range.start as u32,
            end: range.end as u32,
            masks: vec![0; scratch.coordinates.len() * range.len()],
            counts: Vec::with_capacity(range.len()),
            candidates,
            images,
        };
        compare(
            &scratch.coordinates,
            &atoms[range],
            squared,
            &mut block.masks,
        );
        block.choose(atoms, criteria);
        let count = block.counts.iter().map(|&count| count as usize).sum();
        total.fetch_add(count, Ordering::Relaxed);
        Ok(block)
    };
    let blocks: Result<Vec<Block>> = if atoms.len() < PARALLEL_ATOMS {
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

/// Atoms near the box around the atoms of a bin, sorted by (index, cell shift).
fn collect(
    grid: &Grid,
    bin: usize,
    atoms: &[BinnedAtom],
    cutoff: f64,
    scratch: &mut Scratch,
) -> (Vec<Candidate>, Vec<Image>) {
    let range = grid.atoms(bin);
    let mut low = atoms[range.start].position;
    let mut high = low;
    for atom in &atoms[range] {
        for axis in 0..3 {
            low[axis] = low[axis].min(atom.position[axis]);
            high[axis] = high[axis].max(atom.position[axis]);
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
    let Scratch { found, keys, .. } = scratch;
    found.clear();
    keys.clear();
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
                // Every atom is put down at the end, which only moves on past one that is near: no branch.
                let mut end = found.len();
                found.resize(end + range.len(), Candidate { slot: 0, image });
                keys.resize(end + range.len(), 0);
                for slot in range {
                    let atom = &atoms[slot];
                    let mut distance = 0.0;
                    for axis in 0..3 {
                        let at = atom.position[axis] + shift[axis];
                        let outside = (low[axis] - at).max(at - high[axis]).max(0.0);
                        distance += outside * outside;
                    }
                    found[end].slot = slot as u32;
                    // The order of (index, visit): the number found so far breaks ties.
                    keys[end] = u64::from(atom.index) << 32 | end as u64;
                    end += usize::from(distance <= near * near);
                }
                found.truncate(end);
                keys.truncate(end);
            }
        }
    }
    keys.sort_unstable();
    let candidates = keys
        .iter()
        .map(|key| found[(key & 0xffff_ffff) as usize])
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

fn load(candidates: &[Candidate], images: &[Image], atoms: &[BinnedAtom], groups: &mut Vec<Group>) {
    groups.clear();
    for chunk in candidates.chunks(LANES) {
        // Places that are left over lie infinitely far away.
        let mut group = [[f64::INFINITY; LANES]; 6];
        for (place, candidate) in chunk.iter().enumerate() {
            let position = atoms[candidate.slot as usize].position;
            let vector = images[candidate.image as usize].vector;
            for axis in 0..3 {
                group[axis][place] = position[axis];
                group[3 + axis][place] = vector[axis];
            }
        }
        groups.push(group);
    }
}

/// Sets the bits of the candidates whose squared distance from an atom is below `limit`; atoms one after the other.
fn compare(groups: &[Group], atoms: &[BinnedAtom], limit: f64, masks: &mut [u64]) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn avx2(groups: &[Group], atoms: &[BinnedAtom], limit: f64, masks: &mut [u64]) {
            compare_body(groups, atoms, limit, masks);
        }
        #[target_feature(enable = "avx512f,avx512dq,avx512vl")]
        fn avx512(groups: &[Group], atoms: &[BinnedAtom], limit: f64, masks: &mut [u64]) {
            compare_body(groups, atoms, limit, masks);
        }
        match instructions() {
            // SAFETY: the features were detected on this machine.
            Instructions::Avx512 => return unsafe { avx512(groups, atoms, limit, masks) },
            // SAFETY: as above.
            Instructions::Avx2 => return unsafe { avx2(groups, atoms, limit, masks) },
            Instructions::Portable => {}
        }
    }
    compare_body(groups, atoms, limit, masks);
}

/// No fused multiply-adds: every instruction set finds the same pairs.
#[inline(always)]
fn compare_body(groups: &[Group], atoms: &[BinnedAtom], limit: f64, masks: &mut [u64]) {
    for (atom, mask) in atoms.iter().zip(masks.chunks_exact_mut(groups.len())) {
        let origin = atom.position;
        for (group, word) in groups.iter().zip(mask) {
            let mut squares = [0.0; LANES];
            for place in 0..LANES {
                let x = (group[0][place] - origin[0]) + group[3][place];
                let y = (group[1][place] - origin[1]) + group[4][place];
                let z = (group[2][place] - origin[2]) + group[5][place];
                squares[place] = x * x + y * y + z * z;
            }
            let mut bits = 0;
            for place in 0..LANES {
                bits |= u64::from(squares[place] < limit) << place;
            }
            *word = bits;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_finds_the_same() {
        // Whole numbers, so that many squared distances equal the limit, and a row of irrational ones.
        let coordinate = |seed: usize| {
            (seed * 7919 % 13) as f64 + if seed.is_multiple_of(5) { 0.1 } else { 0.0 }
        };
        let mut groups = vec![[[0.0; LANES]; 6]; 3];
        for (number, entry) in groups
            .as_flattened_mut()
            .as_flattened_mut()
            .iter_mut()
            .enumerate()
        {
            *entry = coordinate(number + number / 11) - 6.0;
        }
        let atoms: Vec<BinnedAtom> = (0..20)
            .map(|n| BinnedAtom {
                position: [coordinate(n), coordinate(3 * n + 1), coordinate(5 * n)],
                ..BinnedAtom::default()
            })
            .collect();
        let mut fast = vec![0; 60];
        let mut plain = vec![0; 60];
        compare(&groups, &atoms, 300.0, &mut fast);
        compare_body(&groups, &atoms, 300.0, &mut plain);
        assert_eq!(fast, plain);
        let found: u32 = plain.iter().map(|word: &u64| word.count_ones()).sum();
        assert!(found > 100 && found < 3700);
    }

    #[test]
    fn comparing_squares_is_comparing_distances() {
        for cutoff in [0.1 + 0.2, 1.0, 6.0, 1e-3, 7.7, 3.0_f64.sqrt(), 1e-99, 1e99] {
            let limit = squared_limit(cutoff);
            assert!(limit.sqrt() >= cutoff && limit.next_down().sqrt() < cutoff);
        }
    }
}
