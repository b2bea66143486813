//! The arrays of a batch as the kernels see them: structures of the same layout as in `cuda/batch.cuh`.

use bytemuck::{Pod, Zeroable};

/// The scalar that a module is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScalarKind {
    Real,
    Dual,
}

impl ScalarKind {
    /// The type in CUDA.
    pub fn name(self) -> &'static str {
        match self {
            Self::Real => "double",
            Self::Dual => "Dual",
        }
    }

    /// Bytes of one scalar.
    pub fn size(self) -> usize {
        match self {
            Self::Real => 8,
            Self::Dual => 16,
        }
    }

    /// Real numbers in one scalar.
    pub fn parts(self) -> usize {
        self.size() / 8
    }
}

/// Addresses of device memory are plain numbers.
pub type Address = u64;

/// Sources or receivers of a batch, sorted by system.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Side {
    pub positions: Address,
    pub coefficients: Address,
    pub potentials: Address,
    pub gradients: Address,
    pub widths: Address,
    pub system: Address,
    pub first: Address,
    pub n_sites: i32,
    pub n_channels: i32,
}

/// Derivatives in the cells.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct CellGradients {
    pub cell: Address,
    pub reciprocal: Address,
    pub volume: Address,
}

/// Some sites of one system.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Tile {
    pub system: i32,
    pub first: i32,
    pub count: i32,
}

/// Splits the sites of the systems `wanted`, whose first sites are `first`, into tiles of at most `size`.
pub fn tiles(first: &[usize], wanted: impl Fn(usize) -> bool, size: usize) -> Vec<Tile> {
    let mut out = Vec::new();
    for system in (0..first.len().saturating_sub(1)).filter(|&system| wanted(system)) {
        for start in (first[system]..first[system + 1]).step_by(size) {
            out.push(Tile {
                system: system as i32,
                first: start as i32,
                count: size.min(first[system + 1] - start) as i32,
            });
        }
    }
    out
}
