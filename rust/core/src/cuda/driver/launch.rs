//! Launches of kernels.

use super::device::Queue;
use super::module::{Code, Entry, Kernel};
use crate::error::{Error, Result};
use bytemuck::Pod;
use cudarc::driver::result;

/// Largest number of threads in a block.
pub const MAX_THREADS: u32 = 1024;
/// Largest numbers of blocks along the axes of a grid.
pub const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];

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
