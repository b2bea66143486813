//! Lists of the device against those of the host, bit for bit.

use super::*;
use crate::cuda::driver::emulation::in_every_order;
use crate::neighbors::{Pairs, Quantities};

/// Deterministic numbers in (0, 1).
fn number(k: usize) -> f64 {
    0.5 + 0.5 * (0.7 + 12.9898 * (k + 1) as f64).sin()
}

struct Sample {
    positions: Vec<[f64; 3]>,
    cells: Vec<Matrix<f64>>,
    pbc: Vec<[bool; 3]>,
    first: Vec<usize>,
}

impl Sample {
    fn new() -> Self {
        Self {
            positions: Vec::new(),
            cells: Vec::new(),
            pbc: Vec::new(),
            first: vec![0],
        }
    }

    fn push(
        &mut self,
        positions: impl IntoIterator<Item = [f64; 3]>,
        cell: Matrix<f64>,
        pbc: [bool; 3],
    ) {
        self.positions.extend(positions);
        self.cells.push(cell);
        self.pbc.push(pbc);
        self.first.push(self.positions.len());
    }

    /// Atoms in and around a cell.
    fn scatter(&mut self, n: usize, cell: Matrix<f64>, pbc: [bool; 3]) {
        let seed = 1000 * self.first.len();
        let positions = (0..n).map(|k| {
            let f = [0, 1, 2].map(|a| 2.5 * number(seed + 3 * k + a) - 0.7);
            [0, 1, 2].map(|x| (0..3).map(|a| f[a] * cell[a][x]).sum())
        });
        self.push(positions, cell, pbc);
    }

    fn host(&self, cutoff: f64) -> Result<Pairs<u32, i32>> {
        let mut batch = Vec::new();
        for number in 0..self.cells.len() {
            batch.resize(self.first[number + 1], number as i64);
        }
        let systems = Systems {
            positions: &self.positions,
            cells: &self.cells,
            pbc: &self.pbc,
            batch: Some(&batch),
        };
        let criteria = Criteria {
            cutoff,
            half: false,
            self_interaction: false,
        };
        Search::new(&systems, &criteria)?.pairs(Quantities {
            i: true,
            j: true,
            shift: true,
            distance: true,
            vector: true,
        })
    }

    fn device(&self, cutoff: f64) -> Result<Pairs<u32, i32>> {
        let queue = Queue::emulated();
        let positions = queue.upload(&self.positions)?;
        let atoms = Atoms {
            positions: positions.address(),
            cells: &self.cells,
            pbc: &self.pbc,
            first: &self.first,
        };
        let list = neighbor_list(&queue, atoms, cutoff)?;
        let whole = |buffer: &Buffer| -> Result<Vec<u32>> {
            let values = queue.download::<i64>(buffer.address(), list.n)?;
            Ok(values.into_iter().map(|value| value as u32).collect())
        };
        let shifts = queue.download::<[i64; 3]>(list.shifts.address(), list.n)?;
        Ok(Pairs {
            i: whole(&list.i)?,
            j: whole(&list.j)?,
            shift: shifts
                .into_iter()
                .map(|shift| shift.map(|s| s as i32))
                .collect(),
            distance: queue.download(list.distances.address(), list.n)?,
            vector: queue.download(list.vectors.address(), list.n)?,
        })
    }

    fn compare(&self, cutoff: f64) -> usize {
        let host = self.host(cutoff).unwrap();
        let bits = |values: &[f64]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        in_every_order(|| {
            let device = self.device(cutoff).unwrap();
            assert_eq!(host.i, device.i);
            assert_eq!(host.j, device.j);
            assert_eq!(host.shift, device.shift);
            assert_eq!(bits(&host.distance), bits(&device.distance));
            assert_eq!(
                bits(host.vector.as_flattened()),
                bits(device.vector.as_flattened())
            );
        });
        host.i.len()
    }
}

const CELL: Matrix<f64> = [[7.0, 0.3, -0.5], [1.7, 6.0, 0.2], [-1.4, 1.6, -8.0]];

#[test]
fn batches_of_all_boundaries() {
    let mut sample = Sample::new();
    for mask in 0..8 {
        let pbc = [mask & 1 > 0, mask & 2 > 0, mask & 4 > 0];
        sample.scatter(20 + 3 * mask, CELL, pbc);
    }
    sample.scatter(0, CELL, [true; 3]);
    sample.scatter(1, CELL.map(|row| row.map(|x| 0.3 * x)), [true; 3]);
    sample.scatter(1, CELL, [false; 3]);
    for cutoff in [0.4, 3.0, 7.5] {
        let n = sample.compare(cutoff);
        assert!(n > 0 || cutoff < 1.0);
    }
}

#[test]
fn crystals_with_pairs_at_the_cutoff() {
    let mut sample = Sample::new();
    let a = 0.1 + 0.2;
    let sites = (0..64).map(|k| [k % 4, k / 4 % 4, k / 16].map(|x| 10.0 * a * x as f64));
    let cell = [
        [40.0 * a, 0.0, 0.0],
        [0.0, 40.0 * a, 0.0],
        [0.0, 0.0, 40.0 * a],
    ];
    sample.push(sites, cell, [true; 3]);
    for neighbors in [1.0, 2.0, 3.0] {
        let cutoff = 10.0 * a * f64::sqrt(neighbors);
        for cutoff in [cutoff.next_down(), cutoff, cutoff.next_up()] {
            sample.compare(cutoff);
        }
    }
}

#[test]
fn large_systems_are_sorted_by_several_kernels() {
    let mut sample = Sample::new();
    let large = CELL.map(|row| row.map(|x| 6.0 * x));
    sample.scatter(4200, large, [true, false, true]);
    sample.scatter(50, CELL, [true; 3]);
    assert!(sample.compare(3.0) > 1000);
}

#[test]
fn no_atoms() {
    let mut sample = Sample::new();
    sample.scatter(0, CELL, [true; 3]);
    assert_eq!(sample.compare(3.0), 0);
}

#[test]
fn errors_are_those_of_the_host() {
    for value in [f64::NAN, f64::INFINITY, 1e12] {
        let mut sample = Sample::new();
        sample.scatter(5, CELL, [true; 3]);
        sample.positions[3][1] = value;
        let text = |result: Result<Pairs<u32, i32>>| result.unwrap_err().to_string();
        assert_eq!(text(sample.host(2.0)), text(sample.device(2.0)));
    }
    let mut sample = Sample::new();
    sample.scatter(5, CELL, [true; 3]);
    assert!(sample.device(-1.0).is_err());
    sample.cells[0][2] = sample.cells[0][1];
    assert!(matches!(
        sample.device(2.0),
        Err(Error::SingularCell { system: 0, .. })
    ));
}
