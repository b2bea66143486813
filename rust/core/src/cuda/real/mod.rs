//! Sums over pairs in real space on the device: all pairs of open systems, the short-range part of Ewald sums. The
//! interaction of a site with itself is a separate term.

mod interaction;

use super::batch::{Address, ScalarKind, Scalars, Side, Tile, tiles};
use super::bins::{Bins, Cells};
use super::driver::unit::Unit;
use super::rounding;
use super::sums::Tiles;
use super::terms::{Batch, Direction, Layout, Pass};
use super::{Buffer, Queue};
use crate::error::Result;
use crate::ewald::plan::Plan;
use crate::neighbors::UnitCell;
use crate::special::boys::BoysTable;
use bytemuck::{Pod, Zeroable};

/// The pairs of a batch.
pub struct RealSpace {
    forward: OneWay,
    /// None for energies.
    transposed: Option<OneWay>,
    same_sites: bool,
}

/// Tables of the receivers and sources of one direction.
struct OneWay {
    receiver_l: usize,
    source_l: usize,
    systems: Buffer,
    tiles: Tiles,
    bins: Bins,
    /// Boys functions of three orders from `lowest_order` on.
    boys: Buffer,
    /// Widths of the sources, `[site][channel]`, in the precision of the sums.
    source_widths: Buffer,
}

/// How one system is summed; see `real.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct System {
    floor: f64,
    narrowest: f64,
    first: i32,
    last: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Arguments {
    receivers: Side,
    sources: Side,
    source_widths: Address,
    lattices: Address,
    systems: Address,
    tiles: Address,
    grids: Address,
    start: Address,
    sorted: Address,
    rounded_receivers: Address,
    binned_sources: Address,
    source_sites: Address,
    source_tangents: Address,
    boys: Address,
    cells: Address,
    once: f64,
    same_sites: i32,
    padding: i32,
}

/// Number of receivers above which tiles hold more than one.
const MOST_TILES: usize = 16_384;
/// Threads of a block: one warp.
const THREADS: u32 = 32;

/// Parameters of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Variant {
    scalars: Scalars,
    receiver_l: usize,
    source_l: usize,
    gradients: bool,
    cell: bool,
}

impl Variant {
    fn unit(self) -> Unit {
        let unit = Unit::new("real.cu", include_str!("../../../cuda/real.cu"));
        let unit = self
            .scalars
            .define(unit)
            .define("RECEIVER_L", self.receiver_l)
            .define("SOURCE_L", self.source_l)
            .define("GRADIENTS", i32::from(self.gradients))
            .define("CELL", i32::from(self.cell))
            .define("THREADS", THREADS)
            .mirror::<Arguments>("PairArguments")
            .mirror::<System>("PairSystem")
            .mirror::<Side>("Side")
            .mirror::<Tile>("Tile");
        if self.receiver_l.max(self.source_l) <= 1 {
            return unit;
        }
        let header = move || interaction::header(self.receiver_l, self.source_l);
        unit.generate("terms.cuh", header)
    }

    /// Order of the Boys functions.
    fn order(self) -> usize {
        let tangents = self.scalars.kind.parts() - 1;
        (self.receiver_l + self.source_l + usize::from(self.gradients) + tangents).max(1)
    }
}

fn lowest_order(receiver_l: usize, source_l: usize) -> usize {
    (receiver_l + source_l).max(1)
}

impl RealSpace {
    /// None where no system has pairs.
    pub fn new(queue: &Queue, batch: &Batch) -> Result<Option<Self>> {
        let receiving = batch.receiving();
        let Some(forward) = OneWay::new(queue, batch, receiving, &batch.source)? else {
            return Ok(None);
        };
        let transposed = match &batch.receiver {
            Some(receiver) => OneWay::new(queue, batch, &batch.source, receiver)?,
            None => None,
        };
        Ok(Some(Self {
            forward,
            transposed,
            same_sites: batch.same_sites,
        }))
    }

    /// Adds to the receivers' potentials and gradients, and to the derivatives in the cells.
    pub fn apply(&self, pass: &Pass) -> Result<()> {
        let way = match (pass.direction, &self.transposed) {
            (Direction::Transposed, Some(way)) => way,
            _ => &self.forward,
        };
        way.apply(pass, self.same_sites)
    }
}

/// How a system's pairs are summed; None where it has none.
fn system_of(batch: &Batch, receivers: &Layout, sources: &Layout, number: usize) -> Option<System> {
    let (first, last) = (sources.first[number], sources.first[number + 1]);
    if first == last || receivers.first[number] == receivers.first[number + 1] {
        return None;
    }
    let floor = match batch.systems[number].plan {
        Plan::Direct if batch.same_sites && last - first == 1 => return None,
        Plan::Direct => 0.0,
        Plan::Split(split) if split.floor > 0.0 && split.cutoff > 0.0 => split.floor,
        Plan::Split(_) => return None,
    };
    let widths = sources.widths_of(number).iter().copied();
    Some(System {
        floor,
        narrowest: widths.fold(f64::INFINITY, f64::min),
        first: first as i32,
        last: last as i32,
    })
}

impl OneWay {
    fn new(
        queue: &Queue,
        batch: &Batch,
        receivers: &Layout,
        sources: &Layout,
    ) -> Result<Option<Self>> {
        let n_systems = batch.systems.len();
        let systems: Vec<Option<System>> = (0..n_systems)
            .map(|number| system_of(batch, receivers, sources, number))
            .collect();
        if systems.iter().all(Option::is_none) {
            return Ok(None);
        }
        let binned = (0..n_systems).map(|number| {
            let planned = &batch.systems[number];
            match (systems[number], planned.plan) {
                (Some(_), Plan::Split(split)) => {
                    let cell = UnitCell::new(&planned.cell, planned.summed, number)?;
                    Ok(Some((cell, split.cutoff)))
                }
                _ => Ok(None),
            }
        });
        let binned = binned.collect::<Result<Vec<_>>>()?;
        let size = receivers.n_sites().div_ceil(MOST_TILES);
        let tiles: Vec<Tile> = tiles(&receivers.first, |number| systems[number].is_some(), size);
        let table: Vec<System> = systems
            .iter()
            .map(|system| system.unwrap_or(System::zeroed()))
            .collect();
        let lowest = lowest_order(receivers.max_l, sources.max_l);
        let boys: Vec<f64> = (lowest..lowest + 3)
            .flat_map(|order| BoysTable::up_to(order).coefficients())
            .collect();
        Ok(Some(Self {
            receiver_l: receivers.max_l,
            source_l: sources.max_l,
            systems: queue.table(&table)?,
            tiles: Tiles::new(queue, &tiles, n_systems)?,
            bins: Bins::new(queue, &sources.first, binned.into_iter())?,
            boys: batch.precision.table(queue, &boys)?,
            source_widths: batch.precision.table(queue, &sources.widths)?,
        }))
    }

    fn apply(&self, pass: &Pass, same_sites: bool) -> Result<()> {
        let queue = pass.queue;
        let variant = Variant {
            scalars: pass.scalars(),
            receiver_l: self.receiver_l,
            source_l: self.source_l,
            gradients: pass.gradients,
            // Without images nothing depends on the cell.
            cell: pass.gradients && pass.cell && pass.once != 0.0 && !self.bins.is_empty(),
        };
        let sorted = if self.bins.is_empty() {
            None
        } else {
            Some(self.bins.sort(
                queue,
                pass.scalar,
                pass.sources.positions,
                pass.sources.system,
                Cells::Lattices(pass.lattices),
                0,
            )?)
        };
        let n_partials = if variant.cell { 9 * self.tiles.n } else { 0 };
        let partials = queue.allocate(n_partials * pass.scalar.size())?;
        let rows = variant.order() - lowest_order(self.receiver_l, self.source_l);
        let given = rounding::Given {
            receivers: pass.receivers,
            sources: pass.sources,
            lattices: pass.lattices,
            grids: self.bins.grids(),
            sorted: sorted.as_ref().map_or(0, |sorted| sorted.binned),
            n_slots: self.bins.n_slots(),
        };
        let (rounded, _rounded) = rounding::sites(queue, pass.scalars(), &given)?;
        let arguments = Arguments {
            receivers: pass.receivers,
            sources: pass.sources,
            source_widths: self.source_widths.address(),
            lattices: pass.lattices,
            systems: self.systems.address(),
            tiles: self.tiles.address(),
            grids: self.bins.grids(),
            start: sorted.as_ref().map_or(0, |sorted| sorted.start),
            sorted: sorted.as_ref().map_or(0, |sorted| sorted.binned),
            rounded_receivers: rounded.receivers,
            binned_sources: rounded.binned_sources,
            source_sites: rounded.sources,
            source_tangents: rounded.tangents,
            boys: self.boys.address() + (rows * self.boys.bytes() / 3) as u64,
            cells: partials.address(),
            once: pass.once,
            same_sites: i32::from(same_sites),
            padding: 0,
        };
        let module = queue.module(variant.unit())?;
        let (kernel, grid) = (module.kernel("pair_sums")?, self.tiles.grid());
        queue.launch(&kernel, grid, THREADS, &arguments)?;
        if !variant.cell {
            return Ok(());
        }
        let (scalar, out) = (pass.scalar, pass.cells.cell);
        self.tiles.sum(queue, scalar, partials.address(), 9, out)
    }
}

/// Modules for charges and dipoles, and the longest of higher degrees, for checks that they compile; those of single
/// precision for equal degrees.
pub fn units() -> Vec<Unit> {
    let longest = |l: usize| Variant {
        scalars: Scalars::double(ScalarKind::Dual),
        receiver_l: l,
        source_l: l,
        gradients: true,
        cell: true,
    };
    let mut out = vec![longest(2).unit(), longest(3).unit()];
    for (receiver_l, source_l) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let wanted = |scalars: &Scalars| !scalars.is_single() || receiver_l == source_l;
        for scalars in Scalars::all().filter(wanted) {
            for (gradients, cell) in [(false, false), (true, false), (true, true)] {
                let variant = Variant {
                    scalars,
                    receiver_l,
                    source_l,
                    gradients,
                    cell,
                };
                out.push(variant.unit());
            }
        }
    }
    out
}

/// The module with the most arithmetic for charges and dipoles.
#[cfg(test)]
pub fn hot_unit(scalars: Scalars) -> Unit {
    Variant {
        scalars,
        receiver_l: 1,
        source_l: 1,
        gradients: true,
        cell: true,
    }
    .unit()
}

#[cfg(test)]
mod tests;
