//! The long waves of M inside an approximate inverse of L + R M.
//!
//! P = L + R Ψ Φᵀ with M ≈ Ψ Φᵀ at small k, where screening by the polarisation is strongest; for Gaussians short waves are
//! small compared with L. The analogue in plane-wave codes is Kerker's preconditioner (Phys. Rev. B 23, 3082), with the
//! response of an electron gas in place of the response R of each atom. The inverse is given by Woodbury's formula.

use super::dense::{Factors, add_scaled, multiply, multiply_transpose};
use super::system::{BlockDiagonal, System};
use crate::arithmetic::workspace::Workspace;
use crate::ewald::Waves;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

/// Largest number of pairs ±k for a system of so many unknowns. At a residual of 1e-10 water of 192 atoms takes 6 products in
/// place of 16, of 768 atoms 10 in place of 17 (23 with the transpose); setting them up costs as much as two products.
pub fn most_waves(unknowns: usize) -> usize {
    (unknowns / 16).min(40)
}

/// Correction from L⁻¹ to P⁻¹.
pub struct LongWaves {
    n_modes: usize,
    /// Φ by rows, `[atom][lm][mode]`.
    sources: Workspace<f64>,
    /// U = L⁻¹ R Ψ by rows.
    responses: Workspace<f64>,
    /// Factors of 1 + Φᵀ U.
    factors: Factors,
}

impl LongWaves {
    /// None where P cannot be inverted.
    pub fn new(system: &System, waves: &Waves, inverses: Option<&BlockDiagonal>) -> Option<Self> {
        let n_modes = waves.n_modes;
        let mut responses = system.right_rows(waves.at_receivers(), n_modes);
        if let Some(inverses) = inverses {
            responses = inverses.rows(&responses, n_modes);
        }
        let mut matrix = vec![0.0; n_modes * n_modes];
        for (mode, row) in matrix.chunks_exact_mut(n_modes).enumerate() {
            row[mode] = 1.0;
        }
        let n = waves.source.len() / n_modes;
        let mut sources = Workspace::take(waves.source.len());
        sources.copy_from_slice(&waves.source);
        matmul(
            MatMut::from_row_major_slice_mut(&mut matrix, n_modes, n_modes),
            Accum::Add,
            MatRef::from_row_major_slice(&waves.source, n, n_modes).transpose(),
            MatRef::from_row_major_slice(&responses, n, n_modes),
            1.0,
            Par::Seq,
        );
        Some(Self {
            n_modes,
            sources,
            responses,
            factors: Factors::new(matrix).ok()?,
        })
    }

    /// z - U (1 + Φᵀ U)⁻¹ Φᵀ z of z = L⁻¹ v: P⁻¹ v.
    pub fn after(&self, z: &mut [f64]) {
        let along = multiply_transpose(&self.sources, self.n_modes, z);
        let weights = self.factors.substitute(&along, false);
        add_scaled(z, &multiply(&self.responses, &weights), -1.0);
    }

    /// z = v - Φ (1 + Φᵀ U)⁻ᵀ Uᵀ v, with P⁻ᵀ v = L⁻ᵀ z.
    pub fn before(&self, v: &mut [f64]) {
        let along = multiply_transpose(&self.responses, self.n_modes, v);
        let weights = self.factors.substitute(&along, true);
        add_scaled(v, &multiply(&self.sources, &weights), -1.0);
    }
}
