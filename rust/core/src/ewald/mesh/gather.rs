//! Mesh to sites: derivatives of the potential along the mesh.

use super::grid::Transforms;
use super::monomials::{Monomials, n_monomials};
use super::sites::Group;
use super::splines::{MAX_PACKS, Splines};
use super::spread::offsets;
use crate::arithmetic::dispatch::{degree_or, dispatch, with_low_degree};
use crate::arithmetic::workspace::Workspace;
use crate::arithmetic::{F64x8, LANES, Pack, Scalar};
use crate::special::harmonics::MAX_L;
use rayon::prelude::*;
use rustfft::num_complex::Complex;
use std::ops::Range;

/// Members that one thread works on.
const TILE: usize = 64;

/// Some members of a group.
pub struct Tile<'a, T: Scalar> {
    splines: &'a Splines<T>,
    group: &'a Group,
    members: Range<usize>,
    /// Highest total degree of the derivatives.
    total: usize,
    points: [usize; 3],
    /// Reals in a row along z.
    stride: usize,
    /// Reals in a plane.
    plane: usize,
    /// Values on the mesh; a second field for the tangents of dual numbers.
    parts: [&'a [f64]; 2],
    /// `[member][monomial]`.
    out: &'a mut [T],
}

/// Derivatives of the field up to `total` at the members of a group, `[member][monomial]`.
pub fn gather<T: Scalar>(
    splines: &Splines<T>,
    group: &Group,
    total: usize,
    transforms: &Transforms,
    grids: &[Workspace<Complex<f64>>],
) -> Workspace<T> {
    let n = n_monomials(total);
    let mut out = Workspace::take(group.places.len() * n);
    let part = |part: usize| -> &[f64] {
        grids
            .get(part)
            .map_or(&[], |grid| bytemuck::cast_slice(grid))
    };
    let parts = [part(0), part(1)];
    out.par_chunks_mut(TILE * n)
        .enumerate()
        .for_each(|(tile, out)| {
            let start = tile * TILE;
            let mut tile = Tile {
                splines,
                group,
                members: start..start + out.len() / n,
                total,
                points: transforms.points,
                stride: 2 * transforms.stride,
                plane: 2 * transforms.plane,
                parts,
                out,
            };
            with_low_degree!(total, interpolate, T, &mut tile)
        });
    out
}

dispatch! {
    /// Derivatives at some members, up to the total degree L.
    fn interpolate<T, L>(tile: &mut Tile<'_, T>) -> () => body
}

#[inline(always)]
fn body<T: Scalar, const L: usize, const FMA: bool>(tile: &mut Tile<'_, T>) {
    for (row, member) in tile.members.clone().enumerate() {
        // Arrays as small as the degree allows stay in registers.
        match (L, tile.splines.n_packs) {
            (0, 1) => site::<T, L, 1, FMA, 1>(tile, row, member),
            (0, _) => site::<T, L, 1, FMA, MAX_PACKS>(tile, row, member),
            (1, 1) => site::<T, L, 2, FMA, 1>(tile, row, member),
            (1, _) => site::<T, L, 2, FMA, MAX_PACKS>(tile, row, member),
            (2, 1) => site::<T, L, 3, FMA, 1>(tile, row, member),
            (2, _) => site::<T, L, 3, FMA, MAX_PACKS>(tile, row, member),
            (_, 1) => site::<T, L, { MAX_L + 2 }, FMA, 1>(tile, row, member),
            _ => site::<T, L, { MAX_L + 2 }, FMA, MAX_PACKS>(tile, row, member),
        }
    }
}

#[inline(always)]
fn site<T: Scalar, const L: usize, const N: usize, const FMA: bool, const PACKS: usize>(
    tile: &mut Tile<'_, T>,
    row: usize,
    member: usize,
) {
    let total = degree_or::<L>(tile.total);
    let splines = tile.splines;
    let place = tile.group.places[member] as usize;
    let [nx, ny, _] = tile.points;
    let [x0, y0, z0] = splines.start[place].map(|start| start as usize);
    let n_derivatives = splines.n_derivatives();
    let along_x = splines.along(place, 0);
    let along_y = splines.along(place, 1);
    let zero = [T::Pack::zero(); PACKS];
    let order = splines.order;
    let planes = offsets(x0, order, nx, tile.plane);
    let rows = offsets(y0, order, ny, tile.stride);
    let reach = |offsets: &[usize]| offsets.iter().copied().max().unwrap_or(0);
    let end = reach(&planes[..order]) + reach(&rows[..order]) + z0 + PACKS * LANES;
    for part in 0..T::PARTS {
        assert!(end <= tile.parts[part].len());
    }
    // by_xy[a][b] = Σ_xy X^(a) Y^(b) φ, along z
    let mut by_xy = [[zero; N]; N];
    for jx in 0..order {
        let mut by_y = [zero; N];
        for jy in 0..order {
            let wy = &along_y[jy * n_derivatives..][..n_derivatives];
            let start = planes[jx] + rows[jy] + z0;
            for pack in 0..PACKS {
                let values = T::Pack::from_parts(|part| {
                    // SAFETY: the furthest row was checked above.
                    F64x8(std::array::from_fn(|lane| unsafe {
                        *tile.parts[part].get_unchecked(start + pack * LANES + lane)
                    }))
                });
                for b in 0..=total {
                    by_y[b][pack] = values.mul_add::<FMA>(T::Pack::splat(wy[b]), by_y[b][pack]);
                }
            }
        }
        let wx = &along_x[jx * n_derivatives..][..n_derivatives];
        for a in 0..=total {
            let w = T::Pack::splat(wx[a]);
            for b in 0..=total - a {
                for pack in 0..PACKS {
                    by_xy[a][b][pack] = by_y[b][pack].mul_add::<FMA>(w, by_xy[a][b][pack]);
                }
            }
        }
    }
    let table = Monomials::table();
    let z = splines.z(place);
    let n = n_monomials(total);
    let out = &mut tile.out[row * n..][..n];
    for a in 0..=total {
        for b in 0..=total - a {
            for c in 0..=total - a - b {
                let mut sum = T::Pack::zero();
                for pack in 0..PACKS {
                    sum = by_xy[a][b][pack].mul_add::<FMA>(z[c * PACKS + pack], sum);
                }
                out[table.at(a, b, c)] = sum.sum();
            }
        }
    }
}
