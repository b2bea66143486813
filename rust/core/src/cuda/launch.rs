//! Compiled modules and the launch of their kernels: all `unsafe` calls that run code on a device.

use super::device::Queue;
use super::emulation;
use crate::error::{Error, Result};
use bytemuck::Pod;
use cudarc::driver::{result, sys};
use std::ffi::CString;
use std::sync::{Arc, Mutex};

/// A compiled file of kernels.
pub struct Module {
    pub(super) name: &'static str,
    pub(super) code: Code,
    pub(super) entries: Mutex<Vec<(&'static str, Entry)>>,
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
    module: Arc<Module>,
    name: &'static str,
    entry: Entry,
}

#[derive(Clone, Copy)]
pub(super) enum Entry {
    Cuda(sys::CUfunction),
    Emulated(emulation::Function),
}

// SAFETY: as for modules, which the kernel keeps alive.
unsafe impl Send for Kernel {}
unsafe impl Sync for Kernel {}

/// Largest number of threads in a block.
pub const MAX_THREADS: u32 = 1024;
/// Largest numbers of blocks along the axes of a grid.
pub const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];

impl Module {
    /// A kernel by its name in the source.
    pub fn kernel(self: &Arc<Self>, name: &'static str) -> Result<Kernel> {
        let entry = self.entry(name)?;
        Ok(Kernel {
            module: self.clone(),
            name,
            entry,
        })
    }
}

impl Module {
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

/// Blocks of `threads` threads for `n` threads in all.
pub fn blocks(n: usize, threads: u32) -> u32 {
    n.div_ceil(threads as usize) as u32
}

impl Queue {
    /// Queues a kernel over a grid of blocks of `threads` threads; an empty grid queues nothing.
    ///
    /// # Errors
    /// A launch configuration outside the limits, or an error of the driver.
    pub fn launch<A: Pod>(
        &self,
        kernel: &Kernel,
        grid: [u32; 3],
        threads: u32,
        arguments: &A,
    ) -> Result<()> {
        if grid.contains(&0) || threads == 0 {
            return Ok(());
        }
        if threads > MAX_THREADS || grid.iter().zip(MAX_GRID).any(|(&n, limit)| n > limit) {
            return Err(Error::Device {
                what: format!(
                    "kernel {} would be launched on {grid:?} blocks of {threads} threads, more than a device takes",
                    kernel.name
                ),
                remedy: "give a smaller batch".into(),
            });
        }
        match (kernel.entry, &kernel.module.code) {
            (Entry::Cuda(function), _) => {
                let mut arguments = *arguments;
                let mut parameters = [std::ptr::from_mut(&mut arguments).cast()];
                let [x, y, z] = grid;
                // SAFETY: every kernel takes one structure by value, of the type that its launcher mirrors.
                let status = unsafe {
                    result::launch_kernel(
                        function,
                        (x, y, z),
                        (threads, 1, 1),
                        0,
                        self.stream(),
                        &mut parameters,
                    )
                };
                self.device().check(kernel.name, status)
            }
            (Entry::Emulated(function), Code::Emulated(library)) => {
                library.run(function, bytemuck::bytes_of(arguments), grid, threads)
            }
            (Entry::Emulated(_), Code::Cuda(_)) => unreachable!("a kernel is of its module's kind"),
        }
    }
}
