//! Jacobians of water-like boxes: matrices, factors, solves, eigenpairs.
//!
//! `cargo bench -p electret-benches --bench response`

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use electret_core::ewald::{Method, Options};
use electret_core::geometry::Geometry;
use electret_core::response::{Blocks, Jacobian, Method as Solver, Operator, Settings};
use electret_core::systems::{Normalization, Receivers, Systems};

/// As in the Python extension: pages of large arrays are kept from call to call.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const OPTIONS: Options = Options {
    method: Method::Auto,
    correction: None,
    accuracy: 1e-7,
    self_interaction: true,
};

/// Deterministic numbers in (-1, 1).
fn numbers(n: usize, seed: f64) -> Vec<f64> {
    (0..n)
        .map(|k| (seed + 12.9898 * (k + 1) as f64).sin())
        .collect()
}

/// 192 jittered sites in 13.73 Å, repeated along x: oxygen of width 1.5 Å, hydrogen of 1.0 Å, receivers of 1.5 and 3.0 Å.
fn water(repeats: usize) -> Geometry {
    const LENGTH: f64 = 13.73;
    let n = 192 * repeats;
    let jitter = numbers(3 * n, 0.3);
    let positions: Vec<[f64; 3]> = (0..n)
        .map(|site| {
            let (copy, own) = (site / 192, site % 192);
            let at = [own / 24 + 8 * copy, own / 4 % 6, own % 4];
            std::array::from_fn(|axis| {
                let place = at[axis] as f64 + 0.4 * jitter[3 * site + axis];
                place / [8.0, 6.0, 4.0][axis] * LENGTH
            })
        })
        .collect();
    let sigma: Vec<f64> = (0..n).map(|i| [1.5, 1.0, 1.0][i % 3]).collect();
    let mut cell = [[0.0; 3]; 3];
    for axis in 0..3 {
        cell[axis][axis] = LENGTH;
    }
    cell[0][0] *= repeats as f64;
    let systems = Systems {
        positions: &positions,
        cells: &[cell],
        pbc: &[[true; 3]],
        batch: &vec![0; n],
    };
    let receivers = Receivers {
        widths: &[1.5, 3.0],
        max_l: 1,
        normalization: Normalization::Receiver,
    };
    Geometry::new(&systems, &sigma, 1, &receivers, &OPTIONS, &OPTIONS).expect("a valid geometry")
}

fn jacobian(geometry: &Arc<Geometry>, right: &[f64], method: Solver) -> Jacobian {
    let blocks = Blocks {
        left: None,
        right: Some(right),
        column: None,
        constrained: &[true],
        flow: None,
    };
    let settings = Settings {
        method,
        tolerance: 1e-12,
        max_iterations: None,
    };
    Jacobian::new(geometry.clone(), Operator::Features, &blocks, settings).expect("valid blocks")
}

fn response(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("response");
    group.sample_size(10);
    for repeats in [1, 2] {
        let n = 192 * repeats;
        let right: Vec<f64> = numbers(n * 32, 1.0).iter().map(|x| 0.01 * x).collect();
        let r = numbers(n * 4, 2.0);
        group.bench_function(BenchmarkId::new("features matrix", n), |bencher| {
            bencher.iter_batched(
                || water(repeats),
                |geometry| black_box(geometry.features_matrix(0).expect("a matrix")[0]),
                BatchSize::PerIteration,
            );
        });
        let geometry = Arc::new(water(repeats));
        geometry.features_matrix(0).expect("a matrix");
        let solve = |jacobian: &Jacobian| {
            let solution = jacobian.solve(&r, &[0.0], false).expect("a solution");
            black_box(solution.x[0])
        };
        group.bench_function(BenchmarkId::new("factor and solve", n), |bencher| {
            bencher.iter(|| solve(&jacobian(&geometry, &right, Solver::Dense)));
        });
        let dense = jacobian(&geometry, &right, Solver::Dense);
        group.bench_function(BenchmarkId::new("solve again", n), |bencher| {
            bencher.iter(|| solve(&dense));
        });
        let krylov = jacobian(&geometry, &right, Solver::Krylov);
        group.bench_function(BenchmarkId::new("Krylov solve", n), |bencher| {
            bencher.iter(|| solve(&krylov));
        });
        group.bench_function(BenchmarkId::new("eigenpair", n), |bencher| {
            bencher.iter(|| black_box(dense.eigenpairs().expect("an eigenpair").values[0]));
        });
    }
    group.finish();
}

criterion_group!(benches, response);
criterion_main!(benches);
