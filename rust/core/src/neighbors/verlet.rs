//! A neighbour list that follows moving atoms: candidates are found with a skin on top of the cutoff, and serve until
//! a pair may have come within the cutoff that is not among them.

use rayon::prelude::*;

use super::bins::{self, BinnedAtom};
use super::quantities::Quantities;
use super::rows::Pairs;
use super::selection::PARALLEL_ATOMS;
use super::systems::{Criteria, Systems};
use super::unit_cell::UnitCell;
use super::{Arrangement, Selected};
use crate::arithmetic::vector::{Matrix, dot, norm};
use crate::error::{Error, Result};

/// Cells worse conditioned than this are not followed through changes, whose rounding could lose a pair.
const MAX_CONDITION: f64 = 1e4;

/// Pairs of moving atoms (a Verlet list): exactly those that [`super::Search`] finds, at a lower cost.
#[derive(Debug)]
pub struct VerletList {
    criteria: Criteria,
    skin: f64,
    built: Option<Built>,
    n_builds: u64,
    n_updates: u64,
}

impl VerletList {
    /// An empty list.
    ///
    /// # Errors
    /// A cutoff that is not positive, a skin that is negative or not finite.
    pub fn new(criteria: Criteria, skin: f64) -> Result<Self> {
        criteria.check()?;
        if !(0.0..1e100).contains(&skin) {
            return Err(Error::Unsupported {
                what: format!("skin = {skin}"),
                remedy: "give a finite length of at least zero, in Å".into(),
            });
        }
        Ok(Self {
            criteria,
            skin,
            built: None,
            n_builds: 0,
            n_updates: 0,
        })
    }

    /// Moves the atoms to new positions and cells. Returns true if the candidates had to be found anew.
    ///
    /// # Errors
    /// As [`super::Search::new`]; the list then stays at the last positions that were accepted.
    pub fn update(&mut self, systems: &Systems) -> Result<bool> {
        let Self { criteria, skin, .. } = *self;
        systems.check()?;
        let follows = match &mut self.built {
            Some(built) => built.follow(systems, criteria.cutoff, skin),
            None => false,
        };
        if !follows {
            self.built = Some(Built::new(systems, &criteria, skin)?);
            self.n_builds += 1;
        }
        self.n_updates += 1;
        Ok(!follows)
    }

    /// Writes the requested quantities of the pairs at the last update.
    ///
    /// # Errors
    /// [`Error::Unsupported`] before the first update, or where there is not enough memory.
    pub fn pairs<I, S>(&mut self, quantities: Quantities) -> Result<Pairs<I, S>>
    where
        I: From<u32> + Copy + Send + Sync,
        S: From<i32> + Copy + Send + Sync,
    {
        let Some(built) = &mut self.built else {
            return Err(Error::Unsupported {
                what: "the neighbour list has no positions yet".into(),
                remedy: "call update first".into(),
            });
        };
        let selected = match built.selected.take() {
            Some(selected) => selected,
            None => built.arrangement.select(&self.criteria)?,
        };
        let pairs = built.arrangement.pairs(&selected, quantities);
        built.selected = Some(selected);
        pairs
    }

    /// Number of searches for candidates.
    pub fn n_builds(&self) -> u64 {
        self.n_builds
    }

    /// Number of accepted updates.
    pub fn n_updates(&self) -> u64 {
        self.n_updates
    }

    pub fn criteria(&self) -> &Criteria {
        &self.criteria
    }

    /// Å.
    pub fn skin(&self) -> f64 {
        self.skin
    }
}

/// An atom when the candidates were found.
#[derive(Debug, Clone, Copy)]
struct Reference {
    /// Wrapped position, Å.
    position: [f64; 3],
    /// Its coordinates in the cell.
    coordinates: [f64; 3],
    system: u32,
}

/// Candidates with the state of the atoms that they were found for.
#[derive(Debug)]
struct Built {
    /// Candidates as they were found; atoms and cells as of the last update.
    arrangement: Arrangement,
    /// Pairs at the last update, found at the first request.
    selected: Option<Selected>,
    references: Vec<Reference>,
    cells: Vec<UnitCell>,
    batch: Option<Vec<i64>>,
    /// Buffer for the next positions.
    moved: Vec<BinnedAtom>,
}

impl Built {
    fn new(systems: &Systems, criteria: &Criteria, skin: f64) -> Result<Self> {
        let (arrangement, selected) = Arrangement::new(systems, criteria, criteria.cutoff + skin)?;
        let references = arrangement
            .atoms
            .iter()
            .map(|atom| {
                let system = systems
                    .batch
                    .map_or(0, |batch| batch[atom.index as usize] as u32);
                Reference {
                    position: atom.position,
                    coordinates: arrangement.cells[system as usize].coordinates(atom.position),
                    system,
                }
            })
            .collect();
        Ok(Self {
            selected: Some(selected),
            references,
            cells: arrangement.cells.clone(),
            batch: systems.batch.map(<[i64]>::to_vec),
            moved: arrangement.atoms.clone(),
            arrangement,
        })
    }

    /// Moves the atoms and cells, if every pair within the cutoff is then still among the candidates. Leaves
    /// everything as it is otherwise, also where the input is not usable: building anew then finds the error.
    fn follow(&mut self, systems: &Systems, cutoff: f64, skin: f64) -> bool {
        if systems.positions.len() != self.references.len()
            || systems.cells.len() != self.cells.len()
            || systems.batch != self.batch.as_deref()
        {
            return false;
        }
        let mut changes = Vec::with_capacity(self.cells.len());
        for (system, reference) in self.cells.iter().enumerate() {
            let pbc = systems.pbc[system];
            let Ok(cell) = UnitCell::new(&systems.cells[system], pbc, system) else {
                return false;
            };
            match CellChange::new(reference, cell, cutoff, skin) {
                Some(change) => changes.push(change),
                None => return false,
            }
        }
        let follow = |(moved, reference): (&mut BinnedAtom, &Reference)| {
            let change = &changes[reference.system as usize];
            let index = moved.index;
            let atom = change.follow(reference, systems.positions[index as usize], index);
            atom.map(|atom| *moved = atom).is_some()
        };
        let known = if self.references.len() < PARALLEL_ATOMS {
            self.moved.iter_mut().zip(&self.references).all(follow)
        } else {
            self.moved
                .par_iter_mut()
                .with_min_len(PARALLEL_ATOMS)
                .zip(&self.references)
                .all(follow)
        };
        if known {
            std::mem::swap(&mut self.moved, &mut self.arrangement.atoms);
            self.arrangement.cells.clear();
            self.arrangement
                .cells
                .extend(changes.iter().map(|change| change.cell));
            self.selected = None;
        }
        known
    }
}

/// From the cell that the candidates were found in to the present one: F maps the vectors of the one to those of the
/// other.
///
/// With atoms no further than δ from where F takes them, a pair within the cutoff now had a distance r with
/// σ_min(F) r < cutoff + 2 δ, so that all pairs are among the candidates while 2 δ <= σ_min(F) (cutoff + skin) -
/// cutoff.
#[derive(Debug)]
struct CellChange {
    cell: UnitCell,
    /// By how much each vector has changed, Å; `None` where nothing has.
    change: Option<Matrix<f64>>,
    /// δ, Å.
    allowed: f64,
}

impl CellChange {
    /// `None` where no atom may move at all.
    fn new(reference: &UnitCell, cell: UnitCell, cutoff: f64, skin: f64) -> Option<Self> {
        if cell.pbc != reference.pbc {
            return None;
        }
        let largest = cell
            .vectors
            .as_flattened()
            .iter()
            .fold(cutoff + skin, |size, entry| size.max(entry.abs()));
        // Far above the rounding of displacements.
        let slack = 1e-13 * largest;
        if cell.vectors == reference.vectors {
            let allowed = 0.5 * skin - slack;
            return (allowed >= 0.0).then_some(Self {
                cell,
                change: None,
                allowed,
            });
        }
        let size = |matrix: &Matrix<f64>| matrix.iter().map(|row| dot(row, row)).sum::<f64>();
        if size(&reference.vectors) * size(&reference.dual) > MAX_CONDITION.powi(2) {
            return None;
        }
        let change: Matrix<f64> = std::array::from_fn(|a| {
            std::array::from_fn(|x| cell.vectors[a][x] - reference.vectors[a][x])
        });
        let allowed =
            0.5 * (least_stretch(&reference.dual, &change) * (cutoff + skin) - cutoff) - slack;
        (allowed >= 0.0).then_some(Self {
            cell,
            change: Some(change),
            allowed,
        })
    }

    /// An atom at a new position, or `None` where it has moved too far.
    #[inline]
    fn follow(&self, reference: &Reference, position: [f64; 3], index: u32) -> Option<BinnedAtom> {
        let (wrapped, coordinates, cells) =
            bins::wrap(&self.cell, position, index as usize).ok()?;
        // Faces of the cell crossed since then, by drifting or because the caller wrapped the atom: the nearest image
        // is the atom's own, and any other would do.
        let crossed: [i32; 3] = std::array::from_fn(|axis| {
            if self.cell.pbc[axis] {
                (coordinates[axis] - reference.coordinates[axis]).round() as i32
            } else {
                0
            }
        });
        let back = self.cell.shift(crossed);
        let mut displacement: [f64; 3] =
            std::array::from_fn(|x| (wrapped[x] - reference.position[x]) - back[x]);
        let mut rounding = 0.0;
        if let Some(change) = &self.change {
            for axis in 0..3 {
                for x in 0..3 {
                    let affine = reference.coordinates[axis] * change[axis][x];
                    displacement[x] -= affine;
                    rounding += affine.abs();
                }
            }
        }
        // NaN, from a reference at infinity, counts as too large.
        let near = norm(&displacement) + 1e-10 * rounding <= self.allowed;
        near.then_some(BinnedAtom {
            position: wrapped,
            cells: std::array::from_fn(|axis| cells[axis] + crossed[axis]),
            crossed: crossed.map(|n| n as i8),
            index,
        })
    }
}

/// A lower bound of the smallest singular value of F = 1 + dualᵀ·change, exact for uniform stretching; 0 where there
/// is none.
fn least_stretch(dual: &Matrix<f64>, change: &Matrix<f64>) -> f64 {
    // F - 1 as a matrix that multiplies rows of coordinates from the right.
    let strain: Matrix<f64> = std::array::from_fn(|x| {
        std::array::from_fn(|y| (0..3).map(|a| dual[a][x] * change[a][y]).sum())
    });
    // F Fᵀ - 1, which rotations leave alone.
    let excess: Matrix<f64> = std::array::from_fn(|x| {
        std::array::from_fn(|y| strain[x][y] + strain[y][x] + dot(&strain[x], &strain[y]))
    });
    let mean = (excess[0][0] + excess[1][1] + excess[2][2]) / 3.0;
    let mut deviation = 0.0;
    for x in 0..3 {
        for y in 0..3 {
            deviation += (excess[x][y] - if x == y { mean } else { 0.0 }).powi(2);
        }
    }
    // The eigenvalues of a traceless symmetric matrix are at most √(2/3) of its norm.
    (1.0 + mean - (deviation * 2.0 / 3.0).sqrt())
        .max(0.0)
        .sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUBE: Matrix<f64> = [[10.0, 0.0, 0.0], [0.0, 10.0, 0.0], [0.0, 0.0, 10.0]];

    fn stretch(cell: &Matrix<f64>) -> f64 {
        let before = UnitCell::new(&CUBE, [true; 3], 0).unwrap();
        let change: Matrix<f64> =
            std::array::from_fn(|a| std::array::from_fn(|x| cell[a][x] - CUBE[a][x]));
        least_stretch(&before.dual, &change)
    }

    #[test]
    fn stretches_are_bounded_from_below() {
        assert!((stretch(&CUBE.map(|row| row.map(|x| 0.9 * x))) - 0.9).abs() < 1e-14);
        assert!((stretch(&CUBE.map(|row| row.map(|x| 1.2 * x))) - 1.2).abs() < 1e-14);
        // A rotation.
        assert!(
            (stretch(&[[0.0, 10.0, 0.0], [-10.0, 0.0, 0.0], [0.0, 0.0, 10.0]]) - 1.0).abs() < 1e-14
        );
        // Compression along one axis only.
        let one = stretch(&[[9.0, 0.0, 0.0], [0.0, 10.0, 0.0], [0.0, 0.0, 10.0]]);
        assert!((0.899..=0.9).contains(&one), "{one}");
        // Simple shear by t: σ_min = √(1 + t²/4) - t/2.
        let t: f64 = 0.1;
        let shear = stretch(&[[10.0, 0.0, 0.0], [10.0 * t, 10.0, 0.0], [0.0, 0.0, 10.0]]);
        let exact = (1.0 + t * t / 4.0).sqrt() - t / 2.0;
        assert!(
            shear <= exact + 1e-14 && shear > exact - 0.02,
            "{shear} {exact}"
        );
        assert_eq!(stretch(&[[0.0; 3]; 3]), 0.0);
    }
}
