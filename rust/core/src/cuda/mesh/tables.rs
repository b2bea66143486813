//! Tables made when a batch is planned: systems by mesh size, their fields, members and tiles.

use super::fft::Fields;
use super::kernels::{
    BRICK, CONVOLVE_THREADS, GradientTerm, Member, MeshField, MeshGrid, MeshSite, UNLISTED,
};
use crate::cuda::sums::Tiles;
use crate::cuda::terms::{Batch, Layout};
use crate::cuda::{Buffer, Queue, Tile};
use crate::error::{Error, Result};
use crate::ewald::density::distinct_widths;
use crate::ewald::mesh::{Size, deconvolution};
use crate::ewald::plan::{Plan, Split};
use crate::lattice::dimensions;
use crate::special::harmonics::{count, degree, gradients};

/// Largest number of reals in the fields of systems processed together.
const MAX_REALS: usize = 1 << 27;
/// Largest number of fields processed together: blocks along the second axis of a grid.
const MAX_FIELDS: usize = 65_535;
/// Blocks that share the modes of one system.
const MAX_MODE_BLOCKS: usize = 528;
/// Sites of a tile at least, and tiles of a system at most.
const TILE_SITES: usize = 128;
const MAX_TILES: usize = 512;

/// Systems with the same mesh.
pub struct Chunk {
    pub size: Size,
    pub grid: MeshGrid,
    pub n_systems: usize,
    /// The systems' numbers.
    pub systems: Buffer,
    pub moduli: [Buffer; 3],
    pub source: SideTables,
    pub receiver: Option<SideTables>,
    /// Blocks that share the modes of a system, and all of them.
    pub mode_blocks: usize,
    pub blocks: Tiles,
    /// Lengths of the tables of the kernel's parts along periodic and open axes; zero if no system needs them.
    pub parts: [usize; 2],
}

/// One side of the systems of a chunk.
pub struct SideTables {
    pub fields: Buffer,
    pub first_field: Buffer,
    pub members: Buffer,
    pub sites: Buffer,
    pub n_fields: usize,
    pub n_members: usize,
    pub n_sites: usize,
    /// True if bricks have lists of members.
    pub listed: bool,
    /// Tiles of places.
    pub tiles: Tiles,
}

/// The systems of a batch that have a mesh, by size.
pub fn sizes(batch: &Batch) -> Vec<(Size, Vec<usize>)> {
    let mut out: Vec<(Size, Vec<usize>)> = Vec::new();
    // Number of fields of the systems in the chunk.
    let mut totals: Vec<usize> = Vec::new();
    for (system, plan) in batch.systems.iter().enumerate() {
        let Some((size, floor)) = mesh_of(&plan.plan) else {
            continue;
        };
        let fields = |layout: &Layout| {
            distinct_widths(layout.widths_of(system).iter().copied(), floor).len()
        };
        let n_fields = fields(&batch.source).max(fields(batch.receiving()));
        let points = size.points;
        let precision = batch.precision;
        let stride = Fields {
            points,
            n_fields,
            precision,
        }
        .stride();
        // The last chunk of a size takes systems until it is full.
        let known = out.iter().rposition(|(known, _)| *known == size);
        match known {
            Some(k)
                if (totals[k] + n_fields) * stride <= MAX_REALS
                    && totals[k] + n_fields <= MAX_FIELDS =>
            {
                out[k].1.push(system);
                totals[k] += n_fields;
            }
            _ => {
                out.push((size, vec![system]));
                totals.push(n_fields);
            }
        }
    }
    out
}

/// Size of the mesh and the least width on it.
fn mesh_of(plan: &Plan) -> Option<(Size, f64)> {
    match plan {
        Plan::Split(Split {
            mesh: Some(size),
            floor,
            ..
        }) => Some((*size, *floor)),
        _ => None,
    }
}

impl Chunk {
    /// `field_of` are the fields of the sources' and the receivers' channels, filled in here.
    pub fn new(
        queue: &Queue,
        batch: &Batch,
        size: Size,
        systems: &[usize],
        field_of: &mut [Vec<i32>; 2],
    ) -> Result<Self> {
        let grid = MeshGrid::new(size.points);
        let [source_fields, receiver_fields] = field_of;
        let source = SideTables::new(queue, batch, &batch.source, size, systems, source_fields)?;
        let receiver = batch.receiver.as_ref().map(|receiver| {
            SideTables::new(queue, batch, receiver, size, systems, receiver_fields)
        });
        let [x, y, z] = size
            .points
            .map(|n| batch.precision.table(queue, &deconvolution(n, size.order)));
        let n_modes = size.points[0] * size.points[1] * (size.points[2] / 2 + 1);
        let mode_blocks = n_modes
            .div_ceil(CONVOLVE_THREADS as usize)
            .clamp(1, MAX_MODE_BLOCKS);
        let blocks: Vec<Tile> = systems
            .iter()
            .flat_map(|&system| {
                (0..mode_blocks).map(move |block| Tile {
                    system: system as i32,
                    first: block as i32,
                    count: 1,
                })
            })
            .collect();
        let numbers: Vec<i32> = systems.iter().map(|&system| system as i32).collect();
        Ok(Self {
            size,
            grid,
            n_systems: systems.len(),
            systems: queue.table(&numbers)?,
            moduli: [x?, y?, z?],
            source,
            receiver: receiver.transpose()?,
            mode_blocks,
            blocks: Tiles::new(queue, &blocks, batch.systems.len())?,
            parts: parts(batch, size, systems),
        })
    }
}

/// Largest lengths of the tables of the kernel's parts.
fn parts(batch: &Batch, size: Size, systems: &[usize]) -> [usize; 2] {
    let mut out = [0; 2];
    for &system in systems {
        let summed = batch.systems[system].summed;
        if !matches!(dimensions(summed), 1 | 2) {
            continue;
        }
        for (periodic, length) in [true, false].into_iter().zip(&mut out) {
            let axes = (0..3).filter(|&axis| summed[axis] == periodic);
            *length = axes
                .map(|axis| size.points[axis])
                .product::<usize>()
                .max(*length);
        }
    }
    out
}

impl SideTables {
    fn new(
        queue: &Queue,
        batch: &Batch,
        layout: &Layout,
        size: Size,
        systems: &[usize],
        field_of: &mut [i32],
    ) -> Result<Self> {
        let n_channels = layout.n_channels;
        let mut fields: Vec<MeshField> = Vec::new();
        let mut first_field = vec![0];
        let mut members = Vec::new();
        let mut sites = Vec::new();
        let mut tiles = Vec::new();
        for (local, &system) in systems.iter().enumerate() {
            let floor = mesh_of(&batch.systems[system].plan).map_or(0.0, |(_, floor)| floor);
            let own = layout.first[system]..layout.first[system + 1];
            let first_place = sites.len();
            sites.extend(own.clone().map(|site| MeshSite {
                site: site as i32,
                system: system as i32,
                local: local as i32,
            }));
            for width in distinct_widths(layout.widths_of(system).iter().copied(), floor) {
                let first_member = members.len();
                for receiver in own.start * n_channels..own.end * n_channels {
                    if layout.widths[receiver].max(floor) == width {
                        field_of[receiver] = fields.len() as i32;
                        members.push(Member {
                            place: (first_place + receiver / n_channels - own.start) as i32,
                            receiver: receiver as i32,
                        });
                    }
                }
                fields.push(MeshField {
                    width: width.into(),
                    system: system as i32,
                    local: local as i32,
                    first_member: first_member as i32,
                    n_members: (members.len() - first_member) as i32,
                });
            }
            first_field.push(fields.len() as i32);
            let step = own.len().div_ceil(MAX_TILES).max(TILE_SITES);
            tiles.extend((0..own.len()).step_by(step).map(|start| Tile {
                system: system as i32,
                first: (first_place + start) as i32,
                count: step.min(own.len() - start) as i32,
            }));
        }
        let entries = members.len() * reach(size);
        if entries > i32::MAX as usize || fields.len() > MAX_FIELDS {
            return Err(Error::Unsupported {
                what: format!(
                    "{} Gaussians in {} fields are more than the mesh takes on a device",
                    members.len(),
                    fields.len()
                ),
                remedy: "give a smaller batch, or fewer different widths".into(),
            });
        }
        let largest = fields.iter().map(|field| field.n_members as usize).max();
        Ok(Self {
            n_fields: fields.len(),
            n_members: members.len(),
            n_sites: sites.len(),
            listed: largest.unwrap_or(0) > UNLISTED,
            fields: queue.table(&fields)?,
            first_field: queue.table(&first_field)?,
            members: queue.table(&members)?,
            sites: queue.table(&sites)?,
            tiles: Tiles::new(queue, &tiles, batch.systems.len())?,
        })
    }
}

/// Largest number of bricks that one spline reaches.
pub fn reach(size: Size) -> usize {
    // In the worst case a spline starts at the last point of a brick, and the last brick of an axis has one point.
    let along = |n: usize| {
        let full = (size.order + BRICK - 2) / BRICK + 1;
        (full + usize::from(!n.is_multiple_of(BRICK))).min(n.div_ceil(BRICK))
    };
    size.points.map(along).iter().product()
}

/// Gradients of the harmonics up to `max_l`, by the lower one: the first of each, and the terms.
pub fn gradient_terms(max_l: usize) -> (Vec<i32>, Vec<GradientTerm>) {
    let mut terms: Vec<_> = gradients(max_l).to_vec();
    terms.sort_by_key(|term| term.lower);
    let first = (0..=count(max_l))
        .map(|lm| terms.partition_point(|term| usize::from(term.lower) < lm) as i32)
        .collect();
    let terms = terms
        .iter()
        .map(|term| GradientTerm {
            // Expansions hold 1/(2l-1)!! of their own degree.
            coefficient: (term.coefficient / (2 * degree(term.of.into()) - 1) as f64).into(),
            of: term.of.into(),
            axis: term.axis.into(),
        })
        .collect();
    (first, terms)
}
