//! Sums of a batch on a device: planned once on the host, evaluated many times on arrays of the device.

use super::lattices::Lattices;
use super::mesh::Mesh;
use super::planning::{Request, order_of, plan};
use super::real::RealSpace;
use super::reciprocal::Reciprocal;
use super::rounding;
use super::rows::{Rows, pack, unpack};
use super::site_terms::SiteTerms;
use super::terms::{Batch, Direction, Layout, Pass, Tables};
use super::{Address, Buffer, CellGradients, Queue, ScalarKind, Scalars, Side};
use crate::error::{Error, Result};
use crate::special::harmonics::count;

/// Addresses of contiguous float64 arrays on the device; 0 for what is not given (tangents: zero).
#[derive(Clone, Copy, Debug, Default)]
pub struct Inputs {
    /// `[n_atoms, 3]` Å.
    pub positions: Address,
    /// `[n_atoms, n_lm]`.
    pub multipoles: Address,
    /// `[n_systems, 3, 3]` Å.
    pub cell: Address,
    /// `[n_atoms, n_widths, n_features_lm]`.
    pub cotangent: Address,
    /// `[n_points, 3]` Å.
    pub points: Address,
    /// True for directional derivatives along the tangents below.
    pub tangents: bool,
    pub positions_tangent: Address,
    pub multipoles_tangent: Address,
    pub cotangent_tangent: Address,
    pub cell_tangent: Address,
}

/// Addresses of contiguous float64 arrays to be overwritten; 0 skips an output.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outputs {
    /// Energy, or U = Σ features × cotangent: `[n_systems]` eV.
    pub value: Address,
    /// `[n_atoms, n_lm]`.
    pub multipoles: Address,
    /// dU/d(cotangent): the features `[n_atoms, n_widths, n_features_lm]`, or potentials `[n_points]`.
    pub features: Address,
    /// At fixed cell, `[n_atoms, 3]`.
    pub positions: Address,
    /// At fixed positions, `[n_systems, 3, 3]`.
    pub cell: Address,
}

/// One side with its scalars: views of the caller's arrays if these need no packing.
struct Arrays {
    side: Side,
    potentials: Buffer,
    gradients: Buffer,
    /// Memory of the scalars, with the lifetime of the side.
    _inputs: [Buffer; 3],
}

/// A planned batch.
pub struct Evaluator {
    batch: Batch,
    n_lm: usize,
    source: Tables,
    receiver: Option<Tables>,
    /// Rows of atoms (and points) in the order of systems, where that is not the given one.
    order: Option<Buffer>,
    points_order: Option<Buffer>,
    /// Factors of the features' columns.
    factors: Option<Buffer>,
    lattices: Lattices,
    site_terms: SiteTerms,
    real: Option<RealSpace>,
    reciprocal: Option<Reciprocal>,
    mesh: Option<Mesh>,
}

fn address(buffer: Option<&Buffer>) -> Address {
    buffer.map_or(0, Buffer::address)
}

impl Evaluator {
    /// Plans a batch and puts its tables on the queue's device.
    pub fn new(queue: &Queue, request: &Request) -> Result<Self> {
        let (batch, factors) = plan(request)?;
        let table = |order: Option<Vec<i32>>| order.map(|order| queue.table(&order)).transpose();
        let n_systems = request.cells.len();
        let order = table(order_of(request.batch, n_systems)?)?;
        let points_order = match request.points {
            Some(points) => table(order_of(points, n_systems)?)?,
            None => None,
        };
        let receiver = batch
            .receiver
            .as_ref()
            .map(|layout| Tables::new(queue, layout))
            .transpose()?;
        Ok(Self {
            n_lm: count(request.max_l),
            source: Tables::new(queue, &batch.source)?,
            receiver,
            order,
            points_order,
            factors: if factors.is_empty() {
                None
            } else {
                Some(queue.table(&factors)?)
            },
            lattices: Lattices::new(queue, &batch)?,
            site_terms: SiteTerms::new(
                queue,
                &batch,
                request.pbc,
                request.options.correction,
                request.options.self_interaction,
            )?,
            real: RealSpace::new(queue, &batch)?,
            reciprocal: Reciprocal::new(queue, &batch)?,
            mesh: Mesh::new(queue, &batch)?,
            batch,
        })
    }

    /// The method of each system.
    pub fn methods(&self) -> Vec<&'static str> {
        self.batch
            .systems
            .iter()
            .map(|system| system.plan.name())
            .collect()
    }

    /// Methods with their parameters as text.
    pub fn plans(&self) -> Vec<String> {
        self.batch
            .systems
            .iter()
            .map(|system| system.plan.description(None))
            .collect()
    }

    /// Queues one evaluation. All addresses must be of arrays on the queue's device with the shapes of the plan.
    ///
    /// # Errors
    /// A combination of outputs that the inputs do not give, or an error of the device.
    pub fn evaluate(&self, queue: &Queue, input: &Inputs, output: &Outputs) -> Result<()> {
        let energies = self.batch.receiver.is_none();
        let points = !self.batch.same_sites;
        self.check(input, output)?;
        let scalar = if input.tangents {
            ScalarKind::Dual
        } else {
            ScalarKind::Real
        };
        let gradients = output.positions != 0 || output.cell != 0;
        let lattices = queue.allocate(self.batch.systems.len() * Lattices::size(scalar))?;
        self.lattices.fill(
            queue,
            scalar,
            input.cell,
            input.cell_tangent,
            lattices.address(),
        )?;
        let source = self.sources(queue, scalar, input, gradients)?;
        let receiver = match energies {
            true => None,
            false => Some(self.receivers(queue, scalar, input, &source)?),
        };
        let receiving = receiver.as_ref().unwrap_or(&source);
        let n_systems = self.batch.systems.len();
        let cell = output.cell != 0;
        // Sums of each system: derivatives in the cell, in the reciprocal vectors and in the volume; the value.
        let collected = queue.zeros(n_systems * 20 * scalar.size())?;
        let column = |n: usize| collected.address() + (n_systems * n * scalar.size()) as u64;
        let cells = CellGradients {
            cell: column(0),
            reciprocal: column(9),
            volume: column(18),
        };
        let moments = self.site_terms.moments(
            queue,
            scalar,
            &source.side,
            receiver.as_ref().map(|r| &r.side),
        )?;
        let moments = moments.as_ref().map(|m| {
            let source = m.source.address();
            (source, m.receiver.as_ref().map_or(source, Buffer::address))
        });
        let pass = Pass {
            queue,
            scalar,
            precision: self.batch.precision,
            direction: Direction::Forward,
            receivers: receiving.side,
            sources: source.side,
            lattices: lattices.address(),
            gradients,
            cell,
            once: if energies { 0.5 } else { 1.0 },
            cells,
        };
        let receivers_wanted = energies || gradients || output.features != 0 || output.value != 0;
        if receivers_wanted {
            self.apply(&pass, moments.map(|(source, receiver)| (receiver, source)))?;
        }
        if let (Some(receiver), true) = (&receiver, gradients || output.multipoles != 0) {
            let pass = Pass {
                direction: Direction::Transposed,
                receivers: source.side,
                sources: receiver.side,
                once: 0.0,
                ..pass
            };
            self.apply(&pass, moments)?;
        }
        if output.value != 0 {
            let factor = if energies { 0.5 } else { 1.0 };
            self.site_terms
                .value(queue, scalar, &receiving.side, factor, column(19))?;
            let rows = Rows::new(n_systems, 1, 0);
            unpack(queue, scalar, rows, column(19), output.value)?;
        }
        if output.multipoles != 0 {
            self.give(queue, scalar, &source, self.n_lm, output.multipoles, false)?;
        }
        if output.features != 0 {
            let order = if points {
                &self.points_order
            } else {
                &self.order
            };
            let layout = self.batch.receiving();
            let mut rows = Rows::new(layout.n_sites(), layout.n_row(), address(order.as_ref()));
            rows.factors = address(self.factors.as_ref());
            unpack(
                queue,
                scalar,
                rows,
                receiving.potentials.address(),
                output.features,
            )?;
        }
        if output.positions != 0 {
            self.give(queue, scalar, &source, 3, output.positions, true)?;
        }
        if cell {
            let out = queue.allocate(n_systems * 9 * scalar.size())?;
            self.lattices
                .pull_back(queue, scalar, lattices.address(), cells, out.address())?;
            unpack(
                queue,
                scalar,
                Rows::new(n_systems, 9, 0),
                out.address(),
                output.cell,
            )?;
        }
        Ok(())
    }

    /// Writes the potentials or gradients of the sources in the caller's order.
    fn give(
        &self,
        queue: &Queue,
        scalar: ScalarKind,
        source: &Arrays,
        n_columns: usize,
        out: Address,
        gradients: bool,
    ) -> Result<()> {
        let from = if gradients {
            &source.gradients
        } else {
            &source.potentials
        };
        let order = address(self.order.as_ref());
        let rows = Rows::new(self.batch.source.n_sites(), n_columns, order);
        unpack(queue, scalar, rows, from.address(), out)
    }

    /// Every term of one pass.
    fn apply(&self, pass: &Pass, moments: Option<(Address, Address)>) -> Result<()> {
        if let Some(reciprocal) = &self.reciprocal {
            reciprocal.apply(pass)?;
        }
        if let Some(mesh) = &self.mesh {
            mesh.apply(pass)?;
        }
        if let Some(real) = &self.real {
            real.apply(pass)?;
        }
        self.site_terms.apply(pass, moments)
    }

    fn sources(
        &self,
        queue: &Queue,
        scalar: ScalarKind,
        input: &Inputs,
        gradients: bool,
    ) -> Result<Arrays> {
        let layout = &self.batch.source;
        let n_sites = layout.n_sites();
        let order = address(self.order.as_ref());
        let (positions, first) = bring(
            queue,
            scalar,
            input.positions,
            input.positions_tangent,
            Rows::new(n_sites, 3, order),
        )?;
        let columns = Rows::new(n_sites, layout.n_row(), order);
        let (coefficients, second) = bring(
            queue,
            scalar,
            input.multipoles,
            input.multipoles_tangent,
            columns,
        )?;
        let potentials = queue.zeros(n_sites * layout.n_row() * scalar.size())?;
        let n_gradients = if gradients { n_sites * 3 } else { 0 };
        let gradients = queue.zeros(n_gradients * scalar.size())?;
        let (rounded, third) = self.rounded(queue, scalar, coefficients, layout)?;
        let side = self.source.side(
            layout,
            positions,
            coefficients,
            rounded,
            potentials.address(),
            gradients.address(),
        );
        Ok(Arrays {
            side,
            potentials,
            gradients,
            _inputs: [first, second, third],
        })
    }

    /// Coefficients of a side in the precision of long sums.
    fn rounded(
        &self,
        queue: &Queue,
        scalar: ScalarKind,
        coefficients: Address,
        layout: &Layout,
    ) -> Result<(Address, Buffer)> {
        let scalars = Scalars {
            kind: scalar,
            precision: self.batch.precision,
        };
        let n = layout.n_sites() * layout.n_row();
        rounding::coefficients(queue, scalars, coefficients, n)
    }

    /// Receivers on the sources' sites share their positions, and add to the same gradients.
    fn receivers(
        &self,
        queue: &Queue,
        scalar: ScalarKind,
        input: &Inputs,
        source: &Arrays,
    ) -> Result<Arrays> {
        let layout = self.batch.receiving();
        let tables = self.receiver.as_ref().unwrap_or(&self.source);
        let n_sites = layout.n_sites();
        let mut columns = Rows::new(n_sites, layout.n_row(), address(self.order.as_ref()));
        columns.factors = address(self.factors.as_ref());
        let (positions, first) = if self.batch.same_sites {
            (source.side.positions, queue.allocate(0)?)
        } else {
            columns.order = address(self.points_order.as_ref());
            bring(
                queue,
                scalar,
                input.points,
                0,
                Rows::new(n_sites, 3, columns.order),
            )?
        };
        let (coefficients, second) = bring(
            queue,
            scalar,
            input.cotangent,
            input.cotangent_tangent,
            columns,
        )?;
        let potentials = queue.zeros(n_sites * layout.n_row() * scalar.size())?;
        let gradients = if self.batch.same_sites {
            source.side.gradients
        } else {
            0
        };
        let (rounded, third) = self.rounded(queue, scalar, coefficients, layout)?;
        let side = tables.side(
            layout,
            positions,
            coefficients,
            rounded,
            potentials.address(),
            gradients,
        );
        Ok(Arrays {
            side,
            potentials,
            gradients: queue.allocate(0)?,
            _inputs: [first, second, third],
        })
    }

    fn check(&self, input: &Inputs, output: &Outputs) -> Result<()> {
        let refuse = |what: &str, remedy: &str| {
            Err(Error::Unsupported {
                what: what.into(),
                remedy: remedy.into(),
            })
        };
        let energies = self.batch.receiver.is_none();
        let points = !self.batch.same_sites;
        if energies && output.features != 0 {
            return refuse(
                "a plan for energies has no features",
                "make a plan with widths",
            );
        }
        let more = output.value != 0
            || output.multipoles != 0
            || output.positions != 0
            || output.cell != 0;
        if points && more {
            return refuse(
                "potentials at points have no derivatives on a device",
                "use electret.torch.potential",
            );
        }
        if !energies && more && input.cotangent == 0 && input.cotangent_tangent == 0 {
            return refuse(
                "gradients of features need a cotangent",
                "give one, or request features alone",
            );
        }
        Ok(())
    }
}

/// An array of the caller in the order of systems: the array itself if it has that order.
fn bring(
    queue: &Queue,
    scalar: ScalarKind,
    values: Address,
    tangents: Address,
    rows: Rows,
) -> Result<(Address, Buffer)> {
    if scalar == ScalarKind::Real && values != 0 && rows.order == 0 && rows.factors == 0 {
        return Ok((values, queue.allocate(0)?));
    }
    let buffer = queue.allocate(rows.n_entries() * scalar.size())?;
    pack(queue, scalar, rows, values, tangents, buffer.address())?;
    Ok((buffer.address(), buffer))
}
