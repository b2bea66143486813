//! Memory of a device, owned here: work areas freed in stream order, and tables that outlive a call.

use super::device::{Device, Queue};
use super::emulation::memory::Fenced;
use crate::error::Result;
use bytemuck::Pod;
use cudarc::driver::{result, sys};
use std::sync::Arc;

/// Memory on a device.
pub struct Buffer {
    device: Arc<Device>,
    address: u64,
    bytes: usize,
    owner: Owner,
}

enum Owner {
    /// Freed in the order of this stream.
    Stream(u64),
    /// Freed at once, after all work on the device.
    Device,
    Emulated(#[allow(dead_code)] Fenced),
    Nothing,
}

// SAFETY: the memory is reached through its address only, by work that the owner orders.
unsafe impl Send for Buffer {}
unsafe impl Sync for Buffer {}

impl Buffer {
    /// The address of the first byte; 0 for an empty buffer.
    pub fn address(&self) -> u64 {
        self.address
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Device {
    /// Largest number of bytes of work areas at one time since the last reset; 0 for the emulated device.
    pub fn memory_peak(&self, reset: bool) -> Result<u64> {
        if self.is_emulated() {
            return Ok(0);
        }
        let _bound = self.bind()?;
        let high = sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
        let mut bytes = 0u64;
        // SAFETY: the device is valid, and the attribute is a 64-bit number that may be set to zero.
        unsafe {
            let device = self.check("cuDeviceGet", result::device::get(self.ordinal()))?;
            let pool = result::device::get_default_mem_pool(device);
            let pool = self.check("cuDeviceGetDefaultMemPool", pool)?;
            let status = sys::cuMemPoolGetAttribute(pool, high, (&raw mut bytes).cast()).result();
            self.check("cuMemPoolGetAttribute", status)?;
            if reset {
                let mut zero = 0u64;
                let status =
                    sys::cuMemPoolSetAttribute(pool, high, (&raw mut zero).cast()).result();
                self.check("cuMemPoolSetAttribute", status)?;
            }
        }
        Ok(bytes)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.address == 0 {
            return;
        }
        // An error here was reported by the call that caused it.
        match self.owner {
            Owner::Emulated(_) | Owner::Nothing => {}
            // SAFETY: the memory is this buffer's, and work on it was queued on the same stream before.
            Owner::Stream(stream) => unsafe {
                let _bound = self.device.bind();
                let _ = result::free_async(self.address, stream as usize as _);
            },
            // SAFETY: the memory is this buffer's; the call waits for work on it.
            Owner::Device => unsafe {
                let _bound = self.device.bind();
                let _ = result::free_sync(self.address);
            },
        }
    }
}

impl Queue {
    /// A work area of the given number of bytes, uninitialised (on the emulated device, filled with NaN), for this
    /// stream only.
    pub fn allocate(&self, bytes: usize) -> Result<Buffer> {
        self.buffer(bytes, false)
    }

    /// A zeroed allocation.
    pub fn zeros(&self, bytes: usize) -> Result<Buffer> {
        let buffer = self.allocate(bytes)?;
        self.fill_zeros(buffer.address, bytes)?;
        Ok(buffer)
    }

    /// A table that outlives the call and may be read on any stream. Waits for the copy.
    pub fn table<V: Pod>(&self, values: &[V]) -> Result<Buffer> {
        let buffer = self.buffer(std::mem::size_of_val(values), true)?;
        self.copy_in(values, &buffer)?;
        self.synchronize()?;
        Ok(buffer)
    }

    /// A work area with these values.
    pub fn upload<V: Pod>(&self, values: &[V]) -> Result<Buffer> {
        let buffer = self.buffer(std::mem::size_of_val(values), false)?;
        self.copy_in(values, &buffer)?;
        Ok(buffer)
    }

    fn buffer(&self, bytes: usize, lasting: bool) -> Result<Buffer> {
        let device = self.device().clone();
        if bytes == 0 {
            return Ok(Buffer {
                device,
                address: 0,
                bytes,
                owner: Owner::Nothing,
            });
        }
        if device.is_emulated() {
            let memory = Fenced::new(bytes)?;
            return Ok(Buffer {
                device,
                address: memory.address(),
                bytes,
                owner: Owner::Emulated(memory),
            });
        }
        // SAFETY: fresh memory; the stream is alive.
        let (address, owner) = unsafe {
            if lasting {
                (
                    device.check("cuMemAlloc", result::malloc_sync(bytes))?,
                    Owner::Device,
                )
            } else {
                let address = device.check(
                    "cuMemAllocAsync",
                    result::malloc_async(self.stream(), bytes),
                )?;
                (address, Owner::Stream(self.stream_number()))
            }
        };
        Ok(Buffer {
            device,
            address,
            bytes,
            owner,
        })
    }

    fn copy_in<V: Pod>(&self, values: &[V], buffer: &Buffer) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        if bytes.is_empty() {
            return Ok(());
        }
        if self.device().is_emulated() {
            // SAFETY: the buffer was made with this size and nothing else refers to it yet.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    bytes.as_ptr(),
                    buffer.address as *mut u8,
                    bytes.len(),
                )
            };
            return Ok(());
        }
        // SAFETY: the buffer has the size of the values; pageable memory is read before the call returns.
        let status = unsafe { result::memcpy_htod_async(buffer.address, bytes, self.stream()) };
        self.device().check("cuMemcpyHtoDAsync", status)
    }

    /// Zeros the memory at an address, which must be of this device and hold that many bytes.
    pub fn fill_zeros(&self, address: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: by contract.
        unsafe {
            if self.device().is_emulated() {
                std::ptr::write_bytes(address as *mut u8, 0, bytes);
                return Ok(());
            }
            let status = result::memset_d8_async(address, 0, bytes, self.stream());
            self.device().check("cuMemsetD8Async", status)
        }
    }

    /// Values at an address, which must hold that many. Waits for everything queued.
    pub fn download<V: Pod>(&self, address: u64, n: usize) -> Result<Vec<V>> {
        let mut out = vec![V::zeroed(); n];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut out);
        if bytes.is_empty() {
            return Ok(out);
        }
        // SAFETY: by contract.
        unsafe {
            if self.device().is_emulated() {
                std::ptr::copy_nonoverlapping(
                    address as *const u8,
                    bytes.as_mut_ptr(),
                    bytes.len(),
                );
                return Ok(out);
            }
            let status = result::memcpy_dtoh_async(bytes, address, self.stream());
            self.device().check("cuMemcpyDtoHAsync", status)?;
        }
        self.synchronize()?;
        Ok(out)
    }
}
