//! Which method a system is summed with, and its parameters.

use super::candidates;
use super::corrections::Correction;
use super::cost::{self, Rates};
use super::mesh::accuracy::{Interaction, good_length};
use super::mesh::{MAX_ORDER, Size};
use crate::error::{Error, Result};
use crate::lattice::{COMPACT, Lattice, dimensions, obliqueness, periodic_measure};
use crate::limits::{Budget, Estimate};
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
    /// What the call may take, less what other systems of the batch take.
    pub budget: &'a Budget,
    pub purpose: Purpose,
    /// Sites of sources, and of receivers that are elsewhere.
    pub n_sites: usize,
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

    /// Chooses for one system, and estimates what that takes. `pbc` are the axes that are summed periodically.
    ///
    /// # Errors
    /// A method that the system does not have, or one that takes more than the bounds allow; where the method is open,
    /// it is one within the bounds if there is any.
    pub fn new(
        extent: &Extent,
        cell: &Matrix<f64>,
        pbc: [bool; 3],
        options: &Options,
    ) -> Result<(Self, Estimate)> {
        let open = dimensions(pbc) == 0;
        let method = options.method;
        if method == Method::Direct {
            if open {
                return direct_within(extent);
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
        if matches!(method, Method::Mesh(_)) && options.accuracy < least_of_mesh(extent) {
            return Err(Error::Unsupported {
                what: format!(
                    "accuracy = {:e} is below the rounding of meshes for multipoles of degree {}, {:e}",
                    options.accuracy,
                    extent.source.2.max(extent.receiver.2),
                    least_of_mesh(extent),
                ),
                remedy: "use method=\"auto\", \"reciprocal\" or \"ewald\", or a larger accuracy"
                    .into(),
            });
        }
        // Nothing is faster for a few open sites, and the plan would take longer than the sum.
        let direct = if matches!(method, Method::Auto | Method::Sums) && open {
            cost::direct(extent)
        } else {
            f64::INFINITY
        };
        if direct <= extent.rates.mesh_tasks {
            return Ok((Plan::Direct, Estimate::new(direct, 0.0)));
        }
        check_rounding(cell, pbc, extent, options.accuracy)?;
        let span = extent.place.span(cell, pbc);
        let best = candidates::known((extent, cell, pbc, options, span), || {
            cheapest(extent, cell, pbc, options, span)
        });
        if direct.is_finite() && (direct <= best.cost || !best.fits(extent)) {
            return direct_within(extent);
        }
        let words = || words(extent, cell, pbc, options, &best.split);
        extent.budget.spend(best.estimate, words)?;
        Ok((Plan::Split(best.split), best.estimate))
    }
}

/// All pairs, where the budget allows it.
fn direct_within(extent: &Extent) -> Result<(Plan, Estimate)> {
    let (n, m) = (extent.n_sources, extent.n_receivers);
    let words = || {
        [
            format!("the sum over all pairs of {n} sources and {m} receivers is too long"),
            "use method=\"auto\" or \"mesh\", or fewer sites".into(),
        ]
    };
    let estimate = Estimate::new(cost::direct(extent), 0.0);
    extent.budget.spend(estimate, words)?;
    Ok((Plan::Direct, estimate))
}

/// What a refused sum is, and what would be cheaper.
fn words(
    extent: &Extent,
    cell: &Matrix<f64>,
    pbc: [bool; 3],
    options: &Options,
    split: &Split,
) -> [String; 2] {
    let sum = match split.mesh {
        Some(Size { points, .. }) => {
            let points: f64 = points.iter().map(|&n| n as f64).product();
            format!("a mesh of {points:.1e} points")
        }
        None if matches!(options.method, Method::Mesh(_)) => {
            format!("a mesh of more than {MAX_LENGTH:.0e} points along an axis")
        }
        None => format!("{:.1e} k-vectors", n_modes(extent, cell, pbc, split)),
    };
    let mut what = format!(
        "the sum would need {sum} (smallest widths {} and {} Å, accuracy {:e}",
        extent.source.0, extent.receiver.0, options.accuracy
    );
    if split.cutoff > 0.0 {
        let pairs = n_pairs(extent, cell, pbc, split.cutoff, split.open_length);
        what += &format!(", and {pairs:.1e} pairs within {:.3e} Å", split.cutoff);
    }
    if dimensions(pbc) < 3 {
        what += &format!(", length {:.1} Å along open axes", split.open_length);
    }
    let method = match (options.method, dimensions(pbc)) {
        (Method::Auto | Method::Sums, _) => "",
        (_, 0) => "method=\"direct\" or \"auto\", ",
        _ => "method=\"auto\", ",
    };
    let mut remedy = format!("use {method}wider Gaussians or a lower accuracy");
    if dimensions(pbc) < 3 {
        remedy += ", and check that no atom is far from the others along an open axis";
    }
    [what + ")", remedy]
}

/// The largest ratio of the length of a vector to the height of the cell along it, for which the digits lost in
/// polynomials of k, degree by degree, stay below the accuracy. Host cells are made compact before they come here.
fn check_rounding(
    cell: &Matrix<f64>,
    pbc: [bool; 3],
    extent: &Extent,
    accuracy: f64,
) -> Result<()> {
    let oblique = obliqueness(cell, pbc);
    let degree = extent.source.2.max(extent.receiver.2) as i32 + 1;
    if oblique <= 2.5 || f64::EPSILON * oblique.powi(degree) <= accuracy {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!(
            "the cell is so oblique (vectors up to {oblique:.1e} times as long as the cell is high along them) that sums \
             would lose the digits of accuracy {accuracy:e}"
        ),
        remedy: "give the shortest vectors of the same lattice (ase.geometry.minkowski_reduce)"
            .into(),
    })
}

/// k beyond which the sum ends.
fn cutoff(extent: &Extent, split: &Split) -> f64 {
    let floor = split.floor;
    let gamma2 = extent.source.0.max(floor).powi(2) + extent.receiver.0.max(floor).powi(2);
    (2.0 * split.exponent / gamma2).sqrt()
}

/// Number of k-vectors, counting each pair ±k once.
fn n_modes(extent: &Extent, cell: &Matrix<f64>, pbc: [bool; 3], split: &Split) -> f64 {
    let cutoff = cutoff(extent, split);
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

/// A split with what it takes: in a measure for choosing, and altogether.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub split: Split,
    pub cost: f64,
    pub estimate: Estimate,
}

impl Candidate {
    fn fits(&self, extent: &Extent) -> bool {
        self.estimate.fits(extent.n_sites)
    }
}

/// Pairs of a source and a receiver within a cutoff: those of sites all over the cell, or of some that lie together
/// with their images.
fn n_pairs(
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
/// Orders that users can ask for.
const MIN_ORDER: usize = 4;

/// Splines need continuous derivatives: l for multipoles, one more for forces and another for their tangents.
fn least_order(extent: &Extent) -> usize {
    (extent.source.2.max(extent.receiver.2) + 4).max(MIN_ORDER)
}

/// Relative error by which derivatives on a mesh as fine as needed are rounded: a factor of some 20 for each degree.
fn least_of_mesh(extent: &Extent) -> f64 {
    match extent.source.2.max(extent.receiver.2) {
        0..=3 => 0.0,
        4 => 1e-12,
        5 => 3e-11,
        _ => 1e-9,
    }
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
        estimate: Estimate::new(f64::INFINITY, f64::INFINITY),
    };
    // The one with the fewest seconds and bytes, for the words where none is within the bounds.
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
fn lengths(cell: &Matrix<f64>, pbc: [bool; 3], split: &Split) -> [f64; 3] {
    std::array::from_fn(|axis| {
        if pbc[axis] {
            norm(&cell[axis])
        } else {
            split.open_length
        }
    })
}

/// Forces between Gaussians narrower than this (γ, Å) grow as γ^-(3/2 + l) where sites are uncorrelated, and with them
/// the error, but they cancel in a lattice, of which the relative error is asked.
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

/// Longer meshes than this are refused: coordinates on them would lose digits.
pub(super) const MAX_LENGTH: f64 = 1e6;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ewald::cost::CPU;

    fn extent(n: usize, width: f64, max_l: usize, budget: &Budget) -> Extent<'_> {
        Extent {
            place: Place::Span(20.0),
            rates: &CPU,
            budget,
            purpose: Purpose::Energies,
            n_sites: n,
            n_sources: n,
            n_receivers: n,
            n_widths: [1, 1],
            source: (width, width, max_l),
            receiver: (width, width, max_l),
        }
    }

    fn plan(n: usize, width: f64, max_l: usize, edges: [f64; 3], accuracy: f64) -> Result<Plan> {
        let mut cell = [[0.0; 3]; 3];
        (0..3).for_each(|axis| cell[axis][axis] = edges[axis]);
        let options = Options {
            method: Method::Auto,
            correction: None,
            accuracy,
            self_interaction: true,
        };
        let budget = Budget::new(n);
        let extent = extent(n, width, max_l, &budget);
        for pbc in [[true, true, false], [true; 3]] {
            Plan::new(&extent, &cell, pbc, &options)?;
        }
        Ok(Plan::new(&extent, &cell, [true; 3], &options)?.0)
    }

    #[test]
    fn what_people_compute_is_within_the_bounds() {
        for (n, width, max_l, edges, accuracy) in [
            (1_000_000, 0.5, 1, [215.0; 3], 1e-6),
            (100_000, 0.3, 2, [100.0; 3], 1e-8),
            (2000, 1.0, 1, [30.0, 30.0, 300.0], 1e-8),
            (20, 0.3, 4, [40.0; 3], 1e-8),
            (2, 0.1, 1, [3.0; 3], 1e-12),
            (1, 1.0, 6, [3.0, 3.0, 500.0], 1e-12),
        ] {
            let plan = plan(n, width, max_l, edges, accuracy);
            assert!(plan.is_ok(), "{n} sites in {edges:?}: {plan:?}");
        }
    }

    #[test]
    fn another_method_is_taken_where_the_cheapest_takes_too_much() {
        // By cost alone a mesh or a sum of some 10⁹ points or modes; pairs are few.
        let budget = Budget::new(20);
        let extent = extent(20, 1e-3, 0, &budget);
        let cell = [[50.0, 0.0, 0.0], [0.0, 50.0, 0.0], [0.0, 0.0, 50.0]];
        for method in [Method::Auto, Method::Ewald] {
            let options = Options {
                method,
                correction: None,
                accuracy: 1e-10,
                self_interaction: true,
            };
            let (plan, estimate) = Plan::new(&extent, &cell, [true; 3], &options).unwrap();
            assert!(estimate.fits(20) && estimate.bytes > 0.0, "{plan:?}");
            let reciprocal = Options {
                method: Method::Reciprocal,
                ..options
            };
            let Err(Error::Unsupported { what, remedy }) =
                Plan::new(&extent, &cell, [true; 3], &reciprocal)
            else {
                panic!("a sum without end was accepted");
            };
            assert!(
                what.contains("k-vectors") && what.contains("0.001"),
                "{what}"
            );
            assert!(remedy.contains("auto"), "{remedy}");
        }
    }
}
