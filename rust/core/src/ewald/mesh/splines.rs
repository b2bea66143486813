//! Cardinal B-splines that carry sites onto the mesh, with their derivatives.
//!
//! A site at mesh coordinate u has the weight M_P(u - g + P - 1) on the points g = ⌊u⌋ .. ⌊u⌋ + P - 1 of each axis.
//! The derivatives come from lower orders, M_n'(v) = M_(n-1)(v) - M_(n-1)(v - 1) (Essmann et al., J. Chem. Phys. 103,
//! 8577, eq. 3.6-3.8).

use crate::arithmetic::dispatch::{ANY_DEGREE, degree_or, dispatch};
use crate::arithmetic::vector::{Vector, dot};
use crate::arithmetic::workspace::Workspace;
use crate::arithmetic::{LANES, Pack, Scalar};
use crate::lattice::Lattice;
use rayon::prelude::*;

/// Largest order of the splines.
pub const MAX_ORDER: usize = 16;
/// Points in packs along z, for the largest order.
pub const MAX_PACKS: usize = MAX_ORDER / LANES;
/// Mesh points along x and y that share a bin of sites.
pub const BIN: usize = 4;
/// And those along z: the sites of a bin follow one another upwards, so that the points that they touch stay in the
/// first cache.
const BIN_Z: usize = 8;

/// The weights of a set of sites, sorted so that neighbours on the mesh come one after the other.
pub struct Splines<T: Scalar> {
    pub order: usize,
    n_derivatives: usize,
    /// Packs of eight points along z, the last one filled up with zeros.
    pub n_packs: usize,
    /// The site at each place of the sorted list.
    pub site: Vec<u32>,
    /// First mesh point of each place along x, y, z.
    pub start: Vec<[u32; 3]>,
    /// `[place][axis x, y][point][derivative]`.
    xy: Workspace<T>,
    /// `[place][derivative][pack]`.
    z: Workspace<T::Pack>,
}

/// Mesh coordinate of a position along one axis: the point below it and the rest.
fn coordinate<T: Scalar>(position: &Vector<T>, reciprocal: &Vector<T>, points: usize) -> (u32, T) {
    let fraction = dot(reciprocal, position) * (0.5 / std::f64::consts::PI);
    let whole = fraction.value().floor();
    let n = points as f64;
    let inside = (fraction.value() - whole) * n;
    let below = inside.floor().min(n - 1.0);
    let rest = (fraction - T::constant(whole)) * n - T::constant(below);
    (below as u32, rest)
}

impl<T: Scalar> Splines<T> {
    /// Weights of splines of `order` and their derivatives up to `max_derivative`.
    pub fn new(
        positions: &[Vector<T>],
        lattice: &Lattice<T>,
        points: [usize; 3],
        order: usize,
        max_derivative: usize,
    ) -> Self {
        let coordinates: Vec<[(u32, T); 3]> = positions
            .par_iter()
            .with_min_len(256)
            .map(|position| {
                std::array::from_fn(|axis| {
                    coordinate(position, &lattice.reciprocal[axis], points[axis])
                })
            })
            .collect();
        let site = sorted(&coordinates, points);
        let start = site
            .par_iter()
            .with_min_len(1024)
            .map(|&site| coordinates[site as usize].map(|(below, _)| below))
            .collect();
        let n_derivatives = max_derivative + 1;
        let n_packs = order.div_ceil(LANES);
        let mut out = Self {
            order,
            n_derivatives,
            n_packs,
            site,
            start,
            xy: Workspace::take(positions.len() * 2 * order * n_derivatives),
            z: Workspace::take(positions.len() * n_derivatives * n_packs),
        };
        let xy_row = 2 * order * n_derivatives;
        let z_row = n_derivatives * n_packs;
        out.xy
            .par_chunks_mut(LANES * xy_row)
            .zip(out.z.par_chunks_mut(LANES * z_row))
            .zip(out.site.par_chunks(LANES))
            .with_min_len(8)
            .for_each(|((xy, z), sites)| {
                let mut work = Weights::<T> {
                    rest: T::Pack::zero(),
                    order,
                    max_derivative,
                    values: [[T::Pack::zero(); MAX_ORDER]; MAX_DERIVATIVE + 1],
                };
                for axis in 0..3 {
                    for (lane, &site) in sites.iter().enumerate() {
                        work.rest.set(lane, coordinates[site as usize][axis].1);
                    }
                    with_order!(order, weights, T, &mut work);
                    let values = &work.values[..n_derivatives];
                    for lane in 0..sites.len() {
                        if axis < 2 {
                            let row = &mut xy[lane * xy_row + axis * order * n_derivatives..];
                            for (derivative, values) in values.iter().enumerate() {
                                for (point, value) in values[..order].iter().enumerate() {
                                    row[point * n_derivatives + derivative] = value.get(lane);
                                }
                            }
                            continue;
                        }
                        let packs = &mut z[lane * z_row..][..z_row];
                        for (packs, values) in packs.chunks_exact_mut(n_packs).zip(values) {
                            let values = values[..order].chunks(LANES);
                            for (pack, values) in packs.iter_mut().zip(values) {
                                *pack = T::Pack::zero();
                                for (point, value) in values.iter().enumerate() {
                                    pack.set(point, value.get(lane));
                                }
                            }
                        }
                    }
                }
            });
        out
    }

    /// Weights of one place along x (axis 0) or y (1), `[point][derivative]`.
    #[inline(always)]
    pub fn along(&self, place: usize, axis: usize) -> &[T] {
        let n = self.order * self.n_derivatives;
        &self.xy[(2 * place + axis) * n..][..n]
    }

    /// Weights of one place along z, `[derivative][pack]`.
    #[inline(always)]
    pub fn z(&self, place: usize) -> &[T::Pack] {
        let n = self.n_derivatives * self.n_packs;
        &self.z[place * n..][..n]
    }

    #[inline(always)]
    pub fn n_derivatives(&self) -> usize {
        self.n_derivatives
    }
}

/// Sites in the order of their bins, by counting.
fn sorted<T>(coordinates: &[[(u32, T); 3]], points: [usize; 3]) -> Vec<u32> {
    let [nx, ny, nz] = [BIN, BIN, BIN_Z];
    let bins = [
        points[0].div_ceil(nx),
        points[1].div_ceil(ny),
        points[2].div_ceil(nz),
    ];
    let bin = |c: &[(u32, T); 3]| {
        let [x, y, z] = [c[0].0, c[1].0, c[2].0].map(|point| point as usize);
        ((x / nx) * bins[1] + y / ny) * bins[2] + z / nz
    };
    let mut next = vec![0u32; bins.iter().product::<usize>() + 1];
    for c in coordinates {
        next[bin(c) + 1] += 1;
    }
    for k in 1..next.len() {
        next[k] += next[k - 1];
    }
    let mut out = vec![0; coordinates.len()];
    for (site, c) in coordinates.iter().enumerate() {
        let place = &mut next[bin(c)];
        out[*place as usize] = site as u32;
        *place += 1;
    }
    out
}

/// First places whose x lies in the bin of mesh plane `x` or a later one.
pub fn first_of_bin<T: Scalar>(splines: &Splines<T>, places: &[u32], x: usize) -> usize {
    let bin = x / BIN;
    places.partition_point(|&place| (splines.start[place as usize][0] as usize / BIN) < bin)
}

/// Highest derivative: one gradient beyond the multipoles.
const MAX_DERIVATIVE: usize = super::monomials::MAX_TOTAL;

/// Weights of eight sites along one axis.
pub struct Weights<T: Scalar> {
    /// Mesh coordinates less the points below, ⟨u⟩ in [0, 1).
    rest: T::Pack,
    order: usize,
    max_derivative: usize,
    /// `[derivative][point]`
    values: [[T::Pack; MAX_ORDER]; MAX_DERIVATIVE + 1],
}

/// Calls `$function::<$scalar, P>` with the order P as a constant where it is a usual one.
macro_rules! with_order {
    ($order:expr, $function:ident, $scalar:ident, $arg:expr) => {
        match $order {
            8 => $function::<$scalar, 8>($arg),
            10 => $function::<$scalar, 10>($arg),
            12 => $function::<$scalar, 12>($arg),
            _ => $function::<$scalar, ANY_DEGREE>($arg),
        }
    };
}
use with_order;

dispatch! {
    /// Fills the values, of splines of order L.
    fn weights<T, L>(work: &mut Weights<T>) -> () => body
}

#[inline(always)]
fn body<T: Scalar, const L: usize, const FMA: bool>(work: &mut Weights<T>) {
    let order = degree_or::<L>(work.order);
    let (rest, max_derivative) = (work.rest, work.max_derivative);
    let number = |x: f64| T::Pack::splat(T::constant(x));
    let mut row = [T::Pack::zero(); MAX_ORDER];
    row[0] = number(1.0);
    for n in 1..=order {
        if n > 1 {
            // m_n[j] = ((⟨u⟩ + n - 1 - j) m_(n-1)[j-1] + (1 + j - ⟨u⟩) m_(n-1)[j]) / (n - 1)
            let inverse = number(1.0 / (n - 1) as f64);
            for j in (0..n).rev() {
                let mut sum = T::Pack::zero();
                if j > 0 {
                    let factor = rest.add(number((n - 1 - j) as f64));
                    sum = factor.mul(row[j - 1]);
                }
                if j + 1 < n {
                    let factor = number((1 + j) as f64).add(rest.neg());
                    sum = factor.mul_add::<FMA>(row[j], sum);
                }
                row[j] = sum.mul(inverse);
            }
        }
        if n + max_derivative >= order {
            work.values[order - n][..n].copy_from_slice(&row[..n]);
        }
    }
    for derivative in 1..=max_derivative {
        let row = &mut work.values[derivative];
        for n in order - derivative + 1..=order {
            for j in (0..n).rev() {
                let before = if j > 0 { row[j - 1] } else { T::Pack::zero() };
                let here = if j + 1 < n { row[j] } else { T::Pack::zero() };
                row[j] = before.add(here.neg());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::Dual;

    #[test]
    fn weights_and_derivatives() {
        for order in [4, 7, 8, 16] {
            let mut work = Weights::<Dual> {
                rest: <Dual as Scalar>::Pack::splat(Dual::new(0.37, 1.0)),
                order,
                max_derivative: 2,
                values: [[<Dual as Scalar>::Pack::zero(); MAX_ORDER]; MAX_DERIVATIVE + 1],
            };
            with_order!(order, weights, Dual, &mut work);
            let values = work.values;
            let sum: f64 = values[0][..order].iter().map(|w| w.get(3).value).sum();
            assert!((sum - 1.0).abs() < 1e-14);
            // The first moment follows the site.
            let mean: f64 = (0..order)
                .map(|j| j as f64 * values[0][j].get(0).value)
                .sum();
            assert!(
                (mean - (0.37 + 0.5 * order as f64 - 1.0)).abs() < 1e-13,
                "{mean}"
            );
            for derivative in 0..2 {
                for j in 0..order {
                    let tangent = values[derivative][j].get(1).tangent;
                    let next = values[derivative + 1][j].get(1).value;
                    assert!((tangent - next).abs() < 1e-13, "{order} {derivative} {j}");
                }
            }
        }
    }
}
