//! A batch's numbers, made at random, on the device and back.

use crate::arithmetic::Scalar;
use crate::arithmetic::vector::Vector;
use crate::cuda::terms::{Layout, Tables};
use crate::cuda::{Buffer, Queue, Side};
use crate::ewald::density::Density;

/// Numbers between -1 and 1.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    pub fn scalars<T: Scalar>(&mut self, n: usize, size: f64) -> Vec<T> {
        let one = |_| {
            let parts = [self.next() * size, self.next() * size];
            T::from_parts(|part| parts[part])
        };
        (0..n).map(one).collect()
    }
}

pub fn flat<T: Scalar>(values: &[T]) -> Vec<f64> {
    let parts = |value: &T| {
        (0..T::PARTS)
            .map(|part| value.part(part))
            .collect::<Vec<_>>()
    };
    values.iter().flat_map(parts).collect()
}

/// One side's numbers.
pub struct Values<T> {
    pub layout: Layout,
    pub positions: Vec<Vector<T>>,
    pub coefficients: Vec<T>,
}

impl<T: Scalar> Values<T> {
    pub fn new(
        random: &mut Random,
        sizes: &[usize],
        n_channels: usize,
        max_l: usize,
        widths: [f64; 3],
        box_: f64,
    ) -> Self {
        let mut first = vec![0];
        for size in sizes {
            first.push(first[first.len() - 1] + size);
        }
        let n = first[first.len() - 1];
        let pick = |random: &mut Random| widths[(random.next().abs() * 3.0) as usize % 3];
        let layout = Layout {
            first,
            widths: (0..n * n_channels).map(|_| pick(random)).collect(),
            n_channels,
            max_l,
        };
        Self {
            positions: random
                .scalars(3 * n, box_)
                .chunks(3)
                .map(|r| [r[0], r[1], r[2]])
                .collect(),
            coefficients: random.scalars(n * layout.n_row(), 1.0),
            layout,
        }
    }

    pub fn density(&self, system: usize) -> Density<'_, T> {
        let (a, b) = (self.layout.first[system], self.layout.first[system + 1]);
        let n_row = self.layout.n_row();
        Density {
            positions: &self.positions[a..b],
            widths: self.layout.widths_of(system),
            n_channels: self.layout.n_channels,
            max_l: self.layout.max_l,
            coefficients: &self.coefficients[a * n_row..b * n_row],
        }
    }
}

/// Values collected on one side.
pub struct Found<T> {
    pub potentials: Vec<T>,
    pub gradients: Vec<T>,
}

/// Value of every output before the call.
const BEFORE: f64 = 0.25;

pub struct DeviceSide {
    tables: Tables,
    positions: Buffer,
    coefficients: Buffer,
    potentials: Buffer,
    gradients: Buffer,
}

impl DeviceSide {
    pub fn new<T: Scalar>(queue: &Queue, values: &Values<T>) -> Self {
        let before = |n: usize| queue.upload(&vec![BEFORE; n * T::PARTS]).unwrap();
        Self {
            tables: Tables::new(queue, &values.layout).unwrap(),
            positions: queue
                .upload(&flat(values.positions.as_flattened()))
                .unwrap(),
            coefficients: queue.upload(&flat(&values.coefficients)).unwrap(),
            potentials: before(values.coefficients.len()),
            gradients: before(3 * values.positions.len()),
        }
    }

    pub fn side(&self, layout: &Layout) -> Side {
        self.tables.side(
            layout,
            self.positions.address(),
            self.coefficients.address(),
            self.coefficients.address(),
            self.potentials.address(),
            self.gradients.address(),
        )
    }

    pub fn found<T: Scalar>(&self, queue: &Queue) -> Found<T> {
        let read = |buffer: &Buffer| -> Vec<T> {
            let values: Vec<f64> = queue
                .download(buffer.address(), buffer.bytes() / 8)
                .unwrap();
            let scalar = |parts: &[f64]| T::from_parts(|part| parts[part] - BEFORE);
            values.chunks(T::PARTS).map(scalar).collect()
        };
        Found {
            potentials: read(&self.potentials),
            gradients: read(&self.gradients),
        }
    }
}
