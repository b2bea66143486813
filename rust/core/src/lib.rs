//! Numerics of electret: neighbour lists and Gaussian-multipole electrostatics, free of Python.
//!
//! Modules import only what stands above them in this list: `error`, `units`; `arithmetic`, `limits`; `special`,
//! `lattice`, `neighbors`; `ewald`; `systems`; `electrostatics`, `geometry`; `response`, `cuda`.

pub mod arithmetic;
pub mod cuda;
pub mod electrostatics;
pub mod error;
pub mod ewald;
pub mod geometry;
pub mod lattice;
pub mod limits;
pub mod neighbors;
pub mod response;
pub mod special;
pub mod systems;
pub mod units;

pub use error::{Error, Result};
