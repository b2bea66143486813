//! Tiles of a batch on a device, and sums of their results over each system.

use super::driver::unit::Unit;
use super::{Address, Buffer, Queue, ScalarKind, Tile};
use crate::error::Result;
use bytemuck::{Pod, Zeroable};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Arguments {
    partials: Address,
    first: Address,
    out: Address,
    n_columns: i32,
    n_systems: i32,
}

/// Threads of a block, which share a sum.
const THREADS: u32 = 64;

fn unit(scalar: ScalarKind) -> Unit {
    Unit::new("tiles.cu", include_str!("../../cuda/tiles.cu"))
        .define("SCALAR", scalar.name())
        .mirror::<Arguments>("SumArguments")
}

/// The modules of this file, for checks that they compile.
pub fn units() -> Vec<Unit> {
    [ScalarKind::Real, ScalarKind::Dual].map(unit).into()
}

/// Tiles on a device, sorted by system.
pub struct Tiles {
    pub n: usize,
    tiles: Buffer,
    first: Buffer,
    n_systems: usize,
}

impl Tiles {
    pub fn new(queue: &Queue, tiles: &[Tile], n_systems: usize) -> Result<Self> {
        let mut first = vec![0; n_systems + 1];
        for tile in tiles {
            first[tile.system as usize + 1] += 1;
        }
        for system in 0..n_systems {
            first[system + 1] += first[system];
        }
        Ok(Self {
            n: tiles.len(),
            tiles: queue.table(tiles)?,
            first: queue.table(&first)?,
            n_systems,
        })
    }

    /// `Tile[n]`.
    pub fn address(&self) -> Address {
        self.tiles.address()
    }

    /// Grid of a kernel with one block for each tile.
    pub fn grid(&self) -> [u32; 3] {
        [self.n as u32, 1, 1]
    }

    /// Adds `partials[tile][column]` of each system to `out[system][column]`, always in the same order.
    pub fn sum(
        &self,
        queue: &Queue,
        scalar: ScalarKind,
        partials: Address,
        n_columns: usize,
        out: Address,
    ) -> Result<()> {
        let kernel = queue.module(unit(scalar))?.kernel("sum_tiles")?;
        let arguments = Arguments {
            partials,
            first: self.first.address(),
            out,
            n_columns: n_columns as i32,
            n_systems: self.n_systems as i32,
        };
        let grid = [(self.n_systems * n_columns) as u32, 1, 1];
        queue.launch(&kernel, grid, THREADS, &arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_in_place() {
        let queue = Queue::emulated();
        let tiles = [(0, 0), (0, 8), (2, 16)].map(|(system, first)| Tile {
            system,
            first,
            count: 8,
        });
        let tiles = Tiles::new(&queue, &tiles, 3).unwrap();
        let partials = queue.upload(&[1.0, 2.0, 10.0, 20.0, 5.0, 6.0]).unwrap();
        let out = queue.upload(&[100.0, 0.0, 7.0, 0.0, 0.0, 0.0]).unwrap();
        tiles
            .sum(
                &queue,
                ScalarKind::Real,
                partials.address(),
                2,
                out.address(),
            )
            .unwrap();
        let found: Vec<f64> = queue.download(out.address(), 6).unwrap();
        assert_eq!(found, [111.0, 22.0, 7.0, 0.0, 5.0, 6.0]);
    }
}
