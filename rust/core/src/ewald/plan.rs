//! Which method a system is summed with, and its parameters.

use super::candidates;
use super::corrections::Correction;
use super::cost::{self, Rates};
use super::mesh::accuracy::{Interaction, good_length};
use super::mesh::{MAX_ORDER, Size};
use crate::error::{Error, Result};
use crate::lattice::{Lattice, dimensions, periodic_measure};
use crate::vector::{Matrix, Vector, dot, norm};

/// Methods a user can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    Auto,
    Direct,
    Reciprocal,
    Ewald,
    /// Anything but a mesh: sums whose matrix elements come one by one.
    Sums,
    /// Particle mesh, with splines of a given order or of the best one.
    Mesh(Option<usize>),
}

impl std::str::FromStr for Method {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Self::Auto),
            "direct" => Ok(Self::Direct),
            "reciprocal" => Ok(Self::Reciprocal),
            "ewald" => Ok(Self::Ewald),
            "mesh" => Ok(Self::Mesh(None)),
            _ => {
                let order = name.strip_prefix("mesh-").map(str::parse::<usize>);
                match order {
                    Some(Ok(order)) if (MIN_ORDER..=MAX_ORDER).contains(&order) => {
                        Ok(Self::Mesh(Some(order)))
                    }
                    Some(_) => Err(Error::Unsupported {
                        what: format!("method {name:?} names no order of B-splines"),
                        remedy: format!(
                            "use \"mesh-{MIN_ORDER}\" ... \"mesh-{MAX_ORDER}\", or \"mesh\" for the best order"
                        ),
                    }),
                    None => Err(Error::Unsupported {
                        what: format!("method {name:?} is unknown"),
                        remedy: "use \"auto\", \"direct\", \"reciprocal\", \"ewald\" or \"mesh\""
                            .into(),
                    }),
                }
            }
        }
    }
}

impl std::str::FromStr for Correction {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "slab_dipole_correction" => Ok(Self::SlabDipole),
            "molecule_in_box" => Ok(Self::MoleculeInBox),
            _ => Err(Error::Unsupported {
                what: format!("boundary {name:?} is unknown"),
                remedy: "leave boundary=None for the exact boundary given by pbc, or use \
                         \"slab_dipole_correction\" or \"molecule_in_box\""
                    .into(),
            }),
        }
    }
}

/// What the user chooses.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub method: Method,
    pub correction: Option<Correction>,
    /// Relative accuracy.
    pub accuracy: f64,
    pub self_interaction: bool,
}

impl Options {
    pub fn check(&self) -> Result<()> {
        if self.accuracy >= 1e-15 && self.accuracy <= 1e-1 {
            return Ok(());
        }
        Err(Error::Value {
            array: "accuracy",
            index: 0,
            value: self.accuracy,
            remedy: "give a relative accuracy between 1e-15 and 1e-1",
        })
    }
}

/// What a sum is for, so that a plan can be as accurate as needed and no slower than it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Energies of sources with all gradients.
    Energies,
    /// U(p, q) with all gradients.
    Forms,
    /// Potentials at the receivers alone.
    Potentials,
}

/// Where sites are, as far as open axes need it.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    At(&'a [Vector<f64>]),
    /// Their largest distance along the open directions, Å.
    Span(f64),
}

impl Place<'_> {
    fn span(&self, cell: &Matrix<f64>, pbc: [bool; 3]) -> f64 {
        match self {
            Place::At(positions) => open_span(positions, cell, pbc),
            Place::Span(span) => *span,
        }
    }
}

/// What the plan looks at: widths and degrees of sources and receivers, and where the sites are.
#[derive(Clone, Copy, Debug)]
pub struct Extent<'a> {
    pub place: Place<'a>,
    /// What operations cost where the sum is done.
    pub rates: &'static Rates,
    pub purpose: Purpose,
    /// Sites × channels.
    pub n_sources: usize,
    pub n_receivers: usize,
    /// Distinct widths of sources and of receivers.
    pub n_widths: [usize; 2],
    /// (smallest, largest) width, and degree.
    pub source: (f64, f64, usize),
    pub receiver: (f64, f64, usize),
}

/// A reciprocal sum, with or without a real-space part.
#[derive(Clone, Copy, Debug)]
pub struct Split {
    /// Widths are raised to this in the reciprocal sum; 0 for no real-space part.
    pub floor: f64,
    /// k² γ² / 2 at which the reciprocal sum ends.
    pub exponent: f64,
    /// Cutoff of the real-space sum, Å.
    pub cutoff: f64,
    /// Length of the lattice along open axes, Å.
    pub open_length: f64,
    /// The mesh that takes the place of the sum over k-vectors.
    pub mesh: Option<Size>,
}

/// How one system is summed.
#[derive(Clone, Copy, Debug)]
pub enum Plan {
    /// All pairs, open systems only.
    Direct,
    Split(Split),
}

impl Plan {
    /// The name that users see.
    pub fn name(&self) -> &'static str {
        match self {
            Plan::Direct => "direct",
            Plan::Split(split) if split.mesh.is_some() => "mesh",
            Plan::Split(split) if split.floor == 0.0 => "reciprocal",
            Plan::Split(_) => "ewald",
        }
    }

    /// The method and its parameters, for people; with the number of k-vectors where it is known.
    pub fn description(&self, n_modes: Option<usize>) -> String {
        let Plan::Split(split) = self else {
            return "direct: all pairs".into();
        };
        let sum = match (split.mesh, n_modes) {
            (Some(Size { order, points }), _) => {
                let [x, y, z] = points;
                format!("splines of order {order} on {x} × {y} × {z} points")
            }
            (None, Some(n)) => format!("{n} k-vectors"),
            (None, None) => "k-vectors".into(),
        };
        let name = self.name();
        if split.cutoff == 0.0 {
            return format!("{name}: {sum}");
        }
        let Split { floor, cutoff, .. } = split;
        format!("{name}: {sum}, split width {floor:.3} Å, real-space cutoff {cutoff:.2} Å")
    }

    /// Chooses for one system. `pbc` are the axes that are summed periodically.
    pub fn new(
        extent: &Extent,
        cell: &Matrix<f64>,
        pbc: [bool; 3],
        options: &Options,
    ) -> Result<Self> {
        let open = dimensions(pbc) == 0;
        let method = options.method;
        if method == Method::Direct {
            if open {
                return Ok(Plan::Direct);
            }
            return Err(Error::Unsupported {
                what: "method \"direct\" sums all pairs of an open system, but an axis is periodic"
                    .into(),
                remedy: "use method=\"auto\", \"reciprocal\", \"ewald\" or \"mesh\"".into(),
            });
        }
        if let Method::Mesh(Some(order)) = method
            && order < least_order(extent)
        {
            let largest = extent.source.2.max(extent.receiver.2);
            return Err(Error::Unsupported {
                what: format!(
                    "method \"mesh-{order}\" has splines too rough for multipoles of degree {largest}"
                ),
                remedy: format!(
                    "use \"mesh-{}\" or a higher order, or \"mesh\"",
                    least_order(extent)
                ),
            });
        }
        // Nothing is faster for a few open sites, and the plan would take longer than the sum.
        let direct = if matches!(method, Method::Auto | Method::Sums) && open {
            cost::direct(extent)
        } else {
            f64::INFINITY
        };
        if direct <= extent.rates.mesh_tasks {
            return Ok(Plan::Direct);
        }
        let span = extent.place.span(cell, pbc);
        let best = candidates::known((extent, cell, pbc, options, span), || {
            cheapest(extent, cell, pbc, options, span)
        });
        if direct.is_finite() && direct <= best.cost {
            return Ok(Plan::Direct);
        }
        match best.split.mesh {
            None => check_modes(extent, cell, pbc, &best.split)?,
            Some(size) => check_points(extent, &best.split, size)?,
        }
        Ok(Plan::Split(best.split))
    }
}

/// More k-vectors than this (some 10 GB) are refused.
const MAX_MODES: f64 = 5e7;

/// Refuses sums that would exhaust time and memory.
fn check_modes(extent: &Extent, cell: &Matrix<f64>, pbc: [bool; 3], split: &Split) -> Result<()> {
    let modes = n_modes(extent, cell, pbc, split);
    if modes < MAX_MODES {
        return Ok(());
    }
    let remedy = if dimensions(pbc) == 0 {
        "use method=\"direct\" for open systems"
    } else {
        "use method=\"auto\", wider Gaussians or a lower accuracy, and check that no atom is far from the others \
         along an open axis"
    };
    Err(Error::Unsupported {
        what: format!(
            "the sum would need {modes:.1e} k-vectors (smallest widths {} and {} Å, length {:.1} Å along open axes)",
            extent.source.0, extent.receiver.0, split.open_length
        ),
        remedy: remedy.into(),
    })
}

/// Number of k-vectors, counting each pair ±k once.
fn n_modes(extent: &Extent, cell: &Matrix<f64>, pbc: [bool; 3], split: &Split) -> f64 {
    let floor = split.floor;
    let gamma2 = extent.source.0.max(floor).powi(2) + extent.receiver.0.max(floor).powi(2);
    let cutoff = (2.0 * split.exponent / gamma2).sqrt();
    let n_open = 3 - dimensions(pbc) as i32;
    let volume = periodic_measure(cell, pbc) * split.open_length.powi(n_open);
    let half_sphere = 2.0 / 3.0 * std::f64::consts::PI * cutoff.powi(3);
    (half_sphere * volume / (2.0 * std::f64::consts::PI).powi(3)).max(1.0)
}

/// Largest distance of two sites along the open directions.
fn open_span(positions: &[Vector<f64>], cell: &Matrix<f64>, pbc: [bool; 3]) -> f64 {
    // A lattice with unit vectors along open axes gives the directions.
    let lattice = Lattice::new(cell, pbc, 1.0);
    let mut squares = 0.0;
    for axis in (0..3).filter(|&axis| !pbc[axis]) {
        let direction = &lattice.vectors[axis];
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for position in positions {
            let along = dot(position, direction);
            low = low.min(along);
            high = high.max(along);
        }
        if high > low {
            squares += (high - low) * (high - low);
        }
    }
    squares.sqrt()
}

/// Where exp(-x) x^degree falls below the accuracy.
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

/// A split with its estimated cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub split: Split,
    pub cost: f64,
}

/// Orders of splines that are tried.
const ORDERS: [usize; 5] = [6, 8, 10, 12, 16];
/// Orders that users can ask for.
const MIN_ORDER: usize = 4;

/// Splines need continuous derivatives: l for multipoles, one more for forces and another for their tangents.
fn least_order(extent: &Extent) -> usize {
    (extent.source.2.max(extent.receiver.2) + 4).max(MIN_ORDER)
}

/// The cheapest split for the method asked for; `span` is that of the sites along the open directions.
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
    };
    let orders: &[usize] = match &options.method {
        Method::Mesh(Some(order)) => std::slice::from_ref(order),
        Method::Auto | Method::Mesh(None) => &ORDERS,
        _ => &[],
    };
    // (order, spacing over γ)
    let meshes: Vec<(usize, f64)> = orders
        .iter()
        .filter(|&&order| order >= least_order(extent))
        .map(|&order| (order, relative_spacing(extent, options, order, UNCANCELLED)))
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
        let mut consider = |split: Split, cost: f64| {
            if cost < best.cost {
                best = Candidate { split, cost };
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
            consider(split, cost::reciprocal(extent, pbc, modes) + real);
        }
        for &(order, spacing) in &meshes {
            let gamma = (extent.source.0.max(split.floor).powi(2)
                + extent.receiver.0.max(split.floor).powi(2))
            .sqrt();
            let spacing = if gamma < UNCANCELLED {
                relative_spacing(extent, options, order, gamma)
            } else {
                spacing
            };
            let size = mesh_size(extent, cell, pbc, &split, order, spacing);
            let split = Split {
                mesh: Some(size),
                ..split
            };
            consider(split, cost::mesh(extent, size) + real);
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
    best
}

/// Forces between Gaussians narrower than this (γ, Å) grow as γ^-(3/2 + l) where sites are uncorrelated, and with them
/// the error, but they cancel in a lattice, of which the relative error is asked.
const UNCANCELLED: f64 = 1.0;

/// Spacing over γ = √(σ² + s²) that reaches the accuracy with splines of an order.
fn relative_spacing(extent: &Extent, options: &Options, order: usize, gamma: f64) -> f64 {
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
    interaction.spacing(options.accuracy * narrow)
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
    let points = std::array::from_fn(|axis| {
        let length = if pbc[axis] {
            norm(&cell[axis])
        } else {
            split.open_length
        };
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

/// Meshes of more points than this (8 GB per width), and longer ones than this, are refused.
const MAX_POINTS: f64 = 1e9;
const MAX_LENGTH: f64 = 1e6;

fn check_points(extent: &Extent, split: &Split, size: Size) -> Result<()> {
    let points: f64 = size.points.iter().map(|&n| n as f64).product();
    if points <= MAX_POINTS && size.points.iter().all(|&n| n as f64 <= MAX_LENGTH) {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!(
            "the mesh would have {points:.1e} points (smallest widths {} and {} Å, split {:.2} Å, length {:.1} Å along \
             open axes)",
            extent.source.0, extent.receiver.0, split.floor, split.open_length
        ),
        remedy: "use wider Gaussians or a lower accuracy, and check that no atom is far from the others along an \
                 open axis"
            .into(),
    })
}
