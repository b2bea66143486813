//! What each method costs: operation counts with measured rates, to choose between them.
//!
//! The rates are nanoseconds of one core of an AMD EPYC with AVX-512, fitted to `benches/targets.py --only auto`; only
//! their ratios matter.

use super::mesh::Size;
use super::plan::{Extent, Purpose, Split};
use crate::harmonics::count;
use crate::lattice::{dimensions, periodic_measure};
use crate::pack::LANES;
use crate::vector::Matrix;

/// Per k-vector, site and polynomial degree that is summed.
const PHASE: f64 = 0.25;
/// Per k-vector, with the kernel of open, wire, slab and bulk systems: Bessel functions, exponentials, a quotient.
const MODE: [f64; 4] = [40.0, 400.0, 40.0, 15.0];
/// Per pair of charges, of charges and dipoles, and per product of higher multipoles.
const PAIR: [f64; 2] = [8.0, 12.0];
const PRODUCT: f64 = 2.4;
/// Per pair and direction of a neighbour list, on top: finding it and its short rows.
const LISTED: f64 = 25.0;
/// Per mesh point and transform, for each factor two in their number.
const BUTTERFLY: f64 = 0.3;
/// Per mesh point, for the influence function.
const POINT: f64 = 6.0;
/// Per site, row of eight mesh points along z, and derivative.
const ROW: f64 = 1.0;
/// Per site and spline: weights, coefficients, scattered results.
const SITE: f64 = 400.0;
/// Of the tasks of one evaluation on a mesh.
pub const MESH_TASKS: f64 = 30_000.0;

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
    extent.n_sources as f64 * extent.n_receivers as f64 * share(extent) * pair(extent)
}

/// One pair.
fn pair(extent: &Extent) -> f64 {
    let (source, receiver) = (extent.source.2, extent.receiver.2);
    match source.max(receiver) {
        largest @ 0..=1 => PAIR[largest],
        _ => PRODUCT * (count(source) * count(receiver)) as f64,
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
        Purpose::Potentials => 0.0,
        Purpose::Energies | Purpose::Forms => MODE[dimensions(pbc)],
    };
    modes * (mode + PHASE * terms as f64)
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
    extent.n_receivers as f64 * neighbours * (LISTED + share(extent) * pair(extent))
}

/// A mesh: transforms, spreading and interpolation.
pub fn mesh(extent: &Extent, size: Size) -> f64 {
    let points: f64 = size.points.iter().map(|&n| n as f64).product();
    let [sources, receivers] = extent.n_widths;
    let (transforms, influence) = match extent.purpose {
        Purpose::Energies => (2 * sources, POINT),
        Purpose::Forms => (2 * (sources + receivers), POINT),
        // The influence function serves many evaluations.
        Purpose::Potentials => (sources + receivers, 0.0),
    };
    let rows = (size.order * size.order * size.order.div_ceil(LANES)) as f64;
    let sites: f64 = passes(extent)
        .into_iter()
        .map(|(sites, n)| sites as f64 * (SITE + ROW * rows * n as f64))
        .sum();
    let butterflies = BUTTERFLY * points.log2() * transforms as f64;
    MESH_TASKS + points * (influence + butterflies) + sites
}
