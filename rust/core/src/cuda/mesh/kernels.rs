//! The kernels' arguments, structures of the same layout as in `cuda/mesh*.cu`, and their modules.

use crate::cuda::driver::unit::Unit;
use crate::cuda::{Address, Kernel, Queue, Scalars};
use crate::error::Result;
use crate::ewald::mesh::Size;
use bytemuck::{Pod, Zeroable};

/// Mesh points along the edge of a brick.
pub const BRICK: usize = 8;
/// Fields with more members than this have lists of those that reach each brick.
pub const UNLISTED: usize = 1024;

/// Threads of a block, as the kernels expect.
pub const SPREAD_THREADS: u32 = 128;
pub const CONVOLVE_THREADS: u32 = 256;
/// Threads of blocks whose size does not affect speed.
pub const THREADS: u32 = 128;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct MeshGrid {
    pub points: [i32; 3],
    pub half: i32,
    pub bricks: [i32; 3],
    pub n_bricks: i32,
}

impl MeshGrid {
    pub fn new(points: [usize; 3]) -> Self {
        let bricks = points.map(|n| n.div_ceil(BRICK));
        Self {
            points: points.map(|n| n as i32),
            half: (points[2] / 2 + 1) as i32,
            bricks: bricks.map(|n| n as i32),
            n_bricks: bricks.iter().product::<usize>() as i32,
        }
    }
}

/// A real number in both precisions.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Both {
    double: f64,
    single: f32,
    padding: i32,
}

impl From<f64> for Both {
    fn from(value: f64) -> Self {
        Self {
            double: value,
            single: value as f32,
            padding: 0,
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct MeshField {
    pub width: Both,
    pub system: i32,
    pub local: i32,
    pub first_member: i32,
    pub n_members: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Member {
    pub place: i32,
    pub receiver: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct MeshSite {
    pub site: i32,
    pub system: i32,
    pub local: i32,
}

/// Bytes of a `Place`.
pub fn place_bytes(scalars: Scalars) -> usize {
    3 * scalars.size() + 16
}

/// Coefficients of one system's expansions.
pub fn n_expansion(max_l: usize) -> usize {
    (0..=max_l)
        .map(|l| (2 * l + 1) * (l + 1) * (l + 2) / 2)
        .sum()
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct MeshSide {
    pub positions: Address,
    pub coefficients: Address,
    pub potentials: Address,
    pub gradients: Address,
    pub fields: Address,
    pub first_field: Address,
    pub members: Address,
    pub field_of: Address,
    pub sites: Address,
    pub places: Address,
    pub expansion: Address,
    pub counts: Address,
    pub cursors: Address,
    pub total: Address,
    pub offsets: Address,
    pub entries: Address,
    pub homes: Address,
    pub order: Address,
    pub n_fields: i32,
    pub n_members: i32,
    pub n_sites: i32,
    pub n_channels: i32,
    pub max_l: i32,
    pub padding: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct SitesArguments {
    pub lattices: Address,
    pub systems: Address,
    pub parallel: Address,
    pub open: Address,
    pub parallel_stride: i32,
    pub open_stride: i32,
    pub grid: MeshGrid,
    pub sides: [MeshSide; 2],
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct SpreadArguments {
    pub fields: Address,
    pub grid: MeshGrid,
    pub side: MeshSide,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct ConvolveArguments {
    pub sources: Address,
    pub receivers: Address,
    pub source_fields: Address,
    pub receiver_fields: Address,
    pub first_source: Address,
    pub first_receiver: Address,
    pub lattices: Address,
    pub systems: Address,
    pub moduli: [Address; 3],
    pub parallel: Address,
    pub open: Address,
    pub reciprocal: Address,
    pub volume: Address,
    pub once: f64,
    pub parallel_stride: i32,
    pub open_stride: i32,
    pub grid: MeshGrid,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct GradientTerm {
    pub coefficient: Both,
    pub of: i32,
    pub axis: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct GatherArguments {
    pub fields: Address,
    pub lattices: Address,
    pub site_gradients: Address,
    pub site_bases: Address,
    pub first_term: Address,
    pub terms: Address,
    pub grid: MeshGrid,
    pub side: MeshSide,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct CellsArguments {
    pub site_gradients: Address,
    pub site_bases: Address,
    pub lattices: Address,
    pub tiles: Address,
    pub partials: Address,
    pub grid: MeshGrid,
    pub side: MeshSide,
}

/// Sites of one block of `gather`, each of a warp, and blocks at once on a multiprocessor at least.
pub fn gather_sites(scalars: Scalars, max_l: usize) -> [usize; 2] {
    match (scalars.size(), max_l) {
        (..=8, 0 | 1) => [8, 3],
        _ => [4, 2],
    }
}

/// Modules for charges and dipoles at the orders in most use, for checks that they compile; those of single precision at
/// one order.
pub fn units() -> Vec<Unit> {
    let mut out = Vec::new();
    for scalars in Scalars::all() {
        out.extend([convolve_unit(scalars), cells_unit(scalars)]);
        let orders: &[usize] = if scalars.is_single() {
            &[8]
        } else {
            &[6, 8, 12]
        };
        for &order in orders {
            out.push(sites_unit(scalars, order));
            for max_l in [0, 1] {
                out.push(spread_unit(scalars, order, max_l));
                out.extend(
                    [false, true].map(|gradients| gather_unit(scalars, order, max_l, gradients)),
                );
            }
        }
    }
    out
}

/// The modules with the most arithmetic for dipoles, and the depth of the nested loops that contain it.
#[cfg(test)]
pub fn hot_units(scalars: Scalars) -> [(Unit, &'static str, usize); 3] {
    [
        (spread_unit(scalars, 8, 1), "spread", 1),
        (convolve_unit(scalars), "convolve", 1),
        (gather_unit(scalars, 8, 1, true), "gather", 1),
    ]
}

pub fn sites_unit(scalars: Scalars, order: usize) -> Unit {
    scalars
        .define(Unit::new(
            "mesh_sites.cu",
            include_str!("../../../cuda/mesh_sites.cu"),
        ))
        .define("ORDER", order)
        .define("BRICK", BRICK)
        .mirror::<MeshGrid>("MeshGrid")
        .mirror::<MeshField>("MeshField")
        .mirror::<Member>("Member")
        .mirror::<MeshSite>("MeshSite")
        .mirror::<MeshSide>("MeshSide")
        .mirror::<SitesArguments>("SitesArguments")
        .size("Place", place_bytes(scalars))
}

pub fn spread_unit(scalars: Scalars, order: usize, max_l: usize) -> Unit {
    scalars
        .define(Unit::new(
            "mesh_spread.cu",
            include_str!("../../../cuda/mesh_spread.cu"),
        ))
        .define("ORDER", order)
        .define("DEGREE", max_l)
        .define("BRICK", BRICK)
        .define("THREADS", SPREAD_THREADS)
        .mirror::<SpreadArguments>("SpreadArguments")
}

pub fn convolve_unit(scalars: Scalars) -> Unit {
    scalars
        .define(Unit::new(
            "mesh_convolve.cu",
            include_str!("../../../cuda/mesh_convolve.cu"),
        ))
        .define("BRICK", BRICK)
        .define("THREADS", CONVOLVE_THREADS)
        .mirror::<ConvolveArguments>("ConvolveArguments")
}

pub fn gather_unit(scalars: Scalars, order: usize, max_l: usize, gradients: bool) -> Unit {
    let [warps, blocks] = gather_sites(scalars, max_l);
    scalars
        .define(Unit::new(
            "mesh_gather.cu",
            include_str!("../../../cuda/mesh_gather.cu"),
        ))
        .define("ORDER", order)
        .define("DEGREE", max_l)
        .define("GRADIENTS", i32::from(gradients))
        .define("WARPS_OF_BLOCK", warps)
        .define("BLOCKS_AT_ONCE", blocks)
        .define("BRICK", BRICK)
        .mirror::<GradientTerm>("GradientTerm")
        .mirror::<GatherArguments>("GatherArguments")
}

pub fn cells_unit(scalars: Scalars) -> Unit {
    scalars
        .define(Unit::new(
            "mesh_cells.cu",
            include_str!("../../../cuda/mesh_cells.cu"),
        ))
        .define("BRICK", BRICK)
        .mirror::<CellsArguments>("CellsArguments")
}

/// A kernel over the sites of one mesh size.
pub fn sites_kernel(
    queue: &Queue,
    scalars: Scalars,
    size: Size,
    name: &'static str,
) -> Result<Kernel> {
    queue.module(sites_unit(scalars, size.order))?.kernel(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::driver::nvrtc::tests::compile_all;

    #[test]
    fn kernels_compile_for_a_gpu() {
        let mut sources = Vec::new();
        for scalars in Scalars::all() {
            sources.push(convolve_unit(scalars));
            sources.push(cells_unit(scalars));
            for (order, max_l) in [(4, 0), (8, 0), (8, 1), (8, 2), (10, 1), (12, 3), (16, 6)] {
                if scalars.is_single() && max_l > 2 {
                    continue;
                }
                sources.push(sites_unit(scalars, order));
                sources.push(spread_unit(scalars, order, max_l));
                sources.push(gather_unit(scalars, order, max_l, false));
                sources.push(gather_unit(scalars, order, max_l, true));
            }
        }
        compile_all(&sources);
    }
}
