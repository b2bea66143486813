//! The mesh on the emulated device against the one on the CPU.

use super::*;
use crate::arithmetic::vector::Matrix;
use crate::arithmetic::{Dual, Scalar};
use crate::cuda::driver::emulation::in_every_order;
use crate::cuda::lattices::Lattices;
use crate::cuda::terms::{Layout, SystemPlan, Tables};
use crate::cuda::{CellGradients, Precision, ScalarKind};
use crate::ewald::density::{Density, Gradient, Want};
use crate::ewald::mesh::{Mesh as Exact, Size};
use crate::ewald::plan::{Plan, Split};
use crate::lattice::Lattice;
use crate::special::harmonics::count;

/// Numbers between -1 and 1 that look random.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    fn many<T: Number>(&mut self, n: usize, scale: f64) -> Vec<T> {
        (0..n)
            .map(|_| T::make([scale * self.next(), self.next()]))
            .collect()
    }
}

/// Scalars as the device stores them.
trait Number: Scalar {
    const KIND: ScalarKind;
    fn make(parts: [f64; 2]) -> Self;
}

impl Number for f64 {
    const KIND: ScalarKind = ScalarKind::Real;
    fn make(parts: [f64; 2]) -> Self {
        parts[0]
    }
}

impl Number for Dual {
    const KIND: ScalarKind = ScalarKind::Dual;
    fn make(parts: [f64; 2]) -> Self {
        Dual::new(parts[0], parts[1])
    }
}

fn reals<T: Scalar>(values: &[T]) -> Vec<f64> {
    let parts = |value: &T| [value.part(0), value.part(T::PARTS - 1)];
    values
        .iter()
        .flat_map(|value| parts(value).into_iter().take(T::PARTS))
        .collect()
}

fn scalars<T: Number>(values: &[f64]) -> Vec<T> {
    values
        .chunks(T::PARTS)
        .map(|parts| T::make([parts[0], parts[T::PARTS - 1]]))
        .collect()
}

/// One side of all systems.
struct Data<T> {
    layout: Layout,
    positions: Vec<[T; 3]>,
    coefficients: Vec<T>,
}

impl<T: Number> Data<T> {
    fn new(noise: &mut Noise, sizes: &[usize], n_channels: usize, max_l: usize) -> Self {
        let mut first = vec![0];
        for n in sizes {
            first.push(first[first.len() - 1] + n);
        }
        let n = first[sizes.len()];
        Self {
            layout: Layout {
                first,
                widths: (0..n * n_channels)
                    .map(|k| match n {
                        0..100 => [0.6, 0.9, 1.4][(k + k / n_channels) % 3],
                        _ => 0.9,
                    })
                    .collect(),
                n_channels,
                max_l,
            },
            positions: noise
                .many(3 * n, 9.0)
                .chunks(3)
                .map(|r| [r[0], r[1], r[2]])
                .collect(),
            coefficients: noise.many(n * n_channels * count(max_l), 1.0),
        }
    }

    fn density(&self, system: usize) -> Density<'_, T> {
        let (first, end) = (self.layout.first[system], self.layout.first[system + 1]);
        let row = self.layout.n_row();
        Density {
            positions: &self.positions[first..end],
            widths: self.layout.widths_of(system),
            n_channels: self.layout.n_channels,
            max_l: self.layout.max_l,
            coefficients: &self.coefficients[first * row..end * row],
        }
    }
}

/// Results at one side, in device memory.
struct Area {
    tables: Tables,
    positions: Buffer,
    coefficients: Buffer,
    potentials: Buffer,
    gradients: Buffer,
}

impl Area {
    fn new<T: Number>(queue: &Queue, data: &Data<T>) -> Self {
        let zeros = |n: usize| queue.zeros(n * T::KIND.size()).unwrap();
        Self {
            tables: Tables::new(queue, &data.layout).unwrap(),
            positions: queue.upload(&reals(data.positions.as_flattened())).unwrap(),
            coefficients: queue.upload(&reals(&data.coefficients)).unwrap(),
            potentials: zeros(data.coefficients.len()),
            gradients: zeros(3 * data.positions.len()),
        }
    }

    fn side<T>(&self, data: &Data<T>) -> Side {
        self.tables.side(
            &data.layout,
            self.positions.address(),
            self.coefficients.address(),
            self.coefficients.address(),
            self.potentials.address(),
            self.gradients.address(),
        )
    }
}

struct Case<T> {
    cells: Vec<Matrix<T>>,
    plans: Vec<SystemPlan>,
    source: Data<T>,
    receiver: Option<Data<T>>,
    same_sites: bool,
}

/// Meshes of the systems; the third system has none.
const POINTS: [Option<[usize; 3]>; 6] = [
    Some([12, 10, 18]),
    Some([12, 10, 18]),
    None,
    Some([6, 14, 8]),
    Some([12, 10, 18]),
    Some([12, 10, 18]),
];
/// Sites of the systems.
const FEW: [usize; 6] = [5, 0, 4, 7, 1, 9];
/// More than a block tests at a time, where bricks have no lists.
const SOME: [usize; 6] = [3, 0, 2, 0, 1, 300];
/// Enough sites for lists of bricks, with more members than a block sorts at a time.
const MANY: [usize; 6] = [3, 0, 2, 0, 1, 1100];

impl<T: Number> Case<T> {
    /// Without a receiver (`n_channels`, `max_l`, same sites) an energy.
    fn new(
        seed: u64,
        order: usize,
        max_l: usize,
        receiver: Option<(usize, usize, bool)>,
        pbc: [bool; 3],
    ) -> Self {
        Self::of_sizes(FEW, seed, order, max_l, receiver, pbc)
    }

    fn of_sizes(
        n_sites: [usize; 6],
        seed: u64,
        order: usize,
        max_l: usize,
        receiver: Option<(usize, usize, bool)>,
        pbc: [bool; 3],
    ) -> Self {
        let mut noise = Noise(seed);
        let source = Data::new(&mut noise, &n_sites, 1, max_l);
        let receiver_data = receiver.map(|(n_channels, max_l, same)| {
            let sizes = if same { n_sites } else { [3, 0, 2, 4, 2, 1] };
            let mut data = Data::new(&mut noise, &sizes, n_channels, max_l);
            if same {
                data.positions = source.positions.clone();
            }
            data
        });
        let mut cells = Vec::new();
        let mut plans = Vec::new();
        for (k, points) in POINTS.into_iter().enumerate() {
            let x: Vec<T> = noise.many(9, 0.9);
            let cell: Matrix<T> = std::array::from_fn(|i| {
                std::array::from_fn(|j| {
                    let diagonal = if i == j { 6.5 + k as f64 } else { 0.0 };
                    x[3 * i + j] + T::constant(diagonal)
                })
            });
            let split = Split {
                floor: [0.75, 0.0][k % 2],
                exponent: 20.0,
                cutoff: 0.0,
                open_length: 24.0 + k as f64,
                mesh: points.map(|points| Size { order, points }),
            };
            plans.push(SystemPlan {
                plan: match n_sites[k] {
                    0 => Plan::Direct,
                    _ => Plan::Split(split),
                },
                // Boundaries of one mesh size may differ.
                summed: if k == 5 { [true; 3] } else { pbc },
                cell: cell.map(|row| row.map(Scalar::value)),
            });
            cells.push(cell);
        }
        Self {
            cells,
            plans,
            source,
            receiver: receiver_data,
            same_sites: receiver.is_none_or(|(_, _, same)| same),
        }
    }

    fn receiving(&self) -> &Data<T> {
        self.receiver.as_ref().unwrap_or(&self.source)
    }

    /// The CPU's result for one system.
    fn exact(&self, system: usize) -> Option<Gradient<T>> {
        let Plan::Split(Split {
            mesh: Some(size),
            floor,
            open_length,
            ..
        }) = self.plans[system].plan
        else {
            return None;
        };
        let lattice = Lattice::new(&self.cells[system], self.plans[system].summed, open_length);
        let source = self.source.density(system);
        let receiver = self.receiver.as_ref().map(|receiver| {
            let mut density = receiver.density(system);
            if self.same_sites {
                density.positions = source.positions;
            }
            density
        });
        let mesh = Exact::new(lattice, &source, receiver.as_ref(), floor, size);
        Some(mesh.evaluate(&source, receiver.as_ref(), Want::ALL))
    }

    /// Compares everything with the CPU.
    fn check(&self) {
        let queue = Queue::emulated();
        let batch = Batch {
            systems: self.plans.clone(),
            source: self.source.layout.clone(),
            receiver: self.receiver.as_ref().map(|data| data.layout.clone()),
            same_sites: self.same_sites,
            precision: Precision::Double,
        };
        let n_systems = batch.systems.len();
        let zeros = |n: usize| queue.zeros(n_systems * n * T::KIND.size()).unwrap();
        let sources = Area::new(&queue, &self.source);
        let receivers = self.receiver.as_ref().map(|data| Area::new(&queue, data));
        let values = |part: usize| -> Vec<f64> {
            let flat = self.cells.as_flattened().as_flattened();
            flat.iter().map(|x| x.part(part)).collect()
        };
        let cells = queue.upload(&values(0)).unwrap();
        let tangents = queue.upload(&values(T::PARTS - 1)).unwrap();
        let lattices = queue.allocate(n_systems * Lattices::size(T::KIND)).unwrap();
        let maker = Lattices::new(&queue, &batch).unwrap();
        maker
            .fill(
                &queue,
                T::KIND,
                cells.address(),
                tangents.address(),
                lattices.address(),
            )
            .unwrap();
        let (cell, reciprocal, volume) = (zeros(9), zeros(9), zeros(1));
        let gradients = CellGradients {
            cell: cell.address(),
            reciprocal: reciprocal.address(),
            volume: volume.address(),
        };
        let mesh = Mesh::new(&queue, &batch).unwrap().expect("a mesh");
        let source = sources.side(&self.source);
        let receiver = match (&receivers, &self.receiver) {
            (Some(area), Some(data)) => Some(area.side(data)),
            _ => None,
        };
        let passes = match receiver {
            None => vec![(Direction::Forward, source, source, 0.5)],
            Some(receiver) => vec![
                (Direction::Forward, receiver, source, 1.0),
                (Direction::Transposed, source, receiver, 0.0),
            ],
        };
        for (direction, receivers, sources, once) in passes {
            let mut pass = Pass {
                queue: &queue,
                scalar: T::KIND,
                precision: Precision::Double,
                direction,
                receivers,
                sources,
                lattices: lattices.address(),
                gradients: true,
                cell: true,
                once,
                cells: gradients,
            };
            mesh.apply(&pass).unwrap();
            // Potentials alone are the same.
            let n = match direction {
                Direction::Forward => self.receiving().coefficients.len(),
                Direction::Transposed => self.source.coefficients.len(),
            };
            let again = queue.zeros(n * T::KIND.size()).unwrap();
            let with_gradients = std::mem::replace(&mut pass.receivers.potentials, again.address());
            (pass.gradients, pass.cell) = (false, false);
            mesh.apply(&pass).unwrap();
            let read = |address: Address| -> Vec<T> {
                scalars(&queue.download::<f64>(address, n * T::PARTS).unwrap())
            };
            close(
                "potentials alone",
                0,
                &read(again.address()),
                &read(with_gradients),
            );
        }
        let out = queue.allocate(n_systems * 9 * T::KIND.size()).unwrap();
        maker
            .pull_back(
                &queue,
                T::KIND,
                lattices.address(),
                gradients,
                out.address(),
            )
            .unwrap();
        let read = |buffer: &Buffer| -> Vec<T> {
            let n = buffer.bytes() / 8;
            scalars(&queue.download::<f64>(buffer.address(), n).unwrap())
        };
        let found_cells = read(&out);
        let at_sources = (read(&sources.potentials), read(&sources.gradients));
        let at_receivers = match &receivers {
            Some(area) => (read(&area.potentials), read(&area.gradients)),
            None => at_sources.clone(),
        };
        for system in 0..n_systems {
            let take = |values: &[T], layout: &Layout, row: usize| {
                values[layout.first[system] * row..layout.first[system + 1] * row].to_vec()
            };
            let layout = &self.receiving().layout;
            let potentials = take(&at_receivers.0, layout, layout.n_row());
            let forces = take(&at_receivers.1, layout, 3);
            let cell = &found_cells[9 * system..9 * system + 9];
            let Some(exact) = self.exact(system) else {
                assert!(
                    potentials
                        .iter()
                        .chain(&forces)
                        .chain(cell)
                        .all(|x| x.is_zero())
                );
                continue;
            };
            close("potentials", system, &potentials, &exact.receiver);
            close(
                "gradients",
                system,
                &forces,
                exact.receiver_positions.as_flattened(),
            );
            close("cell", system, cell, exact.cell.as_flattened());
            if self.receiver.is_some() {
                let layout = &self.source.layout;
                let potentials = take(&at_sources.0, layout, layout.n_row());
                let forces = take(&at_sources.1, layout, 3);
                close("potentials at sources", system, &potentials, &exact.source);
                close(
                    "gradients at sources",
                    system,
                    &forces,
                    exact.source_positions.as_flattened(),
                );
            }
        }
    }
}

/// To 1e-11 of the largest, values and tangents apart; the interaction of a site with itself cancels but for rounding.
fn close<T: Scalar>(what: &str, system: usize, found: &[T], exact: &[T]) {
    assert_eq!(found.len(), exact.len());
    for part in 0..T::PARTS {
        let largest = exact.iter().map(|x| x.part(part).abs()).fold(0.0, f64::max);
        let open = what == "cell" && largest == 0.0;
        assert!(
            largest > 1e-6 || open,
            "{what} {system}: nothing to compare"
        );
        for (k, (a, b)) in found.iter().zip(exact).enumerate() {
            let (a, b) = (a.part(part), b.part(part));
            assert!(
                (a - b).abs() <= 1e-11 * largest + 1e-14,
                "{what}[{k}] of system {system}, part {part}: {a} against {b}"
            );
        }
    }
}

#[test]
fn systems_go_together_while_memory_lasts() {
    let mut case = Case::<f64>::new(61, 8, 0, None, BULK);
    let numbers = |case: &Case<f64>| -> Vec<Vec<usize>> {
        let batch = Batch {
            systems: case.plans.clone(),
            source: case.source.layout.clone(),
            receiver: None,
            same_sites: true,
            precision: Precision::Double,
        };
        let sizes = tables::sizes(&batch);
        sizes.into_iter().map(|(_, systems)| systems).collect()
    };
    assert_eq!(numbers(&case), [vec![0, 4, 5], vec![3]]);
    for plan in &mut case.plans {
        if let Plan::Split(Split {
            mesh: Some(size), ..
        }) = &mut plan.plan
        {
            size.points = [256, 256, 320];
        }
    }
    // Three fields of 21 million reals each, three, one and three.
    assert_eq!(numbers(&case), [vec![0, 3], vec![4, 5]]);
}

const BULK: [bool; 3] = [true; 3];

#[test]
fn energies_of_bulk() {
    for (max_l, order) in [(0, 4), (1, 8), (2, 7), (3, 10)] {
        Case::<f64>::new(3 + max_l as u64, order, max_l, None, BULK).check();
    }
}

#[test]
fn energies_of_high_degree() {
    Case::<f64>::new(11, 16, 6, None, BULK).check();
}

#[test]
fn every_boundary() {
    for pbc in [
        [true, true, false],
        [false, true, true],
        [false, true, false],
        [false; 3],
    ] {
        Case::<f64>::new(21, 8, 1, None, pbc).check();
    }
}

#[test]
fn many_sites() {
    in_every_order(|| {
        Case::<f64>::of_sizes(SOME, 50, 7, 0, None, BULK).check();
        Case::<f64>::of_sizes(MANY, 51, 9, 1, None, BULK).check();
        Case::<Dual>::of_sizes(MANY, 52, 6, 0, Some((1, 0, true)), BULK).check();
    });
}

#[test]
fn forms() {
    in_every_order(|| {
        Case::<f64>::new(31, 8, 0, Some((2, 1, true)), BULK).check();
        Case::<f64>::new(32, 8, 2, Some((2, 0, false)), [true, false, true]).check();
        Case::<f64>::new(33, 6, 1, Some((3, 3, true)), BULK).check();
    });
}

#[test]
fn tangents() {
    Case::<Dual>::new(41, 8, 1, None, BULK).check();
    Case::<Dual>::new(42, 6, 0, Some((2, 2, false)), [true, true, false]).check();
    Case::<Dual>::new(43, 6, 2, Some((1, 1, true)), [true, false, false]).check();
}
