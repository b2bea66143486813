//! The particle mesh against sums: values, tangents, threads.

use electret_core::Error;
use electret_core::arithmetic::Dual;
use electret_core::electrostatics::{Output, coulomb, features, potential};
use electret_core::ewald::{Method, Options};
use electret_core::systems::{Normalization, Receivers, Sources, Systems};

const TIGHT: f64 = 1e-12;
const BOUNDARIES: [[bool; 3]; 6] = [
    [true, true, true],
    [true, true, false],
    [false, true, true],
    [true, false, false],
    [false, false, true],
    [false, false, false],
];

fn options(method: Method, accuracy: f64) -> Options {
    Options {
        method,
        correction: None,
        accuracy,
        self_interaction: true,
    }
}

/// The sum to compare with.
fn other(pbc: [bool; 3]) -> Method {
    if pbc == [false; 3] {
        Method::Direct
    } else {
        Method::Ewald
    }
}

/// Numbers between -1 and 1 that look random.
fn noise(seed: u64, n: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        })
        .collect()
}

#[derive(Clone)]
struct System {
    positions: Vec<[f64; 3]>,
    multipoles: Vec<f64>,
    max_l: usize,
    sigma: Vec<f64>,
    cell: [[f64; 3]; 3],
    pbc: [bool; 3],
}

const RECEIVERS: Receivers = Receivers {
    widths: &[0.7, 1.3],
    max_l: 1,
    normalization: Normalization::Multipoles,
};

impl System {
    /// Sheared, charged, of mixed widths.
    fn new(seed: u64, n: usize, max_l: usize, pbc: [bool; 3]) -> Self {
        let x = noise(seed, 3 * n + 9);
        let mut cell = [[0.0; 3]; 3];
        for (k, shear) in x[3 * n..].iter().enumerate() {
            cell[k / 3][k % 3] = 0.9 * shear + if k % 4 == 0 { 5.5 } else { 0.0 };
        }
        let positions = x[..3 * n]
            .chunks_exact(3)
            .map(|r| [2.0 * r[0], 2.0 * r[1], 2.0 * r[2]])
            .collect();
        let n_lm = (max_l + 1) * (max_l + 1);
        Self {
            positions,
            multipoles: noise(seed + 100, n * n_lm),
            max_l,
            sigma: (0..n).map(|i| [0.6, 0.9, 0.45][i % 3]).collect(),
            cell,
            pbc,
        }
    }

    /// Energy and gradients, then U(p, g) and gradients.
    fn run(&self, options: &Options) -> [Output<f64>; 2] {
        let batch = vec![0; self.positions.len()];
        let systems = Systems {
            positions: &self.positions,
            cells: &[self.cell],
            pbc: &[self.pbc],
            batch: &batch,
        };
        let sources = Sources {
            multipoles: &self.multipoles,
            max_l: self.max_l,
            sigma: &self.sigma,
        };
        let cotangent = noise(7, self.positions.len() * 8);
        [
            coulomb(&systems, &sources, options, true).expect("an energy"),
            features(&systems, &sources, &RECEIVERS, Some(&cotangent), options).expect("features"),
        ]
    }

    /// The evaluation on dual numbers, along given directions.
    fn tangent(&self, direction: &Self, options: &Options) -> [Output<Dual>; 2] {
        let dual = |a: &[f64; 3], b: &[f64; 3]| std::array::from_fn(|k| Dual::new(a[k], b[k]));
        let positions: Vec<[Dual; 3]> = self
            .positions
            .iter()
            .zip(&direction.positions)
            .map(|(a, b)| dual(a, b))
            .collect();
        let multipoles: Vec<Dual> = self
            .multipoles
            .iter()
            .zip(&direction.multipoles)
            .map(|(&a, &b)| Dual::new(a, b))
            .collect();
        let cell = std::array::from_fn(|k| dual(&self.cell[k], &direction.cell[k]));
        let cotangent: Vec<Dual> = noise(7, self.positions.len() * 8)
            .into_iter()
            .map(|g| Dual::new(g, 0.0))
            .collect();
        let batch = vec![0; self.positions.len()];
        let systems = Systems {
            positions: &positions,
            cells: &[cell],
            pbc: &[self.pbc],
            batch: &batch,
        };
        let sources = Sources {
            multipoles: &multipoles,
            max_l: self.max_l,
            sigma: &self.sigma,
        };
        [
            coulomb(&systems, &sources, options, true).expect("an energy"),
            features(&systems, &sources, &RECEIVERS, Some(&cotangent), options).expect("features"),
        ]
    }

    fn moved(&self, direction: &Self, step: f64) -> Self {
        let mut out = self.clone();
        let add = |to: &mut [f64], from: &[f64]| {
            for (a, b) in to.iter_mut().zip(from) {
                *a += step * b;
            }
        };
        add(
            out.positions.as_flattened_mut(),
            direction.positions.as_flattened(),
        );
        add(&mut out.multipoles, &direction.multipoles);
        add(out.cell.as_flattened_mut(), direction.cell.as_flattened());
        out
    }
}

/// All numbers of a result by name.
fn parts(out: &Output<f64>) -> Vec<(&'static str, Vec<f64>)> {
    vec![
        ("value", out.value.clone()),
        ("sources", out.sources.clone()),
        ("receivers", out.receivers.clone()),
        ("positions", out.positions.as_flattened().to_vec()),
        ("cells", out.cells.as_flattened().as_flattened().to_vec()),
    ]
}

fn part_of(out: &Output<Dual>, pick: impl Fn(&Dual) -> f64) -> Output<f64> {
    let list = |values: &[Dual]| values.iter().map(&pick).collect::<Vec<f64>>();
    let vector = |v: &[Dual; 3]| std::array::from_fn(|k| pick(&v[k]));
    Output {
        value: list(&out.value),
        sources: list(&out.sources),
        receivers: list(&out.receivers),
        positions: out.positions.iter().map(vector).collect(),
        cells: out
            .cells
            .iter()
            .map(|m| std::array::from_fn(|k| vector(&m[k])))
            .collect(),
    }
}

/// Largest differences over the largest numbers.
fn assert_close(found: &Output<f64>, exact: &Output<f64>, bar: f64, what: &str) {
    for ((name, found), (_, exact)) in parts(found).into_iter().zip(parts(exact)) {
        assert_eq!(found.len(), exact.len());
        let scale = exact.iter().fold(0.0_f64, |a, b| a.max(b.abs()));
        if exact.is_empty() || (name == "sources" && scale == 0.0) {
            continue;
        }
        let largest = found.iter().zip(&exact).map(|(a, b)| (a - b).abs());
        let error = largest.fold(0.0, f64::max) / scale;
        if name != "cells" || scale > 0.0 {
            assert!(scale > 1e-2, "{what}: {name} is too small to test");
        }
        assert!(
            scale == 0.0 || error < bar,
            "{what}: {name} is off by {error:.1e}"
        );
    }
}

#[test]
fn values_are_those_of_the_sums() {
    for pbc in BOUNDARIES {
        for max_l in [0, 1, 2, 4] {
            let system = System::new(max_l as u64, 6, max_l, pbc);
            let found = system.run(&options(Method::Mesh(None), TIGHT));
            let exact = system.run(&options(other(pbc), TIGHT));
            for (found, exact) in found.iter().zip(&exact) {
                assert_close(found, exact, 1e-10, &format!("{pbc:?}, l = {max_l}"));
            }
        }
    }
}

#[test]
fn high_degrees() {
    // The accuracies are the finest that meshes take for these degrees.
    for (max_l, accuracy, bound) in [(5, 3e-11, 1e-10), (6, 1e-9, 1e-9)] {
        let system = System::new(17, 4, max_l, [true; 3]);
        let found = system.run(&options(Method::Mesh(None), accuracy));
        let exact = system.run(&options(Method::Ewald, TIGHT));
        assert_close(&found[0], &exact[0], bound, &format!("l = {max_l}"));
        assert_close(&found[1], &exact[1], bound, &format!("l = {max_l}"));
    }
}

#[test]
fn every_order_of_splines() {
    for order in 5..=16 {
        let system = System::new(3, 6, 1, [true; 3]);
        let accuracy = if order < 8 { 1e-4 } else { 1e-7 };
        let found = system.run(&options(Method::Mesh(Some(order)), accuracy));
        let exact = system.run(&options(Method::Ewald, TIGHT));
        for (found, exact) in found.iter().zip(&exact) {
            assert_close(found, exact, 3.0 * accuracy, &format!("order {order}"));
        }
    }
}

#[test]
fn potentials_at_points() {
    for pbc in BOUNDARIES {
        let system = System::new(5, 5, 2, pbc);
        let batch = vec![0; 5];
        let systems = Systems {
            positions: &system.positions,
            cells: &[system.cell],
            pbc: &[pbc],
            batch: &batch,
        };
        let sources = Sources {
            multipoles: &system.multipoles,
            max_l: 2,
            sigma: &system.sigma,
        };
        let mut points: Vec<[f64; 3]> = noise(8, 21).as_chunks().0.to_vec();
        points.push(system.positions[0]);
        let at = |method: Method| {
            let options = options(method, TIGHT);
            potential(&systems, &sources, &points, &[0; 8], &options).expect("potentials")
        };
        for (a, b) in at(Method::Mesh(None)).iter().zip(at(other(pbc))) {
            assert!((a - b).abs() < 1e-9 * (1.0 + b.abs()), "{pbc:?}: {a} {b}");
        }
    }
}

/// Tangents of values and of all gradients against central differences of the mesh itself, at accuracies where it is
/// far from the sums. Along three periodic axes and for small strains the mesh stays the same.
#[test]
fn tangents_are_directional_derivatives() {
    for max_l in [0, 1, 2] {
        let system = System::new(11 + max_l as u64, 5, max_l, [true; 3]);
        let mut direction = System::new(21, 5, max_l, [true; 3]);
        for entry in direction.cell.as_flattened_mut() {
            *entry = 0.1 * (*entry).sin();
        }
        for accuracy in [1e-2, 1e-4] {
            let options = options(Method::Mesh(None), accuracy);
            let found = system.tangent(&direction, &options);
            let step = 1e-4;
            let ends: Vec<[Output<f64>; 2]> = [1.0, -1.0, 2.0, -2.0]
                .iter()
                .map(|sign| system.moved(&direction, sign * step).run(&options))
                .collect();
            for which in 0..2 {
                let values = part_of(&found[which], |d| d.value);
                assert_close(&values, &system.run(&options)[which], 1e-12, "values");
                let mut slope = ends[0][which].clone();
                let pairs: Vec<Vec<(&str, Vec<f64>)>> =
                    ends.iter().map(|end| parts(&end[which])).collect();
                let difference = |part: usize| -> Vec<f64> {
                    (0..pairs[0][part].1.len())
                        .map(|k| {
                            let at = |end: usize| pairs[end][part].1[k];
                            (8.0 * (at(0) - at(1)) - (at(2) - at(3))) / (12.0 * step)
                        })
                        .collect()
                };
                slope.value = difference(0);
                slope.sources = difference(1);
                slope.receivers = difference(2);
                slope.positions = difference(3).as_chunks().0.to_vec();
                slope.cells = difference(4).as_chunks().0.as_chunks().0.to_vec();
                let tangents = part_of(&found[which], |d| d.tangent);
                assert_close(
                    &tangents,
                    &slope,
                    1e-6,
                    &format!("l = {max_l}, accuracy {accuracy}, {which}"),
                );
            }
        }
    }
}

#[test]
fn tangents_are_those_of_the_sums() {
    for pbc in BOUNDARIES {
        let system = System::new(31, 5, 2, pbc);
        let mut direction = System::new(32, 5, 2, pbc);
        for axis in (0..3).filter(|&axis| !pbc[axis]) {
            direction.cell[axis] = [0.0; 3];
        }
        let found = system.tangent(&direction, &options(Method::Mesh(None), TIGHT));
        let exact = system.tangent(&direction, &options(other(pbc), TIGHT));
        for (found, exact) in found.iter().zip(&exact) {
            let tangent = |out: &Output<Dual>| part_of(out, |d| d.tangent);
            assert_close(&tangent(found), &tangent(exact), 1e-9, &format!("{pbc:?}"));
        }
    }
}

/// Bitwise, with as many sites as several tiles and slabs hold.
#[test]
fn the_same_for_any_number_of_threads() {
    let system = {
        let mut system = System::new(41, 900, 1, [true; 3]);
        system.cell = [[19.0, 0.0, 1.0], [0.0, 21.0, 0.0], [-2.0, 0.0, 18.0]];
        for position in &mut system.positions {
            for x in position {
                *x *= 5.0;
            }
        }
        system
    };
    for accuracy in [1e-3, 1e-6] {
        let options = options(Method::Mesh(None), accuracy);
        let results: Vec<Vec<u64>> = [1, 2, 4]
            .iter()
            .map(|&threads| {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .expect("threads");
                let out = pool.install(|| system.run(&options));
                let all = out.iter().flat_map(parts).flat_map(|(_, values)| values);
                all.map(f64::to_bits).collect()
            })
            .collect();
        assert_eq!(results[0], results[1]);
        assert_eq!(results[0], results[2]);
    }
}

#[test]
fn bad_input_is_named() {
    for name in ["mesh-3", "mesh-17", "mesh-", "mesh-8.5", "mesh-nine"] {
        let error = name.parse::<Method>().expect_err("no such order");
        let text = error.to_string();
        assert!(text.contains(name) && text.contains("mesh-16"), "{text}");
    }
    assert_eq!("mesh".parse::<Method>().ok(), Some(Method::Mesh(None)));
    assert_eq!("mesh-9".parse::<Method>().ok(), Some(Method::Mesh(Some(9))));

    let refused = |system: &System, method: Method| -> Error {
        let batch = vec![0; system.positions.len()];
        let systems = Systems {
            positions: &system.positions,
            cells: &[system.cell],
            pbc: &[system.pbc],
            batch: &batch,
        };
        let sources = Sources {
            multipoles: &system.multipoles,
            max_l: system.max_l,
            sigma: &system.sigma,
        };
        coulomb(&systems, &sources, &options(method, 1e-6), true).expect_err("bad input")
    };
    let system = System::new(51, 3, 2, [true; 3]);
    let error = refused(&system, Method::Mesh(Some(5))).to_string();
    assert!(
        error.contains("degree 2") && error.contains("mesh-6"),
        "{error}"
    );
    let mut far = System::new(51, 3, 0, [true, true, false]);
    far.positions[0][2] = 1e9;
    let error = refused(&far, Method::Mesh(None)).to_string();
    assert!(error.contains("a mesh of more than"), "{error}");
    let mut narrow = System::new(51, 3, 0, [true; 3]);
    narrow.positions[1][0] = f64::INFINITY;
    assert!(matches!(
        refused(&narrow, Method::Mesh(None)),
        Error::NonFinite {
            array: "positions",
            ..
        }
    ));
}
