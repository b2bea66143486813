//! Dense matrices: products, and LU factors for solves with the matrix and its transpose.
//!
//! Work is split into blocks of fixed size, so that results do not depend on the number of threads.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::lu::partial_pivoting::factor::{
    PartialPivLuParams, lu_in_place, lu_in_place_scratch,
};
use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve::solve_unit_lower_triangular_in_place;
use faer::{Accum, Mat, MatMut, MatRef, Par, Side, Spec};
use rayon::prelude::*;

/// Columns factored together.
const PANEL: usize = 64;
/// Columns updated by one task.
const TASK: usize = 96;
/// Partial sums of a dot product, for vector instructions.
const LANES: usize = 16;

/// a · b, summed in a fixed order.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; LANES];
    let (a, b) = (&a[..b.len()], b);
    let (left, left_rest) = a.as_chunks::<LANES>();
    let (right, right_rest) = b.as_chunks::<LANES>();
    for (x, y) in left.iter().zip(right) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    let mut rest = 0.0;
    for (x, y) in left_rest.iter().zip(right_rest) {
        rest += x * y;
    }
    sums.iter().sum::<f64>() + rest
}

/// `target += factor * vector`
pub fn add_scaled(target: &mut [f64], vector: &[f64], factor: f64) {
    for (t, v) in target.iter_mut().zip(vector) {
        *t += factor * v;
    }
}

pub fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

/// M x of a matrix given by rows.
pub fn multiply(matrix: &[f64], x: &[f64]) -> Vec<f64> {
    let n_columns = x.len().max(1);
    let n_rows = matrix.len() / n_columns;
    let mut out = vec![0.0; n_rows];
    out.par_iter_mut()
        .with_min_len(64)
        .zip(matrix.par_chunks_exact(n_columns))
        .for_each(|(value, row)| *value = dot(row, x));
    out
}

/// Mᵀ g of a matrix with `n_columns`, given by rows.
pub fn multiply_transpose(matrix: &[f64], n_columns: usize, g: &[f64]) -> Vec<f64> {
    let width = 256;
    let height = 2048;
    if n_columns <= width && g.len() > height {
        // Rows in parts of fixed size, so that the order of sums does not depend on the threads.
        let parts: Vec<Vec<f64>> = matrix
            .par_chunks(height * n_columns)
            .zip(g.par_chunks(height))
            .map(|(rows, g)| {
                let mut sum = vec![0.0; n_columns];
                for (row, &factor) in rows.chunks_exact(n_columns).zip(g) {
                    add_scaled(&mut sum, row, factor);
                }
                sum
            })
            .collect();
        let mut out = vec![0.0; n_columns];
        for part in &parts {
            add_scaled(&mut out, part, 1.0);
        }
        return out;
    }
    let mut out = vec![0.0; n_columns];
    out.par_chunks_mut(width)
        .enumerate()
        .for_each(|(block, out)| {
            let start = block * width;
            for (row, &factor) in matrix.chunks_exact(n_columns).zip(g) {
                if factor != 0.0 {
                    add_scaled(out, &row[start..start + out.len()], factor);
                }
            }
        });
    out
}

/// The matrix is singular to working precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Singular;

/// LU factors of a square matrix, with the matrix for refinement.
pub struct Factors {
    n: usize,
    matrix: Vec<f64>,
    /// Column after column of the scaled transpose: unit lower triangle and upper triangle.
    lu: Vec<f64>,
    /// Row i of the factored transpose was row `order[i]`.
    order: Vec<usize>,
    row_scale: Vec<f64>,
    column_scale: Vec<f64>,
}

/// Power of two next to 1/x, which scales without rounding.
fn inverse_power(x: f64) -> f64 {
    if x > 0.0 && x.is_finite() {
        (-x.log2().round()).exp2()
    } else {
        1.0
    }
}

impl Factors {
    /// Factors `matrix`, given by rows.
    pub fn new(matrix: Vec<f64>) -> Result<Self, Singular> {
        let n = matrix.len().isqrt();
        let maximum = |row: &[f64]| row.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        let row_scale: Vec<f64> = matrix
            .par_chunks_exact(n.max(1))
            .with_min_len(64)
            .map(|row| inverse_power(maximum(row)))
            .collect();
        let mut columns = vec![0.0f64; n];
        for (row, scale) in matrix.chunks_exact(n.max(1)).zip(&row_scale) {
            for (column, x) in columns.iter_mut().zip(row) {
                *column = column.max((x * scale).abs());
            }
        }
        let column_scale: Vec<f64> = columns.iter().map(|&m| inverse_power(m)).collect();
        // The transpose is factored: its columns are the rows of the matrix.
        let mut lu = matrix.clone();
        lu.par_chunks_exact_mut(n.max(1))
            .with_min_len(64)
            .zip(&row_scale)
            .for_each(|(row, scale)| {
                for (x, column) in row.iter_mut().zip(&column_scale) {
                    *x *= scale * column;
                }
            });
        let order = factor(&mut lu, n);
        let pivots = (0..n).map(|i| lu[i * n + i].abs());
        let (mut smallest, mut largest) = (f64::INFINITY, 0.0f64);
        for pivot in pivots {
            if !pivot.is_finite() {
                return Err(Singular);
            }
            smallest = smallest.min(pivot);
            largest = largest.max(pivot);
        }
        if smallest <= threshold(n) * largest || n == 0 {
            return Err(Singular);
        }
        Ok(Self {
            n,
            matrix,
            lu,
            order,
            row_scale,
            column_scale,
        })
    }

    /// Solves K x = b, or Kᵀ x = b, with one step of refinement.
    pub fn solve(&self, b: &[f64], transpose: bool) -> Result<Vec<f64>, Singular> {
        let mut x = self.substitute(b, transpose);
        let product = if transpose {
            multiply_transpose(&self.matrix, self.n, &x)
        } else {
            multiply(&self.matrix, &x)
        };
        let residual: Vec<f64> = b.iter().zip(&product).map(|(b, p)| b - p).collect();
        let correction = self.substitute(&residual, transpose);
        add_scaled(&mut x, &correction, 1.0);
        if x.iter().all(|value| value.is_finite()) {
            Ok(x)
        } else {
            Err(Singular)
        }
    }

    /// [`Self::solve`] without refinement.
    pub fn substitute(&self, b: &[f64], transpose: bool) -> Vec<f64> {
        let n = self.n;
        if transpose {
            // With S K T = (P⁻¹ L U)ᵀ: L U (x/s) = P (T b)
            let mut x: Vec<f64> = self
                .order
                .iter()
                .map(|&row| b[row] * self.column_scale[row])
                .collect();
            for j in 0..n {
                let (head, tail) = x.split_at_mut(j + 1);
                add_scaled(tail, &self.lu[j * n + j + 1..(j + 1) * n], -head[j]);
            }
            for j in (0..n).rev() {
                let (head, tail) = x.split_at_mut(j);
                tail[0] /= self.lu[j * n + j];
                add_scaled(head, &self.lu[j * n..j * n + j], -tail[0]);
            }
            for (value, scale) in x.iter_mut().zip(&self.row_scale) {
                *value *= scale;
            }
            x
        } else {
            // Uᵀ Lᵀ P (x/t) = S b
            let mut z: Vec<f64> = b.iter().zip(&self.row_scale).map(|(b, s)| b * s).collect();
            for j in 0..n {
                let sum = dot(&self.lu[j * n..j * n + j], &z[..j]);
                z[j] = (z[j] - sum) / self.lu[j * n + j];
            }
            for j in (0..n).rev() {
                z[j] -= dot(&self.lu[j * n + j + 1..(j + 1) * n], &z[j + 1..]);
            }
            let mut x = vec![0.0; n];
            for (&row, value) in self.order.iter().zip(z) {
                x[row] = value * self.column_scale[row];
            }
            x
        }
    }
}

/// True if S of the symmetric K = [[S, c], [wᵀ, d]] has a Cholesky decomposition; of a `constrained` one it is S on changes
/// of zero sum, in the basis e_i - e_n.
pub fn positive_definite(matrix: &[f64], constrained: bool) -> bool {
    let size = matrix.len().isqrt();
    let n = (size - 1).saturating_sub(usize::from(constrained));
    let s = |i: usize, j: usize| matrix[i * size + j];
    let reduced = Mat::from_fn(n, n, |i, j| {
        if constrained {
            s(i, j) - s(i, n) - s(n, j) + s(n, n)
        } else {
            s(i, j)
        }
    });
    n == 0 || reduced.llt(Side::Lower).is_ok()
}

/// The smallest eigenvalue of that matrix in an orthonormal basis, and the row with the largest weight in its eigenvector.
pub fn softest(matrix: &[f64], constrained: bool) -> Option<(f64, usize)> {
    let size = matrix.len().isqrt();
    let n = size - 1;
    let s = |i: usize, j: usize| matrix[i * size + j];
    let mean = |i: usize| (0..n).map(|j| s(i, j)).sum::<f64>() / n as f64;
    let means: Vec<f64> = match constrained {
        true => (0..n).map(mean).collect(),
        false => vec![0.0; n],
    };
    let whole = means.iter().sum::<f64>() / n as f64;
    let projected = Mat::from_fn(n, n, |i, j| s(i, j) - means[i] - means[j] + whole);
    let found = projected.self_adjoint_eigen(Side::Lower).ok()?;
    let vector = found.U().col(0);
    let row = (0..n).max_by(|&a, &b| vector[a].abs().total_cmp(&vector[b].abs()))?;
    Some((found.S()[0], row))
}

/// Relative size of pivots that are rounding errors.
fn threshold(n: usize) -> f64 {
    4.0 * n as f64 * f64::EPSILON
}

/// LU with partial pivoting of a matrix given by columns; returns the original index of each row.
fn factor(a: &mut [f64], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    let params = Spec::<PartialPivLuParams, f64>::default();
    for start in (0..n).step_by(PANEL) {
        let end = (start + PANEL).min(n);
        let (done, trailing) = a.split_at_mut(end * n);
        let (left, panel) = done.split_at_mut(start * n);
        let mut rows = vec![0usize; n - start];
        let mut inverse = vec![0usize; n - start];
        let mut buffer = MemBuffer::new(lu_in_place_scratch::<usize, f64>(
            n - start,
            end - start,
            Par::Seq,
            params,
        ));
        lu_in_place(
            MatMut::from_column_major_slice_mut(panel, n, end - start)
                .subrows_mut(start, n - start),
            &mut rows,
            &mut inverse,
            Par::Seq,
            MemStack::new(&mut buffer),
            params,
        );
        // Only few rows move in one panel.
        let moved: Vec<(usize, usize)> = rows
            .iter()
            .enumerate()
            .filter(|&(new, &old)| new != old)
            .map(|(new, &old)| (start + new, start + old))
            .collect();
        permute(&mut order, &moved);
        left.par_chunks_exact_mut(n)
            .with_min_len(64)
            .for_each(|column| permute(column, &moved));
        let panel = MatRef::from_column_major_slice(panel, n, end - start);
        let diagonal = panel.subrows(start, end - start);
        let below = panel.subrows(end, n - end);
        trailing.par_chunks_mut(TASK * n).for_each(|columns| {
            for column in columns.chunks_exact_mut(n) {
                permute(column, &moved);
            }
            let n_columns = columns.len() / n;
            let block = MatMut::from_column_major_slice_mut(columns, n, n_columns);
            let (_, block) = block.split_at_row_mut(start);
            let (mut upper, lower) = block.split_at_row_mut(end - start);
            solve_unit_lower_triangular_in_place(diagonal, upper.as_mut(), Par::Seq);
            matmul(lower, Accum::Add, below, upper.as_ref(), -1.0, Par::Seq);
        });
    }
    order
}

/// Moves values from `old` to `new` for all pairs (new, old) at once.
fn permute<V: Copy>(values: &mut [V], moved: &[(usize, usize)]) {
    let taken: Vec<V> = moved.iter().map(|&(_, old)| values[old]).collect();
    for (&(new, _), value) in moved.iter().zip(taken) {
        values[new] = value;
    }
}
