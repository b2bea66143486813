//! Stand-in for the emulated device in builds without the feature `emulation`: it cannot be made.

use super::unit::Unit;
use crate::error::{Error, Result};

pub type Function = unsafe extern "C" fn(*const u8, *const u32, u32, u32);

/// No value.
pub enum Library {}

impl Library {
    pub fn new(_unit: &Unit) -> Result<Self> {
        check().map(|()| unreachable!("the feature is absent"))
    }

    pub fn function(&self, _name: &'static str) -> Result<Function> {
        match *self {}
    }

    pub fn run(
        &self,
        _: Function,
        _arguments: &[u8],
        _grid: [u32; 3],
        _threads: u32,
    ) -> Result<()> {
        match *self {}
    }
}

/// Fails: this build has no emulated device.
///
/// # Errors
/// Always.
pub fn check() -> Result<()> {
    Err(Error::Device {
        what: "this build of electret has no emulated device, which is for its own tests".into(),
        remedy: "use a CUDA device or the CPU, or build from source with `make build` (Cargo feature `emulation`)"
            .into(),
    })
}

pub(super) mod memory {
    use crate::error::Result;

    /// No value.
    pub enum Fenced {}

    impl Fenced {
        pub fn new(_bytes: usize) -> Result<Self> {
            super::check().map(|()| unreachable!("the feature is absent"))
        }

        pub fn address(&self) -> u64 {
            match *self {}
        }
    }
}
