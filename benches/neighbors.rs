//! Neighbour lists of water-like boxes: the search alone, and with all quantities written.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use electret_benches::water;
use electret_core::neighbors::{Criteria, Quantities, Search, Systems};

/// As in the Python extension: pages of large arrays are kept from call to call.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn neighbors(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("neighbors");
    group.sample_size(10);
    for repeats in [1, 4, 8] {
        let (positions, _, cell) = water([repeats; 3]);
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
