//! Blocks of the Jacobian of one system: products with them, the dense matrix, an approximate inverse.

use super::border::Border;
use super::dense::{Factors, Singular, add_scaled, dot};
use super::flow::Flow;
use super::long_waves::LongWaves;
use crate::arithmetic::workspace::Workspace;
use rayon::prelude::*;
use std::sync::OnceLock;

/// Blocks of one system.
pub struct System {
    pub index: usize,
    pub n_atoms: usize,
    pub n_lm: usize,
    pub n_rows: usize,
    pub left: Option<Vec<f64>>,
    pub right: Option<Vec<f64>>,
    pub flow: Option<Flow>,
    pub border: Border,
    pub constrained: bool,
    pub dense: bool,
    /// True if K is symmetric.
    pub symmetric: bool,
    pub factors: OnceLock<Result<Factors, Singular>>,
    /// Parts of the preconditioner, made at the first iteration.
    pub approximation: OnceLock<Approximation>,
}

/// Parts of the approximate inverse of L + R M.
pub struct Approximation {
    pub inverses: Option<BlockDiagonal>,
    pub waves: Option<LongWaves>,
}

impl System {
    /// L x, or Lᵀ x.
    pub fn left_product(&self, x: &[f64], transpose: bool) -> Vec<f64> {
        let Some(left) = &self.left else {
            return x.to_vec();
        };
        let n = self.n_lm;
        let mut out = vec![0.0; x.len()];
        for ((block, x), out) in left
            .chunks_exact(n * n)
            .zip(x.chunks_exact(n))
            .zip(out.chunks_exact_mut(n))
        {
            for a in 0..n {
                for b in 0..n {
                    if transpose {
                        out[b] += block[a * n + b] * x[a];
                    } else {
                        out[a] += block[a * n + b] * x[b];
                    }
                }
            }
        }
        out
    }

    /// R v.
    pub fn right_product(&self, v: &[f64]) -> Vec<f64> {
        let Some(right) = &self.right else {
            return v.to_vec();
        };
        right
            .chunks_exact(self.n_rows)
            .enumerate()
            .map(|(row, block)| {
                let atom = row / self.n_lm;
                dot(block, &v[atom * self.n_rows..(atom + 1) * self.n_rows])
            })
            .collect()
    }

    /// Rᵀ x.
    pub fn right_transpose(&self, x: &[f64]) -> Vec<f64> {
        let Some(right) = &self.right else {
            return x.to_vec();
        };
        let mut out = vec![0.0; self.n_atoms * self.n_rows];
        for (row, (block, &value)) in right.chunks_exact(self.n_rows).zip(x).enumerate() {
            let atom = row / self.n_lm;
            add_scaled(
                &mut out[atom * self.n_rows..(atom + 1) * self.n_rows],
                block,
                value,
            );
        }
        out
    }

    /// Unknowns without the Fermi level.
    pub fn n(&self) -> usize {
        self.n_atoms * self.n_lm
    }

    /// K by rows.
    pub fn assemble(&self, matrix: &[f64]) -> Vec<f64> {
        let n = self.n();
        let size = n + 1;
        let mut out = vec![0.0; size * size];
        out[..n * size]
            .par_chunks_mut(self.n_lm * size)
            .with_min_len(4)
            .enumerate()
            .for_each(|(atom, rows)| {
                let panel = &matrix[atom * self.n_rows * n..(atom + 1) * self.n_rows * n];
                for (a, row) in rows.chunks_exact_mut(size).enumerate() {
                    match &self.right {
                        None => row[..n].copy_from_slice(&panel[a * n..(a + 1) * n]),
                        Some(right) => {
                            let start = (atom * self.n_lm + a) * self.n_rows;
                            let block = &right[start..start + self.n_rows];
                            for (factor, m) in block.iter().zip(panel.chunks_exact(n)) {
                                add_scaled(&mut row[..n], m, *factor);
                            }
                        }
                    }
                    let start = atom * self.n_lm;
                    match &self.left {
                        None => row[start + a] += 1.0,
                        Some(left) => {
                            let block = (start + a) * self.n_lm;
                            let block = &left[block..block + self.n_lm];
                            add_scaled(&mut row[start..start + self.n_lm], block, 1.0);
                        }
                    }
                }
            });
        if let Some(flow) = &self.flow {
            flow.through(&mut out[..n * size], self.n_lm, size);
            flow.keep_in(&mut out[..n * size], self.n_lm, size);
        }
        for (row, column) in out.chunks_exact_mut(size).zip(self.border.column()) {
            row[n] = *column;
        }
        out[n * size..n * size + n].copy_from_slice(self.border.row());
        out[n * size + n] = self.border.corner();
        out
    }

    /// R Ψ of a matrix given by rows of `n_columns`, and what flows of it.
    pub fn right_rows(&self, rows: &[f64], n_columns: usize) -> Workspace<f64> {
        let mut out = Workspace::take(self.n_atoms * self.n_lm * n_columns);
        match &self.right {
            None => out.copy_from_slice(rows),
            Some(right) => {
                out.fill(0.0);
                out.par_chunks_exact_mut(self.n_lm * n_columns)
                    .with_min_len(16)
                    .zip(right.par_chunks_exact(self.n_rows * self.n_lm))
                    .zip(rows.par_chunks_exact(self.n_rows * n_columns))
                    .for_each(|((out, block), panel)| multiply_block(block, panel, n_columns, out));
            }
        }
        if let Some(flow) = &self.flow {
            flow.through(&mut out, self.n_lm, n_columns);
        }
        out
    }

    /// Inverses of the blocks of J without M; none for the identity.
    pub fn inverses(&self) -> Option<BlockDiagonal> {
        let n = self.n_lm;
        let one = identity(n);
        if self.left.is_none() && self.flow.is_none() {
            return None;
        }
        let values = (0..self.n_atoms).flat_map(|atom| {
            let left = self.left.as_ref();
            let mut block = left.map_or(one.clone(), |left| left[atom * n * n..][..n * n].to_vec());
            if let Some(flow) = &self.flow {
                block = flow.own_block(atom, &block, n);
            }
            // Singular blocks are left out of the preconditioner.
            invert(&block, n).unwrap_or_else(|| one.clone())
        });
        Some(BlockDiagonal {
            n,
            values: values.collect(),
        })
    }

    /// P⁻¹ x, or P⁻ᵀ x, with P = L (with its flow) and the long waves of M, or without any.
    ///
    /// The blocks of R M of each atom alone would cost several products and save almost no iterations (water: 34 of 34).
    pub fn approximate_inverse(
        &self,
        inverses: Option<&BlockDiagonal>,
        waves: Option<&LongWaves>,
        x: &[f64],
        transpose: bool,
    ) -> Vec<f64> {
        let mut x = x.to_vec();
        if let (Some(waves), true) = (waves, transpose) {
            waves.before(&mut x);
        }
        if let Some(inverses) = inverses {
            x = inverses.product(&x, transpose);
        }
        if let (Some(waves), false) = (waves, transpose) {
            waves.after(&mut x);
        }
        x
    }
}

/// out += block · panel, a small block by rows and a panel by rows of `n_columns`.
fn multiply_block(block: &[f64], panel: &[f64], n_columns: usize, out: &mut [f64]) {
    let n_rows = panel.len() / n_columns;
    for (factors, out) in block
        .chunks_exact(n_rows)
        .zip(out.chunks_exact_mut(n_columns))
    {
        for (&factor, row) in factors.iter().zip(panel.chunks_exact(n_columns)) {
            add_scaled(out, row, factor);
        }
    }
}

/// Square blocks on a diagonal.
pub struct BlockDiagonal {
    n: usize,
    /// `[block][row][column]`.
    values: Vec<f64>,
}

impl BlockDiagonal {
    /// Product with a vector, or of the transposes.
    fn product(&self, x: &[f64], transpose: bool) -> Vec<f64> {
        let n = self.n;
        let mut out = vec![0.0; x.len()];
        for ((block, x), out) in self
            .values
            .chunks_exact(n * n)
            .zip(x.chunks_exact(n))
            .zip(out.chunks_exact_mut(n))
        {
            for (row, (factors, &value)) in block.chunks_exact(n).zip(x).enumerate() {
                if transpose {
                    add_scaled(out, factors, value);
                } else {
                    out[row] = dot(factors, x);
                }
            }
        }
        out
    }

    /// Product with a matrix given by rows of `n_columns`.
    pub fn rows(&self, rows: &[f64], n_columns: usize) -> Workspace<f64> {
        let n = self.n;
        let mut out = Workspace::take(rows.len());
        out.fill(0.0);
        out.par_chunks_exact_mut(n * n_columns)
            .with_min_len(16)
            .zip(self.values.par_chunks_exact(n * n))
            .zip(rows.par_chunks_exact(n * n_columns))
            .for_each(|((out, block), panel)| multiply_block(block, panel, n_columns, out));
        out
    }
}

fn identity(n: usize) -> Vec<f64> {
    (0..n * n)
        .map(|k| if k % (n + 1) == 0 { 1.0 } else { 0.0 })
        .collect()
}

/// Gauss–Jordan inverse of a small matrix.
fn invert(matrix: &[f64], n: usize) -> Option<Vec<f64>> {
    let mut a = matrix.to_vec();
    let mut out = identity(n);
    for k in 0..n {
        let pivot = (k..n).max_by(|&i, &j| a[i * n + k].abs().total_cmp(&a[j * n + k].abs()))?;
        for column in 0..n {
            a.swap(k * n + column, pivot * n + column);
            out.swap(k * n + column, pivot * n + column);
        }
        let inverse = 1.0 / a[k * n + k];
        for column in 0..n {
            a[k * n + column] *= inverse;
            out[k * n + column] *= inverse;
        }
        for row in (0..n).filter(|&row| row != k) {
            let factor = a[row * n + k];
            for column in 0..n {
                a[row * n + column] -= factor * a[k * n + column];
                out[row * n + column] -= factor * out[k * n + column];
            }
        }
    }
    out.iter().all(|value| value.is_finite()).then_some(out)
}
