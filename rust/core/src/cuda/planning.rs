//! Plans of a batch on a device: the plan of each system, and the layout of its sites.

use super::batch::Precision;
use super::terms::{Batch, Layout, SystemPlan};
use crate::arithmetic::vector::Matrix;
use crate::error::{Error, Result, check_lengths};
use crate::ewald::density::{
    check_max_l, check_widths, largest_width, n_distinct_widths, smallest_width,
};
use crate::ewald::plan::{Extent, Place, rates};
use crate::ewald::{Method, Options, Plan, Purpose, summed_axes};
use crate::lattice::{check_cell, dimensions};
use crate::limits::Budget;
use crate::systems::{Members, Receivers, check_receivers, receiver_factors};

/// A batch in the caller's order, without the arrays that change between evaluations.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub cells: &'a [Matrix<f64>],
    pub pbc: &'a [[bool; 3]],
    /// System of each atom, in any order.
    pub batch: &'a [i64],
    /// One width per atom, Å.
    pub sigma: &'a [f64],
    pub max_l: usize,
    /// Receivers on the atoms; none for energies.
    pub receivers: Option<Receivers<'a>>,
    /// System of each point, when points receive.
    pub points: Option<&'a [i64]>,
    /// Largest distance of two sites along the open directions of each system, or more, Å.
    pub spans: Option<&'a [f64]>,
    /// Planned for many evaluations at fixed atoms.
    pub fixed: bool,
    pub precision: Precision,
    pub options: Options,
}

/// Atoms in the order of systems; none if they are given in it.
pub fn order_of(batch: &[i64], n_systems: usize) -> Result<Option<Vec<i32>>> {
    let members = Members::new(batch, n_systems)?;
    if batch.is_sorted() {
        return Ok(None);
    }
    let systems = 0..n_systems;
    Ok(Some(
        systems
            .flat_map(|system| members.of(system).iter().map(|&atom| atom as i32))
            .collect(),
    ))
}

/// True if planning depends on the positions of the sites: sums over k-vectors or meshes of systems with an open axis.
pub fn needs_spans(pbc: &[[bool; 3]], batch: &[i64], options: &Options) -> bool {
    let summed_by_pairs = |n: usize| {
        options.method == Method::Direct
            || matches!(options.method, Method::Auto | Method::Sums) && n <= MAX_DIRECT
    };
    if options.correction.is_some() {
        return false;
    }
    let mut counts = vec![0; pbc.len()];
    for &system in batch {
        if let Some(count) = usize::try_from(system).ok().and_then(|k| counts.get_mut(k)) {
            *count += 1;
        }
    }
    pbc.iter()
        .zip(counts)
        .any(|(&pbc, n)| match dimensions(pbc) {
            3 => false,
            0 => !summed_by_pairs(n),
            _ => true,
        })
}

/// Least relative error that sums in single precision are planned for. Their rounding is below it: see
/// `docs/guide/gpu.md`.
pub const LEAST_SINGLE: f64 = 1e-5;

fn check_precision(precision: Precision, accuracy: f64) -> Result<()> {
    if precision == Precision::Double || accuracy >= LEAST_SINGLE {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!(
            "accuracy = {accuracy:e} with precision = \"float32\", whose sums are good to {LEAST_SINGLE:e} at best"
        ),
        remedy: format!("give accuracy={LEAST_SINGLE:e} or more, or precision=\"float64\""),
    })
}

/// Open systems up to this size are always summed by pairs.
const MAX_DIRECT: usize = 2048;

/// The batch and the factors of its features' columns (empty where they are all one).
pub fn plan(request: &Request) -> Result<(Batch, Vec<f64>)> {
    request.options.check()?;
    check_precision(request.precision, request.options.accuracy)?;
    check_max_l("multipoles max_l", request.max_l)?;
    check_widths("sigma", request.sigma)?;
    let n_systems = request.cells.len();
    let lengths = [
        ("pbc", request.pbc.len(), n_systems, "one row per cell"),
        (
            "sigma",
            request.sigma.len(),
            request.batch.len(),
            "one per atom",
        ),
        (
            "spans",
            request.spans.map_or(n_systems, <[f64]>::len),
            n_systems,
            "one per system",
        ),
    ];
    for (array, found, expected, layout) in lengths {
        if found != expected {
            return Err(Error::Shape {
                array,
                found: format!("{found} entries"),
                expected: format!("{expected} ({layout})"),
            });
        }
    }
    let members = Members::new(request.batch, n_systems)?;
    let first = |members: &Members| -> Vec<usize> {
        let mut out = vec![0];
        for system in 0..n_systems {
            out.push(out[system] + members.of(system).len());
        }
        out
    };
    let mut widths = Vec::with_capacity(request.sigma.len());
    for system in 0..n_systems {
        widths.extend(members.gather(system, request.sigma, 1));
    }
    let source = Layout {
        first: first(&members),
        widths,
        n_channels: 1,
        max_l: request.max_l,
    };
    let mut factors = Vec::new();
    let receiver = match (request.points, request.receivers) {
        (Some(points), _) => {
            let members = Members::new(points, n_systems)?;
            Some(Layout {
                first: first(&members),
                widths: vec![0.0; points.len()],
                n_channels: 1,
                max_l: 0,
            })
        }
        (None, Some(receivers)) => {
            check_receivers(&receivers)?;
            factors = receiver_factors(&receivers);
            Some(Layout {
                first: source.first.clone(),
                widths: receivers.widths.repeat(request.batch.len()),
                n_channels: receivers.widths.len(),
                max_l: receivers.max_l,
            })
        }
        (None, None) => None,
    };
    let budget = Budget::new(request.batch.len() + request.points.map_or(0, <[i64]>::len));
    let systems = (0..n_systems)
        .map(|system| plan_system(request, system, &source, receiver.as_ref(), &budget))
        .collect::<Result<_>>()?;
    let same_sites = request.points.is_none();
    Ok((
        Batch {
            systems,
            source,
            receiver,
            same_sites,
            precision: request.precision,
        },
        factors,
    ))
}

fn plan_system(
    request: &Request,
    system: usize,
    source: &Layout,
    receiver: Option<&Layout>,
    budget: &Budget,
) -> Result<SystemPlan> {
    let options = &request.options;
    let (cell, pbc) = (request.cells[system], request.pbc[system]);
    let summed = summed_axes(system, pbc, options.correction)?;
    for row in (0..3).filter(|&row| summed[row]) {
        check_lengths("cell", &cell[row])?;
    }
    check_cell(&cell, summed, system)?;
    let receiving = receiver.unwrap_or(source);
    let n = |layout: &Layout| layout.widths_of(system).len();
    if n(source) == 0 || n(receiving) == 0 {
        return Ok(SystemPlan {
            plan: Plan::Direct,
            summed,
            cell,
        });
    }
    let range = |layout: &Layout| {
        let widths = layout.widths_of(system);
        (smallest_width(widths), largest_width(widths), layout.max_l)
    };
    let distinct = |layout: &Layout| n_distinct_widths(layout.widths_of(system));
    let purpose = match (request.fixed || request.points.is_some(), receiver) {
        (true, _) => Purpose::Potentials,
        (false, None) => Purpose::Energies,
        (false, Some(_)) => Purpose::Forms,
    };
    let extent = Extent {
        place: Place::Span(request.spans.map_or(0.0, |spans| spans[system])),
        rates: &rates::GPU,
        budget,
        purpose,
        n_sites: n(source) + request.points.map_or(0, |_| n(receiving)),
        n_sources: n(source),
        n_receivers: n(receiving),
        n_widths: [distinct(source), distinct(receiving)],
        source: range(source),
        receiver: range(receiving),
    };
    let (plan, _) = Plan::new(&extent, &cell, summed, options)?;
    let needs = matches!(plan, Plan::Split(_)) && dimensions(summed) < 3;
    if needs && request.spans.is_none() {
        return Err(Error::Unsupported {
            what: format!(
                "system {system} is open along an axis and its extent along it is not known"
            ),
            remedy: "give spans".into(),
        });
    }
    Ok(SystemPlan { plan, summed, cell })
}
