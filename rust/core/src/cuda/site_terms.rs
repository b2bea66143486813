//! Terms of single sites and systems: a site's interaction with itself, the background and corrections, in one pass over
//! the sites; and the value of a form.

use super::driver::unit::Unit;
use super::sums::Tiles;
use super::terms::{Batch, Layout, Pass};
use super::{Address, Buffer, Queue, ScalarKind, Side, Tile, blocks, tiles};
use crate::error::Result;
use crate::ewald::{Correction, Plan};
use crate::special::harmonics::count;
use bytemuck::{Pod, Zeroable};

const N_MOMENTS: usize = 11;
/// Sites of one block in sums over sites.
const TILE: usize = 64;
const THREADS: u32 = 64;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct SystemTerms {
    floor: f64,
    own: f64,
    own_raised: f64,
    background: i32,
    correction: i32,
    open: i32,
    padding: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct MomentArguments {
    side: Side,
    systems: Address,
    tiles: Address,
    partials: Address,
    n_lm: i32,
    padding: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct SiteArguments {
    receivers: Side,
    sources: Side,
    systems: Address,
    lattices: Address,
    moments: Address,
    receiver_lm: i32,
    source_lm: i32,
    same_sites: i32,
    gradients: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct CellArguments {
    systems: Address,
    lattices: Address,
    receivers: Address,
    sources: Address,
    cell: Address,
    once: f64,
    n_systems: i32,
    padding: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ProductArguments {
    side: Side,
    tiles: Address,
    partials: Address,
    factor: f64,
    n_row: i32,
    padding: i32,
}

fn unit(scalar: ScalarKind) -> Unit {
    Unit::new("site_terms.cu", include_str!("../../cuda/site_terms.cu"))
        .define("SCALAR", scalar.name())
        .define("N_MOMENTS", N_MOMENTS)
        .size("Moments", N_MOMENTS * scalar.size())
        .mirror::<SystemTerms>("SystemTerms")
        .mirror::<MomentArguments>("MomentArguments")
        .mirror::<SiteArguments>("SiteArguments")
        .mirror::<CellArguments>("CellArguments")
        .mirror::<ProductArguments>("ProductArguments")
}

/// The modules of this file, for checks that they compile.
pub fn units() -> Vec<Unit> {
    [ScalarKind::Real, ScalarKind::Dual].map(unit).into()
}

/// Tiles of one side, and the numbers of its coefficients.
struct Tiling {
    tiles: Tiles,
    n_lm: usize,
    n_row: usize,
}

impl Tiling {
    fn new(queue: &Queue, layout: &Layout) -> Result<Self> {
        let list: Vec<Tile> = tiles(&layout.first, |_| true, TILE);
        Ok(Self {
            tiles: Tiles::new(queue, &list, layout.n_systems())?,
            n_lm: count(layout.max_l),
            n_row: layout.n_row(),
        })
    }
}

/// The terms of sites and systems of one batch.
pub struct SiteTerms {
    systems: Buffer,
    n_systems: usize,
    source: Tiling,
    receiver: Option<Tiling>,
    same_sites: bool,
    /// True if any system has an own term.
    own: bool,
    moments: bool,
}

/// Moments of both sides, on the device.
pub struct Moments {
    pub source: Buffer,
    /// None when the sources receive.
    pub receiver: Option<Buffer>,
}

impl SiteTerms {
    /// `pbc` are the axes periodic in truth.
    pub fn new(
        queue: &Queue,
        batch: &Batch,
        pbc: &[[bool; 3]],
        correction: Option<Correction>,
        self_interaction: bool,
    ) -> Result<Self> {
        let excluded = if self_interaction { 0.0 } else { 1.0 };
        let systems: Vec<SystemTerms> = batch
            .systems
            .iter()
            .zip(pbc)
            .map(|(system, pbc)| {
                let (floor, short) = match system.plan {
                    Plan::Direct => (0.0, true),
                    Plan::Split(split) if split.cutoff > 0.0 => (split.floor, true),
                    Plan::Split(_) => (0.0, false),
                };
                let split = short && floor > 0.0;
                SystemTerms {
                    floor,
                    own: f64::from(u8::from(short)) - excluded,
                    own_raised: if split { -1.0 } else { 0.0 },
                    background: i32::from(split && system.summed == [true; 3]),
                    correction: match (correction, system.plan) {
                        (None, _) | (_, Plan::Direct) => 0,
                        (Some(Correction::SlabDipole), _) => 1,
                        (Some(Correction::MoleculeInBox), _) => 2,
                    },
                    open: pbc.iter().position(|&periodic| !periodic).unwrap_or(2) as i32,
                    padding: 0,
                }
            })
            .collect();
        Ok(Self {
            own: batch.same_sites && systems.iter().any(|s| s.own != 0.0 || s.own_raised != 0.0),
            moments: systems
                .iter()
                .any(|s| s.background != 0 || s.correction != 0),
            n_systems: systems.len(),
            systems: queue.table(&systems)?,
            source: Tiling::new(queue, &batch.source)?,
            receiver: batch
                .receiver
                .as_ref()
                .map(|layout| Tiling::new(queue, layout))
                .transpose()?,
            same_sites: batch.same_sites,
        })
    }

    fn receiving(&self) -> &Tiling {
        self.receiver.as_ref().unwrap_or(&self.source)
    }

    /// Moments of the sides; none where no system needs them.
    pub fn moments(
        &self,
        queue: &Queue,
        scalar: ScalarKind,
        source: &Side,
        receiver: Option<&Side>,
    ) -> Result<Option<Moments>> {
        if !self.moments {
            return Ok(None);
        }
        let of = |side: &Side, tiling: &Tiling| -> Result<Buffer> {
            let out = queue.zeros(self.n_systems * N_MOMENTS * scalar.size())?;
            let partials = queue.allocate(tiling.tiles.n * N_MOMENTS * scalar.size())?;
            let kernel = queue.module(self::unit(scalar))?.kernel("moments")?;
            let arguments = MomentArguments {
                side: *side,
                systems: self.systems.address(),
                tiles: tiling.tiles.address(),
                partials: partials.address(),
                n_lm: tiling.n_lm as i32,
                padding: 0,
            };
            queue.launch(&kernel, tiling.tiles.grid(), THREADS, &arguments)?;
            let (partials, sums) = (partials.address(), out.address());
            tiling.tiles.sum(queue, scalar, partials, N_MOMENTS, sums)?;
            Ok(out)
        };
        Ok(Some(Moments {
            source: of(source, &self.source)?,
            receiver: receiver
                .map(|side| of(side, self.receiving()))
                .transpose()?,
        }))
    }

    /// Adds the terms of one pass; the moments are those of the pass's receivers and sources.
    pub fn apply(&self, pass: &Pass, moments: Option<(Address, Address)>) -> Result<()> {
        if !self.own && moments.is_none() {
            return Ok(());
        }
        let (receiver, source) = match pass.direction {
            super::terms::Direction::Forward => (self.receiving(), &self.source),
            super::terms::Direction::Transposed => (&self.source, self.receiving()),
        };
        let module = pass.queue.module(unit(pass.scalar))?;
        let arguments = SiteArguments {
            receivers: pass.receivers,
            sources: pass.sources,
            systems: self.systems.address(),
            lattices: pass.lattices,
            moments: moments.map_or(0, |(_, sources)| sources),
            receiver_lm: receiver.n_lm as i32,
            source_lm: source.n_lm as i32,
            same_sites: i32::from(self.same_sites),
            gradients: i32::from(pass.gradients),
        };
        let n = pass.receivers.n_sites as usize;
        let kernel = module.kernel("sites")?;
        let grid = [blocks(n, 128), 1, 1];
        pass.queue.launch(&kernel, grid, 128, &arguments)?;
        let Some((receivers, sources)) = moments.filter(|_| pass.cell && pass.once != 0.0) else {
            return Ok(());
        };
        let arguments = CellArguments {
            systems: self.systems.address(),
            lattices: pass.lattices,
            receivers,
            sources,
            cell: pass.cells.cell,
            once: pass.once,
            n_systems: self.n_systems as i32,
            padding: 0,
        };
        let kernel = module.kernel("cell_terms")?;
        let grid = [blocks(self.n_systems, 32), 1, 1];
        pass.queue.launch(&kernel, grid, 32, &arguments)
    }

    /// Adds factor × Σ coefficient × potential of each system of the receivers to `out` `[system]`.
    pub fn value(
        &self,
        queue: &Queue,
        scalar: ScalarKind,
        side: &Side,
        factor: f64,
        out: Address,
    ) -> Result<()> {
        let tiling = self.receiving();
        let partials = queue.allocate(tiling.tiles.n * scalar.size())?;
        let arguments = ProductArguments {
            side: *side,
            tiles: tiling.tiles.address(),
            partials: partials.address(),
            factor,
            n_row: tiling.n_row as i32,
            padding: 0,
        };
        let kernel = queue.module(unit(scalar))?.kernel("products")?;
        queue.launch(&kernel, tiling.tiles.grid(), THREADS, &arguments)?;
        tiling.tiles.sum(queue, scalar, partials.address(), 1, out)
    }
}
