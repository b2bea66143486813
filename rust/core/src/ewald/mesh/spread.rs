//! Sites to mesh.

use super::grid::Transforms;
use super::monomials::Monomials;
use super::sites::Group;
use super::splines::{MAX_ORDER, MAX_PACKS, Splines, first_of_bin};
use crate::arithmetic::dispatch::{degree_or, dispatch, with_low_degree};
use crate::arithmetic::workspace::Workspace;
use crate::arithmetic::{LANES, Pack, Scalar};
use crate::special::harmonics::MAX_L;
use rayon::prelude::*;
use rustfft::num_complex::Complex;
use std::ops::Range;

/// A slab of mesh planes that one thread fills.
pub struct Slab<'a, T: Scalar> {
    splines: &'a Splines<T>,
    group: &'a Group,
    max_l: usize,
    /// `[member][monomial]`.
    coefficients: &'a [T],
    n_monomials: usize,
    points: [usize; 3],
    /// Reals in a row along z.
    stride: usize,
    /// Reals in a plane.
    plane: usize,
    planes: Range<usize>,
    /// Values on the planes; a second field for the tangents of dual numbers.
    parts: [&'a mut [f64]; 2],
}

/// Fills the grids (one per part of the scalar) with the members of a group, and transforms their planes.
///
/// Every point adds its members in the order of their places, however the planes are shared out.
pub fn spread<T: Scalar>(
    splines: &Splines<T>,
    group: &Group,
    max_l: usize,
    coefficients: &[T],
    n_monomials: usize,
    transforms: &Transforms,
    grids: &mut [Workspace<Complex<f64>>],
) {
    let (points, plane) = (transforms.points, transforms.plane);
    let together = points[0].div_ceil(4 * rayon::current_num_threads()).max(4);
    let mut grids = grids.iter_mut();
    let first = slabs(grids.next(), together * plane);
    let mut second = slabs(grids.next(), together * plane).into_iter();
    let pairs: Vec<[&mut [f64]; 2]> = first
        .into_iter()
        .map(|values| [values, second.next().unwrap_or_default()])
        .collect();
    pairs.into_par_iter().enumerate().for_each(|(slab, parts)| {
        let start = slab * together;
        let mut slab = Slab {
            splines,
            group,
            max_l,
            coefficients,
            n_monomials,
            points,
            stride: 2 * transforms.stride,
            plane: 2 * plane,
            planes: start..(start + together).min(points[0]),
            parts,
        };
        for part in &mut slab.parts {
            part.fill(0.0);
        }
        with_low_degree!(max_l, fill, T, &mut slab);
        // While the planes are in the cache.
        for part in slab.parts {
            transforms.forward_planes(bytemuck::cast_slice_mut(part));
        }
    });
}

/// A grid in parts of equal length; none without a grid.
fn slabs(grid: Option<&mut Workspace<Complex<f64>>>, length: usize) -> Vec<&mut [f64]> {
    let slabs = grid.map(|grid| grid.chunks_mut(length).map(bytemuck::cast_slice_mut));
    slabs.into_iter().flatten().collect()
}

dispatch! {
    /// Adds the members that reach a slab, of multipoles up to degree L.
    fn fill<T, L>(slab: &mut Slab<'_, T>) -> () => body
}

#[inline(always)]
fn body<T: Scalar, const L: usize, const FMA: bool>(slab: &mut Slab<'_, T>) {
    let nx = slab.points[0];
    let order = slab.splines.order;
    // Starts that reach the slab: from order - 1 points before it, around the end.
    let low = slab.planes.start as isize - (order as isize - 1);
    let mut ranges = [0..slab.planes.end, 0..0];
    if slab.planes.len() + order > nx {
        ranges = [0..nx, 0..0];
    } else if low >= 0 {
        ranges[0].start = low as usize;
    } else {
        ranges[1] = (low + nx as isize) as usize..nx;
    }
    let places = &slab.group.places;
    let mut done = 0;
    for range in ranges.into_iter().filter(|range| !range.is_empty()) {
        let first = first_of_bin(slab.splines, places, range.start).max(done);
        let mut member = first;
        while member < places.len() {
            let start = slab.splines.start[places[member] as usize][0] as usize;
            if start >= range.end && first_of_later_bin(start, range.end) {
                break;
            }
            // Arrays as small as the degree allows stay in registers.
            match (L, slab.splines.n_packs) {
                (0, 1) => add::<T, L, 1, FMA, 1>(slab, member),
                (0, _) => add::<T, L, 1, FMA, MAX_PACKS>(slab, member),
                (1, 1) => add::<T, L, 2, FMA, 1>(slab, member),
                (1, _) => add::<T, L, 2, FMA, MAX_PACKS>(slab, member),
                (2, 1) => add::<T, L, 3, FMA, 1>(slab, member),
                (2, _) => add::<T, L, 3, FMA, MAX_PACKS>(slab, member),
                (_, 1) => add::<T, L, { MAX_L + 1 }, FMA, 1>(slab, member),
                _ => add::<T, L, { MAX_L + 1 }, FMA, MAX_PACKS>(slab, member),
            }
            member += 1;
        }
        done = member;
    }
}

/// True if a start lies in a bin after the one that holds `end - 1`.
fn first_of_later_bin(start: usize, end: usize) -> bool {
    start / super::splines::BIN > (end - 1) / super::splines::BIN
}

/// Adds one member to the planes of the slab.
#[inline(always)]
fn add<T: Scalar, const L: usize, const N: usize, const FMA: bool, const PACKS: usize>(
    slab: &mut Slab<'_, T>,
    member: usize,
) {
    let max_l = degree_or::<L>(slab.max_l);
    let splines = slab.splines;
    let place = slab.group.places[member] as usize;
    let [nx, ny, _] = slab.points;
    let [x0, y0, z0] = splines.start[place].map(|start| start as usize);
    let table = Monomials::table();
    let n_derivatives = splines.n_derivatives();
    let coefficients = &slab.coefficients[member * slab.n_monomials..][..slab.n_monomials];
    let z = splines.z(place);
    let zero = [T::Pack::zero(); PACKS];
    // by_xy[a][b] = Σ_c t_abc Z^(c)
    let mut by_xy = [[zero; N]; N];
    for a in 0..=max_l {
        for b in 0..=max_l - a {
            let mut row = zero;
            for c in 0..=max_l - a - b {
                let t = T::Pack::splat(coefficients[table.at(a, b, c)]);
                for pack in 0..PACKS {
                    row[pack] = z[c * PACKS + pack].mul_add::<FMA>(t, row[pack]);
                }
            }
            by_xy[a][b] = row;
        }
    }
    let along_x = splines.along(place, 0);
    let along_y = splines.along(place, 1);
    let order = splines.order;
    let planes = offsets(x0, order, nx, 1);
    let rows = offsets(y0, order, ny, slab.stride);
    let reach = rows[..order].iter().copied().max().unwrap_or(0) + z0 + PACKS * LANES;
    let end = (slab.planes.len() - 1) * slab.plane + reach;
    for part in 0..T::PARTS {
        assert!(end <= slab.parts[part].len());
    }
    for jx in 0..order {
        if !slab.planes.contains(&planes[jx]) {
            continue;
        }
        let wx = &along_x[jx * n_derivatives..][..n_derivatives];
        let mut by_y = [zero; N];
        for b in 0..=max_l {
            for a in 0..=max_l - b {
                let w = T::Pack::splat(wx[a]);
                for pack in 0..PACKS {
                    by_y[b][pack] = by_xy[a][b][pack].mul_add::<FMA>(w, by_y[b][pack]);
                }
            }
        }
        let plane = (planes[jx] - slab.planes.start) * slab.plane + z0;
        for jy in 0..order {
            let wy = &along_y[jy * n_derivatives..][..n_derivatives];
            let start = plane + rows[jy];
            for pack in 0..PACKS {
                let mut sum = T::Pack::zero();
                for b in 0..=max_l {
                    sum = by_y[b][pack].mul_add::<FMA>(T::Pack::splat(wy[b]), sum);
                }
                for part in 0..T::PARTS {
                    let values = sum.part(part).0;
                    for lane in 0..LANES {
                        // SAFETY: the furthest row was checked above.
                        unsafe {
                            *slab.parts[part].get_unchecked_mut(start + pack * LANES + lane) +=
                                values[lane];
                        }
                    }
                }
            }
        }
    }
}

/// Offsets of the points of a spline from `start` on along an axis of `n` points, `stride` apart; a spline may be wider
/// than a small mesh.
#[inline(always)]
pub fn offsets(start: usize, order: usize, n: usize, stride: usize) -> [usize; MAX_ORDER] {
    let mut out = [0; MAX_ORDER];
    let mut point = start;
    for offset in &mut out[..order] {
        if point == n {
            point = 0;
        }
        *offset = point * stride;
        point += 1;
    }
    out
}
