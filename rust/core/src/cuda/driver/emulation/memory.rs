//! Memory of the emulated device: reading or writing beyond its end stops the program, as a GPU's memory checker does.

use crate::error::{Error, Result};
use region::{Allocation, Protection};

/// Bytes that end at a protected page.
pub struct Fenced {
    allocation: Allocation,
    first: usize,
}

impl Fenced {
    /// Allocates bytes, all of them 0xFF: NaN, or -1.
    ///
    /// # Errors
    /// The system gives no memory.
    pub fn new(bytes: usize) -> Result<Self> {
        Self::mapped(bytes).map_err(|cause| Error::Device {
            what: format!("the emulated device cannot have {bytes} bytes: {cause}"),
            remedy: "give a smaller batch".into(),
        })
    }

    fn mapped(bytes: usize) -> region::Result<Self> {
        let page = region::page::size();
        // The sizes of structures aligned to 16 bytes are multiples of 16, and so are their addresses.
        let (length, room) = (bytes.next_multiple_of(8), bytes.next_multiple_of(page));
        let mut allocation = region::alloc(room + page, Protection::READ_WRITE)?;
        let base = allocation.as_mut_ptr::<u8>();
        // SAFETY: the room is mapped, and nothing else refers to it.
        unsafe {
            base.write_bytes(0xFF, room);
            region::protect(base.add(room), page, Protection::NONE)?;
        }
        Ok(Self {
            allocation,
            first: room - length,
        })
    }

    pub fn address(&self) -> u64 {
        (self.allocation.as_ptr::<u8>() as usize + self.first) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_at_the_fence() {
        let page = region::page::size();
        for bytes in [1, 8, 24, page - 8, page, 3 * page + 16] {
            let memory = Fenced::new(bytes).unwrap();
            let end = memory.address() as usize + bytes.next_multiple_of(8);
            assert_eq!(end % page, 0);
            let last = region::query((end - 1) as *const u8).unwrap();
            let beyond = region::query(end as *const u8).unwrap();
            assert_eq!(last.protection(), Protection::READ_WRITE);
            assert_eq!(beyond.protection(), Protection::NONE);
            // SAFETY: the memory is this test's.
            let found = unsafe { std::slice::from_raw_parts(memory.address() as *const u8, bytes) };
            assert!(found.iter().all(|&byte| byte == 0xFF));
        }
    }

    #[test]
    fn too_much_is_an_error() {
        let text = Fenced::new(1 << 60).err().unwrap().to_string();
        assert!(text.contains(&(1u64 << 60).to_string()), "{text}");
    }
}
