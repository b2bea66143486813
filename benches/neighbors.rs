//! Neighbour lists of water-like boxes: the search alone, and with everything written out.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use electret_core::neighbors::{Criteria, Quantities, Search, Systems};

/// As in the Python extension: pages of large arrays are kept from call to call.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// 192 atoms in a 13.73 Å cell, jittered off a lattice and repeated.
fn water(repeats: usize) -> (Vec<[f64; 3]>, [[f64; 3]; 3]) {
    const LENGTH: f64 = 13.73;
    let mut state = 1_u64;
    let mut jitter = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 40) as f64 / (1 << 24) as f64
    };
    let places = [8, 6, 4];
    let mut atoms = Vec::new();
    for site in 0..192 {
        let at = [site / 24, site / 4 % 6, site % 4];
        atoms.push(
            [0, 1, 2].map(|axis| (at[axis] as f64 + 0.8 * jitter()) * LENGTH / places[axis] as f64),
        );
    }
    let mut positions = Vec::new();
    for copy in 0..repeats.pow(3) {
        let offset = [
            copy / repeats.pow(2),
            copy / repeats % repeats,
            copy % repeats,
        ];
        for atom in &atoms {
            positions.push([0, 1, 2].map(|axis| atom[axis] + offset[axis] as f64 * LENGTH));
        }
    }
    let length = LENGTH * repeats as f64;
    (
        positions,
        [[length, 0.0, 0.0], [0.0, length, 0.0], [0.0, 0.0, length]],
    )
}

fn neighbors(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("neighbors");
    group.sample_size(10);
    for repeats in [1, 4, 8] {
        let (positions, cell) = water(repeats);
        let systems = Systems {
            positions: &positions,
            cells: &[cell],
            pbc: &[[true; 3]],
            batch: None,
        };
        let criteria = Criteria {
            cutoff: 6.0,
            half: false,
            self_interaction: false,
        };
        let everything = Quantities {
            i: true,
            j: true,
            shift: true,
            distance: true,
            vector: true,
        };
        let pairs = Search::new(&systems, &criteria)
            .expect("a valid system")
            .len();
        group.throughput(Throughput::Elements(pairs as u64));
        group.bench_function(BenchmarkId::new("search", positions.len()), |bencher| {
            bencher.iter(|| Search::new(black_box(&systems), &criteria));
        });
        group.bench_function(BenchmarkId::new("ijSdD", positions.len()), |bencher| {
            bencher.iter(|| {
                Search::new(black_box(&systems), &criteria)?.pairs::<i64, i64>(everything)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, neighbors);
criterion_main!(benches);
