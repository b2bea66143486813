//! The sum over k-vectors: U = Σ_k w(k) Re[S_p(k) S_q(k)*] with w = K G(k) / V, for the systems that have no mesh.
//!
//! The k-vectors are chosen when planned; weights, Gaussians and phases follow the cells and positions of each call.

mod plan;
#[cfg(test)]
mod tests;

use super::driver::unit::Unit;
use super::sums::Tiles;
use super::terms::{Batch, Direction, Layout, Pass};
use super::{Address, Buffer, CellGradients, Kernel, Queue, Scalars, Side, blocks};
use crate::error::Result;
use crate::special::harmonics::gradients;
use bytemuck::{Pod, Zeroable};
use plan::{BLOCK, Mode, ModePlan, ModeSystem, SidePlan, SideSystem, Work};
use std::fmt::Write;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ModeArrays {
    modes: Address,
    systems: Address,
    widths: Address,
    k: Address,
    weights: Address,
    slopes: Address,
    gaussians: Address,
    field: Address,
    n_modes: i32,
    padding: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct SiteArrays {
    side: Side,
    systems: Address,
    kinds: Address,
    phases: Address,
    partials: Address,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct PrepareArguments {
    modes: ModeArrays,
    first: SiteArrays,
    second: SiteArrays,
    first_sites: Address,
    second_sites: Address,
    lattices: Address,
    n_first: i32,
    mode_blocks: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct StructureArguments {
    modes: ModeArrays,
    sites: SiteArrays,
    works: Address,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct FieldArguments {
    modes: ModeArrays,
    sources: SiteArrays,
    receivers: SiteArrays,
    blocks: Address,
    lattices: Address,
    reciprocal_partials: Address,
    volume_partials: Address,
    once: f64,
    n_components: i32,
    contract: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct PotentialArguments {
    modes: ModeArrays,
    sites: SiteArrays,
    tiles: Address,
    lattices: Address,
    cell_partials: Address,
}

/// Threads of the blocks that prepare modes and phases.
const PREPARE: u32 = 64;
/// One side's tables on the device.
struct Sites {
    plan: SidePlan,
    max_l: usize,
    systems: Buffer,
    kinds: Buffer,
    sites: Buffer,
    works: Buffer,
    tiles: Tiles,
}

impl Sites {
    fn new(queue: &Queue, modes: &ModePlan, batch: &Batch, layout: &Layout) -> Result<Self> {
        let plan = SidePlan::new(modes, batch, layout);
        Ok(Self {
            max_l: layout.max_l,
            systems: queue.table(&plan.systems)?,
            kinds: queue.table(&plan.kinds)?,
            sites: queue.table(&plan.sites)?,
            works: queue.table(&plan.works)?,
            tiles: Tiles::new(queue, &plan.tiles, layout.n_systems())?,
            plan,
        })
    }

    fn shape(&self) -> Shape {
        Shape {
            max_l: self.max_l,
            tile_size: self.plan.tile_size,
            together: self.plan.together,
        }
    }

    fn arrays(&self, side: Side, phases: Address, partials: Address) -> SiteArrays {
        SiteArrays {
            side,
            systems: self.systems.address(),
            kinds: self.kinds.address(),
            phases,
            partials,
        }
    }

    /// Sums the structure factors of chunks of sites.
    fn structure(&self, pass: &Pass, modes: ModeArrays, sites: SiteArrays) -> Result<()> {
        let source = structure_unit(pass.scalars(), self.max_l, pass.cell);
        let kernel = pass.queue.module(source)?.kernel("structure_factors")?;
        let arguments = StructureArguments {
            modes,
            sites,
            works: self.works.address(),
        };
        let grid = [self.plan.works.len() as u32, 1, 1];
        pass.queue.launch(&kernel, grid, BLOCK as u32, &arguments)
    }

    /// Adds the potentials and gradients of the field over modes.
    fn potentials(&self, pass: &Pass, areas: &Areas) -> Result<()> {
        let source = potentials_unit(pass.scalars(), self.shape(), gradient_level(pass));
        let kernel = pass.queue.module(source)?.kernel("mode_potentials")?;
        let arguments = PotentialArguments {
            modes: areas.modes,
            sites: areas.receivers,
            tiles: self.tiles.address(),
            lattices: pass.lattices,
            cell_partials: areas.tile_partials,
        };
        // Few sites get more threads each to fill a device; registers limit their number.
        let threads = if self.tiles.n < 512 { 256 } else { 128 };
        let grid = self.tiles.grid();
        pass.queue.launch(&kernel, grid, threads, &arguments)
    }
}

/// The term on a device.
pub struct Reciprocal {
    plan: ModePlan,
    modes: Buffer,
    systems: Buffer,
    widths: Buffer,
    blocks: Tiles,
    source: Sites,
    /// None when the sources receive.
    receiver: Option<Sites>,
    same_sites: bool,
}

/// Addresses of the work areas of a pass.
struct Areas {
    modes: ModeArrays,
    sources: SiteArrays,
    receivers: SiteArrays,
    tile_partials: Address,
    block_reciprocals: Address,
    block_volumes: Address,
    /// Components of structure factors: real and imaginary part, and the same weighted by widths squared.
    n_components: usize,
    /// True if derivatives in the cell through factors of both sides are computed.
    contract: bool,
    _buffer: Buffer,
}

impl Reciprocal {
    /// None where no system is summed over k-vectors.
    pub fn new(queue: &Queue, batch: &Batch) -> Result<Option<Self>> {
        let plan = ModePlan::new(batch);
        if plan.modes.is_empty() {
            return Ok(None);
        }
        let side = |layout: &Layout| Sites::new(queue, &plan, batch, layout);
        let source = side(&batch.source)?;
        let receiver = batch.receiver.as_ref().map(side).transpose()?;
        Ok(Some(Self {
            modes: queue.table(&plan.modes)?,
            systems: queue.table(&plan.systems)?,
            widths: queue.table(&plan.widths)?,
            blocks: Tiles::new(queue, &plan.blocks(), batch.systems.len())?,
            source,
            receiver,
            same_sites: batch.same_sites,
            plan,
        }))
    }

    /// Receivers and sources of a pass.
    fn sides(&self, direction: Direction) -> (&Sites, &Sites) {
        match (direction, &self.receiver) {
            (_, None) => (&self.source, &self.source),
            (Direction::Forward, Some(receiver)) => (receiver, &self.source),
            (Direction::Transposed, Some(receiver)) => (&self.source, receiver),
        }
    }

    /// Adds this term's potentials and gradients.
    pub fn apply(&self, pass: &Pass) -> Result<()> {
        let (receivers, sources) = self.sides(pass.direction);
        let areas = self.areas(pass)?;
        self.prepare(pass, &areas)?;
        sources.structure(pass, areas.modes, areas.sources)?;
        if areas.contract && self.receiver.is_some() {
            receivers.structure(pass, areas.modes, areas.receivers)?;
        }
        self.fields(pass, &areas)?;
        receivers.potentials(pass, &areas)?;
        if pass.cell {
            self.collect(pass, &areas, receivers)?;
        }
        Ok(())
    }

    /// Work areas for a pass.
    fn areas(&self, pass: &Pass) -> Result<Areas> {
        let (receivers, sources) = self.sides(pass.direction);
        let contract = pass.cell && pass.once != 0.0;
        let (size, sum_size) = (pass.scalar.size(), pass.scalars().size());
        let n_modes = self.plan.modes.len();
        let n_components = if pass.cell { 4 } else { 2 };
        let mut bytes = 0;
        let mut take = |n: usize, size: usize| {
            let offset = bytes;
            bytes += (n * size).next_multiple_of(256);
            offset as u64
        };
        let k = take(3 * n_modes, sum_size);
        let weights = take(n_modes, size);
        let slopes = take(n_modes, size);
        let gaussians = take(self.plan.n_gaussians, sum_size);
        let field = take(2 * n_modes, sum_size);
        let phases = take(2 * sources.plan.n_phases, sum_size);
        let receiver_phases = match self.same_sites {
            true => phases,
            false => take(2 * receivers.plan.n_phases, sum_size),
        };
        let partials = take(n_components * sources.plan.n_partials, sum_size);
        let receiver_partials = match contract && self.receiver.is_some() {
            true => take(n_components * receivers.plan.n_partials, sum_size),
            false => partials,
        };
        let tile_partials = take(9 * receivers.plan.tiles.len(), size);
        let block_reciprocals = take(9 * self.blocks.n, size);
        let block_volumes = take(self.blocks.n, size);
        let buffer = pass.queue.allocate(bytes)?;
        let at = |offset: u64| buffer.address() + offset;
        Ok(Areas {
            modes: ModeArrays {
                modes: self.modes.address(),
                systems: self.systems.address(),
                widths: self.widths.address(),
                k: at(k),
                weights: at(weights),
                slopes: at(slopes),
                gaussians: at(gaussians),
                field: at(field),
                n_modes: n_modes as i32,
                padding: 0,
            },
            sources: sources.arrays(pass.sources, at(phases), at(partials)),
            receivers: receivers.arrays(pass.receivers, at(receiver_phases), at(receiver_partials)),
            tile_partials: at(tile_partials),
            block_reciprocals: at(block_reciprocals),
            block_volumes: at(block_volumes),
            n_components,
            contract,
            _buffer: buffer,
        })
    }

    /// Weights and Gaussians of the modes, and phases of the sites.
    fn prepare(&self, pass: &Pass, areas: &Areas) -> Result<()> {
        let (receivers, sources) = self.sides(pass.direction);
        let n_modes = self.plan.modes.len();
        let n_first = sources.plan.sites.len();
        let n_second = match self.same_sites {
            true => 0,
            false => receivers.plan.sites.len(),
        };
        let mode_blocks = blocks(n_modes, PREPARE);
        let arguments = PrepareArguments {
            modes: areas.modes,
            first: areas.sources,
            second: areas.receivers,
            first_sites: sources.sites.address(),
            second_sites: receivers.sites.address(),
            lattices: pass.lattices,
            n_first: n_first as i32,
            mode_blocks: mode_blocks as i32,
        };
        let kernel = modes_kernel(pass, "prepare_modes")?;
        let grid = [mode_blocks + (n_first + n_second) as u32, 1, 1];
        pass.queue.launch(&kernel, grid, PREPARE, &arguments)
    }

    /// Field of the sources, and the derivative in the cell through factors of both sides.
    fn fields(&self, pass: &Pass, areas: &Areas) -> Result<()> {
        let arguments = FieldArguments {
            modes: areas.modes,
            sources: areas.sources,
            receivers: areas.receivers,
            blocks: self.blocks.address(),
            lattices: pass.lattices,
            reciprocal_partials: areas.block_reciprocals,
            volume_partials: areas.block_volumes,
            once: pass.once,
            n_components: areas.n_components as i32,
            contract: i32::from(areas.contract),
        };
        let kernel = modes_kernel(pass, "mode_fields")?;
        let grid = self.blocks.grid();
        pass.queue.launch(&kernel, grid, BLOCK as u32, &arguments)
    }

    /// Adds up derivatives in the cells.
    fn collect(&self, pass: &Pass, areas: &Areas, receivers: &Sites) -> Result<()> {
        let (queue, scalar, cells) = (pass.queue, pass.scalar, &pass.cells);
        let (tiles, blocks) = (&receivers.tiles, &self.blocks);
        tiles.sum(queue, scalar, areas.tile_partials, 9, cells.reciprocal)?;
        if areas.contract {
            blocks.sum(queue, scalar, areas.block_reciprocals, 9, cells.reciprocal)?;
            blocks.sum(queue, scalar, areas.block_volumes, 1, cells.volume)?;
        }
        Ok(())
    }
}

fn modes_kernel(pass: &Pass, name: &'static str) -> Result<Kernel> {
    pass.queue.module(modes_unit(pass.scalars()))?.kernel(name)
}

/// Value of GRADIENTS in `reciprocal_potentials.cu`.
fn gradient_level(pass: &Pass) -> u32 {
    match (pass.gradients, pass.cell) {
        (false, _) => 0,
        (true, false) => 1,
        (true, true) => 2,
    }
}

/// Parameters that the kernel of potentials is compiled for.
#[derive(Clone, Copy)]
struct Shape {
    max_l: usize,
    /// Largest count of a tile.
    tile_size: usize,
    /// Channels whose potentials are summed together.
    together: usize,
}

/// Modules for charges and dipoles, for checks that they compile; those of single precision for dipoles.
pub fn units() -> Vec<Unit> {
    let mut out = Vec::new();
    for scalars in Scalars::all() {
        out.push(modes_unit(scalars));
        for max_l in usize::from(scalars.is_single())..=1 {
            out.extend([false, true].map(|by_width| structure_unit(scalars, max_l, by_width)));
            for together in [1, 2] {
                let shape = Shape {
                    max_l,
                    tile_size: 1,
                    together,
                };
                out.extend([0, 1, 2].map(|level| potentials_unit(scalars, shape, level)));
            }
        }
    }
    out
}

fn modes_unit(scalars: Scalars) -> Unit {
    scalars
        .define(Unit::new(
            "reciprocal.cu",
            include_str!("../../../cuda/reciprocal.cu"),
        ))
        .mirror::<Mode>("Mode")
        .mirror::<ModeSystem>("ModeSystem")
        .mirror::<ModeArrays>("ModeArrays")
        .mirror::<SideSystem>("SideSystem")
        .mirror::<SiteArrays>("SiteArrays")
        .mirror::<CellGradients>("CellGradients")
        .mirror::<PrepareArguments>("PrepareArguments")
        .mirror::<FieldArguments>("FieldArguments")
}

fn structure_unit(scalars: Scalars, max_l: usize, by_width: bool) -> Unit {
    scalars
        .define(Unit::new(
            "reciprocal_structure.cu",
            include_str!("../../../cuda/reciprocal_structure.cu"),
        ))
        .define("SITE_L", max_l)
        .define("BY_WIDTH", u32::from(by_width))
        .mirror::<Work>("Work")
        .mirror::<StructureArguments>("StructureArguments")
}

fn potentials_unit(scalars: Scalars, shape: Shape, level: u32) -> Unit {
    scalars
        .define(Unit::new(
            "reciprocal_potentials.cu",
            include_str!("../../../cuda/reciprocal_potentials.cu"),
        ))
        .define("SITE_L", shape.max_l)
        .define("SITES", shape.tile_size)
        .define("TOGETHER", shape.together)
        .define("GRADIENTS", level)
        .mirror::<PotentialArguments>("PotentialArguments")
        .generate("harmonic_gradients.cuh", move || {
            harmonic_gradients(shape.max_l)
        })
}

/// The modules with the most arithmetic for dipoles, and the depth of the nested loops that contain it.
#[cfg(test)]
pub fn hot_units(scalars: Scalars) -> [(Unit, &'static str, usize); 2] {
    let shape = Shape {
        max_l: 1,
        tile_size: 2,
        together: 1,
    };
    [
        (structure_unit(scalars, 1, true), "structure_factors", 1),
        (potentials_unit(scalars, shape, 2), "mode_potentials", 2),
    ]
}

/// The function that adds Σ weights × ∇C to `out`, given the harmonics C, without a loop.
fn harmonic_gradients(max_l: usize) -> String {
    let mut out =
        "DEVICE void add_harmonic_gradients(const W *c, const W *weights, W *out) {\n".to_string();
    for term in gradients(max_l) {
        let _ = writeln!(
            out,
            "    out[{}] += weights[{}] * c[{}] * {:e};",
            term.axis, term.of, term.lower, term.coefficient
        );
    }
    out.push_str("}\n");
    out
}
