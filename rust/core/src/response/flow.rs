//! Charge that flows along edges in place of an answer of each atom to the potential at itself.
//!
//! With conductances c of the edges, incidence B and Laplacian Λ = Bᵀ diag(c) B, and the placement w of the total charge
//! (sum 1), the rows of the charges of J0 = L + R M, which are then derivatives of the potentials that drive the flow, become
//!
//! ```text
//! J_q = 1 - w 1ᵀ + (Λ + s w wᵀ) J0_q,
//! ```
//!
//! and those of the column c likewise. Their sum over the atoms is s wᵀ J0_q: the Fermi level is that of the placement.
//! Source: Nistor, Polihronov, Müser and Mosey, J. Chem. Phys. 125, 094108 (2006), with the flows eliminated.

use super::dense::add_scaled;
use rayon::prelude::*;

/// s per atom of the system, e/V. It changes no solution, only the size of residuals.
pub const CAPACITY: f64 = 0.1;

/// Edges and placement of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Edges<'a> {
    /// Atoms of each edge, of one system.
    pub ends: &'a [[i64; 2]],
    /// c in e/V, not negative.
    pub conductance: &'a [f64],
    /// w `[atom]`.
    pub placement: &'a [f64],
}

/// Flow of one system.
pub struct Flow {
    /// Other atom and conductance of the edges of each atom.
    edges: Vec<Vec<(usize, f64)>>,
    placement: Vec<f64>,
}

impl Flow {
    pub fn new(edges: Vec<Vec<(usize, f64)>>, placement: Vec<f64>) -> Self {
        Self { edges, placement }
    }

    fn capacity(&self) -> f64 {
        CAPACITY * self.placement.len() as f64
    }

    /// Λ + s w wᵀ on the charges of rows of `width` entries, one per component of `n_lm` of each atom.
    pub fn through(&self, rows: &mut [f64], n_lm: usize, width: usize) {
        let charges: Vec<f64> = rows
            .chunks_exact(width)
            .step_by(n_lm)
            .flatten()
            .copied()
            .collect();
        let row = |atom: usize| &charges[atom * width..(atom + 1) * width];
        let mut placed = vec![0.0; width];
        for (atom, &w) in self.placement.iter().enumerate() {
            add_scaled(&mut placed, row(atom), self.capacity() * w);
        }
        rows.par_chunks_exact_mut(n_lm * width)
            .with_min_len(16)
            .enumerate()
            .for_each(|(atom, out)| {
                let out = &mut out[..width];
                out.fill(0.0);
                for &(other, conductance) in &self.edges[atom] {
                    add_scaled(out, row(atom), conductance);
                    add_scaled(out, row(other), -conductance);
                }
                add_scaled(out, &placed, self.placement[atom]);
            });
    }

    /// Adds (1 - w 1ᵀ) x at the charges, or its transpose.
    pub fn keep(&self, x: &[f64], n_lm: usize, transpose: bool, out: &mut [f64]) {
        let charges = x.iter().step_by(n_lm);
        let total: f64 = match transpose {
            false => charges.sum(),
            true => charges.zip(&self.placement).map(|(x, w)| x * w).sum(),
        };
        for (atom, &w) in self.placement.iter().enumerate() {
            let taken = if transpose { total } else { w * total };
            out[atom * n_lm] += x[atom * n_lm] - taken;
        }
    }

    /// Adds 1 - w 1ᵀ to the charges of a matrix by rows of `width`.
    pub fn keep_in(&self, matrix: &mut [f64], n_lm: usize, width: usize) {
        for (atom, &w) in self.placement.iter().enumerate() {
            let row = &mut matrix[atom * n_lm * width..][..self.placement.len() * n_lm];
            row.iter_mut().step_by(n_lm).for_each(|value| *value -= w);
            row[atom * n_lm] += 1.0;
        }
    }

    /// Block of an atom `[n_lm][n_lm]` of J from that of L, without what other atoms add.
    pub fn own_block(&self, atom: usize, block: &[f64], n_lm: usize) -> Vec<f64> {
        let w = self.placement[atom];
        let own = self.edges[atom].iter().map(|&(_, c)| c).sum::<f64>() + self.capacity() * w * w;
        let mut out = block.to_vec();
        out[..n_lm].iter_mut().for_each(|value| *value *= own);
        out[0] += 1.0 - w;
        out
    }
}
