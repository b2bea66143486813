//! Geometry of a cell with any mix of periodic and open axes.

use crate::arithmetic::vector::{Matrix, Vector, dot, norm, reciprocal_rows, scale};
use crate::error::{Error, Result, check_row};

/// Below this, the normalised volume (sine, for two vectors) of the periodic cell vectors counts as zero.
const SINGULAR: f64 = 1e-10;

/// A cell completed to a basis of space: the vectors of periodic axes are kept, every open axis gets a unit
/// vector orthogonal to all of them, so that coordinates along open axes are plain lengths.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UnitCell {
    /// Basis vectors as rows, Å.
    pub vectors: Matrix<f64>,
    /// Dual vectors as rows: `dual[a] · vectors[b] = (a == b)`, 1/Å.
    pub dual: Matrix<f64>,
    /// Periodic axes.
    pub pbc: [bool; 3],
}

impl UnitCell {
    /// Completes `cell` (rows are vectors; rows along open axes are ignored and may be zero). `system` names the
    /// cell in errors.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a non-finite entry, [`Error::SingularCell`] where the periodic vectors are
    /// linearly dependent.
    pub fn new(cell: &Matrix<f64>, pbc: [bool; 3], system: usize) -> Result<Self> {
        check_row("cell", cell.as_flattened(), system)?;
        let mut vectors = [[0.0; 3]; 3];
        // Directions found so far, orthonormalised; what remains of the next vector measures its independence.
        let mut directions: Vec<Vector<f64>> = Vec::with_capacity(3);
        let mut measure = 1.0;
        for axis in (0..3).filter(|&axis| pbc[axis]) {
            vectors[axis] = cell[axis];
            let length = norm(&cell[axis]);
            let rest = reject(cell[axis].map(|entry| entry / length), &directions);
            measure *= norm(&rest);
            // A zero vector has measure NaN.
            if measure.is_nan() || measure <= SINGULAR || !length.is_normal() {
                let measure = if measure.is_finite() { measure } else { 0.0 };
                return Err(Error::SingularCell { system, measure });
            }
            directions.push(scale(&rest, 1.0 / norm(&rest)));
        }
        for axis in (0..3).filter(|&axis| !pbc[axis]) {
            // The Cartesian axis with the largest component outside the span; its own number is tried first, so
            // that an open system keeps x, y, z.
            let mut best = [0.0; 3];
            for step in 0..3 {
                let mut unit = [0.0; 3];
                unit[(axis + step) % 3] = 1.0;
                let rest = reject(unit, &directions);
                if norm(&rest) > norm(&best) + 1e-9 {
                    best = rest;
                }
            }
            vectors[axis] = scale(&best, 1.0 / norm(&best));
            directions.push(vectors[axis]);
        }
        let dual = reciprocal_rows(&vectors);
        Ok(Self { vectors, dual, pbc })
    }

    /// Distances between opposite faces of the cell, Å: perpendicular to the other periodic vectors, within the
    /// space that the periodic vectors span. Infinite along open axes.
    pub fn heights(&self) -> Vector<f64> {
        std::array::from_fn(|axis| {
            if self.pbc[axis] {
                1.0 / norm(&self.dual[axis])
            } else {
                f64::INFINITY
            }
        })
    }

    /// How many images of the cell on either side, along each axis, hold every atom within `cutoff` of an atom of
    /// the cell, when all atoms are wrapped into it. Zero along open axes.
    pub fn images(&self, cutoff: f64) -> Vector<f64> {
        self.heights().map(|height| (cutoff / height).ceil())
    }

    /// Coordinates in the basis: fractional along periodic axes, lengths along open ones.
    pub fn coordinates(&self, position: Vector<f64>) -> Vector<f64> {
        self.dual.map(|dual| dot(&dual, &position))
    }

    /// Moves a position into the cell along its periodic axes. Returns the position, its coordinates and the
    /// number of cell vectors taken off, or `None` where that number does not fit.
    pub fn wrap(&self, position: Vector<f64>) -> Option<(Vector<f64>, Vector<f64>, [i32; 3])> {
        let mut wrapped = position;
        let mut cells = [0_i32; 3];
        let mut coordinates = self.coordinates(wrapped);
        // A second pass moves in a position that rounding left just outside in the first.
        for _ in 0..2 {
            let mut moved = false;
            for axis in 0..3 {
                let whole = coordinates[axis].floor();
                if self.pbc[axis] && whole != 0.0 {
                    // Bounded well inside i32 so that differences of shifts cannot overflow.
                    if whole.abs() > f64::from(1 << 28) {
                        return None;
                    }
                    cells[axis] += whole as i32;
                    moved = true;
                }
            }
            if !moved {
                break;
            }
            let back = self.shift(cells);
            wrapped = std::array::from_fn(|axis| position[axis] - back[axis]);
            coordinates = self.coordinates(wrapped);
        }
        Some((wrapped, coordinates, cells))
    }

    /// The Cartesian vector of a cell shift. Exactly odd: `shift(-s) == -shift(s)`.
    #[inline(always)]
    pub fn shift(&self, cells: [i32; 3]) -> Vector<f64> {
        let [a, b, c] = cells.map(f64::from);
        std::array::from_fn(|axis| {
            a * self.vectors[0][axis] + b * self.vectors[1][axis] + c * self.vectors[2][axis]
        })
    }
}

/// The part of `vector` orthogonal to the orthonormal `directions`.
fn reject(vector: Vector<f64>, directions: &[Vector<f64>]) -> Vector<f64> {
    directions.iter().fold(vector, |rest, direction| {
        let along = dot(&rest, direction);
        std::array::from_fn(|axis| rest[axis] - along * direction[axis])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::vector::cross;

    #[test]
    fn heights_of_a_sheared_cell() {
        let vectors = [[2.0, 0.0, 0.0], [1.0, 3.0, 0.0], [0.5, 0.5, 4.0]];
        let cell = UnitCell::new(&vectors, [true; 3], 0).unwrap();
        let volume: f64 = 24.0;
        let faces = [
            cross(&vectors[1], &vectors[2]),
            cross(&vectors[2], &vectors[0]),
            cross(&vectors[0], &vectors[1]),
        ];
        for (height, face) in cell.heights().iter().zip(faces) {
            assert!((height - volume / norm(&face)).abs() < 1e-14);
        }
        assert_eq!(cell.images(4.1), [3.0, 2.0, 2.0]);
    }

    #[test]
    fn a_slab_measures_heights_in_its_plane() {
        let vectors = [[3.0, 0.0, 0.0], [3.0, 4.0, 0.0], [0.0; 3]];
        let cell = UnitCell::new(&vectors, [true, true, false], 0).unwrap();
        let heights = cell.heights();
        assert!((heights[0] - 2.4).abs() < 1e-14 && (heights[1] - 4.0).abs() < 1e-14);
        assert!(heights[2].is_infinite());
        assert_eq!(cell.images(2.5), [2.0, 1.0, 0.0]);
        assert_eq!(cell.vectors[2], [0.0, 0.0, 1.0]);
    }

    #[test]
    fn open_axes_complete_any_basis() {
        for bits in 0..8_u8 {
            let pbc = [bits & 1 != 0, bits & 2 != 0, bits & 4 != 0];
            let vectors = [[0.0, 0.0, -3.0], [2.0, 0.1, 0.0], [1.0, 5.0, 0.3]];
            let cell = UnitCell::new(&vectors, pbc, 0).unwrap();
            for a in 0..3 {
                for b in 0..3 {
                    let expected = f64::from(u8::from(a == b));
                    assert!((dot(&cell.dual[a], &cell.vectors[b]) - expected).abs() < 1e-12);
                    if a != b && !pbc[a] {
                        assert!(dot(&cell.vectors[a], &cell.vectors[b]).abs() < 1e-12);
                    }
                }
            }
        }
    }

    #[test]
    fn wrapping_undoes_itself() {
        let vectors = [[2.0, 0.1, 0.0], [-1.0, -3.0, 0.2], [0.5, 0.5, 4.0]];
        let cell = UnitCell::new(&vectors, [true, false, true], 0).unwrap();
        let position = [17.3, -250.0, 1234.5];
        let (wrapped, coordinates, cells) = cell.wrap(position).unwrap();
        let back = cell.shift(cells);
        for axis in 0..3 {
            assert!((wrapped[axis] + back[axis] - position[axis]).abs() < 1e-11);
        }
        assert!((0.0..1.0).contains(&coordinates[0]) && (0.0..1.0).contains(&coordinates[2]));
        assert_eq!(cells[1], 0);
        assert!(cell.wrap([1e15, 0.0, 0.0]).is_none());
    }

    #[test]
    fn dependent_vectors_are_refused() {
        let flat = [[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [0.0, 0.0, 1.0]];
        assert!(matches!(
            UnitCell::new(&flat, [true; 3], 4),
            Err(Error::SingularCell { system: 4, .. })
        ));
        assert!(UnitCell::new(&flat, [true, false, true], 0).is_ok());
        assert!(matches!(
            UnitCell::new(&[[0.0; 3]; 3], [false, true, false], 0),
            Err(Error::SingularCell { measure: 0.0, .. })
        ));
        let nan = [[1.0, f64::NAN, 0.0]; 3];
        assert!(matches!(
            UnitCell::new(&nan, [false; 3], 2),
            Err(Error::NonFinite {
                array: "cell",
                index: 2,
                ..
            })
        ));
    }
}
