//! What each method costs: operation counts with measured rates, to choose between them.
//!
//! The rates are nanoseconds of one core, measured by `benches/targets.py auto`; only their ratios matter.

use super::mesh::Size;
use super::plan::{Extent, Split};
use crate::harmonics::count;
use crate::lattice::{dimensions, periodic_measure};
use crate::scalar::LANES;
use crate::vector::Matrix;

/// Per k-vector, atom and degree.
const RECIPROCAL: f64 = 0.7;
/// Per pair (both directions), and for each product of multipoles.
const PAIR: f64 = 60.0;
/// Per mesh point, transform and decimal logarithm of their number.
const POINT: f64 = 1.2;
/// Per site and row of a pack along z, and derivative.
const ROW: f64 = 1.2;
/// Of one evaluation on a mesh whatever its size: planning, tasks.
const MESH_FLOOR: f64 = 40_000.0;

/// All pairs of an open system.
pub fn direct(extent: &Extent) -> f64 {
    PAIR * extent.n_sources as f64 * extent.n_receivers as f64 * products(extent)
}

/// A sum over k-vectors.
pub fn reciprocal(extent: &Extent, modes: f64) -> f64 {
    let sites = extent.n_sources * (extent.source.2 + 2) + extent.n_receivers * (extent.receiver.2 + 2);
    RECIPROCAL * modes * sites as f64
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
    PAIR * extent.n_receivers as f64 * neighbours * products(extent)
}

/// A mesh: transforms, spreading and interpolation.
pub fn mesh(extent: &Extent, size: Size) -> f64 {
    let points: f64 = size.points.iter().map(|&n| n as f64).product();
    let transforms = extent.n_widths.iter().sum::<usize>().max(1) as f64;
    let rows = (size.order * size.order * size.order.div_ceil(LANES)) as f64;
    let derivatives = (extent.n_sources * (extent.source.2 + 1)
        + extent.n_receivers * (extent.receiver.2 + 2)) as f64;
    MESH_FLOOR + POINT * points * points.log10() * transforms + ROW * rows * derivatives
}

fn products(extent: &Extent) -> f64 {
    (4 + count(extent.source.2) + count(extent.receiver.2)) as f64
}
