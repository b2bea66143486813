//! Plans: the method that a system is summed with, and its parameters, chosen by estimated cost.
//!
//! Imports `arithmetic`, `lattice`, `limits`, and of `ewald` the options and the accuracy of meshes.

pub mod cost;
mod extent;
pub mod rates;
mod remembered;
mod search;
mod split;

pub use extent::{Extent, Place, Purpose};
pub use split::Split;

use super::mesh::Size;
use super::options::{Method, Options};
use crate::arithmetic::vector::Matrix;
use crate::error::{Error, Result};
use crate::lattice::{dimensions, obliqueness};
use crate::limits::Estimate;
use search::{cheapest, least_of_mesh, least_order, n_modes, n_pairs};
use split::MAX_LENGTH;

/// How one system is summed.
#[derive(Clone, Copy, Debug)]
pub enum Plan {
    /// All pairs, open systems only.
    Direct,
    Split(Split),
}

impl Plan {
    /// Name of the method in the interface.
    pub fn name(&self) -> &'static str {
        match self {
            Plan::Direct => "direct",
            Plan::Split(split) if split.mesh.is_some() => "mesh",
            Plan::Split(split) if split.floor == 0.0 => "reciprocal",
            Plan::Split(_) => "ewald",
        }
    }

    /// The method and its parameters as text; with the number of k-vectors where it is known.
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

    /// Chooses the plan of one system, and estimates its time and memory. `pbc` are the axes that are summed
    /// periodically.
    ///
    /// # Errors A method that is not available for the system, or one beyond the bounds; an automatic choice is within
    /// the bounds if any method is.
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
        // The fastest method for a few open sites, for which planning would take longer than the sum.
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
        let best = remembered::split((extent, cell, pbc, options, span), || {
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

/// Description of a refused sum, and a cheaper alternative.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ewald::plan::rates::CPU;
    use crate::limits::Budget;

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
