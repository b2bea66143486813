//! Sums over pairs in real space on the device: all pairs of open systems, the short-range part of Ewald sums. What
//! a site has of itself is left to others.

use super::batch::{Address, ScalarKind, Scalars, Side, Tile, tiles};
use super::bins::{Bins, Cells};
use super::driver::source::Source;
use super::pair_terms;
use super::rounding;
use super::sums::{first_tiles, sum_tiles};
use super::terms::{Batch, Direction, Layout, Pass};
use super::{Buffer, Queue};
use crate::error::Result;
use crate::ewald::plan::Plan;
use crate::neighbors::UnitCell;
use crate::special::boys::BoysTable;
use bytemuck::{Pod, Zeroable};

/// The pairs of a batch.
pub struct Pairs {
    to_receivers: OneWay,
    /// None for energies.
    to_sources: Option<OneWay>,
    same_sites: bool,
}

/// What is fixed about the targets and partners of one direction.
struct OneWay {
    target_l: usize,
    partner_l: usize,
    systems: Buffer,
    tiles: Buffer,
    n_tiles: usize,
    first_tiles: Buffer,
    bins: Bins,
    n_systems: usize,
    /// Boys functions of three orders from `lowest_order` on.
    boys: Buffer,
    /// Of the partners, `[site][channel]`, in the precision of the sums.
    partner_widths: Buffer,
}

/// How one system is summed; see `pairs.cu`.
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
    targets: Side,
    partners: Side,
    partner_widths: Address,
    lattices: Address,
    systems: Address,
    tiles: Address,
    grids: Address,
    start: Address,
    sorted: Address,
    rounded_targets: Address,
    binned_partners: Address,
    partner_sites: Address,
    partner_tangents: Address,
    boys: Address,
    cells: Address,
    once: f64,
    same_sites: i32,
    padding: i32,
}

/// Tiles hold more than one target beyond this many targets.
const MOST_TILES: usize = 16_384;
/// One warp: see `pairs.cu`.
const THREADS: u32 = 32;

/// What a module is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Variant {
    scalars: Scalars,
    target_l: usize,
    partner_l: usize,
    gradients: bool,
    cell: bool,
}

impl Variant {
    fn source(self) -> Source {
        let source = Source::new("pairs.cu", include_str!("../../cuda/pairs.cu"));
        let source = self
            .scalars
            .define(source)
            .define("TARGET_L", self.target_l)
            .define("PARTNER_L", self.partner_l)
            .define("GRADIENTS", i32::from(self.gradients))
            .define("CELL", i32::from(self.cell));
        if self.target_l.max(self.partner_l) <= 1 {
            return source;
        }
        let header = move || pair_terms::header(self.target_l, self.partner_l);
        source.generate("terms.cuh", header)
    }

    /// Order of the Boys functions.
    fn order(self) -> usize {
        let tangents = self.scalars.kind.parts() - 1;
        (self.target_l + self.partner_l + usize::from(self.gradients) + tangents).max(1)
    }
}

fn lowest_order(target_l: usize, partner_l: usize) -> usize {
    (target_l + partner_l).max(1)
}

impl Pairs {
    /// None where no system has pairs.
    pub fn new(queue: &Queue, batch: &Batch) -> Result<Option<Self>> {
        let receiving = batch.receiving();
        let Some(to_receivers) = OneWay::new(queue, batch, receiving, &batch.source)? else {
            return Ok(None);
        };
        let to_sources = match &batch.receiver {
            Some(receiver) => OneWay::new(queue, batch, &batch.source, receiver)?,
            None => None,
        };
        Ok(Some(Self {
            to_receivers,
            to_sources,
            same_sites: batch.same_sites,
        }))
    }

    /// Adds to the targets' potentials and gradients, and to the derivatives in the cells.
    pub fn apply(&self, pass: &Pass) -> Result<()> {
        let way = match (pass.direction, &self.to_sources) {
            (Direction::ToSources, Some(way)) => way,
            _ => &self.to_receivers,
        };
        way.apply(pass, self.same_sites)
    }
}

/// How a system's pairs are summed; None where it has none.
fn system_of(batch: &Batch, targets: &Layout, partners: &Layout, number: usize) -> Option<System> {
    let (first, last) = (partners.first[number], partners.first[number + 1]);
    if first == last || targets.first[number] == targets.first[number + 1] {
        return None;
    }
    let floor = match batch.systems[number].plan {
        Plan::Direct if batch.same_sites && last - first == 1 => return None,
        Plan::Direct => 0.0,
        Plan::Split(split) if split.floor > 0.0 && split.cutoff > 0.0 => split.floor,
        Plan::Split(_) => return None,
    };
    let widths = partners.widths_of(number).iter().copied();
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
        targets: &Layout,
        partners: &Layout,
    ) -> Result<Option<Self>> {
        let n_systems = batch.systems.len();
        let systems: Vec<Option<System>> = (0..n_systems)
            .map(|number| system_of(batch, targets, partners, number))
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
        let size = targets.n_sites().div_ceil(MOST_TILES);
        let tiles: Vec<Tile> = tiles(&targets.first, |number| systems[number].is_some(), size);
        let table: Vec<System> = systems
            .iter()
            .map(|system| system.unwrap_or(System::zeroed()))
            .collect();
        let lowest = lowest_order(targets.max_l, partners.max_l);
        let boys: Vec<f64> = (lowest..lowest + 3)
            .flat_map(|order| BoysTable::up_to(order).coefficients())
            .collect();
        Ok(Some(Self {
            target_l: targets.max_l,
            partner_l: partners.max_l,
            systems: queue.table(&table)?,
            tiles: queue.table(&tiles)?,
            n_tiles: tiles.len(),
            first_tiles: queue.table(&first_tiles(&tiles, n_systems))?,
            bins: Bins::new(queue, &partners.first, binned.into_iter())?,
            n_systems,
            boys: batch.precision.table(queue, &boys)?,
            partner_widths: batch.precision.table(queue, &partners.widths)?,
        }))
    }

    fn apply(&self, pass: &Pass, same_sites: bool) -> Result<()> {
        let queue = pass.queue;
        let variant = Variant {
            scalars: pass.scalars(),
            target_l: self.target_l,
            partner_l: self.partner_l,
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
                pass.partners.positions,
                pass.partners.system,
                Cells::Lattices(pass.lattices),
                0,
            )?)
        };
        let n_partials = if variant.cell { 9 * self.n_tiles } else { 0 };
        let partials = queue.allocate(n_partials * pass.scalar.size())?;
        let rows = variant.order() - lowest_order(self.target_l, self.partner_l);
        let given = rounding::Given {
            targets: pass.targets,
            partners: pass.partners,
            lattices: pass.lattices,
            grids: self.bins.grids(),
            sorted: sorted.as_ref().map_or(0, |sorted| sorted.binned),
            n_slots: self.bins.n_slots(),
        };
        let (rounded, _rounded) = rounding::sites(queue, pass.scalars(), &given)?;
        let arguments = Arguments {
            targets: pass.targets,
            partners: pass.partners,
            partner_widths: self.partner_widths.address(),
            lattices: pass.lattices,
            systems: self.systems.address(),
            tiles: self.tiles.address(),
            grids: self.bins.grids(),
            start: sorted.as_ref().map_or(0, |sorted| sorted.start),
            sorted: sorted.as_ref().map_or(0, |sorted| sorted.binned),
            rounded_targets: rounded.targets,
            binned_partners: rounded.binned_partners,
            partner_sites: rounded.partners,
            partner_tangents: rounded.tangents,
            boys: self.boys.address() + (rows * self.boys.bytes() / 3) as u64,
            cells: partials.address(),
            once: pass.once,
            same_sites: i32::from(same_sites),
            padding: 0,
        };
        let module = queue.module(variant.source())?;
        let grid = [self.n_tiles as u32, 1, 1];
        queue.launch(&module.kernel("pair_sums")?, grid, THREADS, &arguments)?;
        if !variant.cell {
            return Ok(());
        }
        sum_tiles(
            queue,
            pass.scalar,
            partials.address(),
            self.first_tiles.address(),
            self.n_systems,
            9,
            pass.cells.cell,
        )
    }
}

/// Modules for charges and dipoles, and the longest of higher degrees, for checks that they compile; those of single
/// precision for equal degrees.
pub fn sources() -> Vec<Source> {
    let longest = |l: usize| Variant {
        scalars: Scalars::double(ScalarKind::Dual),
        target_l: l,
        partner_l: l,
        gradients: true,
        cell: true,
    };
    let mut out = vec![longest(2).source(), longest(3).source()];
    for (target_l, partner_l) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let wanted = |scalars: &Scalars| !scalars.is_single() || target_l == partner_l;
        for scalars in Scalars::all().filter(wanted) {
            for (gradients, cell) in [(false, false), (true, false), (true, true)] {
                let variant = Variant {
                    scalars,
                    target_l,
                    partner_l,
                    gradients,
                    cell,
                };
                out.push(variant.source());
            }
        }
    }
    out
}

/// The module of most arithmetic for charges and dipoles.
#[cfg(test)]
pub fn hot_source(scalars: Scalars) -> Source {
    Variant {
        scalars,
        target_l: 1,
        partner_l: 1,
        gradients: true,
        cell: true,
    }
    .source()
}

#[cfg(test)]
mod tests;
