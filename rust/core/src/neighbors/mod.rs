//! Neighbour lists of atoms in any cell, in linear time.
//!
//! A pair (i, j, S) is listed when the distance |r_j - r_i + S·cell| is below the cutoff, with S a vector of whole
//! numbers that is zero along open axes. Atoms are wrapped into the cell and sorted into bins; the atoms of one bin
//! share a list of candidates, sorted by (j, S), from the bins around it; every atom is then compared with all of them.
//! Rows are therefore sorted by (i, j, S), independent of bins and threads.
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
mod systems;
mod unit_cell;
mod verlet;

use crate::error::Result;

pub use groups::{Bins, Neighborhood, Scratch};
pub use quantities::{Quantities, Quantity};
pub use rows::Pairs;
pub use systems::{Criteria, Systems};
pub use unit_cell::UnitCell;
pub use verlet::VerletList;

pub(crate) use selection::{check_pairs, squared_limit};

use bins::BinnedAtom;
use candidates::Block;
use selection::Selection;

/// The atoms in their bins, with the candidates of each bin.
#[derive(Debug)]
struct Arrangement {
    cells: Vec<UnitCell>,
    atoms: Vec<BinnedAtom>,
    blocks: Vec<Block>,
}

impl Arrangement {
    /// Finds the candidates within `reach` of the atoms, and the pairs among them.
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

/// Pairs as bit masks over the candidates of each block, before any pair is written.
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

    /// True if there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// First pair of each atom i, and the number of pairs: `[n_atoms + 1]`.
    pub fn first(&self) -> &[usize] {
        &self.selected.first
    }

    /// Writes the requested quantities.
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
    /// Start of each atom's row, and the number of pairs: `[n_atoms + 1]`.
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
