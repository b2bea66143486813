//! Electrostatics of water-like boxes: energy with gradients, features, and features at fixed atoms.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
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

/// 192 jittered sites in a 13.73 Å cell, repeated along x and y, with charges and dipoles.
fn water(repeats: [usize; 3]) -> (Vec<[f64; 3]>, Vec<f64>, [[f64; 3]; 3]) {
    const LENGTH: f64 = 13.73;
    let mut state = 1_u64;
    let mut random = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 40) as f64 / (1 << 24) as f64
    };
    let (mut positions, mut multipoles) = (Vec::new(), Vec::new());
    for copy in 0..repeats.iter().product() {
        let offset = [
            copy % repeats[0],
            copy / repeats[0] % repeats[1],
            copy / (repeats[0] * repeats[1]),
        ];
        for site in 0..192 {
            let at = [site / 24, site / 4 % 6, site % 4];
            positions.push([0, 1, 2].map(|axis| {
                let place = (at[axis] as f64 + 0.8 * random()) / [8.0, 6.0, 4.0][axis];
                (place + offset[axis] as f64) * LENGTH
            }));
            multipoles.push(if site % 3 == 0 { -0.8 } else { 0.4 });
            multipoles.extend((0..3).map(|_| 0.2 * random() - 0.1));
        }
    }
    let mut cell = [[0.0; 3]; 3];
    for axis in 0..3 {
        cell[axis][axis] = LENGTH * repeats[axis] as f64;
    }
    (positions, multipoles, cell)
}

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
