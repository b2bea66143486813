//! Numerics of electret: neighbour lists and Gaussian-multipole electrostatics, free of Python.

pub mod batch;
mod bessel;
pub mod error;
pub mod ewald;
pub mod exponential;
pub mod geometry;
pub mod harmonics;
pub mod lattice;
pub mod neighbors;
pub mod radial;
pub mod response;
pub mod scalar;
pub mod simd;
pub mod units;
pub mod vector;

pub use error::{Error, Result};
