//! Densities: Gaussian multipoles on sites, as sources or as receivers.

use crate::arithmetic::Scalar;
use crate::arithmetic::vector::Vector;
use crate::error::{Error, Result, check_finite};
use crate::special::harmonics::{MAX_L, count};

/// Gaussian multipoles of unit moment, `n_channels` of them on each site.
#[derive(Clone, Copy, Debug)]
pub struct Density<'a, T> {
    pub positions: &'a [Vector<T>],
    /// `[site][channel]`, Å.
    pub widths: &'a [f64],
    pub n_channels: usize,
    pub max_l: usize,
    /// `[site][channel][lm]`.
    pub coefficients: &'a [T],
}

impl<'a, T: Scalar> Density<'a, T> {
    pub fn n_sites(&self) -> usize {
        self.positions.len()
    }

    pub fn n_lm(&self) -> usize {
        count(self.max_l)
    }

    /// The coefficients of one channel of one site.
    #[inline]
    pub fn at(&self, site: usize, channel: usize) -> &'a [T] {
        let n_lm = self.n_lm();
        let start = (site * self.n_channels + channel) * n_lm;
        &self.coefficients[start..start + n_lm]
    }

    #[inline]
    pub fn width(&self, site: usize, channel: usize) -> f64 {
        self.widths[site * self.n_channels + channel]
    }

    pub fn smallest_width(&self) -> f64 {
        smallest_width(self.widths)
    }

    pub fn largest_width(&self) -> f64 {
        largest_width(self.widths)
    }

    pub fn n_distinct_widths(&self) -> usize {
        n_distinct_widths(self.widths)
    }

    /// Total charge on all sites and channels, each weighted by `weight(site, channel)`.
    pub fn weighted_charge(&self, weight: impl Fn(usize, usize) -> f64) -> T {
        let mut sum = T::zero();
        for site in 0..self.n_sites() {
            for channel in 0..self.n_channels {
                sum += self.at(site, channel)[0] * weight(site, channel);
            }
        }
        sum
    }
}

pub fn smallest_width(widths: &[f64]) -> f64 {
    widths.iter().copied().fold(f64::INFINITY, f64::min)
}

pub fn largest_width(widths: &[f64]) -> f64 {
    widths.iter().copied().fold(0.0, f64::max)
}

/// Every width once, none below the floor, ascending.
pub fn distinct_widths(widths: impl IntoIterator<Item = f64>, floor: f64) -> Vec<f64> {
    /// New widths are sorted in when their number reaches this, or the number of sorted ones.
    const MANY: usize = 64;
    let mut found: Vec<f64> = Vec::new();
    let mut sorted = 0;
    let unite = |found: &mut Vec<f64>| {
        found.sort_by(f64::total_cmp);
        found.dedup();
        found.len()
    };
    for width in widths {
        let width = width.max(floor);
        let place = found[..sorted].partition_point(|&other| other < width);
        if place < sorted && found[place] == width {
            continue;
        }
        found.push(width);
        if found.len() > (2 * sorted).max(MANY) {
            sorted = unite(&mut found);
        }
    }
    unite(&mut found);
    found
}

pub fn n_distinct_widths(widths: &[f64]) -> usize {
    distinct_widths(widths.iter().copied(), 0.0).len()
}

/// Checks degrees: the tables reach [`MAX_L`].
pub fn check_max_l(array: &'static str, max_l: usize) -> Result<()> {
    if max_l <= MAX_L {
        return Ok(());
    }
    Err(Error::Value {
        array,
        index: 0,
        value: max_l as f64,
        remedy: "multipoles are implemented up to max_l = 6",
    })
}

/// Range of widths whose powers, up to the highest degree, neither overflow nor vanish.
const WIDTHS: std::ops::RangeInclusive<f64> = 1e-10..=1e10;

/// Checks that every width is finite, positive, and neither tiny nor huge.
pub fn check_widths(array: &'static str, widths: &[f64]) -> Result<()> {
    check_finite(array, widths)?;
    match widths.iter().position(|width| !WIDTHS.contains(width)) {
        None => Ok(()),
        Some(index) => Err(Error::Value {
            array,
            index,
            value: widths[index],
            remedy: "Gaussian widths must be positive (in Å), from 1e-10 to 1e10",
        }),
    }
}

/// A value and its gradients. Sites of sources and receivers are kept apart.
#[derive(Clone, Debug)]
pub struct Gradient<T> {
    pub value: T,
    /// `[site][channel][lm]`.
    pub source: Vec<T>,
    pub receiver: Vec<T>,
    pub source_positions: Vec<Vector<T>>,
    pub receiver_positions: Vec<Vector<T>>,
    pub cell: [[T; 3]; 3],
}

impl<T: Scalar> Gradient<T> {
    pub fn zero(source: &Density<T>, receiver: &Density<T>) -> Self {
        Self {
            value: T::zero(),
            source: vec![T::zero(); source.coefficients.len()],
            receiver: vec![T::zero(); receiver.coefficients.len()],
            source_positions: vec![[T::zero(); 3]; source.n_sites()],
            receiver_positions: vec![[T::zero(); 3]; receiver.n_sites()],
            cell: [[T::zero(); 3]; 3],
        }
    }

    /// Adds another term's gradient.
    pub fn add(&mut self, other: &Self) {
        self.value += other.value;
        add_all(&mut self.source, &other.source);
        add_all(&mut self.receiver, &other.receiver);
        add_vectors(&mut self.source_positions, &other.source_positions);
        add_vectors(&mut self.receiver_positions, &other.receiver_positions);
        add_vectors(&mut self.cell, &other.cell);
    }
}

fn add_all<T: Scalar>(target: &mut [T], other: &[T]) {
    for (a, &b) in target.iter_mut().zip(other) {
        *a += b;
    }
}

fn add_vectors<T: Scalar>(target: &mut [Vector<T>], other: &[Vector<T>]) {
    for (a, b) in target.iter_mut().zip(other) {
        for axis in 0..3 {
            a[axis] += b[axis];
        }
    }
}

/// Gradients to compute; terms may leave the others at zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    pub source: bool,
    pub receiver: bool,
    pub positions: bool,
    pub cell: bool,
}

impl Want {
    pub const ALL: Want = Want {
        source: true,
        receiver: true,
        positions: true,
        cell: true,
    };
    /// Only the potentials at the receivers; the value is then not computed.
    pub const RECEIVER: Want = Want {
        source: false,
        receiver: true,
        positions: false,
        cell: false,
    };
    /// Only the potentials at the sources, of the density on the receivers.
    pub const SOURCE: Want = Want {
        source: true,
        receiver: false,
        positions: false,
        cell: false,
    };
}
