//! Which candidates of a bin are neighbours of which of its atoms.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::Criteria;
use super::bins::{BinnedAtom, Grid};
use super::candidates::{self, Block, Candidate};
use super::unit_cell::UnitCell;
use crate::error::{Error, Result};
use crate::simd::{Instructions, instructions};

/// Fewer atoms than this are searched on the calling thread: waking others costs more.
pub(super) const PARALLEL_ATOMS: usize = 256;
/// A list of more pairs is refused before memory runs out (it would take over 100 GB).
const MAX_PAIRS: usize = 1 << 31;
/// Candidates compared at a time: the bits of a mask.
pub(super) const LANES: usize = 64;

/// The pairs of one block.
#[derive(Debug, Default)]
pub(super) struct Selection {
    /// For each atom of the bin one bit per candidate, set where the two are neighbours.
    masks: Vec<u64>,
    /// Number of neighbours of each atom of the bin.
    pub counts: Vec<u32>,
}

impl Selection {
    /// Compares the atoms of a block with its candidates.
    fn new(
        block: &Block,
        cell: &UnitCell,
        atoms: &[BinnedAtom],
        criteria: &Criteria,
        scratch: &mut Scratch,
    ) -> Self {
        let own = &atoms[block.atoms()];
        let words = block.candidates.len().div_ceil(LANES);
        let mut selection = Self {
            masks: vec![0; words * own.len()],
            counts: Vec::with_capacity(own.len()),
        };
        let limit = squared_limit(criteria.cutoff);
        let Scratch { groups, images } = scratch;
        for crossed in crossings(own) {
            images.load(block, cell, crossed);
            load(&block.candidates, images, atoms, groups);
            compare(groups, own, crossed, limit, &mut selection.masks);
        }
        selection.choose(block, atoms, criteria);
        selection
    }

    /// The mask of the n-th atom of the bin.
    pub fn mask(&self, atom: usize) -> &[u64] {
        let words = self.masks.len() / self.counts.len();
        &self.masks[atom * words..(atom + 1) * words]
    }

    /// Takes the pairs that are not asked for out of the masks, and counts the rest.
    fn choose(&mut self, block: &Block, atoms: &[BinnedAtom], criteria: &Criteria) {
        let words = block.candidates.len().div_ceil(LANES);
        for (number, slot) in block.atoms().enumerate() {
            let own = own_place(block, atoms, atoms[slot].index);
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

    fn n_pairs(&self) -> usize {
        self.counts.iter().map(|&count| count as usize).sum()
    }
}

/// Where the atom of this index stands, unshifted, among the candidates.
fn own_place(block: &Block, atoms: &[BinnedAtom], index: u32) -> usize {
    let mut place = block
        .candidates
        .partition_point(|candidate| atoms[candidate.slot as usize].index < index);
    while block.images[block.candidates[place].image as usize] != [0; 3] {
        place += 1;
    }
    place
}

/// The different crossings of some atoms: nearly always none.
pub(super) fn crossings(atoms: &[BinnedAtom]) -> Vec<[i8; 3]> {
    let mut found = Vec::with_capacity(1);
    for atom in atoms {
        if !found.contains(&atom.crossed) {
            found.push(atom.crossed);
        }
    }
    found
}

/// The images of a block as the atoms see them that have made one crossing.
#[derive(Debug, Default)]
pub(super) struct Images {
    cell: Option<UnitCell>,
    cells: Vec<[i32; 3]>,
    vectors: Vec<[f64; 3]>,
}

impl Images {
    #[inline(always)]
    pub fn load(&mut self, block: &Block, cell: &UnitCell, crossed: [i8; 3]) {
        self.cell = Some(*cell);
        self.cells.clear();
        self.cells.extend(block.images.iter().map(|image| {
            std::array::from_fn::<_, 3, _>(|axis| image[axis] + i32::from(crossed[axis]))
        }));
        self.vectors.clear();
        self.vectors
            .extend(self.cells.iter().map(|&cells| cell.shift(cells)));
    }

    /// The vector to add to the wrapped position of a candidate.
    #[inline(always)]
    pub fn vector(&self, candidate: Candidate, atom: &BinnedAtom) -> [f64; 3] {
        let image = candidate.image as usize;
        if atom.crossed == [0; 3] {
            return self.vectors[image];
        }
        let cells =
            std::array::from_fn(|axis| self.cells[image][axis] - i32::from(atom.crossed[axis]));
        self.cell
            .as_ref()
            .map_or([0.0; 3], |cell| cell.shift(cells))
    }
}

/// Buffers of one thread.
#[derive(Debug, Default)]
struct Scratch {
    groups: Vec<Group>,
    images: Images,
}

/// Positions and shift vectors of [`LANES`] candidates, component by component.
type Group = [[f64; LANES]; 6];

/// Searches every bin that holds an atom: what lies within `reach`, and the pairs among it.
pub(super) fn find_all(
    grids: &[Grid],
    atoms: &[BinnedAtom],
    criteria: &Criteria,
    reach: f64,
) -> Result<(Vec<Block>, Vec<Selection>)> {
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
    let find = |scratch: &mut (candidates::Scratch, Scratch), &(system, bin): &(u32, u32)| {
        if total.load(Ordering::Relaxed) > MAX_PAIRS {
            return Err(too_many_pairs(criteria.cutoff));
        }
        let grid = &grids[system as usize];
        let block = Block::new(system, grid, bin as usize, atoms, reach, &mut scratch.0);
        // Of so many comparisons more than the allowed pairs would be near; their masks would fill the memory.
        if block.atoms().len().saturating_mul(block.candidates.len()) > 4 * MAX_PAIRS {
            return Err(too_many_pairs(criteria.cutoff));
        }
        let selection = Selection::new(&block, &grid.cell, atoms, criteria, &mut scratch.1);
        total.fetch_add(selection.n_pairs(), Ordering::Relaxed);
        Ok((block, selection))
    };
    let found: Result<Vec<_>> = if atoms.len() < PARALLEL_ATOMS {
        let mut scratch = Default::default();
        bins.iter().map(|bin| find(&mut scratch, bin)).collect()
    } else {
        bins.par_iter().map_init(Default::default, find).collect()
    };
    if total.into_inner() > MAX_PAIRS {
        return Err(too_many_pairs(criteria.cutoff));
    }
    Ok(found?.into_iter().unzip())
}

/// The pairs among the candidates that are known, for atoms that have moved.
pub(super) fn select_all(
    blocks: &[Block],
    cells: &[UnitCell],
    atoms: &[BinnedAtom],
    criteria: &Criteria,
) -> Result<Vec<Selection>> {
    let select = |scratch: &mut Scratch, block: &Block| {
        Selection::new(
            block,
            &cells[block.system as usize],
            atoms,
            criteria,
            scratch,
        )
    };
    let selections: Vec<Selection> = if atoms.len() < PARALLEL_ATOMS {
        let mut scratch = Scratch::default();
        blocks
            .iter()
            .map(|block| select(&mut scratch, block))
            .collect()
    } else {
        blocks
            .par_iter()
            .map_init(Scratch::default, select)
            .collect()
    };
    if selections.iter().map(Selection::n_pairs).sum::<usize>() > MAX_PAIRS {
        return Err(too_many_pairs(criteria.cutoff));
    }
    Ok(selections)
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

fn load(candidates: &[Candidate], images: &Images, atoms: &[BinnedAtom], groups: &mut Vec<Group>) {
    groups.clear();
    for chunk in candidates.chunks(LANES) {
        // Places that are left over lie infinitely far away.
        let mut group = [[f64::INFINITY; LANES]; 6];
        for (place, candidate) in chunk.iter().enumerate() {
            let atom = &atoms[candidate.slot as usize];
            let vector = images.vector(*candidate, atom);
            for axis in 0..3 {
                group[axis][place] = atom.position[axis];
                group[3 + axis][place] = vector[axis];
            }
        }
        groups.push(group);
    }
}

/// Sets the bits of the candidates whose squared distance from an atom is below `limit`, for the atoms that have made
/// this crossing; atoms one after the other.
fn compare(
    groups: &[Group],
    atoms: &[BinnedAtom],
    crossed: [i8; 3],
    limit: f64,
    masks: &mut [u64],
) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn avx2(
            groups: &[Group],
            atoms: &[BinnedAtom],
            crossed: [i8; 3],
            limit: f64,
            masks: &mut [u64],
        ) {
            compare_body(groups, atoms, crossed, limit, masks);
        }
        #[target_feature(enable = "avx512f,avx512dq,avx512vl")]
        fn avx512(
            groups: &[Group],
            atoms: &[BinnedAtom],
            crossed: [i8; 3],
            limit: f64,
            masks: &mut [u64],
        ) {
            compare_body(groups, atoms, crossed, limit, masks);
        }
        match instructions() {
            // SAFETY: the features were detected on this machine.
            Instructions::Avx512 => return unsafe { avx512(groups, atoms, crossed, limit, masks) },
            // SAFETY: as above.
            Instructions::Avx2 => return unsafe { avx2(groups, atoms, crossed, limit, masks) },
            Instructions::Portable => {}
        }
    }
    compare_body(groups, atoms, crossed, limit, masks);
}

/// No fused multiply-adds: every instruction set finds the same pairs.
#[inline(always)]
fn compare_body(
    groups: &[Group],
    atoms: &[BinnedAtom],
    crossed: [i8; 3],
    limit: f64,
    masks: &mut [u64],
) {
    for (atom, mask) in atoms.iter().zip(masks.chunks_exact_mut(groups.len())) {
        if atom.crossed != crossed {
            continue;
        }
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
        compare(&groups, &atoms, [0; 3], 300.0, &mut fast);
        compare_body(&groups, &atoms, [0; 3], 300.0, &mut plain);
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
