//! Numerics of electret: neighbour lists and Gaussian-multipole electrostatics, free of Python.

pub mod error;
pub mod neighbors;
pub mod units;

pub use error::{Error, Result};
