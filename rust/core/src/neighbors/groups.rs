//! Pairs taken bin by bin as they are found, without a list of them.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::bins::{self, BinnedAtom, Grid};
use super::candidates::Block;
use super::selection::{self, Selection, check_pairs};
use super::systems::{Criteria, Systems};
use crate::error::Result;

/// The atoms of one system in bins.
#[derive(Debug)]
pub struct Bins {
    grid: Grid,
    atoms: Vec<BinnedAtom>,
    criteria: Criteria,
    n_pairs: AtomicUsize,
}

/// Buffers of one thread.
#[derive(Debug, Default)]
pub struct Scratch(selection::FindScratch);

/// The atoms of one bin, the candidates near them, and their neighbours among these.
#[derive(Debug)]
pub struct Neighborhood<'a> {
    atoms: &'a [BinnedAtom],
    block: Block,
    selection: Selection,
}

impl Bins {
    /// Sorts the atoms of a single system.
    ///
    /// # Errors
    /// As [`Search::new`](super::Search::new).
    pub fn new(systems: &Systems, criteria: &Criteria) -> Result<Self> {
        criteria.check()?;
        systems.check()?;
        let (mut grids, atoms) = bins::sort_atoms(systems, criteria.cutoff)?;
        assert_eq!(grids.len(), 1, "one system");
        Ok(Self {
            grid: grids.remove(0),
            atoms,
            criteria: *criteria,
            n_pairs: AtomicUsize::new(0),
        })
    }

    pub fn n_atoms(&self) -> usize {
        self.atoms.len()
    }

    /// Bins that hold atoms, in groups of about `size` atoms that lie together.
    pub fn groups(&self, size: usize) -> Vec<Vec<usize>> {
        let bins = self.grid.bins;
        let n_bins: usize = bins.iter().product();
        // Cubes of bins; an axis with few of them leaves more to the others.
        let mut wanted = (size * n_bins) as f64 / self.atoms.len().max(1) as f64;
        let mut n_groups = [1; 3];
        let mut axes = [0, 1, 2];
        axes.sort_by_key(|&axis| bins[axis]);
        for (done, axis) in axes.into_iter().enumerate() {
            let edge = wanted.max(1.0).powf(1.0 / (3 - done) as f64);
            n_groups[axis] = ((bins[axis] as f64 / edge).round() as usize).clamp(1, bins[axis]);
            wanted /= bins[axis] as f64 / n_groups[axis] as f64;
        }
        let range = |axis: usize, group: usize| {
            group * bins[axis] / n_groups[axis]..(group + 1) * bins[axis] / n_groups[axis]
        };
        let mut out = Vec::with_capacity(n_groups.iter().product());
        for a in 0..n_groups[0] {
            for b in 0..n_groups[1] {
                for c in 0..n_groups[2] {
                    let mut group = Vec::new();
                    for bin_a in range(0, a) {
                        for bin_b in range(1, b) {
                            let row = (bin_a * bins[1] + bin_b) * bins[2];
                            let filled = range(2, c).map(|bin_c| row + bin_c);
                            group.extend(filled.filter(|&bin| !self.grid.atoms(bin).is_empty()));
                        }
                    }
                    if !group.is_empty() {
                        out.push(group);
                    }
                }
            }
        }
        out
    }

    /// Candidates near the atoms of a bin that is not empty.
    ///
    /// # Errors
    /// More pairs than a list may have, those of all bins so far together.
    pub fn near(&self, bin: usize, scratch: &mut Scratch) -> Result<Neighborhood<'_>> {
        let Self {
            grid,
            atoms,
            criteria,
            n_pairs,
        } = self;
        let found = selection::find(
            0,
            grid,
            bin,
            atoms,
            criteria,
            criteria.cutoff,
            &mut scratch.0,
        );
        let (block, selection) = found?;
        let n = selection.n_pairs();
        let before = n_pairs.fetch_add(n, Ordering::Relaxed);
        check_pairs(before + n, atoms.len(), criteria.cutoff)?;
        Ok(Neighborhood {
            atoms,
            block,
            selection,
        })
    }
}

impl Neighborhood<'_> {
    fn own(&self) -> &[BinnedAtom] {
        &self.atoms[self.block.atoms()]
    }

    /// Index of each atom of the bin, and the cell that it was given in.
    pub fn receivers(&self) -> impl Iterator<Item = (u32, [i32; 3])> {
        self.own().iter().map(|atom| (atom.index, atom.cells))
    }

    /// The different cells in which atoms of the bin were given: nearly always one.
    pub fn cells(&self) -> Vec<[i32; 3]> {
        selection::different(self.own().iter().map(|atom| atom.cells))
    }

    /// Number of atoms and images of atoms that may be neighbours.
    pub fn n_candidates(&self) -> usize {
        self.block.candidates.len()
    }

    /// The neighbours of the n-th atom of the bin, as candidates.
    #[inline]
    pub fn neighbors(&self, atom: usize, out: &mut Vec<u32>) {
        self.selection.hits(atom, out);
    }

    /// Index and shift S of a candidate, for atoms that were given in some cell: the neighbour is at r_j + S·cell.
    pub fn image(&self, candidate: u32, cells: [i32; 3]) -> (u32, [i32; 3]) {
        let candidate = self.block.candidates[candidate as usize];
        let atom = &self.atoms[candidate.slot as usize];
        let image = self.block.images[candidate.image as usize];
        let shift = std::array::from_fn(|axis| image[axis] - atom.cells[axis] + cells[axis]);
        (atom.index, shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::neighbors::{Quantities, Search};

    /// Pairs of all bins, sorted, are those of the list; groups hold every atom once.
    #[test]
    fn bins_give_the_pairs_of_the_list() {
        let mut seed = 1_u64;
        let mut random = || {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (seed >> 11) as f64 / (1_u64 << 53) as f64
        };
        let cell = [[11.0, 0.0, 0.0], [2.0, 9.0, 0.0], [-1.0, 3.0, 14.0]];
        for (pbc, cutoff, half) in [
            ([true; 3], 3.0, true),
            ([true; 3], 9.5, false),
            ([true, false, true], 4.0, true),
            ([false; 3], 5.0, false),
        ] {
            // Atoms in many cells, so that shifts depend on both atoms.
            let positions: Vec<[f64; 3]> = (0..300)
                .map(|_| std::array::from_fn(|_| 40.0 * random() - 15.0))
                .collect();
            let systems = Systems {
                positions: &positions,
                cells: &[cell],
                pbc: &[pbc],
                batch: None,
            };
            let criteria = Criteria {
                cutoff,
                half,
                self_interaction: false,
            };
            let search = Search::new(&systems, &criteria).unwrap();
            let quantities = Quantities {
                i: true,
                j: true,
                shift: true,
                ..Quantities::default()
            };
            let pairs = search.pairs::<u32, i32>(quantities).unwrap();
            let listed: Vec<_> = (0..search.len())
                .map(|pair| (pairs.i[pair], pairs.j[pair], pairs.shift[pair]))
                .collect();
            let bins = Bins::new(&systems, &criteria).unwrap();
            for size in [1, 20, 100, 1000] {
                let groups = bins.groups(size);
                let (mut found, mut receivers) = (Vec::new(), Vec::new());
                let mut hits = Vec::new();
                let mut scratch = Scratch::default();
                for &bin in groups.iter().flatten() {
                    let near = bins.near(bin, &mut scratch).unwrap();
                    for (number, (index, cells)) in near.receivers().enumerate() {
                        assert!(near.cells().contains(&cells));
                        receivers.push(index);
                        near.neighbors(number, &mut hits);
                        for &candidate in &hits {
                            assert!((candidate as usize) < near.n_candidates());
                            let (j, shift) = near.image(candidate, cells);
                            found.push((index, j, shift));
                        }
                    }
                }
                found.sort_unstable();
                receivers.sort_unstable();
                assert_eq!(found, listed, "{pbc:?} {cutoff} {size}");
                assert_eq!(receivers, (0..300).collect::<Vec<u32>>());
            }
            assert!(bins.groups(1000).len() <= bins.groups(20).len());
        }
    }
}
