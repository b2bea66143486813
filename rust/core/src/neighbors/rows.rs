//! Writes the rows of a search into arrays of exactly the right size.

use rayon::prelude::*;

use super::Search;
use super::block::{Block, LANES, load_candidates};
use super::quantities::Quantities;
use crate::error::{Error, Result};

/// Pairs are written by one thread below this number.
const PARALLEL_PAIRS: usize = 20_000;

/// The pairs of a list, sorted by (i, j, S); quantities not asked for stay empty. `I` and `S` are the integers that
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

impl Search {
    /// Writes out the quantities asked for.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where there is not enough memory.
    pub fn pairs<I, S>(&self, quantities: Quantities) -> Result<Pairs<I, S>>
    where
        I: From<u32> + Copy + Send + Sync,
        S: From<i32> + Copy + Send + Sync,
    {
        let n = self.len();
        let mut i = Output::<I>::new(quantities.i, n)?;
        let mut j = Output::<I>::new(quantities.j, n)?;
        let mut shift = Output::<[S; 3]>::new(quantities.shift, n)?;
        let mut distance = Output::<f64>::new(quantities.distance, n)?;
        let mut vector = Output::<[f64; 3]>::new(quantities.vector, n)?;
        let targets = (
            i.target(),
            j.target(),
            shift.target(),
            distance.target(),
            vector.target(),
        );
        let write = |scratch: &mut Scratch, block: &Block| {
            let (i, j, shift, distance, vector) = &targets;
            load_candidates(
                &block.candidates,
                &block.images,
                &self.atoms,
                &mut scratch.coordinates,
            );
            for (number, slot) in block.atoms().enumerate() {
                let atom = self.atoms.index[slot];
                let (start, end) = (self.first[atom as usize], self.first[atom as usize + 1]);
                scratch.hits.clear();
                for (word, &bits) in block.mask(number).iter().enumerate() {
                    let mut bits = bits;
                    while bits != 0 {
                        scratch
                            .hits
                            .push((word * LANES) as u32 + bits.trailing_zeros());
                        bits &= bits - 1;
                    }
                }
                let hits = &scratch.hits[..];
                assert_eq!(hits.len(), end - start);
                // SAFETY: rows of different atoms do not overlap, and each atom is in one block.
                unsafe {
                    i.write(start, hits.iter().map(|_| I::from(atom)));
                    j.write(
                        start,
                        hits.iter().map(|&hit| {
                            I::from(self.atoms.index[block.candidates[hit as usize].slot as usize])
                        }),
                    );
                    let own = self.atoms.cells[slot];
                    shift.write(
                        start,
                        hits.iter().map(|&hit| {
                            let candidate = block.candidates[hit as usize];
                            let image = block.images[candidate.image as usize].cells;
                            let taken = self.atoms.cells[candidate.slot as usize];
                            std::array::from_fn(|axis| {
                                S::from(image[axis] + own[axis] - taken[axis])
                            })
                        }),
                    );
                    let origin = self.atoms.positions[slot];
                    let separation = |hit: u32| -> [f64; 3] {
                        let group = &scratch.coordinates[hit as usize / LANES];
                        let place = hit as usize % LANES;
                        std::array::from_fn(|axis| {
                            (group[axis][place] - origin[axis]) + group[3 + axis][place]
                        })
                    };
                    distance.write(
                        start,
                        hits.iter().map(|&hit| {
                            let [x, y, z] = separation(hit);
                            (x * x + y * y + z * z).sqrt()
                        }),
                    );
                    vector.write(start, hits.iter().map(|&hit| separation(hit)));
                }
            }
        };
        if n < PARALLEL_PAIRS {
            let mut scratch = Scratch::default();
            self.blocks
                .iter()
                .for_each(|block| write(&mut scratch, block));
        } else {
            self.blocks
                .par_iter()
                .for_each_init(Scratch::default, write);
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

/// Buffers of one thread.
#[derive(Debug, Default)]
struct Scratch {
    hits: Vec<u32>,
    coordinates: Vec<[[f64; LANES]; 6]>,
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
            .map_err(|_| Error::Unsupported {
                what: format!("{n} pairs do not fit into memory"),
                remedy: "reduce the cutoff".into(),
            })?;
        Ok(Self { values, wanted })
    }

    fn target(&mut self) -> Target<T> {
        Target((self.wanted > 0).then(|| self.values.as_mut_ptr()))
    }

    /// # Safety
    /// All entries must have been written.
    unsafe fn finish(mut self) -> Vec<T> {
        // SAFETY: the capacity was reserved in `new`, and the caller vouches for the entries.
        unsafe { self.values.set_len(self.wanted) };
        self.values
    }
}

/// Where the rows of an array go; threads write to different rows of it at the same time.
struct Target<T>(Option<*mut T>);

// SAFETY: a target is only written through `write`, whose caller keeps rows apart.
unsafe impl<T: Send> Send for Target<T> {}
unsafe impl<T: Send> Sync for Target<T> {}

impl<T> Target<T> {
    /// Writes a row.
    ///
    /// # Safety
    /// The row must lie inside the array and no other thread may write to it.
    #[inline(always)]
    unsafe fn write(&self, start: usize, row: impl ExactSizeIterator<Item = T>) {
        let Some(values) = self.0 else { return };
        for (place, value) in row.enumerate() {
            // SAFETY: inside the row, which the caller vouches for.
            unsafe { values.add(start + place).write(value) };
        }
    }
}
