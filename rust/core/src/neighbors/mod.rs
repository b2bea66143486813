//! Neighbour lists of atoms in any cell, in linear time.
//!
//! A pair (i, j, S) is listed when the distance |r_j - r_i + S·cell| is below the cutoff, with S a vector of whole
//! numbers that is zero along open axes. Atoms are wrapped into the cell and sorted into bins; the atoms of one bin
//! share a list of candidates, sorted by (j, S), from the bins around it; every atom is then compared with all of
//! them. Rows so come out sorted by (i, j, S), whatever the bins and the threads.
//!
//! A [`VerletList`] keeps the candidates, found with a larger cutoff, while the atoms move.
//!
//! Distances are computed as (r_j - r_i) + S·cell on wrapped positions, which is exactly odd under exchange of the
//! two atoms: a full list always holds both directions of a pair.

mod bins;
mod candidates;
mod groups;
mod quantities;
mod rows;
mod selection;
mod unit_cell;
mod verlet;

use crate::error::{Error, Result};

pub use groups::{Bins, Neighborhood, Scratch};
pub use quantities::{Quantities, Quantity};
pub use rows::Pairs;
pub use unit_cell::UnitCell;
pub use verlet::VerletList;

pub(crate) use selection::{check_pairs, squared_limit};

use bins::BinnedAtom;
use candidates::Block;
use selection::Selection;

/// Atoms of one system or of many.
#[derive(Debug, Clone, Copy)]
pub struct Systems<'a> {
    /// Positions of all atoms, Å.
    pub positions: &'a [[f64; 3]],
    /// Cell vectors of each system as rows, Å; rows along open axes are ignored.
    pub cells: &'a [[[f64; 3]; 3]],
    /// Periodic axes of each system.
    pub pbc: &'a [[bool; 3]],
    /// System of each atom, in any order; `None` for a single system.
    pub batch: Option<&'a [i64]>,
}

/// Which pairs to list.
#[derive(Debug, Clone, Copy)]
pub struct Criteria {
    /// Pairs at a smaller distance are listed, Å.
    pub cutoff: f64,
    /// List each pair once: those with i < j, and of an atom's own images those whose first non-zero shift is
    /// positive.
    pub half: bool,
    /// List each atom with itself, at distance zero.
    pub self_interaction: bool,
}

impl Systems<'_> {
    fn check(&self) -> Result<()> {
        let n_systems = self.cells.len();
        if self.pbc.len() != n_systems {
            return Err(Error::Shape {
                array: "pbc",
                found: format!("[{}, 3]", self.pbc.len()),
                expected: format!("[{n_systems}, 3], as there are {n_systems} cells"),
            });
        }
        match self.batch {
            None if n_systems != 1 => Err(Error::Shape {
                array: "cell",
                found: format!("[{n_systems}, 3, 3]"),
                expected:
                    "[1, 3, 3], as there is no batch that says which system each atom belongs to"
                        .into(),
            }),
            Some(batch) if batch.len() != self.positions.len() => Err(Error::Shape {
                array: "batch",
                found: format!("[{}]", batch.len()),
                expected: format!("[{}], one entry for every atom", self.positions.len()),
            }),
            _ if self.positions.len() >= u32::MAX as usize => Err(Error::Unsupported {
                what: format!(
                    "{} atoms are more than a neighbour list can count",
                    self.positions.len()
                ),
                remedy: "split the system".into(),
            }),
            _ => Ok(()),
        }
    }

    fn pbc(&self, system: usize) -> [bool; 3] {
        self.pbc[system]
    }
}

impl Criteria {
    pub(crate) fn check(&self) -> Result<()> {
        // The square must neither overflow nor vanish.
        if self.cutoff > 1e-100 && self.cutoff < 1e100 {
            return Ok(());
        }
        Err(Error::Unsupported {
            what: format!("cutoff = {}", self.cutoff),
            remedy: "give a finite length above zero, in Å".into(),
        })
    }
}

/// The atoms in their bins, with what may lie near the atoms of each.
#[derive(Debug)]
struct Arrangement {
    cells: Vec<UnitCell>,
    atoms: Vec<BinnedAtom>,
    blocks: Vec<Block>,
}

impl Arrangement {
    /// Finds what lies within `reach` of the atoms, and the pairs among it.
    fn new(systems: &Systems, criteria: &Criteria, reach: f64) -> Result<(Self, Selected)> {
        criteria.check()?;
        systems.check()?;
        let (grids, atoms) = bins::sort_atoms(systems, reach)?;
        let (blocks, selections) = selection::find_all(&grids, &atoms, criteria, reach)?;
        let cells = grids.into_iter().map(|grid| grid.cell).collect();
        let arrangement = Self {
            cells,
            atoms,
            blocks,
        };
        let selected = Selected::new(&arrangement, selections);
        Ok((arrangement, selected))
    }

    /// The pairs of the atoms where they are now.
    fn select(&self, criteria: &Criteria) -> Result<Selected> {
        let selections = selection::select_all(&self.blocks, &self.cells, &self.atoms, criteria)?;
        Ok(Selected::new(self, selections))
    }
}

/// Pairs as bit masks over the candidates of each block: what is known before any of them is written.
#[derive(Debug)]
struct Selected {
    selections: Vec<Selection>,
    /// First pair of each atom, and the number of pairs.
    first: Vec<usize>,
}

impl Selected {
    fn new(arrangement: &Arrangement, selections: Vec<Selection>) -> Self {
        let atoms = &arrangement.atoms;
        let mut first = vec![0_usize; atoms.len() + 1];
        for (block, selection) in arrangement.blocks.iter().zip(&selections) {
            for (slot, count) in block.atoms().zip(&selection.counts) {
                first[atoms[slot].index as usize + 1] = *count as usize;
            }
        }
        for atom in 1..first.len() {
            first[atom] += first[atom - 1];
        }
        Self { selections, first }
    }

    /// Number of pairs.
    fn len(&self) -> usize {
        self.first[self.first.len() - 1]
    }
}

/// All pairs of some atoms, before any quantity of them is written.
#[derive(Debug)]
pub struct Search {
    arrangement: Arrangement,
    selected: Selected,
}

impl Search {
    /// Finds all pairs.
    ///
    /// # Errors
    /// Input that is not finite or of the wrong shape, a singular cell, a cutoff that is not positive, or more
    /// pairs than memory can hold.
    pub fn new(systems: &Systems, criteria: &Criteria) -> Result<Self> {
        let (arrangement, selected) = Arrangement::new(systems, criteria, criteria.cutoff)?;
        Ok(Self {
            arrangement,
            selected,
        })
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.selected.len()
    }

    /// Whether there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// First pair of each atom i, and the number of pairs: `[n_atoms + 1]`.
    pub fn first(&self) -> &[usize] {
        &self.selected.first
    }

    /// Writes out the quantities asked for.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where there is not enough memory.
    pub fn pairs<I, S>(&self, quantities: Quantities) -> Result<Pairs<I, S>>
    where
        I: From<u32> + Copy + Send + Sync,
        S: From<i32> + Copy + Send + Sync,
    {
        self.arrangement.pairs(&self.selected, quantities)
    }
}

/// A full list of one system in rows: the neighbours of atom i are `first[i]..first[i + 1]`, sorted by (j, S).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NeighborList {
    /// Where each atom's row starts, and the number of pairs: `[n_atoms + 1]`.
    pub first: Vec<usize>,
    /// The neighbour.
    pub j: Vec<u32>,
    /// Its cell shift S: the vector of the pair is r_j - r_i + S·cell.
    pub shift: Vec<[i32; 3]>,
}

/// All pairs of one system within `cutoff`, both directions, images of an atom itself included, without (i, i, 0).
///
/// # Errors
/// As [`Search::new`].
pub fn full_list(
    positions: &[[f64; 3]],
    cell: &[[f64; 3]; 3],
    pbc: [bool; 3],
    cutoff: f64,
) -> Result<NeighborList> {
    let systems = Systems {
        positions,
        cells: std::slice::from_ref(cell),
        pbc: &[pbc],
        batch: None,
    };
    let criteria = Criteria {
        cutoff,
        half: false,
        self_interaction: false,
    };
    let search = Search::new(&systems, &criteria)?;
    let pairs = search.pairs::<u32, i32>(Quantities {
        j: true,
        shift: true,
        ..Quantities::default()
    })?;
    Ok(NeighborList {
        first: search.selected.first,
        j: pairs.j,
        shift: pairs.shift,
    })
}
