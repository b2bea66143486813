//! The device's pairs against those of the host.

use super::*;
use crate::arithmetic::vector::{Matrix, Vector, values};
use crate::arithmetic::{Dual, Scalar};
use crate::cuda::driver::emulation::in_every_order;
use crate::cuda::terms::{SystemPlan, Tables};
use crate::cuda::{CellGradients, Precision};
use crate::ewald::density::{Density, Gradient, Want};
use crate::ewald::own::{OwnWeights, add_own_terms};
use crate::ewald::plan::Split;
use crate::ewald::real::{self, RealSpace, Relation, Rows};
use crate::lattice::Lattice;
use crate::special::harmonics::count;

/// Deterministic numbers in (-1, 1).
fn number(k: usize) -> f64 {
    (0.7 + 12.9898 * (k + 1) as f64).sin()
}

/// Sites of a batch, sources or receivers.
struct Sites<T> {
    layout: Layout,
    positions: Vec<Vector<T>>,
    coefficients: Vec<T>,
}

impl<T: Scalar> Sites<T> {
    fn new(
        seed: usize,
        sizes: &[usize],
        cells: &[Matrix<T>],
        n_channels: usize,
        max_l: usize,
        make: fn(f64, f64) -> T,
    ) -> Self {
        let scalar = |k: usize| make(number(k), number(k + 7));
        let mut positions = Vec::new();
        let mut first = vec![0];
        for (&n, cell) in sizes.iter().zip(cells) {
            for _ in 0..n {
                // In and around the cell.
                let k = seed + 3 * positions.len();
                let mut position = [T::zero(); 3];
                for axis in 0..3 {
                    for (x, &vector) in position.iter_mut().zip(&cell[axis]) {
                        *x += vector * scalar(k + axis) * 0.9;
                    }
                }
                positions.push(position);
            }
            first.push(positions.len());
        }
        let n = positions.len() * n_channels;
        let layout = Layout {
            first,
            widths: (0..n).map(|k| [0.3, 0.5, 1.4][(k + seed) % 3]).collect(),
            n_channels,
            max_l,
        };
        Self {
            coefficients: (0..n * count(max_l))
                .map(|k| scalar(seed + 1000 + k))
                .collect(),
            layout,
            positions,
        }
    }

    fn density<'a>(&'a self, positions: &'a [Vector<T>], system: usize) -> Density<'a, T> {
        let range = self.layout.first[system]..self.layout.first[system + 1];
        let n_row = self.layout.n_row();
        Density {
            positions: &positions[range.clone()],
            widths: self.layout.widths_of(system),
            n_channels: self.layout.n_channels,
            max_l: self.layout.max_l,
            coefficients: &self.coefficients[range.start * n_row..range.end * n_row],
        }
    }
}

/// A batch with its multipoles.
struct Sample<T> {
    batch: Batch,
    cells: Vec<Matrix<T>>,
    source: Sites<T>,
    receiver: Option<Sites<T>>,
}

/// Results of a sum, all systems one after the other.
struct Sums<T> {
    receiver: Vec<T>,
    receiver_positions: Vec<T>,
    source: Vec<T>,
    source_positions: Vec<T>,
    cells: Vec<T>,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    relation: Relation,
    source_l: usize,
    receiver_l: usize,
    direct: bool,
}

const CELL: Matrix<f64> = [[5.0, 0.3, -0.5], [0.7, 5.5, 0.2], [-0.4, 0.6, -6.0]];
const OPEN_LENGTH: f64 = 40.0;

impl<T: Scalar> Sample<T> {
    fn new(case: Case, sizes: &[usize], make: fn(f64, f64) -> T) -> Self {
        let n_channels = if case.relation == Relation::Same {
            1
        } else {
            2
        };
        let boundaries = [
            [true; 3],
            [false; 3],
            [true, false, true],
            [true, true, false],
            [false, true, false],
        ];
        let cells: Vec<Matrix<T>> = (0..sizes.len())
            .map(|k| {
                CELL.map(|row| {
                    // The third is smaller than the cutoff.
                    let scale = if k == 2 { 0.5 } else { 1.0 };
                    row.map(|x| make(scale * x, 0.1 * number(k) + 0.05 * x))
                })
            })
            .collect();
        let systems = (0..sizes.len()).map(|k| {
            // The second has no pairs in real space, the third is direct if all are.
            let split = Split {
                floor: if k == 1 { 0.0 } else { 0.8 },
                exponent: 20.0,
                cutoff: if k == 1 { 0.0 } else { 5.0 },
                open_length: OPEN_LENGTH,
                mesh: None,
            };
            SystemPlan {
                plan: if case.direct {
                    Plan::Direct
                } else {
                    Plan::Split(split)
                },
                summed: if case.direct {
                    [false; 3]
                } else {
                    boundaries[k % boundaries.len()]
                },
                // A cell slightly different from the summed one.
                cell: cells[k].map(|row| values(&row).map(|x| 1.3 * x)),
            }
        });
        let systems = systems.collect();
        let source = Sites::new(0, sizes, &cells, n_channels, case.source_l, make);
        let other: Vec<usize> = match case.relation {
            Relation::Apart => sizes.iter().map(|n| (n + 2) % 6).collect(),
            _ => sizes.to_vec(),
        };
        let receiver = (case.relation != Relation::Same)
            .then(|| Sites::new(500, &other, &cells, 3, case.receiver_l, make));
        let batch = Batch {
            systems,
            source: source.layout.clone(),
            receiver: receiver.as_ref().map(|sites| sites.layout.clone()),
            same_sites: case.relation != Relation::Apart,
            precision: Precision::Double,
        };
        Self {
            batch,
            cells,
            source,
            receiver,
        }
    }

    fn receiver_positions(&self) -> &[Vector<T>] {
        match &self.receiver {
            Some(receiver) if !self.batch.same_sites => &receiver.positions,
            _ => &self.source.positions,
        }
    }

    fn host(&self) -> Sums<T> {
        let mut out = Sums {
            receiver: Vec::new(),
            receiver_positions: Vec::new(),
            source: Vec::new(),
            source_positions: Vec::new(),
            cells: Vec::new(),
        };
        for (k, system) in self.batch.systems.iter().enumerate() {
            let source = self.source.density(&self.source.positions, k);
            let receiver = self
                .receiver
                .as_ref()
                .map(|sites| sites.density(self.receiver_positions(), k));
            let receiver = receiver.as_ref();
            let gradient = match system.plan {
                Plan::Split(split) if split.floor == 0.0 => {
                    Gradient::zero(&source, receiver.unwrap_or(&source))
                }
                plan => {
                    let (pairs, split) = match plan {
                        Plan::Direct => (real::Pairs::All, None),
                        Plan::Split(split) => {
                            let (cell, pbc) = (&self.cells[k], system.summed);
                            let rows = Rows::new(&source, receiver, cell, pbc, split.cutoff);
                            (real::Pairs::Listed(rows.unwrap()), Some(split.floor))
                        }
                    };
                    let mut gradient = RealSpace::new(pairs, split, self.cells[k]).evaluate(
                        &source,
                        receiver,
                        Want::ALL,
                    );
                    if self.batch.same_sites {
                        let mut own = Gradient::zero(&source, receiver.unwrap_or(&source));
                        let weights = OwnWeights::short_range(split);
                        add_own_terms(&source, receiver, Want::ALL, weights, &mut own);
                        let less = |values: &mut [T], own: &[T]| {
                            values.iter_mut().zip(own).for_each(|(a, &b)| *a -= b);
                        };
                        less(&mut gradient.receiver, &own.receiver);
                        less(&mut gradient.source, &own.source);
                    }
                    gradient
                }
            };
            out.receiver.extend(gradient.receiver);
            out.receiver_positions
                .extend(gradient.receiver_positions.iter().flatten());
            if receiver.is_some() {
                out.source.extend(gradient.source);
                out.source_positions
                    .extend(gradient.source_positions.iter().flatten());
            }
            out.cells.extend(gradient.cell.iter().flatten());
        }
        out
    }

    fn device(&self, gradients: bool) -> Sums<T> {
        let queue = Queue::emulated();
        let scalar = if T::PARTS == 1 {
            ScalarKind::Real
        } else {
            ScalarKind::Dual
        };
        let upload = |values: &[T]| queue.upload(&parts(values)).unwrap();
        let flat = |vectors: &[Vector<T>]| upload(vectors.as_flattened());
        let zeros = |n: usize| queue.zeros(n * scalar.size()).unwrap();
        let lattices: Vec<u8> = self
            .batch
            .systems
            .iter()
            .zip(&self.cells)
            .flat_map(lattice_bytes)
            .collect();
        let lattices = queue.upload(&lattices).unwrap();
        let n_cells = 9 * self.cells.len();
        let cells = zeros(n_cells);
        let Some(term) = super::RealSpace::new(&queue, &self.batch).unwrap() else {
            panic!("there are pairs");
        };
        // Only pairs contribute to the other derivatives.
        let cell_gradients = CellGradients {
            cell: cells.address(),
            reciprocal: 0,
            volume: 0,
        };
        let side = |sites: &Sites<T>, positions: &[Vector<T>]| {
            let layout = &sites.layout;
            let tables = Tables::new(&queue, layout).unwrap();
            let memory = [
                flat(positions),
                upload(&sites.coefficients),
                zeros(sites.coefficients.len()),
                zeros(3 * layout.n_sites()),
            ];
            let [a, b, c, d] = [0, 1, 2, 3].map(|k| memory[k].address());
            (tables.side(layout, a, b, b, c, d), memory, tables)
        };
        let source = side(&self.source, &self.source.positions);
        let receiver = self
            .receiver
            .as_ref()
            .map(|sites| side(sites, self.receiver_positions()));
        let apply = |direction, receivers: Side, sources: Side, once| {
            let pass = Pass {
                queue: &queue,
                scalar,
                precision: Precision::Double,
                direction,
                receivers,
                sources,
                lattices: lattices.address(),
                gradients,
                cell: gradients,
                once,
                cells: cell_gradients,
            };
            term.apply(&pass).unwrap();
        };
        match &receiver {
            None => apply(Direction::Forward, source.0, source.0, 0.5),
            Some(receiver) => {
                apply(Direction::Forward, receiver.0, source.0, 1.0);
                apply(Direction::Transposed, source.0, receiver.0, 0.0);
            }
        }
        let download = |address: Address, n: usize| -> Vec<T> {
            let values: Vec<f64> = queue.download(address, n * T::PARTS).unwrap();
            values
                .chunks(T::PARTS)
                .map(|chunk| T::from_parts(|part| chunk[part]))
                .collect()
        };
        let of = |side: &Side, layout: &Layout| {
            [
                download(side.potentials, layout.n_sites() * layout.n_row()),
                download(side.gradients, 3 * layout.n_sites()),
            ]
        };
        let own = of(&source.0, &self.source.layout);
        let ([receiver, receiver_positions], [source, source_positions]) =
            match (&receiver, &self.receiver) {
                (Some((side, ..)), Some(sites)) => (of(side, &sites.layout), own),
                _ => (own, [Vec::new(), Vec::new()]),
            };
        Sums {
            receiver,
            receiver_positions,
            source,
            source_positions,
            cells: download(cells.address(), n_cells),
        }
    }
}

fn parts<T: Scalar>(values: &[T]) -> Vec<f64> {
    values
        .iter()
        .flat_map(|x| (0..T::PARTS).map(|part| x.part(part)))
        .collect()
}

/// A `Lattice` of `batch.cuh`.
fn lattice_bytes<T: Scalar>((system, cell): (&SystemPlan, &Matrix<T>)) -> Vec<u8> {
    let lattice = Lattice::new(cell, system.summed, OPEN_LENGTH);
    let mut out = Vec::new();
    let mut add = |values: &[f64]| out.extend_from_slice(bytemuck::cast_slice(values));
    add(&parts(lattice.vectors.as_flattened()));
    add(&parts(lattice.reciprocal.as_flattened()));
    add(&parts(&[lattice.volume]));
    add(&[OPEN_LENGTH]);
    let [a, b, c] = system.summed.map(i32::from);
    out.extend_from_slice(bytemuck::cast_slice(&[a, b, c, 0]));
    out
}

fn check<T: Scalar>(what: &str, case: Case, found: &[T], exact: &[T]) {
    let (found, exact) = (parts(found), parts(exact));
    assert_eq!(found.len(), exact.len());
    let scale = exact.iter().fold(0.0_f64, |a, b| a.max(b.abs()));
    let cell_of_direct = case.direct && what == "cells";
    assert!(
        exact.is_empty() || scale > 1e-2 || cell_of_direct,
        "{what} {case:?}: all is {scale}"
    );
    for (k, (a, b)) in found.iter().zip(&exact).enumerate() {
        let error = (a - b).abs();
        assert!(
            error <= 1e-11 * scale,
            "{what}[{k}] {case:?}: {a} against {b}"
        );
    }
}

fn compare<T: Scalar>(case: Case, sizes: &[usize], make: fn(f64, f64) -> T) {
    let sample = Sample::new(case, sizes, make);
    let (exact, found) = (sample.host(), sample.device(true));
    check("receiver", case, &found.receiver, &exact.receiver);
    check("source", case, &found.source, &exact.source);
    check(
        "receivers' positions",
        case,
        &found.receiver_positions,
        &exact.receiver_positions,
    );
    check(
        "sources' positions",
        case,
        &found.source_positions,
        &exact.source_positions,
    );
    check("cells", case, &found.cells, &exact.cells);
    let potentials = sample.device(false);
    check(
        "receiver alone",
        case,
        &potentials.receiver,
        &exact.receiver,
    );
    check("source alone", case, &potentials.source, &exact.source);
    assert!(
        potentials
            .receiver_positions
            .iter()
            .chain(&potentials.cells)
            .all(|x| x.is_zero())
    );
}

const SIZES: [usize; 6] = [9, 4, 5, 0, 1, 7];

fn compare_all(source_l: usize, receiver_l: usize, sizes: &[usize]) {
    for relation in [Relation::Same, Relation::SameSites, Relation::Apart] {
        if relation == Relation::Same && source_l != receiver_l {
            continue;
        }
        for direct in [false, true] {
            let case = Case {
                relation,
                source_l,
                receiver_l,
                direct,
            };
            compare::<f64>(case, sizes, |value, _| value);
            compare::<Dual>(case, sizes, Dual::new);
        }
    }
}

#[test]
fn charges_and_dipoles_are_those_of_the_host() {
    for (source_l, receiver_l) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        compare_all(source_l, receiver_l, &SIZES);
    }
}

#[test]
fn multipoles_are_those_of_the_host() {
    for (source_l, receiver_l) in [(2, 0), (1, 3), (2, 2), (3, 3)] {
        compare_all(source_l, receiver_l, &SIZES);
    }
}

#[test]
fn highest_degrees() {
    let case = Case {
        relation: Relation::SameSites,
        source_l: 6,
        receiver_l: 6,
        direct: false,
    };
    compare::<Dual>(case, &[4, 2, 3], Dual::new);
}

#[test]
fn many_sites_fill_several_rounds() {
    let case = Case {
        relation: Relation::Same,
        source_l: 1,
        receiver_l: 1,
        direct: false,
    };
    let direct = Case {
        direct: true,
        ..case
    };
    in_every_order(|| {
        compare::<f64>(case, &[150, 3, 40], |value, _| value);
        compare::<f64>(direct, &[70, 3, 100], |value, _| value);
    });
}

#[test]
fn no_pairs() {
    let case = Case {
        relation: Relation::Same,
        source_l: 0,
        receiver_l: 0,
        direct: true,
    };
    let sample = Sample::<f64>::new(case, &[1, 0, 1], |value, _| value);
    assert!(
        super::RealSpace::new(&Queue::emulated(), &sample.batch)
            .unwrap()
            .is_none()
    );
}

#[test]
fn same_bits_again() {
    let case = Case {
        relation: Relation::Same,
        source_l: 1,
        receiver_l: 1,
        direct: false,
    };
    let sample = Sample::<f64>::new(case, &[60, 3, 20], |value, _| value);
    let (once, twice) = (sample.device(true), sample.device(true));
    assert_eq!(once.receiver, twice.receiver);
    assert_eq!(once.cells, twice.cells);
}
