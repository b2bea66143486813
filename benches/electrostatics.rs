//! Electrostatics of water-like boxes: energy with gradients, features, and features at fixed atoms.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use electret_benches::water;
use electret_core::electrostatics::{coulomb, features};
use electret_core::ewald::{Method, Options};
use electret_core::geometry::Geometry;
use electret_core::systems::{Normalization, Receivers, Sources, Systems};

/// As in the Python extension: pages of large arrays are kept from call to call.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const OPTIONS: Options = Options {
    method: Method::Auto,
    correction: None,
    accuracy: 1e-7,
    self_interaction: true,
};

fn electrostatics(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("electrostatics");
    group.sample_size(10);
    for repeats in [[1, 1, 1], [2, 2, 1]] {
        let (positions, multipoles, cell) = water(repeats);
        let n_atoms = positions.len();
        let (sigma, batch) = (vec![1.0; n_atoms], vec![0; n_atoms]);
        let systems = Systems {
            positions: &positions,
            cells: &[cell],
            pbc: &[[true; 3]],
            batch: &batch,
        };
        let sources = Sources {
            multipoles: &multipoles,
            max_l: 1,
            sigma: &sigma,
        };
        let receivers = Receivers {
            widths: &[1.5, 3.0],
            max_l: 1,
            normalization: Normalization::Receiver,
        };
        group.bench_function(BenchmarkId::new("energy and gradients", n_atoms), |b| {
            b.iter(|| black_box(coulomb(&systems, &sources, &OPTIONS, true)))
        });
        group.bench_function(BenchmarkId::new("features", n_atoms), |b| {
            b.iter(|| black_box(features(&systems, &sources, &receivers, None, &OPTIONS)))
        });
        let geometry = Geometry::new(&systems, &sigma, 1, &receivers, &OPTIONS, &OPTIONS)
            .expect("the geometry is valid");
        group.bench_function(BenchmarkId::new("features at fixed atoms", n_atoms), |b| {
            b.iter(|| black_box(geometry.features(&multipoles)))
        });
    }
    group.finish();
}

criterion_group!(benches, electrostatics);
criterion_main!(benches);
