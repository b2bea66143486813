//! Candidates: images of atoms that may lie near the atoms of one bin.

use std::ops::Range;

use super::bins::{BinnedAtom, Grid};

/// An atom, in an image of the cell, that may be a neighbour of an atom of the bin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    /// Place in the array of binned atoms.
    pub slot: u32,
    /// Place in [`Block::images`].
    pub image: u32,
}

/// The atoms of one bin with their common candidates.
#[derive(Debug)]
pub(super) struct Block {
    pub system: u32,
    start: u32,
    end: u32,
    /// Sorted by (index of the atom, cell shift).
    pub candidates: Vec<Candidate>,
    /// Images of the cell that hold candidates, when no atom has crossed a face of the cell.
    pub images: Vec<[i32; 3]>,
    /// Place of each atom of the bin, unshifted, among the candidates.
    pub own: Vec<u32>,
}

/// Buffers of one thread.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    found: Vec<Candidate>,
    keys: Vec<u64>,
}

impl Block {
    /// The atoms of a bin, and all that may lie within `reach` of one of them, or the first `most` or more of it.
    pub fn new(
        system: u32,
        grid: &Grid,
        bin: usize,
        atoms: &[BinnedAtom],
        reach: f64,
        most: usize,
        scratch: &mut Scratch,
    ) -> Self {
        let (candidates, images) = collect(grid, bin, atoms, reach, most, scratch);
        let range = grid.atoms(bin);
        let mut own = vec![0; range.len()];
        for (place, candidate) in candidates.iter().enumerate() {
            let slot = candidate.slot as usize;
            if range.contains(&slot) && images[candidate.image as usize] == [0; 3] {
                own[slot - range.start] = place as u32;
            }
        }
        Self {
            system,
            start: range.start as u32,
            end: range.end as u32,
            candidates,
            images,
            own,
        }
    }

    /// The atoms of the bin, as places in the array of binned atoms.
    pub fn atoms(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// Atoms near the box around the atoms of a bin, sorted by (index, cell shift).
fn collect(
    grid: &Grid,
    bin: usize,
    atoms: &[BinnedAtom],
    reach: f64,
    most: usize,
    scratch: &mut Scratch,
) -> (Vec<Candidate>, Vec<[i32; 3]>) {
    let [low, high] = grid.boxes[bin];
    // The margin covers the rounding of this test, which must not lose a pair.
    let size = low
        .iter()
        .chain(&high)
        .fold(reach, |size, entry| size.max(entry.abs()));
    let near = reach + 1e-12 * size;
    let [_, bins_b, bins_c] = grid.bins.map(|n| n as i64);
    let bin = bin as i64;
    let home = [bin / (bins_b * bins_c), bin / bins_c % bins_b, bin % bins_c];
    let Scratch { found, keys } = scratch;
    found.clear();
    keys.clear();
    let mut images: Vec<[i32; 3]> = Vec::new();
    let (mut visited, mut shift) = (None, [0.0; 3]);
    // Bins are visited in the order of their images, so that the candidates of one atom come in the order of S.
    for (cells_a, a) in visits(grid, home, 0) {
        for (cells_b, b) in visits(grid, home, 1) {
            for (cells_c, c) in visits(grid, home, 2) {
                let bin = (a * bins_b + b) * bins_c + c;
                let range = grid.atoms(bin as usize);
                if range.is_empty() || found.len() >= most {
                    continue;
                }
                let cells = [cells_a, cells_b, cells_c];
                if visited != Some(cells) {
                    visited = Some(cells);
                    shift = grid.cell.shift(cells);
                }
                let [from, to] = grid.boxes[bin as usize];
                let mut gap = 0.0;
                for axis in 0..3 {
                    let before = low[axis] - (to[axis] + shift[axis]);
                    let outside = outside(before, (from[axis] + shift[axis]) - high[axis]);
                    gap += outside * outside;
                }
                if gap > near * near {
                    continue;
                }
                // Most images of an oblique cell are far.
                if images.last() != Some(&cells) {
                    images.push(cells);
                }
                let image = (images.len() - 1) as u32;
                // Branch-free: every atom is written at the end of the list, which advances only past a near one.
                let mut end = found.len();
                found.resize(end + range.len(), Candidate { slot: 0, image });
                keys.resize(end + range.len(), 0);
                for slot in range {
                    let atom = &atoms[slot];
                    let mut distance = 0.0;
                    for axis in 0..3 {
                        let at = atom.position[axis] + shift[axis];
                        let outside = outside(low[axis] - at, at - high[axis]);
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

/// The larger of two numbers, and not below zero. Unlike `f64::max` it has no rule for NaN, which costs more than the
/// rest.
#[inline(always)]
fn outside(before: f64, behind: f64) -> f64 {
    let most = if before > behind { before } else { behind };
    if most > 0.0 { most } else { 0.0 }
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
