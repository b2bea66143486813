//! Numerics of electret: neighbour lists and Gaussian-multipole electrostatics, free of Python.

pub mod batch;
mod bessel;
mod boys;
pub mod cuda;
pub mod error;
pub mod ewald;
pub mod exponential;
pub mod geometry;
pub mod harmonics;
mod kept;
pub mod lattice;
pub mod limits;
pub mod neighbors;
mod operators;
pub mod pack;
mod polynomial;
mod radial;
pub mod response;
pub mod scalar;
#[cfg(target_arch = "x86_64")]
mod shuffles;
pub mod simd;
pub mod units;
pub mod vector;

pub use error::{Error, Result};
