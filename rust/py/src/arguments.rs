//! Arguments of the functions as Python passes them: values whose attributes are arrays and settings, as in
//! `electret/kernels/arguments.py`, and their views as the core's structures.

use crate::arrays::{Flags, Floats, Integers, cells, duals, flags, max_l, slice, vectors};
use crate::errors::{shape_error, to_python};
use electret_core::arithmetic::Dual;
use electret_core::cuda::Precision;
use electret_core::neighbors;
use electret_core::systems;
use numpy::PyUntypedArrayMethods;
use pyo3::prelude::*;

/// Positions `[n_atoms, 3]`, cells `[n_systems, 3, 3]`, periodic axes `[n_systems, 3]`, systems of the atoms `[n_atoms]`.
#[derive(FromPyObject)]
pub struct Systems<'py> {
    positions: Floats<'py>,
    cell: Floats<'py>,
    pbc: Flags<'py>,
    batch: Integers<'py>,
}

impl Systems<'_> {
    pub fn view(&self, py: Python<'_>) -> PyResult<systems::Systems<'_, f64>> {
        Ok(systems::Systems {
            positions: vectors(py, "positions", &self.positions)?,
            cells: cells(py, "cell", &self.cell)?,
            pbc: flags(py, "pbc", &self.pbc)?,
            batch: slice(py, "batch", &self.batch, &[])?,
        })
    }

    pub fn atoms(&self, py: Python<'_>) -> PyResult<neighbors::Systems<'_>> {
        let systems::Systems {
            positions,
            cells,
            pbc,
            batch,
        } = self.view(py)?;
        Ok(neighbors::Systems {
            positions,
            cells,
            pbc,
            batch: Some(batch),
        })
    }
}

/// Multipoles `[n_atoms, n_lm]` and their widths `[n_atoms]`.
#[derive(FromPyObject)]
pub struct Sources<'py> {
    multipoles: Floats<'py>,
    sigma: Floats<'py>,
}

impl Sources<'_> {
    pub fn view(&self, py: Python<'_>) -> PyResult<systems::Sources<'_, f64>> {
        Ok(systems::Sources {
            multipoles: slice(py, "multipoles", &self.multipoles, &[self.n_lm()])?,
            max_l: max_l(py, "multipoles", self.multipoles.shape())?,
            sigma: slice(py, "sigma", &self.sigma, &[])?,
        })
    }

    pub fn n_lm(&self) -> usize {
        self.multipoles.shape().last().copied().unwrap_or(0)
    }
}

/// Widths `[n_widths]`, highest order and normalisation of the receivers.
#[derive(FromPyObject)]
pub struct Receivers<'py> {
    widths: Floats<'py>,
    max_l: usize,
    normalization: String,
}

impl Receivers<'_> {
    pub fn view(&self, py: Python<'_>) -> PyResult<systems::Receivers<'_>> {
        Ok(systems::Receivers {
            widths: slice(py, "widths", &self.widths, &[])?,
            max_l: self.max_l,
            normalization: self.normalization.parse().map_err(|e| to_python(py, &e))?,
        })
    }
}

/// Settings of every sum.
#[derive(FromPyObject)]
pub struct Options {
    boundary: Option<String>,
    method: String,
    accuracy: f64,
    precision: String,
    self_interaction: bool,
}

impl Options {
    pub fn parse(&self, py: Python<'_>) -> PyResult<electret_core::ewald::Options> {
        let parsed = || {
            Ok(electret_core::ewald::Options {
                method: self.method.parse()?,
                correction: self.boundary.as_deref().map(str::parse).transpose()?,
                accuracy: self.accuracy,
                self_interaction: self.self_interaction,
            })
        };
        parsed().map_err(|error| to_python(py, &error))
    }

    /// Precision of long sums on a device.
    pub fn precision(&self, py: Python<'_>) -> PyResult<Precision> {
        self.precision.parse().map_err(|e| to_python(py, &e))
    }
}

/// Directions of a derivative, in the shapes of what they belong to.
#[derive(FromPyObject)]
pub struct Tangents<'py> {
    positions: Floats<'py>,
    multipoles: Floats<'py>,
    cell: Floats<'py>,
    cotangent: Option<Floats<'py>>,
}

/// Arguments with their tangents, as dual numbers.
pub struct Duals {
    positions: Vec<[Dual; 3]>,
    cells: Vec<[[Dual; 3]; 3]>,
    multipoles: Vec<Dual>,
    /// Empty without a cotangent.
    pub cotangent: Vec<Dual>,
}

impl Duals {
    pub fn new(
        py: Python<'_>,
        systems: &Systems<'_>,
        sources: &Sources<'_>,
        cotangent: Option<&Floats<'_>>,
        tangents: &Tangents<'_>,
    ) -> PyResult<Self> {
        let pair = |name, values: &Floats<'_>, directions: &Floats<'_>| {
            if values.shape() != directions.shape() {
                let expected = format!("{:?}, as the array it belongs to", values.shape());
                return Err(shape_error(py, name, directions.shape(), &expected));
            }
            let trailing = &values.shape()[1..];
            let values = slice(py, name, values, trailing)?;
            Ok(duals(values, slice(py, name, directions, trailing)?))
        };
        let positions = pair("positions_tangent", &systems.positions, &tangents.positions)?;
        let cells = pair("cell_tangent", &systems.cell, &tangents.cell)?;
        let cotangent = match (cotangent, &tangents.cotangent) {
            (Some(values), Some(directions)) => pair("cotangent_tangent", values, directions)?,
            _ => Vec::new(),
        };
        Ok(Self {
            positions: positions.as_chunks().0.to_vec(),
            cells: cells.as_chunks().0.as_chunks().0.to_vec(),
            multipoles: pair(
                "multipoles_tangent",
                &sources.multipoles,
                &tangents.multipoles,
            )?,
            cotangent,
        })
    }

    pub fn systems<'a>(&'a self, values: &systems::Systems<'a, f64>) -> systems::Systems<'a, Dual> {
        systems::Systems {
            positions: &self.positions,
            cells: &self.cells,
            pbc: values.pbc,
            batch: values.batch,
        }
    }

    pub fn sources<'a>(&'a self, values: &systems::Sources<'a, f64>) -> systems::Sources<'a, Dual> {
        systems::Sources {
            multipoles: &self.multipoles,
            max_l: values.max_l,
            sigma: values.sigma,
        }
    }
}
