//! Matrices of the operators, and solves with the Jacobians made of them.

use electret_core::ewald::{Correction, Method, Options};
use electret_core::geometry::Geometry;
use electret_core::response::{
    Blocks, CAPACITY, Edges, Elements, Jacobian, Method as Solver, Operator, Reservoir, Settings,
    Status, equilibrate,
};
use electret_core::systems::{Normalization, Receivers, Systems};
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

/// Arguments of a geometry.
struct Setup {
    pbc: [bool; 3],
    max_l: usize,
    features_max_l: usize,
    sigma: Vec<f64>,
    options: Options,
    features_self_interaction: bool,
    /// Atoms of each system.
    sizes: Vec<usize>,
    /// In place of random positions and of the cells.
    positions: Option<Vec<[f64; 3]>>,
    cell: Option<[[f64; 3]; 3]>,
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
            positions: None,
            cell: None,
        }
    }

    fn positions(&self) -> Vec<[f64; 3]> {
        if let Some(positions) = &self.positions {
            return positions.clone();
        }
        let positions = numbers(3 * self.sigma.len(), 0.7);
        let rows = positions.as_chunks().0.iter();
        rows.map(|r: &[f64; 3]| r.map(|x| 4.0 * x)).collect()
    }

    fn cells(&self) -> Vec<[[f64; 3]; 3]> {
        if let Some(cell) = self.cell {
            return vec![cell];
        }
        (0..self.sizes.len())
            .map(|s| {
                let a = 9.0 + s as f64;
                [[a, 0.4, 0.0], [-0.7, 8.5, 0.3], [0.2, 0.5, 9.7]]
            })
            .collect()
    }

    /// Atoms of the systems in turns.
    fn batch(&self) -> Vec<i64> {
        let mut left = self.sizes.clone();
        let mut batch = Vec::new();
        while batch.len() < self.sigma.len() {
            for (system, left) in left.iter_mut().enumerate() {
                if *left > 0 {
                    *left -= 1;
                    batch.push(system as i64);
                }
            }
        }
        batch
    }

    fn geometry(&self) -> Geometry {
        let systems = Systems {
            positions: &self.positions(),
            cells: &self.cells(),
            pbc: &vec![self.pbc; self.sizes.len()],
            batch: &self.batch(),
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

/// Blocks of a Jacobian, all filled.
struct Filled {
    left: Vec<f64>,
    right: Option<Vec<f64>>,
    column: Option<Vec<f64>>,
    flow: Option<Network>,
    constrained: Vec<bool>,
}

/// Edges along which charge flows.
struct Network {
    ends: Vec<[i64; 2]>,
    conductance: Vec<f64>,
    placement: Vec<f64>,
}

impl Network {
    /// A ring with a chord, a double edge, an edge from an atom to itself, and atoms that take no charge.
    fn ring(n_atoms: usize) -> Self {
        let n = n_atoms as i64;
        let mut ends: Vec<[i64; 2]> = (0..n).map(|i| [i, (i + 1) % n]).collect();
        ends.extend([[0, n / 2], [1, 0], [2, 2]]);
        let conductance = numbers(ends.len(), 8.0)
            .iter()
            .map(|x| 0.2 * x * x)
            .collect();
        let mut placement: Vec<f64> = (0..n_atoms).map(|i| (i % 3) as f64).collect();
        let total: f64 = placement.iter().sum();
        placement.iter_mut().for_each(|w| *w /= total);
        Self {
            ends,
            conductance,
            placement,
        }
    }

    /// The rows of charges of `matrix` (by rows of `size`), with their flow and what is kept.
    fn applied(&self, matrix: &[f64], n_lm: usize, size: usize) -> Vec<f64> {
        let n_atoms = self.placement.len();
        let mut through = vec![0.0; n_atoms * n_atoms];
        for i in 0..n_atoms {
            for j in 0..n_atoms {
                let placed = self.placement[i] * self.placement[j];
                through[i * n_atoms + j] = CAPACITY * n_atoms as f64 * placed;
            }
        }
        for (&[i, j], c) in self.ends.iter().zip(&self.conductance) {
            for [a, b] in [[i, j], [j, i]].map(|pair| pair.map(|k| k as usize)) {
                through[a * n_atoms + a] += c;
                through[a * n_atoms + b] -= c;
            }
        }
        let mut out = matrix.to_vec();
        for i in 0..n_atoms {
            for column in 0..size {
                let flowing = (0..n_atoms)
                    .map(|j| through[i * n_atoms + j] * matrix[j * n_lm * size + column]);
                out[i * n_lm * size + column] = flowing.sum();
            }
            for j in 0..n_atoms {
                let own = if i == j { 1.0 } else { 0.0 };
                out[i * n_lm * size + j * n_lm] += own - self.placement[i];
            }
        }
        out
    }
}

impl Filled {
    /// Blocks near a multiple of the identity, far from symmetric.
    fn new(geometry: &Geometry, operator: Operator) -> Self {
        let (n_atoms, n_lm) = (geometry.n_atoms(), geometry.n_lm());
        let diagonal = if operator == Operator::Coulomb {
            12.0
        } else {
            1.0
        };
        let mut left = numbers(n_atoms * n_lm * n_lm, 2.0);
        for (k, value) in left.iter_mut().enumerate() {
            *value *= 0.1;
            if k % (n_lm * n_lm) % (n_lm + 1) == 0 {
                *value += diagonal;
            }
        }
        let right = (operator == Operator::Features).then(|| {
            let values = numbers(n_atoms * n_lm * operator.n_rows(geometry), 3.0);
            values.iter().map(|x| 0.02 * x).collect()
        });
        let mut column = numbers(n_atoms * n_lm, 4.0);
        for row in column.chunks_exact_mut(n_lm) {
            row[0] += 1.5;
        }
        Self {
            left,
            right,
            column: Some(column),
            flow: None,
            constrained: (0..geometry.n_systems()).map(|s| s % 2 == 0).collect(),
        }
    }

    fn view(&self) -> Blocks<'_> {
        Blocks {
            left: Some(&self.left),
            right: self.right.as_deref(),
            column: self.column.as_deref(),
            flow: self.flow.as_ref().map(|network| Edges {
                ends: &network.ends,
                conductance: &network.conductance,
                placement: &network.placement,
            }),
            constrained: &self.constrained,
        }
    }

    fn jacobian(&self, geometry: &Arc<Geometry>, operator: Operator, method: Solver) -> Jacobian {
        let settings = Settings {
            method,
            tolerance: 1e-12,
            max_iterations: None,
        };
        Jacobian::new(geometry.clone(), operator, &self.view(), settings).expect("valid blocks")
    }

    /// K of the only system, by rows.
    fn matrix(&self, geometry: &Geometry, operator: Operator) -> Vec<f64> {
        let (n, n_lm) = (geometry.n_columns(0), geometry.n_lm());
        let n_rows = operator.n_rows(geometry);
        let m = operator.matrix(geometry, 0).expect("a matrix");
        let mut out = vec![0.0; (n + 1) * (n + 1)];
        for row in 0..n {
            let atom = row / n_lm;
            for column in 0..n {
                let mut sum = 0.0;
                match &self.right {
                    None => sum = m[row * n + column],
                    Some(right) => {
                        for k in 0..n_rows {
                            sum += right[row * n_rows + k] * m[(atom * n_rows + k) * n + column];
                        }
                    }
                }
                if column / n_lm == atom {
                    sum += self.left[row * n_lm + column % n_lm];
                }
                out[row * (n + 1) + column] = sum;
            }
            let one = if row % n_lm == 0 { 1.0 } else { 0.0 };
            out[row * (n + 1) + n] = self.column.as_ref().map_or(one, |column| column[row]);
        }
        if let Some(network) = &self.flow {
            out = network.applied(&out, n_lm, n + 1);
        }
        for row in (0..n).step_by(n_lm).filter(|_| self.constrained[0]) {
            out[n * (n + 1) + row] = 1.0;
        }
        if !self.constrained[0] {
            out[n * (n + 1) + n] = 1.0;
        }
        out
    }
}

fn product(matrix: &[f64], x: &[f64], transpose: bool) -> Vec<f64> {
    let n = x.len();
    let at = |i: usize, j: usize| {
        if transpose {
            matrix[j * n + i]
        } else {
            matrix[i * n + j]
        }
    };
    (0..n)
        .map(|i| (0..n).map(|j| at(i, j) * x[j]).sum())
        .collect()
}

#[test]
fn solves_and_products_are_those_of_the_matrix() {
    for pbc in MASKS {
        for operator in [Operator::Coulomb, Operator::Features] {
            for (constrained, flows) in [(true, false), (false, false), (true, true), (false, true)]
            {
                let geometry = Arc::new(Setup::new(pbc, 1, &[9]).geometry());
                let mut blocks = Filled::new(&geometry, operator);
                blocks.constrained = vec![constrained];
                blocks.flow = flows.then(|| Network::ring(9));
                let matrix = blocks.matrix(&geometry, operator);
                let n = geometry.n_columns(0);
                let x = numbers(n, 5.0);
                let b = numbers(n, 6.0);
                for method in [Solver::Dense, Solver::Krylov] {
                    let jacobian = blocks.jacobian(&geometry, operator, method);
                    for transpose in [false, true] {
                        let name = format!(
                            "{pbc:?} {operator:?} {constrained} {flows} {method:?} {transpose}"
                        );
                        let (r, s) = jacobian.apply(&x, &[0.4], transpose).expect("a product");
                        let exact = product(&matrix, &[&x[..], &[0.4]].concat(), transpose);
                        assert!(relative(&[r, s].concat(), &exact) < 1e-12, "{name}");
                        let solution = jacobian.solve(&b, &[0.3], transpose).expect("a solution");
                        assert_eq!(solution.status, [Status::Ok], "{name}");
                        let found = [solution.x, solution.y].concat();
                        let residual = product(&matrix, &found, transpose);
                        let error = relative(&residual, &[&b[..], &[0.3]].concat());
                        assert!(error < 1e-11, "{name}: {error:e}");
                        if !transpose && constrained {
                            let charge: f64 = found[..n].iter().step_by(4).sum();
                            assert!((charge - 0.3).abs() < 1e-11, "{name}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn conjugate_gradients_agree_with_the_dense_solver() {
    for (pbc, constrained) in [
        ([true; 3], true),
        ([true; 3], false),
        ([true, true, false], true),
        ([false; 3], true),
        ([false; 3], false),
    ] {
        let geometry = Arc::new(Setup::new(pbc, 1, &[40]).geometry());
        let mut blocks = Filled::new(&geometry, Operator::Coulomb);
        blocks.column = None;
        blocks.constrained = vec![constrained];
        for block in blocks.left.as_chunks_mut::<16>().0 {
            for k in 0..16 {
                block[k] = 0.5 * (block[k] + block[k % 4 * 4 + k / 4]);
                block[k % 4 * 4 + k / 4] = block[k];
            }
        }
        let b = numbers(160, 6.0);
        let solve = |method| {
            let jacobian = blocks.jacobian(&geometry, Operator::Coulomb, method);
            let solution = jacobian.solve(&b, &[0.3], false).expect("a solution");
            assert_eq!(solution.status, [Status::Ok]);
            [solution.x, solution.y].concat()
        };
        let error = relative(&solve(Solver::Krylov), &solve(Solver::Dense));
        assert!(error < 1e-10, "{pbc:?} {constrained}: {error:e}");
    }
}

#[test]
fn long_waves_save_products() {
    // A crystal that polarises and in which charge flows: its longest waves screen themselves most.
    let mut setup = Setup::new([true; 3], 1, &[64]);
    setup.positions = Some(
        (0..64)
            .map(|i| [i % 4, i / 4 % 4, i / 16].map(|k| 3.0 * k as f64))
            .zip(numbers(192, 0.7).as_chunks().0)
            .map(|(r, shift): ([f64; 3], &[f64; 3])| [0, 1, 2].map(|k| r[k] + 0.3 * shift[k]))
            .collect(),
    );
    setup.cell = Some([[12.0, 0.4, 0.0], [-0.7, 12.0, 0.3], [0.2, 0.5, 12.0]]);
    let geometry = Arc::new(setup.geometry());
    let n = geometry.n_columns(0);
    // Without them 24 and 20 products.
    for (operator, charge, dipole) in [
        (Operator::Coulomb, 0.3, 0.1),
        (Operator::Features, 0.02, 0.01),
    ] {
        let n_rows = operator.n_rows(&geometry);
        let mut blocks = Filled::new(&geometry, operator);
        blocks.constrained = vec![true];
        blocks.column = None;
        blocks.left.fill(0.0);
        for (k, value) in blocks.left.iter_mut().enumerate() {
            if k % 16 % 5 == 0 {
                let response = if k % 16 == 0 { charge } else { dipole };
                *value = if operator == Operator::Coulomb {
                    1.0 / response
                } else {
                    1.0
                };
            }
        }
        if let Some(right) = &mut blocks.right {
            right.fill(0.0);
            for (row, values) in right.chunks_exact_mut(n_rows).enumerate() {
                values[row % 4] = if row % 4 == 0 { charge } else { dipole };
            }
        }
        let settings = Settings {
            method: Solver::Krylov,
            tolerance: 1e-10,
            max_iterations: Some(16),
        };
        let jacobian = Jacobian::new(geometry.clone(), operator, &blocks.view(), settings)
            .expect("valid blocks");
        for transpose in [false, true] {
            let b = numbers(n, 6.0);
            let solution = jacobian.solve(&b, &[0.3], transpose).expect("a solution");
            assert_eq!(solution.status, [Status::Ok], "{operator:?} {transpose}");
        }
    }
}

#[test]
fn a_batch_is_its_systems_and_a_singular_one_leaves_the_others_alone() {
    let setup = Setup::new([true; 3], 1, &[5, 7, 6]);
    let geometry = Arc::new(setup.geometry());
    let batch = setup.batch();
    let r = numbers(18 * 4, 7.0);
    for operator in [Operator::Coulomb, Operator::Features] {
        for method in [Solver::Dense, Solver::Krylov] {
            let blocks = Filled::new(&geometry, operator);
            let whole = blocks
                .jacobian(&geometry, operator, method)
                .solve(&r, &[0.1, 0.2, 0.3], false)
                .expect("a solution");
            // System 1 with nothing in its rows.
            let mut broken = Filled::new(&geometry, operator);
            let n_rows = operator.n_rows(&geometry);
            let right = broken.right.get_or_insert_with(|| {
                let identity = |k: usize| if (k % 16).is_multiple_of(5) { 1.0 } else { 0.0 };
                (0..18 * 16).map(identity).collect()
            });
            for atom in (0..18).filter(|&atom| batch[atom] == 1) {
                broken.left[atom * 16..(atom + 1) * 16].fill(0.0);
                right[atom * 4 * n_rows..(atom + 1) * 4 * n_rows].fill(0.0);
            }
            let partial = broken
                .jacobian(&geometry, operator, method)
                .solve(&r, &[0.1, 0.2, 0.3], false)
                .expect("a solution");
            let failed = match method {
                Solver::Dense => Status::Singular,
                _ => Status::NotConverged,
            };
            assert_eq!(partial.status, [Status::Ok, failed, Status::Ok]);
            assert_eq!((partial.y[1], whole.y[1] != 0.0), (0.0, true));
            for atom in 0..18 {
                let rows = atom * 4..(atom + 1) * 4;
                if batch[atom] == 1 {
                    assert!(partial.x[rows.clone()].iter().all(|&x| x == 0.0));
                    assert!(whole.x[rows].iter().any(|&x| x.abs() > 1e-4));
                } else {
                    let error = relative(&partial.x[rows.clone()], &whole.x[rows]);
                    assert!(error < if method == Solver::Dense { 1e-13 } else { 1e-9 });
                }
            }
        }
    }
}

#[test]
fn dependent_equations_are_singular_and_large_numbers_never_nan() {
    let geometry = Arc::new(Setup::new([false; 3], 1, &[8]).geometry());
    let r = numbers(32, 7.0);
    let mut blocks = Filled::new(&geometry, Operator::Features);
    // Two equal rows of K, neither of them zero.
    blocks.right = Some(vec![0.0; 32 * 8]);
    for column in 0..4 {
        blocks.left[16 + 4 + column] = blocks.left[16 + 8 + column];
    }
    if let Some(column) = &mut blocks.column {
        column[5] = column[6];
    }
    for constrained in [true, false] {
        blocks.constrained = vec![constrained];
        let jacobian = blocks.jacobian(&geometry, Operator::Features, Solver::Dense);
        for transpose in [false, true] {
            let solution = jacobian.solve(&r, &[0.0], transpose).expect("a status");
            assert_eq!(solution.status, [Status::Singular]);
        }
    }
    for size in [1e300, 1e-300] {
        let mut blocks = Filled::new(&geometry, Operator::Features);
        blocks.left.iter_mut().for_each(|x| *x *= size);
        for method in [Solver::Dense, Solver::Krylov] {
            let jacobian = blocks.jacobian(&geometry, Operator::Features, method);
            let solution = jacobian.solve(&r, &[0.0], false).expect("a status");
            assert!(solution.x.iter().all(|x| x.is_finite()));
            assert!(solution.y[0].is_finite());
        }
    }
}

#[test]
fn badly_scaled_unknowns_are_not_singular() {
    let geometry = Arc::new(Setup::new([false; 3], 1, &[8]).geometry());
    let mut blocks = Filled::new(&geometry, Operator::Features);
    blocks.right = Some(vec![0.0; 32 * 8]);
    // Dipoles in units a million times larger.
    let unit = |lm: usize| if lm > 0 { 1e-6 } else { 1.0 };
    for (k, value) in blocks.left.iter_mut().enumerate() {
        *value *= unit(k / 4 % 4) * unit(k % 4);
    }
    for (k, value) in blocks.column.iter_mut().flatten().enumerate() {
        *value *= unit(k % 4);
    }
    let matrix = blocks.matrix(&geometry, Operator::Features);
    let b = numbers(32, 8.0);
    let jacobian = blocks.jacobian(&geometry, Operator::Features, Solver::Dense);
    let solution = jacobian.solve(&b, &[0.2], false).expect("a solution");
    assert_eq!(solution.status, [Status::Ok]);
    let found = [solution.x, solution.y].concat();
    let error = relative(&product(&matrix, &found, false), &[&b[..], &[0.2]].concat());
    assert!(error < 1e-9, "{error:e}");
}

#[test]
fn eigenpairs_are_eigenpairs() {
    // Below and above the size at which the whole spectrum is computed.
    for (n_atoms, operator) in [
        (9, Operator::Features),
        (9, Operator::Coulomb),
        (60, Operator::Features),
        (60, Operator::Coulomb),
    ] {
        for method in [Solver::Dense, Solver::Krylov] {
            let geometry = Arc::new(Setup::new([true; 3], 1, &[n_atoms]).geometry());
            let mut blocks = Filled::new(&geometry, operator);
            blocks.left.fill(0.0);
            let n = geometry.n_columns(0);
            let matrix = blocks.matrix(&geometry, operator);
            let jacobian = blocks.jacobian(&geometry, operator, method);
            let pairs = jacobian.eigenpairs().expect("eigenpairs");
            let radius = jacobian.spectral_radius().expect("a radius")[0];
            let [re, im] = pairs.values[0];
            assert!((radius - re.hypot(im)).abs() < 1e-12 * radius && radius > 0.01);
            assert!(im >= 0.0);
            // The largest gain of repeated products is the radius.
            let t = |x: &[f64], transpose| -> Vec<f64> {
                let padded = [x, &[0.0]].concat();
                let mut out = product(&matrix, &padded, transpose);
                out.truncate(n);
                out.iter().map(|value| -value).collect()
            };
            let part = |v: &[[f64; 2]], k: usize| v.iter().map(|z| z[k]).collect::<Vec<f64>>();
            let size: f64 = pairs.right.iter().flatten().map(|x| x * x).sum();
            assert!((size - 1.0).abs() < 1e-12);
            let (wr, wi) = (part(&pairs.right, 0), part(&pairs.right, 1));
            let (ur, ui) = (part(&pairs.left, 0), part(&pairs.left, 1));
            let mut overlap = [0.0; 2];
            let scale = ur.iter().chain(&ui).fold(0.0_f64, |a, b| a.max(b.abs()));
            let (tr, ti) = (t(&wr, false), t(&wi, false));
            let (sr, si) = (t(&ur, true), t(&ui, true));
            for k in 0..n {
                overlap[0] += ur[k] * wr[k] + ui[k] * wi[k];
                overlap[1] += ur[k] * wi[k] - ui[k] * wr[k];
                assert!((tr[k] - re * wr[k] + im * wi[k]).abs() < 1e-10 * radius);
                assert!((ti[k] - re * wi[k] - im * wr[k]).abs() < 1e-10 * radius);
                // Tᵀ ū = λ ū
                assert!((sr[k] - re * ur[k] - im * ui[k]).abs() < 1e-9 * radius * scale);
                assert!((-si[k] + re * ui[k] - im * ur[k]).abs() < 1e-9 * radius * scale);
            }
            assert!((overlap[0] - 1.0).abs() < 1e-10 && overlap[1].abs() < 1e-10);
            let mut x = numbers(n, 9.0);
            let mut growth = Vec::new();
            for _ in 0..200 {
                let next = t(&x, false);
                let length = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
                growth.push((length(&next) / length(&x)).ln());
                let scale = length(&next);
                x = next.iter().map(|value| value / scale).collect();
            }
            let mean = growth[100..].iter().sum::<f64>() / 100.0;
            assert!(
                (mean.exp() / radius - 1.0).abs() < 0.02,
                "{n_atoms} {operator:?}"
            );
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let run = |threads: usize| -> Vec<u64> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("a thread pool").install(|| {
            let mut out = Vec::new();
            for (pbc, method) in [([true; 3], Method::Reciprocal), ([true; 3], Method::Ewald)] {
                let mut setup = Setup::new(pbc, 1, &[70, 12]);
                setup.options.method = method;
                let geometry = Arc::new(setup.geometry());
                let r = numbers(82 * 4, 1.0);
                out.extend_from_slice(geometry.features_matrix(0).expect("a matrix"));
                let cotangent = geometry.features(&r).expect("features");
                out.extend(geometry.features_transpose(&cotangent).expect("potentials"));
                for operator in [Operator::Coulomb, Operator::Features] {
                    for solver in [Solver::Dense, Solver::Krylov] {
                        let blocks = Filled::new(&geometry, operator);
                        let jacobian = blocks.jacobian(&geometry, operator, solver);
                        for transpose in [false, true] {
                            let solution = jacobian.solve(&r, &[0.1, 0.2], transpose);
                            let solution = solution.expect("a solution");
                            assert_eq!(solution.status, [Status::Ok; 2]);
                            out.extend(solution.x);
                            out.extend(solution.y);
                        }
                        let pairs = jacobian.eigenpairs().expect("eigenpairs");
                        out.extend(pairs.left.into_flattened());
                    }
                }
            }
            out.into_iter().map(f64::to_bits).collect()
        })
    };
    let one = run(1);
    assert!(one.len() > 10_000);
    assert!(one == run(2) && one == run(4));
}

#[test]
fn unusable_blocks_are_named() {
    let geometry = Arc::new(Setup::new([false; 3], 1, &[3]).geometry());
    let settings = Settings {
        method: Solver::Auto,
        tolerance: 1e-12,
        max_iterations: None,
    };
    let message = |left: Option<&[f64]>, constrained: &[bool], settings: Settings, operator| {
        let blocks = Blocks {
            left,
            right: None,
            column: None,
            flow: None,
            constrained,
        };
        match Jacobian::new(geometry.clone(), operator, &blocks, settings) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
    };
    let coulomb = Operator::Coulomb;
    assert_eq!(message(None, &[true], settings, coulomb), "");
    assert!(message(Some(&[1.0]), &[true], settings, coulomb).contains("left"));
    assert!(message(Some(&[f64::NAN; 48]), &[true], settings, coulomb).contains("left[0] is NaN"));
    assert!(message(None, &[true; 2], settings, coulomb).contains("constrained"));
    let flow = |ends: [i64; 2], conductance: f64, placement: &[f64]| {
        let edges = Edges {
            ends: &[ends],
            conductance: &[conductance],
            placement,
        };
        let blocks = Blocks {
            left: None,
            right: None,
            column: None,
            flow: Some(edges),
            constrained: &[true],
        };
        let found = Jacobian::new(geometry.clone(), coulomb, &blocks, settings);
        found.err().map_or(String::new(), |error| error.to_string())
    };
    assert_eq!(flow([0, 2], 1.0, &[1.0, 0.0, 0.0]), "");
    assert!(flow([0, 3], 1.0, &[1.0, 0.0, 0.0]).contains("edges[0] = 3"));
    assert!(flow([0, 1], -1.0, &[1.0, 0.0, 0.0]).contains("conductance[0] = -1"));
    assert!(flow([0, 1], 1.0, &[1.0, 0.0]).contains("placement"));
    assert!(message(None, &[true], settings, Operator::Features).contains("right"));
    let settings = Settings {
        tolerance: 0.0,
        ..settings
    };
    assert!(message(None, &[true], settings, coulomb).contains("tolerance"));
}

#[test]
fn equilibrated_charges_are_stationary() {
    for pbc in MASKS {
        let setup = Setup::new(pbc, 0, &[6, 5]);
        let (positions, cells, batch) = (setup.positions(), setup.cells(), setup.batch());
        let systems = Systems {
            positions: &positions,
            cells: &cells,
            pbc: &[pbc; 2],
            batch: &batch,
        };
        let chi: Vec<f64> = numbers(11, 2.0).iter().map(|x| 3.0 * x).collect();
        let hardness = [9.0; 11];
        let field = [[0.1, -0.2, 0.3], [0.0; 3]];
        let elements = Elements {
            electronegativity: &chi,
            hardness: &hardness,
            sigma: &setup.sigma,
        };
        let at = |reservoir| equilibrate(&systems, &elements, reservoir, &field, &OPTIONS);
        let result = at(Reservoir::Charge(&[0.5, -1.0])).expect("charges");
        let (_, potential) = setup
            .geometry()
            .energy(&result.charges)
            .expect("potentials");
        let mut totals = [0.0; 2];
        assert!(result.charges.iter().any(|q| q.abs() > 0.1));
        for atom in 0..11 {
            let system = batch[atom] as usize;
            let q = result.charges[atom];
            totals[system] += q;
            let work: f64 = (0..3)
                .map(|axis| field[system][axis] * positions[atom][axis])
                .sum();
            let slope = chi[atom] + hardness[atom] * q + potential[atom] - work;
            assert!((slope + result.fermi_level[system]).abs() < 1e-9, "{pbc:?}");
        }
        assert!((totals[0] - 0.5).abs() < 1e-12 && (totals[1] + 1.0).abs() < 1e-12);
        // That Fermi level gives the charges back.
        let level = result.fermi_level.clone();
        let again = at(Reservoir::FermiLevel(&level)).expect("charges");
        assert!(relative(&again.charges, &result.charges) < 1e-9, "{pbc:?}");
        let soft = Elements {
            hardness: &[-1.0; 11],
            ..elements
        };
        let failure = equilibrate(
            &systems,
            &soft,
            Reservoir::Charge(&[0.0; 2]),
            &field,
            &OPTIONS,
        );
        assert!(
            failure
                .err()
                .map(|e| e.to_string())
                .unwrap_or_default()
                .contains("hardness[0]")
        );
    }
}
