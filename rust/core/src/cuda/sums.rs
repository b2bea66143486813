//! Sums over the tiles of each system.

use super::driver::unit::Unit;
use super::{Address, Queue, ScalarKind, Tile};
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

/// First tile of each system, for tiles sorted by system.
pub fn first_tiles(tiles: &[Tile], n_systems: usize) -> Vec<i32> {
    let mut out = vec![0; n_systems + 1];
    for tile in tiles {
        out[tile.system as usize + 1] += 1;
    }
    for system in 0..n_systems {
        out[system + 1] += out[system];
    }
    out
}

/// Adds `partials[tile][column]` of each system to `out[system][column]`, always in the same order. `first` is the
/// address of [`first_tiles`].
pub fn sum_tiles(
    queue: &Queue,
    scalar: ScalarKind,
    partials: Address,
    first: Address,
    n_systems: usize,
    n_columns: usize,
    out: Address,
) -> Result<()> {
    let kernel = queue.module(unit(scalar))?.kernel("sum_tiles")?;
    let arguments = Arguments {
        partials,
        first,
        out,
        n_columns: n_columns as i32,
        n_systems: n_systems as i32,
    };
    queue.launch(
        &kernel,
        [(n_systems * n_columns) as u32, 1, 1],
        THREADS,
        &arguments,
    )
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
        let first = queue.upload(&first_tiles(&tiles, 3)).unwrap();
        let partials = queue.upload(&[1.0, 2.0, 10.0, 20.0, 5.0, 6.0]).unwrap();
        let out = queue.upload(&[100.0, 0.0, 7.0, 0.0, 0.0, 0.0]).unwrap();
        sum_tiles(
            &queue,
            ScalarKind::Real,
            partials.address(),
            first.address(),
            3,
            2,
            out.address(),
        )
        .unwrap();
        let found: Vec<f64> = queue.download(out.address(), 6).unwrap();
        assert_eq!(found, [111.0, 22.0, 7.0, 0.0, 5.0, 6.0]);
    }
}
