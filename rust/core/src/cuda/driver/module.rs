//! Compiled modules and their kernels.

use super::emulation;
use crate::error::{Error, Result};
use cudarc::driver::{result, sys};
use std::ffi::CString;
use std::sync::{Arc, Mutex};

/// A compiled file of kernels.
pub struct Module {
    name: &'static str,
    pub(super) code: Code,
    entries: Mutex<Vec<(&'static str, Entry)>>,
}

pub(super) enum Code {
    Cuda(sys::CUmodule),
    Emulated(emulation::Library),
}

// SAFETY: module handles may be used from any thread; emulated code is locked while it runs.
unsafe impl Send for Module {}
unsafe impl Sync for Module {}

/// A kernel of a module.
#[derive(Clone)]
pub struct Kernel {
    pub(super) module: Arc<Module>,
    pub(super) name: &'static str,
    pub(super) entry: Entry,
}

#[derive(Clone, Copy)]
pub(super) enum Entry {
    Cuda(sys::CUfunction),
    Emulated(emulation::Function),
}

// SAFETY: as for modules, which the kernel keeps alive.
unsafe impl Send for Kernel {}
unsafe impl Sync for Kernel {}

impl Module {
    pub(super) fn new(name: &'static str, code: Code) -> Self {
        Self {
            name,
            code,
            entries: Mutex::new(Vec::new()),
        }
    }

    /// A kernel by its name in the source.
    pub fn kernel(self: &Arc<Self>, name: &'static str) -> Result<Kernel> {
        let entry = self.entry(name)?;
        Ok(Kernel {
            module: self.clone(),
            name,
            entry,
        })
    }

    fn entry(&self, name: &'static str) -> Result<Entry> {
        let mut entries = self
            .entries
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((_, entry)) = entries.iter().find(|(known, _)| *known == name) {
            return Ok(*entry);
        }
        let entry = match &self.code {
            Code::Cuda(module) => {
                let c_name = CString::new(name).expect("kernels' names have no zero bytes");
                // SAFETY: the module is loaded for as long as this process lives.
                let function = unsafe { result::module::get_function(*module, c_name) };
                Entry::Cuda(function.map_err(|error| missing(self.name, name, &error))?)
            }
            Code::Emulated(library) => Entry::Emulated(library.function(name)?),
        };
        entries.push((name, entry));
        Ok(entry)
    }
}

fn missing(module: &str, kernel: &str, error: &dyn std::fmt::Debug) -> Error {
    Error::Device {
        what: format!("{module} has no kernel {kernel}: {error:?}"),
        remedy: "report this at electret's issue tracker".into(),
    }
}
