//! Numerics of electret: neighbour lists and Gaussian-multipole electrostatics, free of Python.

pub mod error;
pub mod harmonics;
pub mod radial;
pub mod scalar;
pub mod units;
pub mod vector;

pub use error::{Error, Result};
