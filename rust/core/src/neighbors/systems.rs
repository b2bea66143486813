//! The atoms to search, and the pairs to list.

use crate::error::{Error, Result};

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

/// Pairs to list.
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
    pub(super) fn check(&self) -> Result<()> {
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

    pub(super) fn pbc(&self, system: usize) -> [bool; 3] {
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
