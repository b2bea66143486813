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
pub mod neighbors;
pub mod planning;
pub mod real;
pub mod reciprocal;
mod rounding;
mod rows;
mod site_terms;
pub mod sums;
pub mod terms;

use crate::error::Result;
use rayon::prelude::*;

pub use batch::{Address, CellGradients, Precision, ScalarKind, Scalars, Side, Tile, tiles};
pub use driver::{
    Buffer, Device, EMULATED, Kernel, Module, Nvrtc, Properties, Queue, add_packages, after_fork,
    blocks, cache_directory, count, cufft_candidates, nvrtc_candidates,
};
#[cfg(feature = "emulation")]
pub use driver::{Order, in_order};

/// Every module in the variants that models use most, for checks that all of them compile.
pub fn modules() -> Vec<driver::unit::Unit> {
    [
        sums::units(),
        site_terms::units(),
        rows::units(),
        lattices::Lattices::units(),
        bins::units(),
        real::units(),
        neighbors::units(),
        rounding::units(),
        reciprocal::units(),
        mesh::units(),
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
