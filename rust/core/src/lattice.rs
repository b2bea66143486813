//! Cell of the k-vectors: the user's periodic vectors, completed along open axes by vectors normal to them, its
//! reciprocal vectors, and the derivative back to the user's cell.

use crate::arithmetic::Scalar;
use crate::arithmetic::vector::{
    Matrix, Vector, add_scaled, cross, determinant, dot, norm, reciprocal_rows, scale, sub,
    zero_matrix,
};
use crate::error::{Error, Result};
use rayon::prelude::*;

/// Number of periodic axes.
pub fn dimensions(pbc: [bool; 3]) -> usize {
    pbc.iter().filter(|&&periodic| periodic).count()
}

/// Measure of the periodic part of a cell: volume, area, length; one for open systems.
pub fn periodic_measure<T: Scalar>(cell: &Matrix<T>, pbc: [bool; 3]) -> T {
    let axes: Vec<usize> = (0..3).filter(|&axis| pbc[axis]).collect();
    match axes[..] {
        [] => T::constant(1.0),
        [a] => norm(&cell[a]),
        [a, b] => norm(&cross(&cell[a], &cell[b])),
        _ => {
            let volume = determinant(cell);
            if volume.value() < 0.0 {
                -volume
            } else {
                volume
            }
        }
    }
}

/// Refuses cells whose periodic vectors are (nearly) linearly dependent.
pub fn check_cell(cell: &Matrix<f64>, pbc: [bool; 3], system: usize) -> Result<()> {
    let lengths: f64 = (0..3)
        .filter(|&axis| pbc[axis])
        .map(|axis| norm(&cell[axis]))
        .product();
    let measure = periodic_measure(cell, pbc);
    if measure > 1e-8 * lengths && lengths > 0.0 || dimensions(pbc) == 0 {
        Ok(())
    } else {
        Err(Error::SingularCell { system, measure })
    }
}

/// The largest ratio of a periodic vector's length to the height of the cell along it: one for right angles.
pub fn obliqueness(cell: &Matrix<f64>, pbc: [bool; 3]) -> f64 {
    let measure = periodic_measure(cell, pbc);
    (0..3)
        .filter(|&axis| pbc[axis])
        .map(|axis| {
            let others = std::array::from_fn(|other| pbc[other] && other != axis);
            norm(&cell[axis]) * periodic_measure(cell, others) / measure
        })
        .fold(1.0, f64::max)
}

/// Cells no more oblique than this are left as they are.
pub const COMPACT: f64 = 2.0;

/// For an oblique cell the whole numbers M of shorter vectors M·cell of the same lattice; none for other cells.
///
/// In polynomials of k and in derivatives on a mesh, contributions of the vectors of an oblique cell cancel, and digits
/// are lost; there are also many more images within a distance along them than along short vectors.
pub fn compact(cell: &Matrix<f64>, pbc: [bool; 3]) -> Option<Matrix<f64>> {
    if obliqueness(cell, pbc) <= COMPACT {
        return None;
    }
    let axes: Vec<usize> = (0..3).filter(|&axis| pbc[axis]).collect();
    let mut numbers = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    let vectors = |numbers: &Matrix<f64>| numbers.map(|row| combination(&row, cell));
    // Each round shortens a vector; rounding ends it at the latest.
    for _ in 0..1000 {
        let mut shortened = false;
        for &a in &axes {
            let h = vectors(&numbers);
            let square = dot(&h[a], &h[a]);
            let others: Vec<usize> = axes.iter().copied().filter(|&axis| axis != a).collect();
            // Less of each other vector, and one more or less of both.
            let mut trials: Vec<Vector<f64>> = others
                .iter()
                .map(|&b| {
                    let n = -(dot(&h[a], &h[b]) / dot(&h[b], &h[b])).round();
                    let mut trial = numbers[a];
                    add_scaled(&mut trial, &numbers[b], n);
                    trial
                })
                .collect();
            if let [b, c] = others[..] {
                for [m, n] in [[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]] {
                    let mut trial = numbers[a];
                    add_scaled(&mut trial, &numbers[b], m);
                    add_scaled(&mut trial, &numbers[c], n);
                    trials.push(trial);
                }
            }
            for trial in trials {
                let shorter = combination(&trial, cell);
                if dot(&shorter, &shorter) < square * (1.0 - 1e-9) {
                    numbers[a] = trial;
                    shortened = true;
                    break;
                }
            }
        }
        if !shortened {
            break;
        }
    }
    Some(numbers)
}

/// Σ n_a · cell_a.
pub fn combination<T: Scalar>(numbers: &Vector<f64>, cell: &Matrix<T>) -> Vector<T> {
    let mut out = [T::zero(); 3];
    for (vector, &n) in cell.iter().zip(numbers) {
        if n != 0.0 {
            add_scaled(&mut out, vector, T::constant(n));
        }
    }
    out
}

/// Cell with reciprocal vectors b_j (b_j · h_i = 2π δ_ij).
#[derive(Clone, Debug)]
pub struct Lattice<T> {
    pub pbc: [bool; 3],
    pub vectors: Matrix<T>,
    pub reciprocal: Matrix<T>,
    /// |det| of `vectors`.
    pub volume: T,
    /// Length given to the vectors along open axes.
    pub open_length: f64,
}

fn unit<T: Scalar>(v: &Vector<T>) -> Vector<T> {
    scale(v, norm(v).recip())
}

/// Pulls a derivative back through `unit`.
fn pull_unit<T: Scalar>(v: &Vector<T>, derivative: &Vector<T>) -> Vector<T> {
    let length = norm(v).recip();
    let direction = scale(v, length);
    let along = dot(&direction, derivative);
    scale(&sub(derivative, &scale(&direction, along)), length)
}

impl<T: Scalar> Lattice<T> {
    /// Completes the periodic vectors of `cell` by orthogonal ones of `open_length`.
    pub fn new(cell: &Matrix<T>, pbc: [bool; 3], open_length: f64) -> Self {
        let mut vectors = *cell;
        match dimensions(pbc) {
            3 => {}
            2 => {
                let (a, b, c) = slab_axes(pbc);
                let normal = unit(&cross(&cell[a], &cell[b]));
                vectors[c] = scale(&normal, T::constant(open_length));
            }
            1 => {
                let (a, b, c) = wire_axes(pbc);
                let (first, second) = wire_frame(&cell[a]);
                vectors[b] = scale(&unit(&first), T::constant(open_length));
                vectors[c] = scale(&unit(&second), T::constant(open_length));
            }
            _ => {
                for axis in 0..3 {
                    vectors[axis] = [T::zero(); 3];
                    vectors[axis][axis] = T::constant(open_length);
                }
            }
        }
        let two_pi = T::constant(2.0 * std::f64::consts::PI);
        let reciprocal = reciprocal_rows(&vectors).map(|row| scale(&row, two_pi));
        let volume = determinant(&vectors);
        let volume = if volume.value() < 0.0 {
            -volume
        } else {
            volume
        };
        Self {
            pbc,
            vectors,
            reciprocal,
            volume,
            open_length,
        }
    }

    /// Adds to the derivatives in the reciprocal vectors what comes through the phases b·r of sites:
    /// ∂U/∂b_j ∋ Σ_i r_i (h_j · ∂U/∂r_i) / 2π.
    pub fn add_phases(
        &self,
        positions: &[Vector<T>],
        gradients: &[Vector<T>],
        reciprocal: &mut Matrix<T>,
    ) {
        // Σ r_i ⊗ ∂U/∂r_i in parts of fixed size, so that the order of sums does not depend on the threads.
        let parts: Vec<Matrix<T>> = positions
            .par_chunks(2048)
            .zip(gradients.par_chunks(2048))
            .map(|(positions, gradients)| {
                let mut sum = zero_matrix();
                for (position, gradient) in positions.iter().zip(gradients) {
                    for (row, &along) in sum.iter_mut().zip(gradient) {
                        add_scaled(row, position, along);
                    }
                }
                sum
            })
            .collect();
        for part in &parts {
            for (vector, row) in self.vectors.iter().zip(&mut *reciprocal) {
                for (&component, sum) in vector.iter().zip(part) {
                    add_scaled(row, sum, component * (0.5 / std::f64::consts::PI));
                }
            }
        }
    }

    /// Derivative in the user's cell, from derivatives in the reciprocal vectors and in the volume.
    pub fn pull_back(&self, reciprocal: &Matrix<T>, volume: T) -> Matrix<T> {
        // b = 2π h^{-T}: dU/dh = -(1/2π) b (dU/db)^T b, and dV/dh = V h^{-T} = V b / 2π.
        let mut out = zero_matrix();
        let b = &self.reciprocal;
        let inverse = 0.5 / std::f64::consts::PI;
        for i in 0..3 {
            add_scaled(&mut out[i], &b[i], volume * self.volume * inverse);
            for j in 0..3 {
                let factor = dot(&b[i], &reciprocal[j]) * -inverse;
                add_scaled(&mut out[i], &b[j], factor);
            }
        }
        self.release_open_axes(out)
    }

    /// Moves the derivatives in the completed vectors onto the periodic ones.
    fn release_open_axes(&self, mut derivative: Matrix<T>) -> Matrix<T> {
        let length = T::constant(self.open_length);
        let zero = [T::zero(); 3];
        match dimensions(self.pbc) {
            3 => {}
            2 => {
                let (a, b, c) = slab_axes(self.pbc);
                let (ha, hb) = (self.vectors[a], self.vectors[b]);
                let normal = pull_unit(&cross(&ha, &hb), &scale(&derivative[c], length));
                add_scaled(&mut derivative[a], &cross(&hb, &normal), T::constant(1.0));
                add_scaled(&mut derivative[b], &cross(&normal, &ha), T::constant(1.0));
                derivative[c] = zero;
            }
            1 => {
                let (a, b, c) = wire_axes(self.pbc);
                let h = self.vectors[a];
                let reference = reference_axis(&h);
                let (first, second) = wire_frame(&h);
                // first = h × e, second = unit(first) × h
                let direction = unit(&first);
                let d_second = pull_unit(&second, &scale(&derivative[c], length));
                let mut d_direction = scale(&derivative[b], length);
                add_scaled(&mut d_direction, &cross(&h, &d_second), T::constant(1.0));
                let mut d_h = cross(&d_second, &direction);
                let d_first = pull_unit(&first, &d_direction);
                add_scaled(&mut d_h, &cross(&reference, &d_first), T::constant(1.0));
                add_scaled(&mut derivative[a], &d_h, T::constant(1.0));
                derivative[b] = zero;
                derivative[c] = zero;
            }
            _ => derivative = zero_matrix(),
        }
        derivative
    }
}

/// The periodic axes and the open one.
fn slab_axes(pbc: [bool; 3]) -> (usize, usize, usize) {
    let open = (0..3).find(|&axis| !pbc[axis]).unwrap_or(2);
    ((open + 1) % 3, (open + 2) % 3, open)
}

/// The periodic axis and the open ones.
fn wire_axes(pbc: [bool; 3]) -> (usize, usize, usize) {
    let periodic = (0..3).find(|&axis| pbc[axis]).unwrap_or(0);
    (periodic, (periodic + 1) % 3, (periodic + 2) % 3)
}

fn reference_axis<T: Scalar>(h: &Vector<T>) -> Vector<T> {
    let mut axis = 0;
    for other in 1..3 {
        if h[other].value().abs() < h[axis].value().abs() {
            axis = other;
        }
    }
    let mut reference = [T::zero(); 3];
    reference[axis] = T::constant(1.0);
    reference
}

/// Two directions normal to a wire and to each other, not normalised.
fn wire_frame<T: Scalar>(h: &Vector<T>) -> (Vector<T>, Vector<T>) {
    let first = cross(h, &reference_axis(h));
    let second = cross(&unit(&first), h);
    (first, second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::Dual;

    const CELL: Matrix<f64> = [[4.0, 0.3, -0.5], [0.7, 5.0, 0.2], [-0.4, 0.6, -6.0]];

    /// A function of the reciprocal vectors and the volume, with its derivatives in them.
    fn sample<T: Scalar>(lattice: &Lattice<T>) -> (T, Matrix<T>, T) {
        let mut value = lattice.volume * 0.01 * lattice.volume;
        let mut derivative = zero_matrix();
        for i in 0..3 {
            for j in 0..3 {
                let b = lattice.reciprocal[i][j];
                let weight = (1 + i + 3 * j) as f64;
                value += b * b * b * weight;
                derivative[i][j] = b * b * (3.0 * weight);
            }
        }
        (value, derivative, lattice.volume * 0.02)
    }

    #[test]
    fn oblique_cells_become_compact() {
        let cube = [[4.0, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, 6.0]];
        assert_eq!(obliqueness(&cube, [true; 3]), 1.0);
        assert!(compact(&cube, [true; 3]).is_none());
        let sheared = [[4.0, 0.0, 0.0], [4e3, 5.0, 0.0], [-8e5, 3e4, 6.0]];
        assert!(obliqueness(&sheared, [true; 3]) > 1e4);
        for pbc in [[true; 3], [true, true, false], [false, true, true]] {
            let numbers = compact(&sheared, pbc).unwrap();
            let found = numbers.map(|row| combination(&row, &sheared));
            let oblique = obliqueness(&found, pbc);
            assert!(oblique <= COMPACT, "{oblique}");
            assert!((determinant(&numbers).abs() - 1.0).abs() < 1e-6);
            let measures = [found, sheared].map(|cell| periodic_measure(&cell, pbc));
            assert!((measures[0] / measures[1] - 1.0).abs() < 1e-9);
            for axis in (0..3).filter(|&axis| !pbc[axis]) {
                assert_eq!(found[axis], sheared[axis]);
                assert!((0..3).all(|other| other == axis || numbers[other][axis] == 0.0));
            }
        }
    }

    #[test]
    fn pull_back_is_the_derivative_for_every_boundary() {
        for mask in 0..8 {
            let pbc = [mask & 1 > 0, mask & 2 > 0, mask & 4 > 0];
            let lattice = Lattice::new(&CELL, pbc, 9.0);
            let (_, derivative, volume) = sample(&lattice);
            let exact = lattice.pull_back(&derivative, volume);
            for i in 0..3 {
                for j in 0..3 {
                    let mut cell = CELL.map(|row| row.map(Dual::constant));
                    cell[i][j].tangent = 1.0;
                    let tangent = sample(&Lattice::new(&cell, pbc, 9.0)).0.tangent;
                    assert!(
                        (tangent - exact[i][j]).abs() < 1e-10 * (1.0 + tangent.abs()),
                        "pbc {pbc:?} cell[{i}][{j}]: {tangent} against {}",
                        exact[i][j]
                    );
                }
            }
            assert!(mask == 0 || exact.iter().flatten().any(|d| d.abs() > 1e-3));
        }
    }
}
