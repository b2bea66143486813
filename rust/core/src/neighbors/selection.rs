//! Selection of the pairs within the cutoff among the candidates of each bin.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::bins::{BinnedAtom, Grid};
use super::candidates::{self, Block, Candidate};
use super::systems::Criteria;
use super::unit_cell::UnitCell;
use crate::arithmetic::dispatch::{Instructions, instructions};
use crate::error::{Error, Result};
use crate::limits::bounds;

/// Fewer atoms than this are searched on the calling thread: waking others costs more.
pub(super) const PARALLEL_ATOMS: usize = 256;
/// A list of more pairs is refused whatever the memory.
const MAX_PAIRS: usize = 1 << 31;
/// Bytes of a pair of atoms and their numbers, at least.
const PAIR: f64 = 16.0;
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
        let Scratch {
            rough,
            images,
            doubts,
        } = scratch;
        doubts.clear();
        doubts.resize(words * own.len(), 0);
        for crossed in crossings(own) {
            images.load(block, cell, crossed);
            rough.load(block, images, atoms, crossed);
            rough.compare(criteria.cutoff, &mut selection.masks, doubts);
            for (number, atom) in own.iter().enumerate() {
                if atom.crossed != crossed {
                    continue;
                }
                let row = number * words..(number + 1) * words;
                let masks = selection.masks[row.clone()].iter_mut();
                for (word, (mask, &doubt)) in masks.zip(&doubts[row]).enumerate() {
                    let mut bits = doubt;
                    while bits != 0 {
                        let place = word * LANES + bits.trailing_zeros() as usize;
                        // The remaining places come last.
                        let Some(&candidate) = block.candidates.get(place) else {
                            break;
                        };
                        let other = &atoms[candidate.slot as usize];
                        let shift = images.vector(candidate, other);
                        let near = squared(atom.position, other.position, shift) < limit;
                        *mask |= u64::from(near) << (place % LANES);
                        bits &= bits - 1;
                    }
                }
            }
        }
        selection.choose(block, criteria);
        selection
    }

    /// The mask of the n-th atom of the bin.
    pub fn mask(&self, atom: usize) -> &[u64] {
        let words = self.masks.len() / self.counts.len();
        &self.masks[atom * words..(atom + 1) * words]
    }

    /// Lists the neighbours of the n-th atom of the bin, as places among the candidates.
    #[inline(always)]
    pub fn hits(&self, atom: usize, out: &mut Vec<u32>) {
        out.clear();
        out.reserve(self.counts[atom] as usize);
        for (word, &bits) in self.mask(atom).iter().enumerate() {
            let mut bits = bits;
            while bits != 0 {
                out.push((word * LANES) as u32 + bits.trailing_zeros());
                bits &= bits - 1;
            }
        }
    }

    /// Removes the pairs that are not to be listed from the masks, and counts the rest.
    fn choose(&mut self, block: &Block, criteria: &Criteria) {
        let words = block.candidates.len().div_ceil(LANES);
        for (number, &own) in block.own.iter().enumerate() {
            let own = own as usize;
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

    pub fn n_pairs(&self) -> usize {
        self.counts.iter().map(|&count| count as usize).sum()
    }
}

/// The different crossings of some atoms: nearly always none.
pub(super) fn crossings(atoms: &[BinnedAtom]) -> Vec<[i8; 3]> {
    different(atoms.iter().map(|atom| atom.crossed))
}

/// Each of a few values once, in the order in which they come first.
pub(super) fn different<V: PartialEq>(values: impl Iterator<Item = V>) -> Vec<V> {
    let mut found = Vec::with_capacity(1);
    for value in values {
        if !found.contains(&value) {
            found.push(value);
        }
    }
    found
}

/// Images of a block relative to the atoms with one crossing.
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
    rough: Rough,
    images: Images,
    /// Masks like those of a selection: bits set where single precision cannot decide.
    doubts: Vec<u64>,
}

/// Positions of [`LANES`] candidates, component by component.
type Group = [[f32; LANES]; 3];

/// Positions of a block in single precision: decides all pairs but those at the cutoff, in a quarter of the time.
#[derive(Debug, Default)]
struct Rough {
    groups: Vec<Group>,
    /// Atoms of the bin; NaN for those that have made another crossing.
    own: Vec<[f32; 3]>,
    /// Largest coordinate here, and a bound of those that it was computed from.
    extent: f64,
    size: f64,
}

impl Rough {
    #[inline(always)]
    fn load(&mut self, block: &Block, images: &Images, atoms: &[BinnedAtom], crossed: [i8; 3]) {
        let own = &atoms[block.atoms()];
        let origin = own[0].position;
        let relative = |position: [f64; 3], shift: [f64; 3]| -> [f32; 3] {
            std::array::from_fn(|axis| ((position[axis] - origin[axis]) + shift[axis]) as f32)
        };
        self.groups.clear();
        for chunk in block.candidates.chunks(LANES) {
            // The remaining places are in doubt.
            let mut group = [[f32::NAN; LANES]; 3];
            for (place, candidate) in chunk.iter().enumerate() {
                let atom = &atoms[candidate.slot as usize];
                let x = relative(atom.position, images.vector(*candidate, atom));
                for axis in 0..3 {
                    group[axis][place] = x[axis];
                }
            }
            self.groups.push(group);
        }
        self.own.clear();
        self.own.extend(own.iter().map(|atom| {
            if atom.crossed == crossed {
                relative(atom.position, [0.0; 3])
            } else {
                [f32::NAN; 3]
            }
        }));
        // The atoms of the bin are among the candidates. Maxima pass over NaN.
        let mut extents = [0.0_f32; LANES];
        for row in self.groups.as_flattened() {
            for (extent, x) in extents.iter_mut().zip(row) {
                *extent = extent.max(x.abs());
            }
        }
        let largest = |values: &[f64]| values.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        self.extent = f64::from(extents.into_iter().fold(0.0, f32::max));
        // Wrapped positions are the origin plus these coordinates, less a shift. Images of atoms that have crossed a
        // face lie one cell further.
        let cell = images
            .cell
            .as_ref()
            .map_or(0.0, |cell| largest(cell.vectors.as_flattened()));
        let shift = largest(images.vectors.as_flattened()) + 3.0 * cell;
        self.size = 2.0 * (self.extent + largest(&origin) + shift);
    }

    /// Sets the bits of the candidates that are nearer than the cutoff in `masks`, of those that may be in `doubts`.
    fn compare(&self, cutoff: f64, masks: &mut [u64], doubts: &mut [u64]) {
        // Rounding moves a distance by less than an eighth of the first term, that of differences in double
        // precision by less than the second.
        let doubt = (self.extent + cutoff) * 2.0_f64.powi(-18) + self.size * 2.0_f64.powi(-48);
        // Squares must neither overflow nor vanish.
        let limits = if self.extent + cutoff < 1e18 && cutoff > 1e-18 {
            let inside = (cutoff - doubt).max(0.0);
            [
                (inside * inside) as f32,
                ((cutoff + doubt) * (cutoff + doubt)) as f32,
            ]
        } else {
            [0.0, f32::NAN]
        };
        compare(&self.groups, &self.own, limits, masks, doubts);
    }
}

/// The squared distance of two atoms.
fn squared(from: [f64; 3], to: [f64; 3], shift: [f64; 3]) -> f64 {
    let [x, y, z]: [f64; 3] = std::array::from_fn(|axis| (to[axis] - from[axis]) + shift[axis]);
    x * x + y * y + z * z
}

/// Buffers of one thread that searches bins.
#[derive(Debug, Default)]
pub(super) struct FindScratch {
    candidates: candidates::Scratch,
    selection: Scratch,
}

/// Searches one bin: the candidates within `reach` of its atoms, and the pairs among them.
pub(super) fn find(
    system: u32,
    grid: &Grid,
    bin: usize,
    atoms: &[BinnedAtom],
    criteria: &Criteria,
    reach: f64,
    scratch: &mut FindScratch,
) -> Result<(Block, Selection)> {
    let most = max_pairs(atoms.len());
    let FindScratch {
        candidates,
        selection,
    } = scratch;
    let block = Block::new(system, grid, bin, atoms, reach, most, candidates);
    // So many comparisons would give more pairs than allowed; their masks would fill the memory.
    let compared = block.atoms().len().saturating_mul(block.candidates.len());
    if block.candidates.len() >= most || compared > 4 * MAX_PAIRS {
        return Err(too_many_pairs(atoms.len(), criteria.cutoff));
    }
    let selection = Selection::new(&block, &grid.cell, atoms, criteria, selection);
    Ok((block, selection))
}

/// Searches every bin that holds an atom: the candidates within `reach`, and the pairs among them.
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
    let find = |scratch: &mut FindScratch, &(system, bin): &(u32, u32)| {
        check_pairs(total.load(Ordering::Relaxed), atoms.len(), criteria.cutoff)?;
        let grid = &grids[system as usize];
        let found = find(system, grid, bin as usize, atoms, criteria, reach, scratch)?;
        total.fetch_add(found.1.n_pairs(), Ordering::Relaxed);
        Ok(found)
    };
    let found: Result<Vec<_>> = if atoms.len() < PARALLEL_ATOMS {
        let mut scratch = Default::default();
        bins.iter().map(|bin| find(&mut scratch, bin)).collect()
    } else {
        bins.par_iter().map_init(Default::default, find).collect()
    };
    check_pairs(total.into_inner(), atoms.len(), criteria.cutoff)?;
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
    let n_pairs = selections.iter().map(Selection::n_pairs).sum();
    check_pairs(n_pairs, atoms.len(), criteria.cutoff)?;
    Ok(selections)
}

/// Pairs that so many atoms may have.
fn max_pairs(n_atoms: usize) -> usize {
    let [_, bytes] = bounds(n_atoms);
    MAX_PAIRS.min((bytes / PAIR) as usize)
}

/// Refuses more pairs than so many atoms may have.
pub(crate) fn check_pairs(n_pairs: usize, n_atoms: usize, cutoff: f64) -> Result<()> {
    if n_pairs <= max_pairs(n_atoms) {
        return Ok(());
    }
    Err(too_many_pairs(n_atoms, cutoff))
}

fn too_many_pairs(n_atoms: usize, cutoff: f64) -> Error {
    let most = max_pairs(n_atoms);
    Error::Unsupported {
        what: format!("a cutoff of {cutoff} Å gives {n_atoms} atoms more than {most} pairs"),
        remedy: "reduce the cutoff".into(),
    }
}

/// The smallest number whose square root is not below the cutoff: comparing squares with it is comparing distances.
pub(crate) fn squared_limit(cutoff: f64) -> f64 {
    let mut limit = cutoff * cutoff;
    while limit.sqrt() < cutoff {
        limit = limit.next_up();
    }
    while limit.next_down().sqrt() >= cutoff {
        limit = limit.next_down();
    }
    limit
}

/// Sets bits in `masks` where the squared distance is below the first of two limits, in `doubts` where it is not but
/// not above the second either; a limit of NaN puts all in doubt. Atoms one after the other.
fn compare(
    groups: &[Group],
    own: &[[f32; 3]],
    limits: [f32; 2],
    masks: &mut [u64],
    doubts: &mut [u64],
) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn avx2(
            groups: &[Group],
            own: &[[f32; 3]],
            limits: [f32; 2],
            masks: &mut [u64],
            doubts: &mut [u64],
        ) {
            compare_body(groups, own, limits, masks, doubts);
        }
        #[target_feature(enable = "avx512f,avx512dq,avx512vl")]
        fn avx512(
            groups: &[Group],
            own: &[[f32; 3]],
            limits: [f32; 2],
            masks: &mut [u64],
            doubts: &mut [u64],
        ) {
            compare_body(groups, own, limits, masks, doubts);
        }
        match instructions() {
            // SAFETY: the features were detected on this machine.
            Instructions::Avx512 => {
                return unsafe { avx512(groups, own, limits, masks, doubts) };
            }
            // SAFETY: as above.
            Instructions::Avx2 => return unsafe { avx2(groups, own, limits, masks, doubts) },
            Instructions::Portable => {}
        }
    }
    compare_body(groups, own, limits, masks, doubts);
}

#[inline(always)]
fn compare_body(
    groups: &[Group],
    own: &[[f32; 3]],
    [inside, outside]: [f32; 2],
    masks: &mut [u64],
    doubts: &mut [u64],
) {
    let rows = masks
        .chunks_exact_mut(groups.len())
        .zip(doubts.chunks_exact_mut(groups.len()));
    for (origin, (mask, doubt)) in own.iter().zip(rows) {
        if origin[0].is_nan() {
            continue;
        }
        for ((group, mask), doubt) in groups.iter().zip(mask).zip(doubt) {
            let mut squares = [0.0_f32; LANES];
            for place in 0..LANES {
                let x = group[0][place] - origin[0];
                let y = group[1][place] - origin[1];
                let z = group[2][place] - origin[2];
                squares[place] = x * x + y * y + z * z;
            }
            let (mut near, mut far) = (0_u64, 0_u64);
            for place in 0..LANES {
                near |= u64::from(squares[place] < inside) << place;
            }
            for place in 0..LANES {
                far |= u64::from(squares[place] > outside) << place;
            }
            *mask = near;
            *doubt = !(near | far);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_finds_the_same() {
        // Whole numbers, so that many squared distances equal the limits, and a row of irrational ones.
        let coordinate = |seed: usize| {
            (seed * 7919 % 13) as f32 + if seed.is_multiple_of(5) { 0.1 } else { 0.0 }
        };
        let mut groups = vec![[[0.0; LANES]; 3]; 3];
        for (number, entry) in groups
            .as_flattened_mut()
            .as_flattened_mut()
            .iter_mut()
            .enumerate()
        {
            *entry = coordinate(number + number / 11) - 6.0;
        }
        let own: Vec<[f32; 3]> = (0..20)
            .map(|n| [coordinate(n), coordinate(3 * n + 1), coordinate(5 * n)])
            .collect();
        let (mut fast, mut plain) = ([vec![0; 60], vec![0; 60]], [vec![0; 60], vec![0; 60]]);
        let limits = [100.0, 150.0];
        let [masks, doubts] = &mut fast;
        compare(&groups, &own, limits, masks, doubts);
        let [masks, doubts] = &mut plain;
        compare_body(&groups, &own, limits, masks, doubts);
        assert_eq!(fast, plain);
        for bits in plain {
            let found: u32 = bits.iter().map(|word| word.count_ones()).sum();
            assert!(found > 100 && found < 3700, "{found}");
        }
    }

    #[test]
    fn without_limits_all_is_in_doubt() {
        let mut groups = vec![[[1e30_f32; LANES]; 3]];
        groups[0][0][5] = f32::NAN;
        let (mut masks, mut doubts) = ([0], [0]);
        compare(
            &groups,
            &[[0.0; 3]],
            [0.0, f32::NAN],
            &mut masks,
            &mut doubts,
        );
        assert_eq!((masks, doubts), ([0], [u64::MAX]));
    }

    #[test]
    fn comparing_squares_is_comparing_distances() {
        for cutoff in [0.1 + 0.2, 1.0, 6.0, 1e-3, 7.7, 3.0_f64.sqrt(), 1e-99, 1e99] {
            let limit = squared_limit(cutoff);
            assert!(limit.sqrt() >= cutoff && limit.next_down().sqrt() < cutoff);
        }
    }
}
