//! The cheapest split: widths of the split and orders of splines are tried in turn.

use super::cost;
use super::extent::{Extent, Purpose};
use super::split::{Candidate, MAX_LENGTH, Split};
use crate::arithmetic::vector::{Matrix, norm};
use crate::ewald::mesh::Size;
use crate::ewald::mesh::accuracy::{Interaction, good_length};
use crate::ewald::options::{MIN_ORDER, Method, Options};
use crate::lattice::{COMPACT, dimensions, obliqueness, periodic_measure};
use crate::limits::Estimate;

/// k beyond which the sum ends.
pub(super) fn cutoff(extent: &Extent, split: &Split) -> f64 {
    let floor = split.floor;
    let gamma2 = extent.source.0.max(floor).powi(2) + extent.receiver.0.max(floor).powi(2);
    (2.0 * split.exponent / gamma2).sqrt()
}

/// Number of k-vectors, counting each pair ±k once.
pub(super) fn n_modes(extent: &Extent, cell: &Matrix<f64>, pbc: [bool; 3], split: &Split) -> f64 {
    let cutoff = cutoff(extent, split);
    let n_open = 3 - dimensions(pbc) as i32;
    let volume = periodic_measure(cell, pbc) * split.open_length.powi(n_open);
    let half_sphere = 2.0 / 3.0 * std::f64::consts::PI * cutoff.powi(3);
    (half_sphere * volume / (2.0 * std::f64::consts::PI).powi(3)).max(1.0)
}

/// The x at which exp(-x) x^degree falls below the accuracy.
fn exponent(accuracy: f64, degree: usize) -> f64 {
    let target = -accuracy.ln() + 1.0;
    let mut x = target;
    for _ in 0..20 {
        x = target + 0.5 * degree as f64 * x.ln();
    }
    x
}

fn split(extent: &Extent, pbc: [bool; 3], options: &Options, floor: f64, open_span: f64) -> Split {
    let degree = extent.source.2 + extent.receiver.2 + 1;
    let exponent = exponent(options.accuracy, degree);
    let widest = |range: (f64, f64, usize)| range.1.max(floor);
    let gamma2 = widest(extent.source).powi(2) + widest(extent.receiver).powi(2);
    let tail = (2.0 * exponent * gamma2).sqrt();
    let open_length = if dimensions(pbc) == 3 {
        1.0
    } else {
        2.0 * (open_span + tail)
    };
    // Only pairs with a Gaussian narrower than the split are left to real space.
    let raised2 = |narrow: (f64, f64, usize), other: (f64, f64, usize)| {
        if narrow.0 < floor {
            floor * floor + other.1.max(floor).powi(2)
        } else {
            0.0
        }
    };
    let reach2 =
        raised2(extent.source, extent.receiver).max(raised2(extent.receiver, extent.source));
    Split {
        floor,
        exponent,
        cutoff: (2.0 * exponent * reach2).sqrt(),
        open_length,
        mesh: None,
    }
}

/// Pairs of a source and a receiver within a cutoff: those of sites all over the cell, or of some that lie together
/// with their images.
pub(super) fn n_pairs(
    extent: &Extent,
    cell: &Matrix<f64>,
    pbc: [bool; 3],
    cutoff: f64,
    open_length: f64,
) -> f64 {
    /// Sites that may lie together.
    const TOGETHER: f64 = 64.0;
    let (mut spread, mut together) = (1.0, 1.0);
    for axis in 0..3 {
        if pbc[axis] {
            let images = 2.0 * cutoff / norm(&cell[axis]);
            spread *= images;
            together *= images.max(1.0);
        } else {
            spread *= (2.0 * cutoff / open_length).min(1.0);
        }
    }
    let n = extent.n_sources as f64;
    extent.n_receivers as f64 * (n * spread).max(n.min(TOGETHER) * together)
}

/// Orders of splines that are tried.
const ORDERS: [usize; 5] = [6, 8, 10, 12, 16];
/// Splines need continuous derivatives: l for multipoles, one more for forces and another for their tangents.
pub(super) fn least_order(extent: &Extent) -> usize {
    (extent.source.2.max(extent.receiver.2) + 4).max(MIN_ORDER)
}

/// Relative error by which derivatives on a mesh as fine as needed are rounded: a factor of some 20 for each degree.
pub(super) fn least_of_mesh(extent: &Extent) -> f64 {
    match extent.source.2.max(extent.receiver.2) {
        0..=3 => 0.0,
        4 => 1e-12,
        5 => 3e-11,
        _ => 1e-9,
    }
}

/// The cheapest split for the given method; `span` is that of the sites along the open directions.
pub(super) fn cheapest(
    extent: &Extent,
    cell: &Matrix<f64>,
    pbc: [bool; 3],
    options: &Options,
    span: f64,
) -> Candidate {
    let narrowest = extent.source.0.min(extent.receiver.0).max(1e-3);
    let longest = (0..3)
        .filter(|&axis| pbc[axis])
        .map(|axis| norm(&cell[axis]))
        .fold(10.0, f64::max);
    let mut best = Candidate {
        split: split(extent, pbc, options, 0.0, span),
        cost: f64::INFINITY,
        estimate: Estimate::new(f64::INFINITY, f64::INFINITY),
    };
    // The split with the least time and memory, for the message if none is within the bounds.
    let mut least = best;
    let orders: &[usize] = match &options.method {
        Method::Mesh(Some(order)) => std::slice::from_ref(order),
        Method::Auto if options.accuracy < least_of_mesh(extent) => &[],
        Method::Auto | Method::Mesh(None) => &ORDERS,
        _ => &[],
    };
    let oblique = obliqueness(cell, pbc);
    // (order, spacing over γ)
    let meshes: Vec<(usize, f64)> = orders
        .iter()
        .filter(|&&order| order >= least_order(extent))
        .map(|&order| {
            (
                order,
                relative_spacing(extent, options, order, UNCANCELLED, oblique),
            )
        })
        .collect();
    // No split first, then wider and wider ones.
    let mut floor = 0.0;
    while floor < longest {
        let split = split(extent, pbc, options, floor, span);
        let real = cost::real(extent, cell, pbc, &split, span);
        // The real-space sum grows with the split.
        if real >= best.cost {
            break;
        }
        let pairs = n_pairs(extent, cell, pbc, split.cutoff, split.open_length);
        let near = cost::pairs(extent, if split.cutoff > 0.0 { pairs } else { 0.0 });
        let mut consider = |split: Split, cost: f64, mut estimate: Estimate| {
            if cost >= best.cost {
                return;
            }
            estimate += near;
            let found = Candidate {
                split,
                cost,
                estimate,
            };
            let bytes_and_seconds = |e: &Estimate| 1e-9 * e.bytes + e.seconds;
            if found.fits(extent) {
                best = found;
            } else if bytes_and_seconds(&estimate) < bytes_and_seconds(&least.estimate) {
                least = found;
            }
        };
        let sum = match options.method {
            Method::Auto | Method::Sums => true,
            Method::Reciprocal => floor == 0.0,
            Method::Ewald => floor > 0.0,
            Method::Direct | Method::Mesh(_) => false,
        };
        if sum {
            let modes = n_modes(extent, cell, pbc, &split);
            let cost = cost::reciprocal(extent, pbc, modes);
            let lengths = lengths(cell, pbc, &split);
            let estimate = cost::modes(extent, pbc, cutoff(extent, &split), lengths);
            consider(split, cost + real, estimate);
        }
        for &(order, spacing) in &meshes {
            let gamma = (extent.source.0.max(split.floor).powi(2)
                + extent.receiver.0.max(split.floor).powi(2))
            .sqrt();
            let spacing = if gamma < UNCANCELLED {
                relative_spacing(extent, options, order, gamma, oblique)
            } else {
                spacing
            };
            let size = mesh_size(extent, cell, pbc, &split, order, spacing);
            let split = Split {
                mesh: Some(size),
                ..split
            };
            let cost = cost::mesh(extent, size);
            consider(split, cost + real, cost::points(extent, pbc, size, cost));
        }
        if options.method == Method::Reciprocal {
            break;
        }
        floor = if floor == 0.0 {
            narrowest * 1.05
        } else {
            floor * 1.1
        };
    }
    if best.cost.is_finite() { best } else { least }
}

/// Lengths of the lattice's vectors.
pub(super) fn lengths(cell: &Matrix<f64>, pbc: [bool; 3], split: &Split) -> [f64; 3] {
    std::array::from_fn(|axis| {
        if pbc[axis] {
            norm(&cell[axis])
        } else {
            split.open_length
        }
    })
}

/// Forces between Gaussians narrower than this (γ, Å) grow as γ^-(3/2 + l) where sites are uncorrelated, and with them
/// the error, but they cancel in a lattice, whose relative error counts.
const UNCANCELLED: f64 = 1.0;

/// Spacing over γ = √(σ² + s²) that reaches the accuracy with splines of an order. Derivatives along the vectors of an
/// oblique cell cancel in Cartesian ones, and their errors do not.
fn relative_spacing(
    extent: &Extent,
    options: &Options,
    order: usize,
    gamma: f64,
    oblique: f64,
) -> f64 {
    let interaction = Interaction {
        order,
        source_l: extent.source.2,
        receiver_l: extent.receiver.2,
        forces: extent.purpose != Purpose::Potentials,
    };
    let largest_l = extent.source.2.max(extent.receiver.2) as f64;
    let narrow = if interaction.forces {
        (gamma / UNCANCELLED).min(1.0).powf(1.5 + largest_l)
    } else {
        1.0
    };
    let degree = largest_l + f64::from(u8::from(interaction.forces));
    let oblique = (oblique / COMPACT).max(1.0).powf(degree);
    interaction.spacing(options.accuracy * narrow / oblique)
}

/// Mesh of a spacing given over γ.
fn mesh_size(
    extent: &Extent,
    cell: &Matrix<f64>,
    pbc: [bool; 3],
    split: &Split,
    order: usize,
    spacing: f64,
) -> Size {
    let gamma2 =
        extent.source.0.max(split.floor).powi(2) + extent.receiver.0.max(split.floor).powi(2);
    let spacing = spacing * gamma2.sqrt();
    let points = lengths(cell, pbc, split).map(|length| {
        let n = (length / spacing).ceil();
        // Longer axes are refused, so their lengths need not transform quickly.
        if n <= MAX_LENGTH {
            good_length(n as usize)
        } else {
            n as usize
        }
    });
    Size { order, points }
}
