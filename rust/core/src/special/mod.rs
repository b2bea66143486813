//! Special functions: solid harmonics, Boys functions and the radial tables made of them, modified Bessel functions.
//!
//! Imports `arithmetic`.

pub(crate) mod bessel;
pub(crate) mod boys;
pub mod harmonics;
pub(crate) mod radial;
