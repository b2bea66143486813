//! Matrices of the operators, and solves with the Jacobians made of them.

use electret_core::batch::{Normalization, Receivers, Systems};
use electret_core::ewald::{Correction, Method, Options};
use electret_core::geometry::Geometry;
use electret_core::harmonics::count;
use electret_core::response::{self, Blocks, Jacobian, Operator, Settings, Solution, Status};
use std::sync::Arc;

/// Deterministic numbers in (-1, 1).
fn numbers(n: usize, seed: f64) -> Vec<f64> {
    (0..n)
        .map(|k| (seed + 12.9898 * (k + 1) as f64).sin())
        .collect()
}

/// Largest difference over the largest expected value, which must not be small.
fn relative(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(0.0_f64, |a, b| a.max(b.abs()));
    assert!(scale > 1e-3, "the values are too small to test against");
    let largest = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    largest.fold(0.0, f64::max) / scale
}

/// What a geometry is made with.
struct Setup {
    pbc: [bool; 3],
    max_l: usize,
    features_max_l: usize,
    sigma: Vec<f64>,
    options: Options,
    features_self_interaction: bool,
    /// Atoms of each system.
    sizes: Vec<usize>,
}

const OPTIONS: Options = Options {
    method: Method::Auto,
    correction: None,
    accuracy: 1e-8,
    self_interaction: true,
};

impl Setup {
    fn new(pbc: [bool; 3], max_l: usize, sizes: &[usize]) -> Self {
        let n = sizes.iter().sum();
        Self {
            pbc,
            max_l,
            features_max_l: 1,
            sigma: (0..n).map(|i| [1.2, 0.9, 1.5][i % 3]).collect(),
            options: OPTIONS,
            features_self_interaction: false,
            sizes: sizes.to_vec(),
        }
    }

    fn geometry(&self) -> Geometry {
        let n = self.sigma.len();
        let positions: Vec<[f64; 3]> = numbers(3 * n, 0.7)
            .as_chunks()
            .0
            .iter()
            .map(|r: &[f64; 3]| r.map(|x| 4.0 * x))
            .collect();
        let n_systems = self.sizes.len();
        let cells: Vec<[[f64; 3]; 3]> = (0..n_systems)
            .map(|s| {
                [
                    [9.0 + s as f64, 0.4, 0.0],
                    [-0.7, 8.5, 0.3],
                    [0.2, 0.5, 9.7],
                ]
            })
            .collect();
        // Atoms of the systems in turns.
        let mut left = self.sizes.clone();
        let mut batch = Vec::new();
        while batch.len() < n {
            for (system, left) in left.iter_mut().enumerate() {
                if *left > 0 {
                    *left -= 1;
                    batch.push(system as i64);
                }
            }
        }
        let systems = Systems {
            positions: &positions,
            cells: &cells,
            pbc: &vec![self.pbc; n_systems],
            batch: &batch,
        };
        let receivers = Receivers {
            widths: &[0.8, 2.0],
            max_l: self.features_max_l,
            normalization: Normalization::Receiver,
        };
        let features = Options {
            self_interaction: self.features_self_interaction,
            ..self.options
        };
        Geometry::new(
            &systems,
            &self.sigma,
            self.max_l,
            &receivers,
            &self.options,
            &features,
        )
        .expect("a valid geometry")
    }

    /// Matrices against columns one by one.
    fn check_matrices(&self, name: &str) {
        let geometry = self.geometry();
        assert_eq!(geometry.n_systems(), 1);
        let n = geometry.n_columns(0);
        for (matrix, apply) in [
            (
                geometry.coulomb_matrix(0).expect("a matrix"),
                &(|unit: &[f64]| geometry.energy(unit).expect("potentials").1)
                    as &dyn Fn(&[f64]) -> Vec<f64>,
            ),
            (
                geometry.features_matrix(0).expect("a matrix"),
                &|unit: &[f64]| geometry.features(unit).expect("features"),
            ),
        ] {
            let mut transposed = Vec::new();
            for column in 0..n {
                let mut unit = vec![0.0; n];
                unit[column] = 1.0;
                transposed.extend(apply(&unit));
            }
            let n_rows = transposed.len() / n;
            let columns: Vec<f64> = (0..n_rows * n)
                .map(|k| transposed[(k % n) * n_rows + k / n])
                .collect();
            let error = relative(matrix, &columns);
            assert!(error < 1e-12, "{name}: {error:e}");
        }
    }
}

const MASKS: [[bool; 3]; 8] = [
    [true, true, true],
    [true, true, false],
    [true, false, true],
    [false, true, true],
    [true, false, false],
    [false, true, false],
    [false, false, true],
    [false, false, false],
];

#[test]
fn matrices_are_their_columns() {
    for pbc in MASKS {
        for max_l in 0..=2 {
            for method in [Method::Auto, Method::Reciprocal, Method::Ewald] {
                let mut setup = Setup::new(pbc, max_l, &[7]);
                setup.options.method = method;
                // the open system's k-vectors are many
                setup.options.accuracy = 1e-5;
                setup.features_max_l = if max_l == 2 { 2 } else { 1 };
                setup.check_matrices(&format!("{pbc:?} l {max_l} {method:?}"));
            }
        }
    }
}

#[test]
fn matrices_with_and_without_self_interaction_and_corrections() {
    for (pbc, correction) in [
        ([true, true, false], Correction::SlabDipole),
        ([false, true, true], Correction::SlabDipole),
        ([false, false, false], Correction::MoleculeInBox),
    ] {
        for self_interaction in [true, false] {
            for method in [Method::Auto, Method::Ewald] {
                let mut setup = Setup::new(pbc, 1, &[6]);
                setup.options = Options {
                    method,
                    correction: Some(correction),
                    accuracy: 1e-7,
                    self_interaction,
                };
                setup.features_self_interaction = !self_interaction;
                setup.check_matrices(&format!("{correction:?} {self_interaction} {method:?}"));
            }
        }
    }
}

#[test]
fn matrices_of_high_degrees_and_of_many_widths() {
    let mut high = Setup::new([true; 3], 4, &[3]);
    high.features_max_l = 3;
    high.options.accuracy = 1e-4;
    high.check_matrices("degrees beyond the tables");
    let mut three = Setup::new([true, false, true], 3, &[3]);
    three.features_max_l = 3;
    three.options.accuracy = 1e-4;
    three.check_matrices("degree three");
    for method in [Method::Reciprocal, Method::Ewald] {
        let mut many = Setup::new([true; 3], 1, &[20]);
        many.sigma = (0..20).map(|i| 0.8 + 0.02 * i as f64).collect();
        many.options.accuracy = 1e-4;
        many.options.method = method;
        many.check_matrices("a width for every atom");
    }
}

#[test]
fn empty_systems_have_empty_matrices() {
    let geometry = Setup::new([true; 3], 1, &[0, 2]).geometry();
    assert!(geometry.coulomb_matrix(0).expect("a matrix").is_empty());
    assert_eq!(geometry.coulomb_matrix(1).expect("a matrix").len(), 64);
}
