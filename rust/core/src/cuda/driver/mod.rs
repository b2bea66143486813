//! Driving of devices: compilation and cache of kernels, memory, launches, and the emulated device.
//!
//! Imports nothing of the crate but its error.

mod cache;
mod device;
#[cfg(feature = "emulation")]
pub mod emulation;
#[cfg(not(feature = "emulation"))]
#[path = "emulation/absent.rs"]
pub mod emulation;
mod launch;
pub(super) mod library;
mod memory;
mod module;
pub(crate) mod nvrtc;
pub mod unit;

pub use cache::directory as cache_directory;
pub use device::{Device, EMULATED, Properties, Queue, after_fork, count};
#[cfg(feature = "emulation")]
pub use emulation::{Order, in_order};
pub use launch::blocks;
pub use library::{add_packages, cufft_candidates, nvrtc_candidates};
pub use memory::Buffer;
pub use module::{Kernel, Module};
pub use nvrtc::Nvrtc;
