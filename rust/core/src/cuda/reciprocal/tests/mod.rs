//! The device's sum against the CPU's.

mod values;

use super::*;
use crate::arithmetic::vector::Matrix;
use crate::arithmetic::{Dual, Scalar};
use crate::cuda::driver::emulation::in_every_order;
use crate::cuda::driver::nvrtc::tests::compile_all;
use crate::cuda::lattices::Lattices;
use crate::cuda::terms::SystemPlan;
use crate::cuda::{CellGradients, Precision, ScalarKind};
use crate::ewald::density::{Gradient, Want};
use crate::ewald::plan::{Plan, Split};
use crate::ewald::reciprocal::{Reciprocal as Exact, Settings};
use crate::lattice::Lattice;
use values::{DeviceSide, Found, Random, Values};

struct Case<T> {
    batch: Batch,
    cells: Vec<Matrix<T>>,
    source: Values<T>,
    receiver: Option<Values<T>>,
}

impl<T: Scalar> Case<T> {
    fn kind() -> ScalarKind {
        if T::PARTS == 1 {
            ScalarKind::Real
        } else {
            ScalarKind::Dual
        }
    }

    /// Sources, receivers and derivatives in the cells, from the device.
    fn run(&self, gradients: bool, cell: bool) -> (Found<T>, Option<Found<T>>, Vec<T>) {
        let (queue, kind) = (Queue::emulated(), Self::kind());
        let n = self.batch.systems.len();
        let lattices = Lattices::new(&queue, &self.batch).unwrap();
        let part = |which: usize| -> Vec<f64> {
            let numbers = self.cells.iter().flatten().flatten();
            numbers
                .map(|value| value.part(which.min(T::PARTS - 1)))
                .collect()
        };
        let (cells, tangents) = (
            queue.upload(&part(0)).unwrap(),
            queue.upload(&part(1)).unwrap(),
        );
        let on_device = queue.allocate(n * Lattices::size(kind)).unwrap();
        lattices
            .fill(
                &queue,
                kind,
                cells.address(),
                tangents.address(),
                on_device.address(),
            )
            .unwrap();
        let collected: Vec<Buffer> = [9, 9, 1]
            .map(|columns| queue.zeros(n * columns * kind.size()).unwrap())
            .into();
        let cells = CellGradients {
            cell: collected[0].address(),
            reciprocal: collected[1].address(),
            volume: collected[2].address(),
        };
        let source = DeviceSide::new(&queue, &self.source);
        let receiver = self
            .receiver
            .as_ref()
            .map(|values| DeviceSide::new(&queue, values));
        let modes = Reciprocal::new(&queue, &self.batch).unwrap().unwrap();
        let source_side = source.side(&self.source.layout);
        let pass = |direction, receivers, sources, once| Pass {
            queue: &queue,
            scalar: kind,
            precision: Precision::Double,
            direction,
            receivers,
            sources,
            lattices: on_device.address(),
            gradients,
            cell,
            once,
            cells,
        };
        let passes = match (&receiver, &self.receiver) {
            (Some(device), Some(values)) => {
                let receiver_side = device.side(&values.layout);
                vec![
                    pass(Direction::Forward, receiver_side, source_side, 1.0),
                    pass(Direction::Transposed, source_side, receiver_side, 0.0),
                ]
            }
            _ => vec![pass(Direction::Forward, source_side, source_side, 0.5)],
        };
        for pass in &passes {
            modes.apply(pass).unwrap();
        }
        let out = queue.allocate(9 * n * kind.size()).unwrap();
        lattices
            .pull_back(&queue, kind, on_device.address(), cells, out.address())
            .unwrap();
        let cell: Vec<f64> = queue.download(out.address(), 9 * n * T::PARTS).unwrap();
        let cell = cell
            .chunks(T::PARTS)
            .map(|parts| T::from_parts(|part| parts[part]))
            .collect();
        (
            source.found(&queue),
            receiver.map(|side| side.found(&queue)),
            cell,
        )
    }

    /// The CPU's result for one system, if it is summed over k-vectors.
    fn reference(&self, system: usize) -> Option<Gradient<T>> {
        let planned = &self.batch.systems[system];
        let Plan::Split(split) = planned.plan else {
            return None;
        };
        let source = self.source.density(system);
        let mut receiver = self.receiver.as_ref().map(|values| values.density(system));
        if let Some(receiver) = &mut receiver
            && self.batch.same_sites
        {
            receiver.positions = source.positions;
        }
        if split.mesh.is_some()
            || source.n_sites() == 0
            || receiver.as_ref().is_some_and(|r| r.n_sites() == 0)
        {
            return None;
        }
        let lattice = Lattice::new(&self.cells[system], planned.summed, split.open_length);
        let settings = Settings {
            floor: split.floor,
            exponent: split.exponent,
        };
        let sum = Exact::new(lattice, &source, receiver.as_ref(), settings);
        Some(sum.evaluate(&source, receiver.as_ref(), Want::ALL))
    }

    /// Compares every requested output.
    fn check(&self, gradients: bool, cell: bool) {
        let (source, receiver, cells) = self.run(gradients, cell);
        for system in 0..self.batch.systems.len() {
            let reference = self.reference(system);
            let compare = |what: &str, found: &[T], exact: Option<&[T]>| {
                let what = format!("system {system}, {what}");
                close(&what, found, exact);
            };
            let of = |values: &Values<T>, found: &Found<T>, width: usize, positions: bool| {
                let (a, b) = (values.layout.first[system], values.layout.first[system + 1]);
                let array = if positions {
                    &found.gradients
                } else {
                    &found.potentials
                };
                array[a * width..b * width].to_vec()
            };
            let exact = reference.as_ref();
            let own = self.receiver.is_none();
            let n_row = self.source.layout.n_row();
            compare(
                "source potentials",
                &of(&self.source, &source, n_row, false),
                exact.map(|g| if own { &g.receiver[..] } else { &g.source[..] }),
            );
            let wanted = exact.filter(|_| gradients);
            compare(
                "source gradients",
                &of(&self.source, &source, 3, true),
                wanted.map(|g| {
                    if own {
                        &g.receiver_positions
                    } else {
                        &g.source_positions
                    }
                    .as_flattened()
                }),
            );
            if let (Some(values), Some(found)) = (&self.receiver, &receiver) {
                let n_row = values.layout.n_row();
                compare(
                    "receiver potentials",
                    &of(values, found, n_row, false),
                    exact.map(|g| &g.receiver[..]),
                );
                compare(
                    "receiver gradients",
                    &of(values, found, 3, true),
                    wanted.map(|g| g.receiver_positions.as_flattened()),
                );
            }
            compare(
                "cell",
                &cells[9 * system..9 * system + 9],
                exact.filter(|_| cell).map(|g| g.cell.as_flattened()),
            );
        }
    }
}

/// Equal to 1e-11 of the largest; `exact` of None stands for zeros.
fn close<T: Scalar>(what: &str, found: &[T], exact: Option<&[T]>) {
    for part in 0..T::PARTS {
        let exact = |k: usize| exact.map_or(0.0, |values| values[k].part(part));
        let largest = (0..found.len()).map(|k| exact(k).abs()).fold(0.0, f64::max);
        for (k, value) in found.iter().enumerate() {
            let error = (value.part(part) - exact(k)).abs();
            assert!(
                error <= 1e-11 * (largest + 0.1),
                "{what} [{k}], part {part}: {} against {}",
                value.part(part),
                exact(k)
            );
        }
    }
}

const TRICLINIC: Matrix<f64> = [[4.0, 0.3, -0.5], [0.7, 5.0, 0.2], [-0.4, 0.6, 4.6]];

fn system(pbc: [bool; 3], floor: f64, exponent: f64, cell: Matrix<f64>) -> SystemPlan {
    let split = Split {
        floor,
        exponent,
        cutoff: 3.0,
        open_length: 7.5,
        mesh: None,
    };
    SystemPlan {
        plan: Plan::Split(split),
        summed: pbc,
        cell,
    }
}

/// All boundaries, a left-handed cell, systems without sites, with one site, without a split; some with a floor.
fn case<T: Scalar>(max_l: usize, receiver: Option<(usize, usize, bool)>) -> Case<T> {
    let mut random = Random(11 + max_l as u64);
    let mut systems: Vec<SystemPlan> = (0..8)
        .map(|mask: usize| {
            let pbc = [mask & 1 > 0, mask & 2 > 0, mask & 4 > 0];
            system(pbc, [0.0, 0.9][mask % 2], 42.0, TRICLINIC)
        })
        .collect();
    let left = TRICLINIC.map(|row| [row[1], row[0], row[2]]);
    systems.push(system([true; 3], 0.0, 42.0, left));
    systems.push(system([true; 3], 0.0, 42.0, TRICLINIC));
    systems.push(SystemPlan {
        plan: Plan::Direct,
        ..system([false; 3], 0.0, 0.0, TRICLINIC)
    });
    let sizes = [4, 1, 3, 2, 5, 2, 3, 6, 3, 0, 2];
    let others = [2, 3, 1, 1, 2, 3, 4, 2, 0, 2, 1];
    let widths = [0.8, 1.0, 1.3];
    let source = Values::new(&mut random, &sizes, 1, max_l, widths, 2.0);
    let receiver_values = receiver.map(|(n_channels, max_l, same)| {
        let sizes = if same { sizes } else { others };
        let mut values = Values::new(
            &mut random,
            &sizes,
            n_channels,
            max_l,
            [0.85, 1.0, 1.5],
            2.0,
        );
        if same {
            values.positions.clone_from(&source.positions);
        }
        values
    });
    finish(
        random,
        systems,
        source,
        receiver_values,
        receiver.is_none_or(|r| r.2),
    )
}

fn finish<T: Scalar>(
    mut random: Random,
    systems: Vec<SystemPlan>,
    source: Values<T>,
    receiver: Option<Values<T>>,
    same_sites: bool,
) -> Case<T> {
    let mut tangents = || random.scalars::<T>(1, 1.0)[0];
    let cells = systems
        .iter()
        .map(|system| {
            system.cell.map(|row| {
                row.map(|value| {
                    let tangent = tangents();
                    T::from_parts(|part| if part == 0 { value } else { tangent.part(part) })
                })
            })
        })
        .collect();
    Case {
        batch: Batch {
            systems,
            source: source.layout.clone(),
            receiver: receiver.as_ref().map(|values| values.layout.clone()),
            same_sites,
            precision: Precision::Double,
        },
        cells,
        source,
        receiver,
    }
}

#[test]
fn energies() {
    for max_l in 0..=3 {
        case::<f64>(max_l, None).check(true, true);
        case::<Dual>(max_l, None).check(true, true);
    }
}

#[test]
fn forms() {
    for (max_l, n_channels, receiving_l, same) in
        [(0, 3, 1, false), (3, 2, 1, true), (1, 5, 2, false)]
    {
        let receiver = Some((n_channels, receiving_l, same));
        case::<f64>(max_l, receiver).check(true, true);
        case::<Dual>(max_l, receiver).check(true, true);
    }
}

#[test]
fn less_is_asked_for() {
    for receiver in [None, Some((2, 2, false))] {
        case::<f64>(1, receiver).check(false, false);
        case::<Dual>(2, receiver).check(true, false);
    }
}

/// Enough sites that two share a block, and that systems have many chunks.
#[test]
fn many_sites() {
    let cell = TRICLINIC.map(|row| row.map(|x| 2.5 * x));
    let systems = vec![
        system([true; 3], 2.0, 42.0, cell),
        system([true, true, false], 2.0, 42.0, TRICLINIC),
    ];
    let mut random = Random(5);
    let source = Values::<f64>::new(&mut random, &[1101, 3], 1, 1, [1.0, 2.4, 3.0], 4.0);
    let receiver = Values::new(&mut random, &[1030, 1], 3, 0, [1.0, 2.4, 3.0], 4.0);
    let energies = Values::<f64>::new(&mut random, &[1101, 3], 2, 1, [1.0, 2.4, 3.0], 4.0);
    let form = finish(random, systems.clone(), source, Some(receiver), false);
    assert_eq!(
        SidePlan::new(
            &ModePlan::new(&form.batch),
            &form.batch,
            &form.source.layout
        )
        .tile_size,
        2
    );
    let energy = finish(Random(6), systems, energies, None, true);
    in_every_order(|| {
        form.check(true, true);
        energy.check(true, true);
    });
}

#[test]
fn nothing_to_sum() {
    let mut case = case::<f64>(0, None);
    for system in &mut case.batch.systems {
        system.plan = Plan::Direct;
    }
    assert!(
        Reciprocal::new(&Queue::emulated(), &case.batch)
            .unwrap()
            .is_none()
    );
}

#[test]
fn compiles_for_devices() {
    let mut sources = Vec::new();
    for scalars in Scalars::all() {
        sources.push(modes_unit(scalars));
        let by_width = [false, true];
        sources
            .extend((0..4).flat_map(|max_l| by_width.map(|by| structure_unit(scalars, max_l, by))));
        let highest = if scalars.is_single() { 2 } else { 6 };
        for (max_l, tile_size, together) in [
            (0, 1, 1),
            (0, 2, 3),
            (1, 2, 2),
            (2, 1, 1),
            (3, 1, 1),
            (6, 1, 1),
        ] {
            if max_l > highest {
                continue;
            }
            let shape = Shape {
                max_l,
                tile_size,
                together,
            };
            sources.extend((0..3).map(|level| potentials_unit(scalars, shape, level)));
        }
    }
    compile_all(&sources);
}
