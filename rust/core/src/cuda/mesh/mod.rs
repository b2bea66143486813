//! The particle mesh on a device: the numbers of [`crate::ewald::mesh`], with the same splines and influence function.
//!
//! Systems of one mesh size are processed together. Bricks of mesh points gather the sites that reach them, in the
//! sites' order; cuFFT transforms all fields at once, in place; a warp interpolates at each site.

pub mod fft;
mod kernels;
mod tables;
#[cfg(test)]
mod tests;

use super::terms::{Batch, Direction, Pass};
use super::{Address, Buffer, Queue, Side, blocks};
use crate::error::Result;
use bytemuck::Zeroable;
use fft::{Fields, Way};
#[cfg(test)]
pub use kernels::hot_units;
pub use kernels::units;
use kernels::{
    CellsArguments, ConvolveArguments, GatherArguments, MeshSide, SitesArguments, SpreadArguments,
};
use tables::{Chunk, SideTables};

/// The mesh of all systems that have one.
pub struct Mesh {
    chunks: Vec<Chunk>,
    source: Channels,
    receiver: Option<Channels>,
}

/// Tables of one side that do not depend on the mesh's size.
struct Channels {
    /// The field of each channel of each site.
    field_of: Buffer,
    n_channels: usize,
    max_l: usize,
    /// Gradients of the harmonics, by the lower one.
    first_term: Buffer,
    terms: Buffer,
}

/// One side in one pass, with its work areas.
struct Work<'a> {
    channels: &'a Channels,
    tables: &'a SideTables,
    places: Buffer,
    expansion: Buffer,
    lists: Option<Lists>,
}

/// Members by field and brick.
struct Lists {
    /// Counts and cursors of members, of sites, and both sums.
    counters: Buffer,
    offsets: Buffer,
    entries: Buffer,
    /// Sites by brick.
    order: Buffer,
    n: usize,
}

impl Mesh {
    /// None if no system has a mesh.
    pub fn new(queue: &Queue, batch: &Batch) -> Result<Option<Self>> {
        let sizes = tables::sizes(batch);
        if sizes.is_empty() {
            return Ok(None);
        }
        let receiver = batch.receiver.as_ref();
        let mut field_of = [
            vec![-1; batch.source.widths.len()],
            vec![-1; receiver.map_or(0, |receiver| receiver.widths.len())],
        ];
        let mut chunks = Vec::new();
        for (size, systems) in sizes {
            chunks.push(Chunk::new(queue, batch, size, &systems, &mut field_of)?);
        }
        let channels = |side: usize, n_channels: usize, max_l: usize| -> Result<Channels> {
            let (first, terms) = tables::gradient_terms(max_l);
            Ok(Channels {
                field_of: queue.table(&field_of[side])?,
                n_channels,
                max_l,
                first_term: queue.table(&first)?,
                terms: queue.table(&terms)?,
            })
        };
        Ok(Some(Self {
            chunks,
            source: channels(0, batch.source.n_channels, batch.source.max_l)?,
            receiver: receiver
                .map(|receiver| channels(1, receiver.n_channels, receiver.max_l))
                .transpose()?,
        }))
    }

    /// Adds the potentials and gradients of the mesh in one pass.
    pub fn apply(&self, pass: &Pass) -> Result<()> {
        for chunk in &self.chunks {
            let source = (&self.source, &chunk.source);
            let receiver = self.receiver.as_ref().zip(chunk.receiver.as_ref());
            let (sources, receivers) = match (pass.direction, receiver) {
                (_, None) => (source, None),
                (Direction::Forward, Some(receiver)) => (source, Some(receiver)),
                (Direction::Transposed, Some(receiver)) => (receiver, Some(source)),
            };
            self.apply_chunk(pass, chunk, sources, receivers)?;
        }
        Ok(())
    }

    /// Without receivers the sources are the receivers.
    fn apply_chunk(
        &self,
        pass: &Pass,
        chunk: &Chunk,
        sources: (&Channels, &SideTables),
        receivers: Option<(&Channels, &SideTables)>,
    ) -> Result<()> {
        let queue = pass.queue;
        let with_sums = pass.cell && pass.once != 0.0;
        let sources = Work::new(pass, chunk, sources, true)?;
        let receivers = receivers
            .map(|receivers| Work::new(pass, chunk, receivers, with_sums))
            .transpose()?;
        let kernel_parts = self.prepare(pass, chunk, &sources, receivers.as_ref())?;
        let source_fields = sources.fields(pass, chunk);
        let spectra = queue.allocate(source_fields.bytes())?;
        sources.spread(pass, chunk, &pass.sources, spectra.address())?;
        source_fields.transform(queue, spectra.address(), Way::Forward)?;
        let receiving = receivers.as_ref().unwrap_or(&sources);
        let receiver_fields = receiving.fields(pass, chunk);
        let potentials = match &receivers {
            None => None,
            Some(receivers) => {
                let area = queue.allocate(receiver_fields.bytes())?;
                if with_sums {
                    receivers.spread(pass, chunk, &pass.receivers, area.address())?;
                    receiver_fields.transform(queue, area.address(), Way::Forward)?;
                }
                Some(area)
            }
        };
        let addresses = [
            spectra.address(),
            potentials.as_ref().unwrap_or(&spectra).address(),
        ];
        self.convolve(
            pass,
            chunk,
            [sources.tables, receiving.tables],
            addresses,
            &kernel_parts,
        )?;
        // Receivers with separate fields no longer need those of the sources.
        let potentials = potentials.unwrap_or(spectra);
        receiver_fields.transform(queue, potentials.address(), Way::Backward)?;
        self.interpolate(pass, chunk, receiving, potentials.address())
    }

    /// Places the sites on the mesh, and computes the tables that depend on the cells; returns the factors of the
    /// kernel.
    fn prepare(
        &self,
        pass: &Pass,
        chunk: &Chunk,
        sources: &Work,
        receivers: Option<&Work>,
    ) -> Result<[Buffer; 2]> {
        let (queue, scalars) = (pass.queue, pass.scalars());
        let n = chunk.n_systems;
        // `Parallel` has four scalars and `Open` four real numbers.
        let kernel_parts = [
            queue.allocate(n * chunk.parts[0] * 4 * scalars.size())?,
            queue.allocate(n * chunk.parts[1] * 4 * scalars.precision.size())?,
        ];
        let mut sides = [MeshSide::zeroed(); 2];
        sides[0] = sources.side(&pass.sources);
        if let Some(receivers) = receivers {
            sides[1] = receivers.side(&pass.receivers);
        }
        let arguments = SitesArguments {
            lattices: pass.lattices,
            systems: chunk.systems.address(),
            parallel: kernel_parts[0].address(),
            open: kernel_parts[1].address(),
            parallel_stride: chunk.parts[0] as i32,
            open_stride: chunk.parts[1] as i32,
            grid: chunk.grid,
            sides,
        };
        let works = [Some(sources), receivers];
        let n_sides = 1 + receivers.is_some() as u32;
        let most = |count: &dyn Fn(&Work) -> usize| -> usize {
            works
                .iter()
                .flatten()
                .map(|work| count(work))
                .max()
                .unwrap_or(0)
        };
        let run = |name, n_blocks: u32, n_rows: u32| -> Result<()> {
            let kernel = kernels::sites_kernel(queue, scalars, chunk.size, name)?;
            let grid = [n_blocks, n_rows, 1];
            queue.launch(&kernel, grid, kernels::THREADS, &arguments)
        };
        let blocks = |n: usize| blocks(n, kernels::THREADS);
        let listed = most(&|work| work.lists.as_ref().map_or(0, |lists| lists.n));
        // Threads for each site or member: one for each brick.
        let bricks = match listed {
            0 => 1,
            _ => tables::reach(chunk.size),
        };
        let n_sites = most(&|work| work.tables.n_sites);
        // Blocks for the sites, then one for each system's expansion.
        run("locate", blocks(n_sites * bricks) + n as u32, n_sides)?;
        if listed > 0 {
            run("reserve", blocks(listed), n_sides)?;
            let n_members = most(&|work| work.tables.n_members);
            run("enlist", blocks(n_members * bricks), n_sides)?;
        }
        let longest = chunk.parts[0].max(chunk.parts[1]);
        if longest > 0 {
            run("kernel_parts", blocks(longest), n as u32)?;
        }
        Ok(kernel_parts)
    }

    /// Turns the sources' spectra into potentials at the receivers' widths.
    fn convolve(
        &self,
        pass: &Pass,
        chunk: &Chunk,
        [sources, receivers]: [&SideTables; 2],
        [source_fields, receiver_fields]: [Address; 2],
        kernel_parts: &[Buffer; 2],
    ) -> Result<()> {
        let (queue, scalar) = (pass.queue, pass.scalar);
        let with_sums = pass.cell && pass.once != 0.0;
        let n_sums = if with_sums {
            chunk.n_systems * chunk.mode_blocks
        } else {
            0
        };
        let reciprocal = queue.allocate(n_sums * 9 * scalar.size())?;
        let volume = queue.allocate(n_sums * scalar.size())?;
        let arguments = ConvolveArguments {
            sources: source_fields,
            receivers: receiver_fields,
            source_fields: sources.fields.address(),
            receiver_fields: receivers.fields.address(),
            first_source: sources.first_field.address(),
            first_receiver: receivers.first_field.address(),
            lattices: pass.lattices,
            systems: chunk.systems.address(),
            moduli: [0, 1, 2].map(|axis: usize| chunk.moduli[axis].address()),
            parallel: kernel_parts[0].address(),
            open: kernel_parts[1].address(),
            reciprocal: reciprocal.address(),
            volume: volume.address(),
            once: pass.once,
            parallel_stride: chunk.parts[0] as i32,
            open_stride: chunk.parts[1] as i32,
            grid: chunk.grid,
        };
        let kernel = queue
            .module(kernels::convolve_unit(pass.scalars()))?
            .kernel("convolve")?;
        let grid = [chunk.mode_blocks as u32, chunk.n_systems as u32, 1];
        queue.launch(&kernel, grid, kernels::CONVOLVE_THREADS, &arguments)?;
        if !with_sums {
            return Ok(());
        }
        let cells = &pass.cells;
        let (reciprocal, volume) = (reciprocal.address(), volume.address());
        chunk
            .blocks
            .sum(queue, scalar, reciprocal, 9, cells.reciprocal)?;
        chunk.blocks.sum(queue, scalar, volume, 1, cells.volume)
    }

    /// Adds potentials and gradients at the receivers.
    fn interpolate(
        &self,
        pass: &Pass,
        chunk: &Chunk,
        receivers: &Work,
        fields: Address,
    ) -> Result<()> {
        let (queue, scalar) = (pass.queue, pass.scalar);
        let (channels, tables) = (receivers.channels, receivers.tables);
        let kept = |wanted: bool, n: usize| {
            let n = if wanted { tables.n_sites * n } else { 0 };
            queue.allocate(n * scalar.size())
        };
        let site_gradients = kept(pass.cell, 3)?;
        let site_bases = kept(pass.cell && channels.max_l > 0, 9)?;
        let side = receivers.side(&pass.receivers);
        let arguments = GatherArguments {
            fields,
            lattices: pass.lattices,
            site_gradients: site_gradients.address(),
            site_bases: site_bases.address(),
            first_term: channels.first_term.address(),
            terms: channels.terms.address(),
            grid: chunk.grid,
            side,
        };
        let order = chunk.size.order;
        let source = kernels::gather_unit(pass.scalars(), order, channels.max_l, pass.gradients);
        let kernel = queue.module(source)?.kernel("gather")?;
        let [warps, _] = kernels::gather_sites(pass.scalars(), channels.max_l);
        let grid = [blocks(tables.n_sites, warps as u32), 1, 1];
        queue.launch(&kernel, grid, 32 * warps as u32, &arguments)?;
        if !pass.cell {
            return Ok(());
        }
        let partials = queue.allocate(tables.tiles.n * 9 * scalar.size())?;
        let arguments = CellsArguments {
            site_gradients: site_gradients.address(),
            site_bases: site_bases.address(),
            lattices: pass.lattices,
            tiles: tables.tiles.address(),
            partials: partials.address(),
            grid: chunk.grid,
            side,
        };
        let kernel = queue
            .module(kernels::cells_unit(pass.scalars()))?
            .kernel("cells")?;
        queue.launch(&kernel, tables.tiles.grid(), kernels::THREADS, &arguments)?;
        let (partials, out) = (partials.address(), pass.cells.reciprocal);
        tables.tiles.sum(queue, scalar, partials, 9, out)
    }
}

impl<'a> Work<'a> {
    /// `given` sides are spread.
    fn new(
        pass: &Pass,
        chunk: &Chunk,
        (channels, tables): (&'a Channels, &'a SideTables),
        given: bool,
    ) -> Result<Self> {
        let (queue, scalars) = (pass.queue, pass.scalars());
        let n_expansion = chunk.n_systems * kernels::n_expansion(channels.max_l);
        let lists = if given && tables.listed {
            Some(Lists::new(queue, chunk, tables)?)
        } else {
            None
        };
        Ok(Self {
            channels,
            tables,
            places: queue.allocate(tables.n_sites * kernels::place_bytes(scalars))?,
            expansion: queue.allocate(n_expansion * scalars.size())?,
            lists,
        })
    }

    fn fields(&self, pass: &Pass, chunk: &Chunk) -> Fields {
        Fields {
            points: chunk.size.points,
            n_fields: self.tables.n_fields * pass.scalar.parts(),
            precision: pass.precision,
        }
    }

    /// The kernels' view.
    fn side(&self, side: &Side) -> MeshSide {
        let lists = self.lists.as_ref();
        let counter = |place: usize| {
            lists.map_or(0, |lists| {
                lists.counters.address() + (place * size_of::<i32>()) as u64
            })
        };
        let n = lists.map_or(0, |lists| lists.n);
        MeshSide {
            positions: side.positions,
            coefficients: side.rounded,
            potentials: side.potentials,
            gradients: side.gradients,
            fields: self.tables.fields.address(),
            first_field: self.tables.first_field.address(),
            members: self.tables.members.address(),
            field_of: self.channels.field_of.address(),
            sites: self.tables.sites.address(),
            places: self.places.address(),
            expansion: self.expansion.address(),
            counts: counter(0),
            cursors: counter(n),
            total: counter(4 * n),
            offsets: lists.map_or(0, |lists| lists.offsets.address()),
            entries: lists.map_or(0, |lists| lists.entries.address()),
            homes: counter(2 * n),
            order: lists.map_or(0, |lists| lists.order.address()),
            n_fields: self.tables.n_fields as i32,
            n_members: self.tables.n_members as i32,
            n_sites: self.tables.n_sites as i32,
            n_channels: self.channels.n_channels as i32,
            max_l: self.channels.max_l as i32,
            padding: 0,
        }
    }

    /// Fills this side's fields.
    fn spread(&self, pass: &Pass, chunk: &Chunk, side: &Side, fields: Address) -> Result<()> {
        let arguments = SpreadArguments {
            fields,
            grid: chunk.grid,
            side: self.side(side),
        };
        let source = kernels::spread_unit(pass.scalars(), chunk.size.order, self.channels.max_l);
        let kernel = pass.queue.module(source)?.kernel("spread")?;
        let grid = [chunk.grid.n_bricks as u32, self.tables.n_fields as u32, 1];
        pass.queue
            .launch(&kernel, grid, kernels::SPREAD_THREADS, &arguments)
    }
}

impl Lists {
    fn new(queue: &Queue, chunk: &Chunk, tables: &SideTables) -> Result<Self> {
        let n = tables.n_fields * chunk.grid.n_bricks as usize;
        let n_entries = tables.n_members * tables::reach(chunk.size);
        Ok(Self {
            counters: queue.zeros((4 * n + 2) * size_of::<i32>())?,
            offsets: queue.allocate(2 * n * size_of::<i32>())?,
            entries: queue.allocate(n_entries * size_of::<i32>())?,
            order: queue.allocate(tables.n_sites * size_of::<i32>())?,
            n,
        })
    }
}
