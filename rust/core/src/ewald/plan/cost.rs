//! Estimated cost of each method: operation counts times measured rates.

use super::extent::{Extent, Purpose};
use super::split::{MAX_LENGTH, Split};
use crate::arithmetic::LANES;
use crate::arithmetic::vector::Matrix;
use crate::ewald::mesh::{MAX_ORDER, Size};
use crate::lattice::{dimensions, periodic_measure};
use crate::limits::Estimate;
use crate::special::harmonics::count;

/// Potentials that share one set-up: between one evaluation alone and the twenty in which a density converges.
const SHARED: f64 = 5.0;

/// (sites, degrees) of each pass from sites to modes or back: derivatives up to the degree, and one for gradients.
fn passes(extent: &Extent) -> Vec<(usize, usize)> {
    let source = |gradients: usize| (extent.n_sources, extent.source.2 + 1 + gradients);
    let receiver = |gradients: usize| (extent.n_receivers, extent.receiver.2 + 1 + gradients);
    match extent.purpose {
        Purpose::Energies => vec![source(0), source(1)],
        Purpose::Potentials => vec![source(0), receiver(0)],
        Purpose::Forms => vec![source(0), receiver(0), source(1), receiver(1)],
    }
}

/// All pairs of an open system.
pub fn direct(extent: &Extent) -> f64 {
    extent.rates.direct_tasks
        + extent.n_sources as f64 * extent.n_receivers as f64 * share(extent) * pair(extent)
}

/// One pair.
fn pair(extent: &Extent) -> f64 {
    let (source, receiver) = (extent.source.2, extent.receiver.2);
    match source.max(receiver) {
        largest @ 0..=1 => extent.rates.pair[largest],
        _ => extent.rates.product * (count(source) * count(receiver)) as f64,
    }
}

/// Part of the directed pairs that are visited.
fn share(extent: &Extent) -> f64 {
    match extent.purpose {
        Purpose::Energies => 0.5,
        Purpose::Forms | Purpose::Potentials => 1.0,
    }
}

/// A sum over k-vectors.
pub fn reciprocal(extent: &Extent, pbc: [bool; 3], modes: f64) -> f64 {
    let terms: usize = passes(extent).into_iter().map(|(sites, n)| sites * n).sum();
    let mode = match extent.purpose {
        // The kernel serves many evaluations.
        Purpose::Potentials => extent.rates.mode[dimensions(pbc)] / SHARED,
        Purpose::Energies | Purpose::Forms => extent.rates.mode[dimensions(pbc)],
    };
    extent.rates.sum_tasks + modes * (mode + extent.rates.phase * terms as f64)
}

/// The sum over neighbours of a split.
pub fn real(
    extent: &Extent,
    cell: &Matrix<f64>,
    pbc: [bool; 3],
    split: &Split,
    open_span: f64,
) -> f64 {
    if split.cutoff == 0.0 {
        return 0.0;
    }
    let n_open = 3 - dimensions(pbc) as i32;
    let occupied = periodic_measure(cell, pbc) * (open_span + 2.0).powi(n_open);
    let density = extent.n_sources as f64 / occupied;
    let sphere = 4.0 / 3.0 * std::f64::consts::PI * split.cutoff.powi(3);
    let neighbours = (density * sphere).max(1.0);
    let each = extent.rates.listed + share(extent) * pair(extent);
    extent.rates.real_tasks + extent.n_receivers as f64 * neighbours * each
}

/// A mesh: transforms, spreading and interpolation.
pub fn mesh(extent: &Extent, size: Size) -> f64 {
    let points: f64 = size.points.iter().map(|&n| n as f64).product();
    let [sources, receivers] = extent.n_widths;
    let (transforms, influence) = match extent.purpose {
        Purpose::Energies => (2 * sources, extent.rates.point),
        Purpose::Forms => (2 * (sources + receivers), extent.rates.point),
        // The influence function serves many evaluations.
        Purpose::Potentials => (sources + receivers, extent.rates.point / SHARED),
    };
    let rows = (size.order * size.order * size.order.div_ceil(LANES)) as f64;
    let sites: f64 = passes(extent)
        .into_iter()
        .map(|(sites, n)| sites as f64 * (extent.rates.site + extent.rates.row * rows * n as f64))
        .sum();
    let butterflies = extent.rates.butterfly * points.log2() * transforms as f64;
    extent.rates.mesh_tasks + points * (influence + butterflies) + sites
}

/// Time and memory of a sum over k-vectors, given the largest and the lengths of the lattice's vectors.
pub fn modes(extent: &Extent, pbc: [bool; 3], cutoff: f64, mut lengths: [f64; 3]) -> Estimate {
    let largest_l = extent.source.2.max(extent.receiver.2);
    // Columns run along the longest vector.
    lengths.sort_by(f64::total_cmp);
    let reach = lengths.map(|length| cutoff * length / (2.0 * std::f64::consts::PI));
    // Half the box around the sphere or the circle, since each pair ±k is met once; also for vectors too short to
    // have room for a wave.
    let [a, b, c] = reach.map(|n| 2.0 * n + 1.0);
    let columns = 0.4 * a * b;
    // One for each ±k along a column: weights, structure factors, and what potentials are summed from.
    let entries = 0.13 * a * b * c + columns;
    let harmonics = 8 * count(largest_l) * (largest_l + 1);
    let phases = 16.0 * (extent.n_sources + extent.n_receivers) as f64 * reach.iter().sum::<f64>();
    let bytes = entries * (160 + 64 * (largest_l + 2)) as f64 + columns * (80 + harmonics) as f64;
    // Harmonics along a column are products of polynomials.
    let made = columns * (count(largest_l) * (largest_l + 1)) as f64 * extent.rates.mode[3];
    let sites = extent.n_widths[0].max(extent.n_widths[1]).max(1) as f64;
    let each = extent.rates.mode[dimensions(pbc)] * (1.0 + sites);
    let terms: usize = passes(extent).into_iter().map(|(sites, n)| sites * n).sum();
    let summed = entries * (each + 2.0 * extent.rates.phase * terms as f64);
    Estimate::new(made + summed, bytes + phases)
}

/// Time and memory of a sum over pairs.
pub fn pairs(extent: &Extent, pairs: f64) -> Estimate {
    let each = extent.rates.listed + share(extent) * pair(extent);
    Estimate::new(pairs * each, pairs * 24.0)
}

/// Time and memory of a mesh, from its cost: grids with room at the ends of their rows, and tables of the kernel.
pub fn points(extent: &Extent, pbc: [bool; 3], size: Size, cost: f64) -> Estimate {
    let points = size.points.map(|n| n as f64);
    if points.iter().any(|&n| n > MAX_LENGTH) {
        return Estimate::new(f64::INFINITY, f64::INFINITY);
    }
    let of = |periodic: bool| -> f64 {
        (0..3)
            .filter(|&axis| pbc[axis] == periodic)
            .map(|axis| points[axis])
            .product()
    };
    let tables = if dimensions(pbc) == 3 {
        0.0
    } else {
        32.0 * of(false) + 48.0 * of(true)
    };
    let padded = points[0] * points[1] * (points[2] + MAX_ORDER as f64 + 8.0);
    let [sources, receivers] = extent.n_widths;
    let (grids, kept) = match extent.purpose {
        Purpose::Energies => (sources, 0),
        Purpose::Forms => (sources + receivers, 0),
        Purpose::Potentials => (sources + receivers, 1 + sources + receivers),
    };
    let bytes = padded * 8.0 * (grids as f64 + 0.5 * kept as f64) + tables;
    let each = if dimensions(pbc) == 3 { 1.0 } else { 3.0 };
    Estimate::new(cost + padded * extent.rates.point * each, bytes)
}
