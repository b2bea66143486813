//! The blocks of one system's Jacobian: products with them, the dense matrix, the preconditioner.

use super::dense::{Factors, Singular, add_scaled, dot};
use super::long_waves::LongWaves;
use crate::arithmetic::workspace::Workspace;
use rayon::prelude::*;
use std::sync::OnceLock;

/// The blocks of one system.
pub struct System {
    pub index: usize,
    pub n_atoms: usize,
    pub n_lm: usize,
    pub n_rows: usize,
    pub left: Option<Vec<f64>>,
    pub right: Option<Vec<f64>>,
    pub column: Vec<f64>,
    pub constrained: bool,
    pub dense: bool,
    /// Whether K is symmetric.
    pub symmetric: bool,
    pub factors: OnceLock<Result<Factors, Singular>>,
    /// What iterations are preconditioned with, made at the first.
    pub approximation: OnceLock<Approximation>,
}

/// Parts of an approximate inverse of L + R M.
pub struct Approximation {
    pub inverses: Option<BlockDiagonal>,
    pub waves: Option<LongWaves>,
}

/// `value` at the charge of each atom.
pub fn charges(n_atoms: usize, n_lm: usize, value: f64) -> Vec<f64> {
    let mut out = vec![0.0; n_atoms * n_lm];
    for row in out.chunks_exact_mut(n_lm) {
        row[0] = value;
    }
    out
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

    /// K by rows; without the last row and column at constant Fermi level.
    pub fn assemble(&self, matrix: &[f64]) -> Vec<f64> {
        let n = self.n_atoms * self.n_lm;
        let size = n + usize::from(self.constrained);
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
                    if self.constrained {
                        row[n] = self.column[start + a];
                    }
                }
            });
        if self.constrained {
            for atom in 0..self.n_atoms {
                out[n * size + atom * self.n_lm] = 1.0;
            }
        }
        out
    }

    /// R Ψ of a matrix given by rows of `n_columns`.
    pub fn right_rows(&self, rows: &[f64], n_columns: usize) -> Workspace<f64> {
        let mut out = Workspace::take(self.n_atoms * self.n_lm * n_columns);
        let Some(right) = &self.right else {
            out.copy_from_slice(rows);
            return out;
        };
        out.fill(0.0);
        out.par_chunks_exact_mut(self.n_lm * n_columns)
            .with_min_len(16)
            .zip(right.par_chunks_exact(self.n_rows * self.n_lm))
            .zip(rows.par_chunks_exact(self.n_rows * n_columns))
            .for_each(|((out, block), panel)| multiply_block(block, panel, n_columns, out));
        out
    }

    /// The inverses of the blocks of L, where they are not the identity.
    pub fn inverses(&self) -> Option<BlockDiagonal> {
        let n = self.n_lm;
        let values = self.left.as_ref()?.chunks_exact(n * n).flat_map(|block| {
            // A block that cannot be inverted is left out of the preconditioner.
            invert(block, n).unwrap_or_else(|| identity(n))
        });
        Some(BlockDiagonal {
            n,
            values: values.collect(),
        })
    }

    /// K with the long waves of M alone, or without any, inverted; keeps Krylov iterations few.
    ///
    /// The own blocks of R M would cost several products and save almost no iterations (water: 34 instead of 34).
    pub fn preconditioner<'a>(
        &self,
        inverses: Option<&'a BlockDiagonal>,
        waves: Option<&'a LongWaves>,
        transpose: bool,
    ) -> Preconditioner<'a> {
        let ones = charges(self.n_atoms, self.n_lm, 1.0);
        let (column, row) = if transpose {
            (ones, self.column.clone())
        } else {
            (self.column.clone(), ones)
        };
        let mut out = Preconditioner {
            inverses,
            waves,
            transpose,
            column: Vec::new(),
            row,
            schur: None,
        };
        if self.constrained {
            let column = out.inner(&column);
            let schur = dot(&out.row, &column);
            let scale = out
                .row
                .iter()
                .zip(&column)
                .map(|(a, b)| (a * b).abs())
                .sum::<f64>();
            out.column = column;
            out.schur = (schur.abs() > 1e-8 * scale).then_some(schur);
        }
        out
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
    /// Their product with a vector, or that of their transposes.
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

    /// Their product with a matrix given by rows of `n_columns`.
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

/// The inverse of [[P, c], [1_q^T, 0]], or of P alone, or of their transposes; P is L, with long waves or without.
pub struct Preconditioner<'a> {
    /// L⁻¹; the identity where None.
    inverses: Option<&'a BlockDiagonal>,
    waves: Option<&'a LongWaves>,
    transpose: bool,
    /// P⁻¹ c; empty without a border.
    column: Vec<f64>,
    row: Vec<f64>,
    /// 1_q^T P⁻¹ c, where it can be divided by.
    schur: Option<f64>,
}

impl Preconditioner<'_> {
    /// P⁻¹ x.
    fn inner(&self, x: &[f64]) -> Vec<f64> {
        let blocks = |x: Vec<f64>| match self.inverses {
            Some(inverses) => inverses.product(&x, self.transpose),
            None => x,
        };
        let mut x = x.to_vec();
        let Some(waves) = self.waves else {
            return blocks(x);
        };
        if self.transpose {
            waves.before(&mut x);
            return blocks(x);
        }
        let mut z = blocks(x);
        waves.after(&mut z);
        z
    }

    pub fn solve(&self, b: &[f64]) -> Vec<f64> {
        if self.column.is_empty() {
            return self.inner(b);
        }
        let n = b.len() - 1;
        let mut x = self.inner(&b[..n]);
        let y = match self.schur {
            Some(schur) => (dot(&self.row, &x) - b[n]) / schur,
            None => {
                x.push(b[n]);
                return x;
            }
        };
        add_scaled(&mut x, &self.column, -y);
        x.push(y);
        x
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
