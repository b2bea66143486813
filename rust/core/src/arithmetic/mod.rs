//! Numbers and packs of eight, rings over them, three-vectors, the choice of vector instructions, and workspaces.
//!
//! Imports nothing of the crate but its error.

pub mod dispatch;
mod dual;
mod exponential;
mod f64x8;
pub(crate) mod ring;
mod scalar;
#[cfg(target_arch = "x86_64")]
pub(crate) mod shuffles;
pub mod vector;
pub(crate) mod workspace;

pub use dual::{Dual, DualPack};
pub use exponential::{exp, exp_all};
pub use f64x8::{F64x8, LANES};
pub use scalar::{Pack, Scalar};
