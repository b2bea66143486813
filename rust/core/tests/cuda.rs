//! Sums on a device against those of the CPU: every boundary, method, purpose and derivative, in batches of unlike
//! systems in mixed order.
//!
//! The device is the emulated one, or with `ELECTRET_TEST_DEVICE=0` a CUDA device.

use electret_core::arithmetic::Dual;
use electret_core::cuda::evaluator::{Evaluator, Inputs, Outputs};
use electret_core::cuda::planning::Request;
use electret_core::cuda::{Buffer, Device, Order, Precision, Queue, in_order};
use electret_core::electrostatics::{self, Compiled, Output};
use electret_core::ewald::{Method, Options};
use electret_core::special::harmonics::count;
use electret_core::systems::{Normalization, Receivers, Sources, Systems};
use std::path::PathBuf;

fn queue() -> Queue {
    if let Some(folders) = std::env::var_os("ELECTRET_SITE_PACKAGES") {
        electret_core::cuda::add_packages([PathBuf::from(folders)]);
    }
    match std::env::var("ELECTRET_TEST_DEVICE") {
        Ok(ordinal) => {
            let ordinal = ordinal.parse().expect("ELECTRET_TEST_DEVICE is a number");
            Queue::new(Device::get(ordinal).expect("the device is there"), 0).expect("a queue")
        }
        Err(_) => Queue::emulated(),
    }
}

/// Deterministic numbers in (-1, 1).
fn numbers(n: usize, seed: f64) -> Vec<f64> {
    (0..n)
        .map(|k| (seed + 12.9898 * (k + 1) as f64).sin() * 43758.5453)
        .map(|x| 2.0 * (x - x.floor()) - 1.0)
        .collect()
}

/// A batch of systems whose atoms come in mixed order.
struct Case {
    positions: Vec<[f64; 3]>,
    cells: Vec<[[f64; 3]; 3]>,
    pbc: Vec<[bool; 3]>,
    batch: Vec<i64>,
    sigma: Vec<f64>,
    multipoles: Vec<f64>,
    max_l: usize,
    widths: Vec<f64>,
    features_l: usize,
    cotangent: Vec<f64>,
}

/// Widths of Gaussians, Å: narrow and wide sources, and receivers.
#[derive(Clone, Copy)]
struct Widths {
    sources: [f64; 2],
    receivers: [f64; 2],
}

const WIDTHS: Widths = Widths {
    sources: [0.7, 0.9],
    receivers: [0.8, 1.7],
};

impl Widths {
    /// Narrow sources for a split sum, and wide ones for a sum over k-vectors alone: along open axes its lattice is as
    /// long as the widest Gaussians reach, and narrow ones would need hundreds of thousands of k-vectors there.
    fn of(pbc: [bool; 3], method: &str) -> Self {
        let n_open = pbc.iter().filter(|periodic| !**periodic).count();
        match method {
            "ewald" => Self {
                sources: [0.35, 0.9],
                ..WIDTHS
            },
            "reciprocal" if n_open > 0 => {
                let width = [1.0, 2.5, 4.0][n_open - 1];
                Self {
                    sources: [width, 1.05 * width],
                    receivers: [1.03 * width, 1.1 * width],
                }
            }
            _ => WIDTHS,
        }
    }
}

/// Systems of 5, 0, 1 and 9 atoms; without receivers where `features_l` is `None`.
fn case(pbc: [bool; 3], max_l: usize, features_l: Option<usize>, widths: Widths) -> Case {
    let sizes = [5, 0, 1, 9];
    let receivers = match features_l {
        Some(_) => &widths.receivers[..],
        None => &[],
    };
    let mut batch: Vec<i64> = Vec::new();
    for round in 0..9 {
        for (system, &size) in sizes.iter().enumerate() {
            if round < size {
                batch.push(system as i64);
            }
        }
    }
    let n = batch.len();
    let cell = |k: usize| {
        let s = 1.0 + 0.15 * k as f64;
        let sign = if k % 2 == 1 { -1.0 } else { 1.0 };
        [
            [4.1 * s, 0.3, -0.2],
            [0.5, 4.6 * s, 0.4],
            [-0.3, 0.2, sign * 5.0 * s],
        ]
    };
    let spread = numbers(3 * n, 0.7);
    Case {
        positions: spread
            .as_chunks::<3>()
            .0
            .iter()
            .map(|r| r.map(|x| 3.0 * x))
            .collect(),
        cells: (0..sizes.len()).map(cell).collect(),
        pbc: vec![pbc; sizes.len()],
        sigma: numbers(n, 0.2)
            .iter()
            .map(|x| widths.sources[usize::from(*x <= 0.3)])
            .collect(),
        multipoles: numbers(n * count(max_l), 1.9),
        max_l,
        widths: receivers.to_vec(),
        features_l: features_l.unwrap_or(0),
        cotangent: numbers(n * receivers.len() * count(features_l.unwrap_or(0)), 2.3),
        batch,
    }
}

impl Case {
    fn receivers(&self) -> Receivers<'_> {
        Receivers {
            widths: &self.widths,
            max_l: self.features_l,
            normalization: Normalization::Receiver,
        }
    }

    fn duals(&self) -> DualCase {
        let tangents = |values: &[f64], seed: f64| -> Vec<Dual> {
            let directions = numbers(values.len(), seed);
            values
                .iter()
                .zip(directions)
                .map(|(&value, t)| Dual::new(value, t))
                .collect()
        };
        DualCase {
            positions: tangents(self.positions.as_flattened(), 3.1)
                .as_chunks()
                .0
                .to_vec(),
            cells: tangents(self.cells.as_flattened().as_flattened(), 3.7)
                .as_chunks()
                .0
                .as_chunks()
                .0
                .to_vec(),
            multipoles: tangents(&self.multipoles, 4.3),
            cotangent: tangents(&self.cotangent, 4.9),
        }
    }

    /// On the CPU, energies (without receivers) or forms.
    fn reference<T: Compiled>(
        &self,
        dual: &Arrays<T>,
        options: &Options,
        forms: bool,
    ) -> Output<T> {
        let systems = Systems {
            positions: dual.positions,
            cells: dual.cells,
            pbc: &self.pbc,
            batch: &self.batch,
        };
        let sources = Sources {
            multipoles: dual.multipoles,
            max_l: self.max_l,
            sigma: &self.sigma,
        };
        if forms {
            electrostatics::features(
                &systems,
                &sources,
                &self.receivers(),
                Some(dual.cotangent),
                options,
            )
            .unwrap()
        } else {
            electrostatics::coulomb(&systems, &sources, options, true).unwrap()
        }
    }

    fn spans(&self) -> Vec<f64> {
        vec![12.0; self.cells.len()]
    }

    fn evaluator(&self, queue: &Queue, options: &Options, forms: bool) -> Evaluator {
        let made = self.evaluator_of(queue, options, forms, Precision::Double);
        made.unwrap()
    }

    fn evaluator_of(
        &self,
        queue: &Queue,
        options: &Options,
        forms: bool,
        precision: Precision,
    ) -> electret_core::Result<Evaluator> {
        let request = Request {
            cells: &self.cells,
            pbc: &self.pbc,
            batch: &self.batch,
            sigma: &self.sigma,
            max_l: self.max_l,
            receivers: forms.then(|| self.receivers()),
            points: None,
            spans: Some(&self.spans()),
            fixed: false,
            precision,
            options: *options,
        };
        Evaluator::new(queue, &request)
    }
}

struct DualCase {
    positions: Vec<[Dual; 3]>,
    cells: Vec<[[Dual; 3]; 3]>,
    multipoles: Vec<Dual>,
    cotangent: Vec<Dual>,
}

struct Arrays<'a, T> {
    positions: &'a [[T; 3]],
    cells: &'a [[[T; 3]; 3]],
    multipoles: &'a [T],
    cotangent: &'a [T],
}

/// Results from a device.
#[derive(PartialEq, Debug)]
struct Found {
    value: Vec<f64>,
    multipoles: Vec<f64>,
    features: Vec<f64>,
    positions: Vec<f64>,
    cell: Vec<f64>,
}

fn on_device(
    queue: &Queue,
    case: &Case,
    evaluator: &Evaluator,
    forms: bool,
    tangents: Option<&DualCase>,
) -> Found {
    let up = |values: &[f64]| queue.upload(values).unwrap();
    let parts = |values: &[Dual]| up(&values.iter().map(|x| x.tangent).collect::<Vec<_>>());
    let given = [
        up(case.positions.as_flattened()),
        up(&case.multipoles),
        up(case.cells.as_flattened().as_flattened()),
        up(if forms { &case.cotangent } else { &[] }),
    ];
    let directions: Option<[Buffer; 4]> = tangents.map(|dual| {
        [
            parts(dual.positions.as_flattened()),
            parts(&dual.multipoles),
            parts(dual.cells.as_flattened().as_flattened()),
            parts(if forms { &dual.cotangent } else { &[] }),
        ]
    });
    let tangent = |k: usize| directions.as_ref().map_or(0, |d| d[k].address());
    let (n, n_systems) = (case.positions.len(), case.cells.len());
    let n_features = if forms { case.cotangent.len() } else { 0 };
    let sizes = [
        n_systems,
        case.multipoles.len(),
        n_features,
        3 * n,
        9 * n_systems,
    ];
    let out = sizes.map(|size| queue.upload(&vec![f64::NAN; size]).unwrap());
    let inputs = Inputs {
        positions: given[0].address(),
        multipoles: given[1].address(),
        cell: given[2].address(),
        cotangent: given[3].address(),
        points: 0,
        tangents: tangents.is_some(),
        positions_tangent: tangent(0),
        multipoles_tangent: tangent(1),
        cell_tangent: tangent(2),
        cotangent_tangent: tangent(3),
    };
    let outputs = Outputs {
        value: out[0].address(),
        multipoles: out[1].address(),
        features: out[2].address(),
        positions: out[3].address(),
        cell: out[4].address(),
    };
    let down = |k: usize| queue.download::<f64>(out[k].address(), sizes[k]).unwrap();
    let evaluated = || {
        evaluator.evaluate(queue, &inputs, &outputs).unwrap();
        Found {
            value: down(0),
            multipoles: down(1),
            features: down(2),
            positions: down(3),
            cell: down(4),
        }
    };
    let found = evaluated();
    if queue.device().is_emulated() {
        // A missing barrier, or a sum that depends on which thread comes first, shows in some order.
        for order in [Order::Backward, Order::Shuffled(7)] {
            assert_eq!(in_order(order, evaluated), found, "{order:?}");
        }
    }
    found
}

fn close(what: &str, found: &[f64], exact: &[f64], tolerance: f64) {
    assert_eq!(found.len(), exact.len(), "{what}");
    let scale = exact.iter().map(|x| x.abs()).fold(1.0, f64::max);
    for (k, (a, b)) in found.iter().zip(exact).enumerate() {
        assert!(
            (a - b).abs() <= tolerance * scale,
            "{what}[{k}]: {a} on the device, {b} on the CPU, scale {scale}"
        );
    }
}

/// One case on the device against the CPU, values and tangents.
fn compare(
    queue: &Queue,
    label: &str,
    case: &Case,
    options: &Options,
    forms: bool,
    tolerance: f64,
) {
    let evaluator = case.evaluator(queue, options, forms);
    let arrays = Arrays {
        positions: &case.positions,
        cells: &case.cells,
        multipoles: &case.multipoles,
        cotangent: &case.cotangent,
    };
    // The CPU chooses its own method: both are exact to the accuracy.
    let exact = Options {
        method: Method::Sums,
        ..*options
    };
    let cpu = case.reference(&arrays, &exact, forms);
    let found = on_device(queue, case, &evaluator, forms, None);
    let (sources, receivers) = (&cpu.sources, &cpu.receivers);
    close(
        &format!("{label} value"),
        &found.value,
        &cpu.value,
        tolerance,
    );
    close(
        &format!("{label} multipoles"),
        &found.multipoles,
        sources,
        tolerance,
    );
    if forms {
        close(
            &format!("{label} features"),
            &found.features,
            receivers,
            tolerance,
        );
    }
    close(
        &format!("{label} positions"),
        &found.positions,
        cpu.positions.as_flattened(),
        tolerance,
    );
    close(
        &format!("{label} cell"),
        &found.cell,
        cpu.cells.as_flattened().as_flattened(),
        tolerance,
    );

    let dual = case.duals();
    let arrays = Arrays {
        positions: &dual.positions,
        cells: &dual.cells,
        multipoles: &dual.multipoles,
        cotangent: &dual.cotangent,
    };
    let cpu = case.reference(&arrays, &exact, forms);
    let found = on_device(queue, case, &evaluator, forms, Some(&dual));
    let tangents = |values: &[Dual]| values.iter().map(|x| x.tangent).collect::<Vec<_>>();
    let label = format!("{label} tangent of");
    close(
        &format!("{label} value"),
        &found.value,
        &tangents(&cpu.value),
        tolerance,
    );
    close(
        &format!("{label} multipoles"),
        &found.multipoles,
        &tangents(&cpu.sources),
        tolerance,
    );
    if forms {
        close(
            &format!("{label} features"),
            &found.features,
            &tangents(&cpu.receivers),
            tolerance,
        );
    }
    close(
        &format!("{label} positions"),
        &found.positions,
        &tangents(cpu.positions.as_flattened()),
        tolerance,
    );
    close(
        &format!("{label} cell"),
        &found.cell,
        &tangents(cpu.cells.as_flattened().as_flattened()),
        tolerance,
    );
}

fn options(method: &str, correction: Option<&str>, self_interaction: bool) -> Options {
    Options {
        method: method.parse().unwrap(),
        correction: correction.map(|name| name.parse().unwrap()),
        accuracy: 1e-12,
        self_interaction,
    }
}

fn methods(pbc: [bool; 3]) -> &'static [&'static str] {
    if pbc == [false; 3] {
        &["direct", "auto", "reciprocal"]
    } else {
        &["reciprocal", "ewald", "auto"]
    }
}

fn energies(pbc: [bool; 3]) {
    let queue = queue();
    for method in methods(pbc) {
        for (max_l, own) in [(0, true), (1, false), (2, true)] {
            let case = case(pbc, max_l, None, Widths::of(pbc, method));
            let label = format!("{pbc:?} {method} l={max_l}");
            compare(
                &queue,
                &label,
                &case,
                &options(method, None, own),
                false,
                1e-10,
            );
        }
    }
}

fn forms(pbc: [bool; 3]) {
    let queue = queue();
    for method in methods(pbc) {
        for (max_l, features_l, own) in [(1, 1, false), (0, 2, true), (2, 0, false)] {
            let case = case(pbc, max_l, Some(features_l), Widths::of(pbc, method));
            let label = format!("{pbc:?} {method} l={max_l} features l={features_l}");
            compare(
                &queue,
                &label,
                &case,
                &options(method, None, own),
                true,
                1e-10,
            );
        }
    }
}

fn meshes(pbc: [bool; 3]) {
    let queue = queue();
    for (max_l, features_l, forms) in [(0, 0, false), (1, 1, true)] {
        let case = case(pbc, max_l, forms.then_some(features_l), WIDTHS);
        let options = Options {
            accuracy: 1e-8,
            ..options("mesh", None, true)
        };
        compare(
            &queue,
            &format!("{pbc:?} mesh l={max_l}"),
            &case,
            &options,
            forms,
            1e-7,
        );
    }
}

#[test]
fn corrections() {
    let queue = queue();
    for (pbc, name) in [
        ([true, false, true], "slab_dipole_correction"),
        ([true, true, false], "slab_dipole_correction"),
        ([false; 3], "molecule_in_box"),
    ] {
        for method in ["reciprocal", "ewald"] {
            for forms in [false, true] {
                // All axes are summed periodically.
                let case = case(pbc, 1, Some(1), Widths::of([true; 3], method));
                compare(
                    &queue,
                    &format!("{name} {method}"),
                    &case,
                    &options(method, Some(name), true),
                    forms,
                    1e-10,
                );
            }
        }
    }
}

/// Features alone, their transpose, and potentials at points.
fn potentials_alone(pbc: [bool; 3]) {
    let queue = queue();
    let case = case(pbc, 1, Some(1), WIDTHS);
    let options = options(
        if pbc == [false; 3] { "direct" } else { "ewald" },
        None,
        false,
    );
    let arrays = Arrays {
        positions: &case.positions,
        cells: &case.cells,
        multipoles: &case.multipoles,
        cotangent: &case.cotangent,
    };
    let cpu = case.reference(
        &arrays,
        &Options {
            method: Method::Sums,
            ..options
        },
        true,
    );
    let evaluator = case.evaluator(&queue, &options, true);
    let up = |values: &[f64]| queue.upload(values).unwrap();
    let (positions, multipoles) = (up(case.positions.as_flattened()), up(&case.multipoles));
    let (cell, cotangent) = (
        up(case.cells.as_flattened().as_flattened()),
        up(&case.cotangent),
    );
    let input = Inputs {
        positions: positions.address(),
        multipoles: multipoles.address(),
        cell: cell.address(),
        ..Inputs::default()
    };
    let out = up(&vec![f64::NAN; case.cotangent.len()]);
    let wanted = Outputs {
        features: out.address(),
        ..Outputs::default()
    };
    evaluator.evaluate(&queue, &input, &wanted).unwrap();
    let found: Vec<f64> = queue.download(out.address(), case.cotangent.len()).unwrap();
    close("features", &found, &cpu.receivers, 1e-10);

    let input = Inputs {
        multipoles: 0,
        cotangent: cotangent.address(),
        ..input
    };
    let out = up(&vec![f64::NAN; case.multipoles.len()]);
    let wanted = Outputs {
        multipoles: out.address(),
        ..Outputs::default()
    };
    evaluator.evaluate(&queue, &input, &wanted).unwrap();
    let found: Vec<f64> = queue
        .download(out.address(), case.multipoles.len())
        .unwrap();
    close("transpose", &found, &cpu.sources, 1e-10);

    let points: Vec<[f64; 3]> = numbers(21, 5.5)
        .as_chunks::<3>()
        .0
        .iter()
        .map(|r| r.map(|x| 3.0 * x))
        .collect();
    let points_batch = [3, 0, 2, 3, 3, 0, 1];
    let systems = Systems {
        positions: &case.positions[..],
        cells: &case.cells,
        pbc: &case.pbc,
        batch: &case.batch,
    };
    let sources = Sources {
        multipoles: &case.multipoles,
        max_l: 1,
        sigma: &case.sigma,
    };
    let exact =
        electrostatics::potential(&systems, &sources, &points, &points_batch, &options).unwrap();
    let request = Request {
        cells: &case.cells,
        pbc: &case.pbc,
        batch: &case.batch,
        sigma: &case.sigma,
        max_l: 1,
        receivers: None,
        points: Some(&points_batch),
        spans: Some(&case.spans()),
        fixed: false,
        precision: Precision::Double,
        options,
    };
    let evaluator = Evaluator::new(&queue, &request).unwrap();
    let flat = up(points.as_flattened());
    let input = Inputs {
        points: flat.address(),
        multipoles: multipoles.address(),
        ..input
    };
    let out = up(&[f64::NAN; 7]);
    let wanted = Outputs {
        features: out.address(),
        ..Outputs::default()
    };
    evaluator
        .evaluate(
            &queue,
            &Inputs {
                cotangent: 0,
                ..input
            },
            &wanted,
        )
        .unwrap();
    let found: Vec<f64> = queue.download(out.address(), 7).unwrap();
    close("points", &found, &exact, 1e-10);
}

/// Largest difference of two results, relative to the largest entry (or to 1).
fn difference(a: &[f64], b: &[f64]) -> f64 {
    let scale = b.iter().map(|x| x.abs()).fold(1.0, f64::max);
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max)
        / scale
}

/// Largest rounding of sums in single precision, tangents too: no more than the accuracy that they are planned for.
const ROUNDING: f64 = 1e-5;

/// Sums in single precision against those in double precision of the same plan, values and tangents.
fn compare_precisions(queue: &Queue, label: &str, case: &Case, options: &Options, forms: bool) {
    let double = case.evaluator(queue, options, forms);
    let single = case
        .evaluator_of(queue, options, forms, Precision::Single)
        .unwrap();
    assert_eq!(double.plans(), single.plans());
    let dual = case.duals();
    let mut most = 0.0f64;
    for tangents in [None, Some(&dual)] {
        let exact = on_device(queue, case, &double, forms, tangents);
        let found = on_device(queue, case, &single, forms, tangents);
        for (what, found, exact) in [
            ("value", &found.value, &exact.value),
            ("multipoles", &found.multipoles, &exact.multipoles),
            ("features", &found.features, &exact.features),
            ("positions", &found.positions, &exact.positions),
            ("cell", &found.cell, &exact.cell),
        ] {
            let error = difference(found, exact);
            let label = format!("{label} {what}, tangents {}", tangents.is_some());
            assert!(error <= ROUNDING, "{label}: {error:e}");
            most = most.max(error);
        }
    }
    println!("{label}: {most:.1e}");
    assert!(most > 1e-9, "{label}: nothing was rounded");
}

fn single_precision(pbc: [bool; 3]) {
    let queue = queue();
    for method in methods(pbc).iter().chain(&["mesh"]) {
        let options = Options {
            accuracy: 1e-5,
            ..options(method, None, true)
        };
        for forms in [false, true] {
            let case = case(pbc, 1, Some(1), Widths::of(pbc, method));
            let label = format!("{pbc:?} {method} forms {forms}");
            compare_precisions(&queue, &label, &case, &options, forms);
        }
    }
}

#[test]
fn single_precision_of_corrections_and_higher_multipoles() {
    let queue = queue();
    for (pbc, method, correction, max_l) in [
        (
            [true, false, true],
            "ewald",
            Some("slab_dipole_correction"),
            1,
        ),
        ([false; 3], "reciprocal", Some("molecule_in_box"), 1),
        ([true; 3], "ewald", None, 2),
        ([false; 3], "direct", None, 3),
    ] {
        let options = Options {
            accuracy: 1e-5,
            ..options(method, correction, true)
        };
        let label = format!("{pbc:?} {method} {correction:?} l={max_l}");
        let case = case(
            pbc,
            max_l,
            None,
            Widths {
                sources: [0.5, 0.9],
                ..WIDTHS
            },
        );
        compare_precisions(&queue, &label, &case, &options, false);
    }
}

#[test]
fn single_precision_is_not_planned_beyond_its_rounding() {
    let case = case([true; 3], 0, None, WIDTHS);
    let options = Options {
        accuracy: 9e-6,
        ..options("auto", None, true)
    };
    let queue = queue();
    let refused = case.evaluator_of(&queue, &options, false, Precision::Single);
    let message = refused.err().expect("an error").to_string();
    for part in ["9e-6", "float32", "1e-5", "float64"] {
        assert!(message.contains(part), "{message}");
    }
    let options = Options {
        accuracy: 1e-5,
        ..options
    };
    let made = case.evaluator_of(&queue, &options, false, Precision::Single);
    assert!(made.is_ok());
}

/// One test for each check and boundary, so that they share the processors.
macro_rules! boundaries {
    ($($name:ident: $pbc:expr;)*) => {
        $(mod $name {
            #[test]
            fn energies() {
                super::energies($pbc);
            }
            #[test]
            fn forms() {
                super::forms($pbc);
            }
            #[test]
            fn meshes() {
                super::meshes($pbc);
            }
            #[test]
            fn single_precision() {
                super::single_precision($pbc);
            }
            #[test]
            fn potentials_alone() {
                super::potentials_alone($pbc);
            }
        })*
    };
}
boundaries! {
    bulk: [true, true, true];
    slab: [true, false, true];
    slab_open_along_x: [false, true, true];
    wire: [false, false, true];
    open: [false, false, false];
}
