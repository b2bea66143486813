//! Large arrays that stay allocated from one call to the next.
//!
//! Steps of a trajectory need the same grids and tables again and again. Fresh memory is cleared by the kernel and by
//! the allocator, which often takes longer than the computation in it; the contents of these arrays are those of their
//! last use.

use bytemuck::Pod;
use std::any::{Any, TypeId};
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Arrays below this many bytes are left to the allocator.
const LARGE: usize = 1 << 16;
/// Bytes that are kept at most.
const LIMIT: usize = 1 << 28;

/// Entries of an array.
pub trait Entry: Pod + Default + Send {}
impl<V: Pod + Default + Send> Entry for V {}

/// Entries with any contents: zeros, or those of an earlier use.
pub struct Workspace<V: Entry> {
    values: Vec<V>,
    n: usize,
}

/// A vector kept for its next use.
struct Free {
    entries: TypeId,
    length: usize,
    bytes: usize,
    vector: Box<dyn Any + Send>,
}

/// In the order in which they were given back.
struct Pool {
    free: Vec<Free>,
    bytes: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool {
    free: Vec::new(),
    bytes: 0,
});

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// The shortest vector of at least `n` entries that is not four times as long.
    fn take<V: Entry>(&mut self, n: usize) -> Option<Vec<V>> {
        let entries = TypeId::of::<V>();
        let fits = |free: &Free| free.entries == entries && (n..4 * n).contains(&free.length);
        let place = (0..self.free.len())
            .filter(|&place| fits(&self.free[place]))
            .min_by_key(|&place| self.free[place].length)?;
        let found = self.free.remove(place);
        self.bytes -= found.bytes;
        found.vector.downcast().ok().map(|vector| *vector)
    }

    /// Keeps a vector and returns those evicted for it, oldest first.
    fn give<V: Entry>(&mut self, values: Vec<V>) -> Vec<Free> {
        let bytes = values.len() * size_of::<V>();
        self.bytes += bytes;
        self.free.push(Free {
            entries: TypeId::of::<V>(),
            length: values.len(),
            bytes,
            vector: Box::new(values),
        });
        let mut n = 0;
        while self.bytes > LIMIT {
            self.bytes -= self.free[n].bytes;
            n += 1;
        }
        self.free.drain(..n).collect()
    }
}

impl<V: Entry> Workspace<V> {
    pub fn take(n: usize) -> Self {
        let large = n * size_of::<V>() >= LARGE;
        let values = if large { pool().take(n) } else { None };
        let mut values = values.unwrap_or_else(|| vec![V::default(); n]);
        if cfg!(any(test, debug_assertions)) {
            // NaN, so that tests fail where an entry is read before it is written.
            bytemuck::cast_slice_mut::<V, u8>(&mut values[..n]).fill(u8::MAX);
        }
        Self { values, n }
    }
}

impl<V: Entry> Drop for Workspace<V> {
    fn drop(&mut self) {
        if self.values.len() * size_of::<V>() >= LARGE {
            let dropped = pool().give(std::mem::take(&mut self.values));
            // Freed here, after the lock on the pool is released.
            drop(dropped);
        }
    }
}

impl<V: Entry> Deref for Workspace<V> {
    type Target = [V];

    fn deref(&self) -> &[V] {
        &self.values[..self.n]
    }
}

impl<V: Entry> DerefMut for Workspace<V> {
    fn deref_mut(&mut self) -> &mut [V] {
        &mut self.values[..self.n]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A type of its own keeps this test apart from others that use the pool at the same time.
    #[test]
    fn an_array_comes_back() {
        type Mine = [u64; 3];
        let n = LARGE / 8;
        let mut first = Workspace::<Mine>::take(n);
        first.fill([7; 3]);
        let address = first.as_ptr();
        drop(first);
        assert!(n / 3 * size_of::<Mine>() < LARGE);
        let smaller = Workspace::<Mine>::take(n / 3);
        assert_ne!(smaller.as_ptr(), address, "small: the allocator's");
        let other = Workspace::<[Mine; 2]>::take(n / 2);
        assert_ne!(other.as_ptr().cast(), address, "of another type");
        let second = Workspace::<Mine>::take(n - 1);
        assert_eq!((second.len(), second.as_ptr()), (n - 1, address));
        let third = Workspace::<Mine>::take(n);
        assert_ne!(third.as_ptr(), address, "taken once");
        drop(second);
        assert_eq!(
            Workspace::<Mine>::take(n).as_ptr(),
            address,
            "its whole length stays"
        );
    }

    #[test]
    fn the_oldest_make_room() {
        let mut pool = Pool {
            free: Vec::new(),
            bytes: 0,
        };
        let bytes = LIMIT / 4;
        for length in 0..4 {
            assert!(pool.give(vec![0u8; bytes + length - 3]).is_empty());
        }
        let dropped = pool.give(vec![0u16; bytes / 2]);
        let lengths: Vec<usize> = dropped.iter().map(|free| free.length).collect();
        assert_eq!(lengths, [bytes - 3]);
        assert!(pool.bytes <= LIMIT);
        assert_eq!(pool.take::<u8>(bytes - 2).map(|v| v.len()), Some(bytes - 2));
        assert!(pool.take::<u8>(LIMIT).is_none());
        assert!(pool.give(vec![0u8; LIMIT + 1]).len() == pool.free.len() + 4);
        assert_eq!((pool.bytes, pool.free.len()), (0, 0));
    }
}
