//! Graphics processors: finding and driving them, and the sums on them.
//!
//! Kernels are CUDA C++ in `rust/core/cuda`, embedded here and compiled at first use: by NVRTC for an NVIDIA device,
//! or by the host's C++ compiler for [`Device::emulated`], with which tests run every kernel and every launch without
//! a device. Nothing of CUDA is needed to build or install.

pub mod batch;
mod cache;
mod device;
mod emulation;
mod launch;
mod library;
mod memory;
mod nvrtc;
pub mod source;
pub mod sums;
pub mod terms;

pub use batch::{Address, CellGradients, ScalarKind, Side, Tile, tiles};
pub use cache::directory as cache_directory;
pub use device::{Device, EMULATED, Properties, Queue, count};
pub use launch::{Kernel, Module, blocks};
pub use library::{add_packages, cufft_candidates, nvrtc_candidates};
pub use memory::Buffer;
pub use nvrtc::{Nvrtc, supported_architectures};
