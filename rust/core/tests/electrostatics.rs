//! The electrostatics against exact values, and the laws they obey.

use electret_core::Error;
use electret_core::electrostatics::{coulomb, features, potential};
use electret_core::ewald::{Method, Options};
use electret_core::geometry::Geometry;
use electret_core::systems::{Normalization, Receivers, Sources, Systems};
use proptest::prelude::*;
use serde_json::Value;

const TIGHT: Options = Options {
    method: Method::Auto,
    correction: None,
    accuracy: 1e-12,
    self_interaction: true,
};

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        other => vec![other.as_f64().expect("a number")],
    }
}

fn vectors(value: &Value) -> Vec<[f64; 3]> {
    numbers(value).as_chunks().0.to_vec()
}

/// Largest difference over the largest exact value.
fn relative(found: &[f64], exact: &[f64]) -> f64 {
    assert_eq!(found.len(), exact.len());
    let scale = exact.iter().fold(0.0_f64, |a, b| a.max(b.abs()));
    assert!(
        scale > 1e-3,
        "the exact values are too small to test against"
    );
    let largest = found.iter().zip(exact).map(|(a, b)| (a - b).abs());
    largest.fold(0.0, f64::max) / scale
}

#[test]
fn exact_values() {
    let text = include_str!("../../../tests/kernels/gaussian_multipoles.json");
    let data: Value = serde_json::from_str(text).expect("valid JSON");
    for case in data["cases"].as_array().expect("cases") {
        let name = &case["name"];
        let positions = vectors(&case["positions"]);
        let n_atoms = positions.len();
        let cell = match &case["cell"] {
            Value::Null => [[0.0; 3]; 3],
            rows => vectors(rows).as_chunks().0[0],
        };
        let pbc: Vec<bool> = case["pbc"]
            .as_array()
            .expect("pbc")
            .iter()
            .map(|p| p.as_bool().unwrap_or(p.as_i64() == Some(1)))
            .collect();
        let pbc = [[pbc[0], pbc[1], pbc[2]]];
        let multipoles = numbers(&case["multipoles"]);
        let mut sigma = numbers(&case["sigma"]);
        if sigma.len() == 1 {
            sigma = vec![sigma[0]; n_atoms];
        }
        let sources = Sources {
            multipoles: &multipoles,
            max_l: (multipoles.len() / n_atoms).isqrt() - 1,
            sigma: &sigma,
        };
        let batch = vec![0; n_atoms];
        let systems = Systems {
            positions: &positions,
            cells: &[cell],
            pbc: &pbc,
            batch: &batch,
        };
        let normalization: Normalization = case["normalization"]
            .as_str()
            .expect("a name")
            .parse()
            .expect("a known name");
        let widths = numbers(&case["widths"]);
        let receivers = Receivers {
            widths: &widths,
            max_l: case["features_max_l"].as_u64().expect("a degree") as usize,
            normalization,
        };
        let points = vectors(&case["points"]);
        for method in [
            Method::Auto,
            Method::Direct,
            Method::Reciprocal,
            Method::Ewald,
        ] {
            let open = pbc[0] == [false; 3];
            if (method == Method::Direct && !open) || (method == Method::Reciprocal && open) {
                continue;
            }
            let options = Options { method, ..TIGHT };
            let out = coulomb(&systems, &sources, &options, true).expect("a result");
            let energy = case["energy"].as_f64().expect("a number");
            assert!(
                (out.value[0] / energy - 1.0).abs() < 1e-10,
                "{name} {method:?}"
            );
            assert!(
                relative(&out.sources, &numbers(&case["potential"])) < 1e-10,
                "{name}"
            );
            let forces: Vec<f64> = out.positions.as_flattened().iter().map(|g| -g).collect();
            assert!(
                relative(&forces, &numbers(&case["forces"])) < 1e-10,
                "{name} {method:?}"
            );
            let out = features(&systems, &sources, &receivers, None, &options).expect("a result");
            let exact = numbers(&case["features"]);
            assert!(
                relative(&out.receivers, &exact) < 1e-10,
                "{name} {method:?}"
            );
            let at_points = potential(
                &systems,
                &sources,
                &points,
                &vec![0; points.len()],
                &options,
            )
            .expect("a result");
            let exact = numbers(&case["potential_at_points"]);
            assert!(relative(&at_points, &exact) < 1e-10, "{name} {method:?}");
        }
    }
}

#[derive(Debug, Clone)]
struct System {
    positions: Vec<[f64; 3]>,
    multipoles: Vec<f64>,
    sigma: Vec<f64>,
    cell: [[f64; 3]; 3],
    pbc: [bool; 3],
}

impl System {
    fn run(&self, options: &Options) -> (f64, Vec<[f64; 3]>, [[f64; 3]; 3]) {
        let batch = vec![0; self.positions.len()];
        let systems = Systems {
            positions: &self.positions,
            cells: &[self.cell],
            pbc: &[self.pbc],
            batch: &batch,
        };
        let out = coulomb(&systems, &self.sources(), options, true).expect("a result");
        (out.value[0], out.positions, out.cells[0])
    }

    fn sources(&self) -> Sources<'_, f64> {
        Sources {
            multipoles: &self.multipoles,
            max_l: 1,
            sigma: &self.sigma,
        }
    }
}

fn systems() -> impl Strategy<Value = System> {
    (2..6_usize, any::<[bool; 3]>()).prop_flat_map(|(n, pbc)| {
        let entry = -1.0..1.0;
        (
            prop::collection::vec(prop::array::uniform3(0.0..5.0), n),
            prop::collection::vec(entry, 4 * n),
            prop::collection::vec(0.5..1.5, n),
            prop::array::uniform3(prop::array::uniform3(-0.8..0.8)),
        )
            .prop_map(move |(positions, multipoles, sigma, shear)| {
                let mut cell = shear;
                for axis in 0..3 {
                    cell[axis][axis] += 5.0;
                }
                System {
                    positions,
                    multipoles,
                    sigma,
                    cell,
                    pbc,
                }
            })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn energies_do_not_depend_on_the_split(system in systems()) {
        let (energy, gradient, cell) = system.run(&TIGHT);
        let ewald = Options { method: Method::Ewald, ..TIGHT };
        let (other, other_gradient, other_cell) = system.run(&ewald);
        prop_assert!((energy - other).abs() < 1e-9 * (1.0 + energy.abs()));
        for (a, b) in gradient.as_flattened().iter().zip(other_gradient.as_flattened()) {
            prop_assert!((a - b).abs() < 1e-9 * (1.0 + energy.abs()));
        }
        for (a, b) in cell.as_flattened().iter().zip(other_cell.as_flattened()) {
            prop_assert!((a - b).abs() < 1e-8 * (1.0 + energy.abs()));
        }
    }

    #[test]
    fn moving_everything_changes_nothing(system in systems(), shift in prop::array::uniform3(-20.0..20.0)) {
        let (energy, gradient, _) = system.run(&TIGHT);
        let mut moved = system.clone();
        for position in &mut moved.positions {
            for axis in 0..3 {
                position[axis] += shift[axis];
            }
        }
        let (other, ..) = moved.run(&TIGHT);
        prop_assert!((energy - other).abs() < 1e-9 * (1.0 + energy.abs()));
        for axis in 0..3 {
            let total: f64 = gradient.iter().map(|g| g[axis]).sum();
            prop_assert!(total.abs() < 1e-8 * (1.0 + energy.abs()));
        }
    }

    #[test]
    fn cached_operators_agree_and_are_symmetric(system in systems()) {
        let batch = vec![0; system.positions.len()];
        let input = Systems {
            positions: &system.positions,
            cells: &[system.cell],
            pbc: &[system.pbc],
            batch: &batch,
        };
        let receivers = Receivers { widths: &[1.5], max_l: 1, normalization: Normalization::Multipoles };
        let geometry = Geometry::new(&input, &system.sigma, 1, &receivers, &TIGHT, &TIGHT).expect("a geometry");
        let (energy, _) = geometry.energy(&system.multipoles).expect("an energy");
        let (expected, ..) = system.run(&TIGHT);
        prop_assert!((energy[0] - expected).abs() < 1e-9 * (1.0 + expected.abs()));
        let matrix = geometry.coulomb_matrix(0).expect("a matrix");
        let n = system.multipoles.len();
        for i in 0..n {
            for j in 0..i {
                prop_assert!((matrix[i * n + j] - matrix[j * n + i]).abs() < 1e-9);
            }
        }
    }
}

#[test]
fn bad_input_is_named() {
    let good = System {
        positions: vec![[0.0; 3], [1.0, 1.0, 1.0]],
        multipoles: vec![0.5; 8],
        sigma: vec![1.0; 2],
        cell: [[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 4.0]],
        pbc: [true; 3],
    };
    let fails = |change: &dyn Fn(&mut System), options: &Options| {
        let mut system = good.clone();
        change(&mut system);
        let batch = vec![0; system.positions.len()];
        let input = Systems {
            positions: &system.positions,
            cells: &[system.cell],
            pbc: &[system.pbc],
            batch: &batch,
        };
        coulomb(&input, &system.sources(), options, true).expect_err("bad input")
    };
    assert!(matches!(
        fails(&|s| s.positions[1][2] = f64::NAN, &TIGHT),
        Error::NonFinite {
            array: "positions",
            index: 5,
            ..
        }
    ));
    assert!(matches!(
        fails(&|s| s.sigma[1] = 0.0, &TIGHT),
        Error::Value {
            array: "sigma",
            index: 1,
            ..
        }
    ));
    assert!(matches!(
        fails(&|s| s.cell[2] = s.cell[1], &TIGHT),
        Error::SingularCell { system: 0, .. }
    ));
    let direct = Options {
        method: Method::Direct,
        ..TIGHT
    };
    assert!(matches!(fails(&|_| (), &direct), Error::Unsupported { .. }));
    let reciprocal = Options {
        method: Method::Reciprocal,
        ..TIGHT
    };
    let narrow = |s: &mut System| {
        s.pbc = [false; 3];
        s.sigma = vec![1e-3; 2];
    };
    assert!(matches!(
        fails(&narrow, &reciprocal),
        Error::Unsupported { .. }
    ));
}
