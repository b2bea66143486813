//! Graphics processors: finding and driving them, and the sums on them.
//!
//! Kernels are CUDA C++ in `rust/core/cuda`, embedded here and compiled at first use: by NVRTC for an NVIDIA device,
//! or by the host's C++ compiler for [`Device::emulated`], with which tests run every kernel and every launch without
//! a device. Nothing of CUDA is needed to build or install.

pub mod batch;
mod bins;
pub mod driver;
pub mod evaluator;
pub mod lattices;
pub mod mesh;
pub mod modes;
pub mod neighbors;
mod pair_terms;
pub mod pairs;
pub mod planning;
mod rounding;
mod sites;
pub mod sums;
pub mod terms;

use crate::error::Result;
use rayon::prelude::*;

pub use batch::{Address, CellGradients, Precision, ScalarKind, Scalars, Side, Tile, tiles};
pub use driver::{
    Buffer, Device, EMULATED, Kernel, Module, Nvrtc, Order, Properties, Queue, add_packages,
    after_fork, blocks, cache_directory, count, cufft_candidates, in_order, nvrtc_candidates,
};

/// Every module in the variants that models use most, for checks that all of them compile.
pub fn modules() -> Vec<driver::source::Source> {
    [
        sums::sources(),
        sites::sources(),
        lattices::Lattices::sources(),
        bins::sources(),
        pairs::sources(),
        neighbors::sources(),
        rounding::sources(),
        modes::sources(),
        mesh::sources(),
    ]
    .concat()
}

/// Compiles every module for an architecture (90 for sm_90), with NVRTC alone: what each is called, and its size in
/// bytes.
pub fn compile_all(architecture: i32) -> Result<Vec<(String, usize)>> {
    let nvrtc = Nvrtc::find()?;
    modules()
        .par_iter()
        .map(|source| {
            let definitions = source.definitions.iter();
            let definitions: Vec<String> = definitions
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            let image = nvrtc.compile(source, architecture)?;
            Ok((
                format!("{} {}", source.name, definitions.join(" ")),
                image.len(),
            ))
        })
        .collect()
}

#[cfg(test)]
mod precision_tests;
