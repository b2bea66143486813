//! Writes the rows of a search into arrays of exactly the right size.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::bins::BinnedAtom;
use super::candidates::Block;
use super::quantities::Quantities;
use super::selection::{Images, Selection, crossings};
use super::unit_cell::UnitCell;
use super::{Arrangement, Selected};
use crate::arithmetic::dispatch::{Instructions, instructions};
use crate::error::{Error, Result};
use crate::limits::Estimate;

/// Pairs are written by one thread below this number.
const PARALLEL_PAIRS: usize = 20_000;

/// The pairs of a list, sorted by (i, j, S); quantities not requested stay empty. `I` and `S` are the integers that
/// atoms and shifts are stored as.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pairs<I, S> {
    pub i: Vec<I>,
    pub j: Vec<I>,
    /// Whole numbers of cell vectors S.
    pub shift: Vec<[S; 3]>,
    /// |D|, Å.
    pub distance: Vec<f64>,
    /// D = r_j - r_i + S·cell, Å.
    pub vector: Vec<[f64; 3]>,
}

impl Arrangement {
    /// Writes the requested quantities.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) where there is not enough memory.
    pub fn pairs<I, S>(&self, selected: &Selected, quantities: Quantities) -> Result<Pairs<I, S>>
    where
        I: From<u32> + Copy + Send + Sync,
        S: From<i32> + Copy + Send + Sync,
    {
        let n = selected.len();
        let bytes = [
            (quantities.i, size_of::<I>()),
            (quantities.j, size_of::<I>()),
            (quantities.shift, size_of::<[S; 3]>()),
            (quantities.distance, size_of::<f64>()),
            (quantities.vector, size_of::<[f64; 3]>()),
        ];
        let bytes_of_a_pair: usize = bytes
            .iter()
            .filter(|(wanted, _)| *wanted)
            .map(|(_, bytes)| bytes)
            .sum();
        let threads = rayon::current_num_threads().min(self.blocks.len());
        let candidates = self.blocks.iter().map(|block| block.candidates.len());
        let scratch = candidates.max().unwrap_or(0) * threads * BYTES_OF_A_CANDIDATE;
        let bytes = bytes_of_a_pair as f64 * n as f64 + scratch as f64;
        Estimate::new(0.0, bytes).check(self.atoms.len(), || exhausted(n))?;
        let mut i = Output::<I>::new(quantities.i, n)?;
        let mut j = Output::<I>::new(quantities.j, n)?;
        let mut shift = Output::<[S; 3]>::new(quantities.shift, n)?;
        let mut distance = Output::<f64>::new(quantities.distance, n)?;
        let mut vector = Output::<[f64; 3]>::new(quantities.vector, n)?;
        let targets = Targets {
            i: i.target(),
            j: j.target(),
            shift: shift.target(),
            distance: distance.target(),
            vector: vector.target(),
        };
        let write = |scratch: &mut Scratch, (block, selection): (&Block, &Selection)| {
            scratch.reserve(block.candidates.len(), n)?;
            let rows = Rows {
                block,
                selection,
                cell: &self.cells[block.system as usize],
                atoms: &self.atoms,
                first: &selected.first,
            };
            // SAFETY: each atom is in one block, so no two threads write the same row.
            unsafe { targets.write_block(&rows, scratch) }
            Ok(())
        };
        if n < PARALLEL_PAIRS {
            let mut scratch = Scratch::default();
            self.blocks
                .iter()
                .zip(&selected.selections)
                .try_for_each(|block| write(&mut scratch, block))?;
        } else {
            self.blocks
                .par_iter()
                .zip(&selected.selections)
                .try_for_each_init(Scratch::default, write)?;
        }
        // SAFETY: every atom is in one block, so every row, and with them every entry, has been written.
        unsafe {
            Ok(Pairs {
                i: i.finish(),
                j: j.finish(),
                shift: shift.finish(),
                distance: distance.finish(),
                vector: vector.finish(),
            })
        }
    }
}

/// One block with what its rows are written from.
struct Rows<'a> {
    block: &'a Block,
    selection: &'a Selection,
    cell: &'a UnitCell,
    atoms: &'a [BinnedAtom],
    /// First pair of each atom.
    first: &'a [usize],
}

/// A candidate as rows are written from it.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
struct Neighbor {
    /// Wrapped position; the fourth component fills a vector register.
    position: [f64; 4],
    /// Vector of the image it lies in.
    vector: [f64; 4],
    /// Shift from the atom in its cell to where it was given, in this image.
    cells: [i32; 3],
    index: u32,
}

/// Buffers of one thread.
#[derive(Debug, Default)]
struct Scratch {
    images: Images,
    neighbors: Vec<Neighbor>,
    /// Pairs of an atom, as places in `neighbors`.
    hits: Vec<u32>,
}

/// Bytes of a candidate in the buffers of a thread.
const BYTES_OF_A_CANDIDATE: usize = size_of::<Neighbor>() + size_of::<u32>();

impl Scratch {
    /// Room for the candidates of a block of a list of `pairs`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where there is not enough memory.
    fn reserve(&mut self, candidates: usize, pairs: usize) -> Result<()> {
        self.neighbors.clear();
        self.hits.clear();
        self.neighbors
            .try_reserve_exact(candidates)
            .and_then(|()| self.hits.try_reserve_exact(candidates))
            .map_err(|_| does_not_fit(pairs))
    }

    #[inline(always)]
    fn load(&mut self, rows: &Rows, crossed: [i8; 3]) {
        let Self {
            images, neighbors, ..
        } = self;
        images.load(rows.block, rows.cell, crossed);
        neighbors.clear();
        neighbors.extend(rows.block.candidates.iter().map(|candidate| {
            let atom = &rows.atoms[candidate.slot as usize];
            let cells = rows.block.images[candidate.image as usize];
            let [x, y, z] = atom.position;
            let [shift_x, shift_y, shift_z] = images.vector(*candidate, atom);
            Neighbor {
                position: [x, y, z, 0.0],
                vector: [shift_x, shift_y, shift_z, 0.0],
                cells: std::array::from_fn(|axis| cells[axis] - atom.cells[axis]),
                index: atom.index,
            }
        }));
    }
}

/// The arrays to be written; those not requested are skipped.
struct Targets<I, S> {
    i: Target<I>,
    j: Target<I>,
    shift: Target<[S; 3]>,
    distance: Target<f64>,
    vector: Target<[f64; 3]>,
}

impl<I: From<u32> + Copy, S: From<i32> + Copy> Targets<I, S> {
    /// Writes the rows of the atoms of a block.
    ///
    /// # Safety
    /// `rows` must give every atom a row of its own inside the arrays, and no other block with the same atoms may be
    /// written at the same time.
    unsafe fn write_block(&self, rows: &Rows, scratch: &mut Scratch) {
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2")]
            unsafe fn avx2<I: From<u32> + Copy, S: From<i32> + Copy>(
                targets: &Targets<I, S>,
                rows: &Rows,
                scratch: &mut Scratch,
            ) {
                // SAFETY: the caller's.
                unsafe { targets.write_body(rows, scratch) }
            }
            #[target_feature(enable = "avx512f,avx512dq,avx512vl")]
            unsafe fn avx512<I: From<u32> + Copy, S: From<i32> + Copy>(
                targets: &Targets<I, S>,
                rows: &Rows,
                scratch: &mut Scratch,
            ) {
                // SAFETY: the caller's.
                unsafe { targets.write_body(rows, scratch) }
            }
            // SAFETY: the features were detected on this machine; the rest is the caller's.
            unsafe {
                match instructions() {
                    Instructions::Avx512 => return avx512(self, rows, scratch),
                    Instructions::Avx2 => return avx2(self, rows, scratch),
                    Instructions::Portable => {}
                }
            }
        }
        // SAFETY: the caller's.
        unsafe { self.write_body(rows, scratch) }
    }

    /// # Safety
    /// As [`Targets::write_block`].
    #[inline(always)]
    unsafe fn write_body(&self, rows: &Rows, scratch: &mut Scratch) {
        let own = &rows.atoms[rows.block.atoms()];
        for crossed in crossings(own) {
            scratch.load(rows, crossed);
            for (number, atom) in own.iter().enumerate() {
                if atom.crossed != crossed {
                    continue;
                }
                let index = atom.index as usize;
                let row = rows.first[index]..rows.first[index + 1];
                rows.selection.hits(number, &mut scratch.hits);
                assert_eq!(scratch.hits.len(), row.len());
                // SAFETY: the row of this atom, which the caller vouches for.
                unsafe { self.write_row(row.start, atom, scratch) }
            }
        }
    }

    /// Writes the row of an atom from the hits.
    ///
    /// # Safety
    /// As [`Target::row`], for as many entries from `start` on as there are hits.
    #[inline(always)]
    unsafe fn write_row(&self, start: usize, atom: &BinnedAtom, scratch: &Scratch) {
        let Scratch {
            neighbors, hits, ..
        } = scratch;
        let neighbors = hits.iter().map(|&hit| &neighbors[hit as usize]);
        // SAFETY: the caller vouches for the row.
        let (i, j, shift, distance, vector) = unsafe {
            (
                self.i.row(start, hits.len()),
                self.j.row(start, hits.len()),
                self.shift.row(start, hits.len()),
                self.distance.row(start, hits.len()),
                self.vector.row(start, hits.len()),
            )
        };
        i.fill(MaybeUninit::new(I::from(atom.index)));
        for (entry, neighbor) in j.iter_mut().zip(neighbors.clone()) {
            entry.write(I::from(neighbor.index));
        }
        let [a, b, c] = atom.cells;
        let origin_cells = [a, b, c, 0];
        write_triples(shift, neighbors.clone(), |neighbor| {
            let cells = [
                neighbor.cells[0],
                neighbor.cells[1],
                neighbor.cells[2],
                neighbor.index as i32,
            ];
            std::array::from_fn(|axis| S::from(cells[axis].wrapping_add(origin_cells[axis])))
        });
        let [x, y, z] = atom.position;
        let origin = [x, y, z, 0.0];
        let separation = |neighbor: &Neighbor| -> [f64; 4] {
            std::array::from_fn(|axis| {
                (neighbor.position[axis] - origin[axis]) + neighbor.vector[axis]
            })
        };
        write_triples(vector, neighbors.clone(), separation);
        for (entry, neighbor) in distance.iter_mut().zip(neighbors) {
            let [x, y, z, _] = separation(neighbor);
            entry.write(x * x + y * y + z * z);
        }
        // Roots apart from the scattered reads above, so that they are taken several at a time.
        for entry in distance {
            // SAFETY: written by the loop above, which goes over all of them.
            entry.write(unsafe { entry.assume_init_read() }.sqrt());
        }
    }
}

/// Writes the first three of every four values that `of` gives, four at a time: each but the last store reaches into
/// the next entry, which then overwrites that.
#[inline(always)]
fn write_triples<'a, T: Copy>(
    row: &mut [MaybeUninit<[T; 3]>],
    neighbors: impl Iterator<Item = &'a Neighbor>,
    of: impl Fn(&Neighbor) -> [T; 4],
) {
    let length = row.len();
    let entries = row.as_mut_ptr().cast::<T>();
    for (number, neighbor) in neighbors.take(length).enumerate() {
        let values = of(neighbor);
        if number + 1 < length {
            // SAFETY: entries `number` and `number + 1` lie inside the row.
            unsafe { entries.add(3 * number).cast::<[T; 4]>().write(values) };
        } else {
            let [x, y, z, _] = values;
            row[number].write([x, y, z]);
        }
    }
}

/// Description of a list that does not fit, and the remedy.
fn exhausted(pairs: usize) -> [String; 2] {
    [
        format!("a list of {pairs} pairs does not fit into memory"),
        "reduce the cutoff, request fewer quantities, or half of the list".into(),
    ]
}

fn does_not_fit(pairs: usize) -> Error {
    let [what, remedy] = exhausted(pairs);
    Error::Unsupported { what, remedy }
}

/// An array to be filled row by row.
struct Output<T> {
    values: Vec<T>,
    wanted: usize,
}

impl<T> Output<T> {
    fn new(wanted: bool, n: usize) -> Result<Self> {
        let wanted = if wanted { n } else { 0 };
        let mut values = Vec::new();
        values
            .try_reserve_exact(wanted)
            .map_err(|_| does_not_fit(n))?;
        Ok(Self { values, wanted })
    }

    fn target(&mut self) -> Target<T> {
        Target((self.wanted > 0).then_some(self.values.as_mut_ptr()))
    }

    /// # Safety
    /// All entries must have been written.
    unsafe fn finish(mut self) -> Vec<T> {
        // SAFETY: the capacity was reserved in `new`, and the caller vouches for the entries.
        unsafe { self.values.set_len(self.wanted) };
        self.values
    }
}

/// Destinations of the rows of an array; threads write to different rows of it at the same time.
#[derive(Clone, Copy)]
struct Target<T>(Option<*mut T>);

// SAFETY: a target is only used through `row`, whose caller keeps rows apart.
unsafe impl<T: Send> Send for Target<T> {}
unsafe impl<T: Send> Sync for Target<T> {}

impl<T: Copy> Target<T> {
    /// A row of the array, empty if the array is not requested.
    ///
    /// # Safety
    /// The row must lie inside the array, which must outlive it, and no other row that overlaps it may be in use.
    #[inline(always)]
    unsafe fn row<'a>(self, start: usize, length: usize) -> &'a mut [MaybeUninit<T>] {
        match self.0 {
            // SAFETY: the caller vouches for the range; entries that are not written yet are MaybeUninit.
            Some(values) => unsafe {
                std::slice::from_raw_parts_mut(values.add(start).cast(), length)
            },
            None => &mut [],
        }
    }
}
