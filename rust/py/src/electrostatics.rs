//! Binding of `electret_core::electrostatics`.

use crate::arrays::{Flags, Floats, Integers, detached, duals, max_l, slice, tangents};
use crate::errors::to_python;
use electret_core::arithmetic::Dual;
use electret_core::electrostatics::{self, Output};
use electret_core::ewald::Options;
use electret_core::systems::{Receivers, Sources, Systems};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArray3, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;

type Arrays<'py> = (
    Bound<'py, PyArray1<f64>>,
    Bound<'py, PyArray2<f64>>,
    Bound<'py, PyArray2<f64>>,
    Bound<'py, PyArray3<f64>>,
);

/// The four options every function has.
pub fn options(
    py: Python<'_>,
    boundary: Option<&str>,
    method: &str,
    accuracy: f64,
    self_interaction: bool,
) -> PyResult<Options> {
    let parsed = || -> electret_core::Result<Options> {
        Ok(Options {
            method: method.parse()?,
            correction: boundary.map(str::parse).transpose()?,
            accuracy,
            self_interaction,
        })
    };
    parsed().map_err(|error| to_python(py, &error))
}

pub fn two<'py>(
    py: Python<'py>,
    flat: Vec<f64>,
    columns: usize,
) -> PyResult<Bound<'py, PyArray2<f64>>> {
    let rows = flat.len() / columns.max(1);
    flat.into_pyarray(py).reshape([rows, columns])
}

pub fn vectors<'py>(py: Python<'py>, rows: Vec<[f64; 3]>) -> PyResult<Bound<'py, PyArray2<f64>>> {
    two(py, rows.into_flattened(), 3)
}

fn matrices<'py>(
    py: Python<'py>,
    cells: Vec<[[f64; 3]; 3]>,
) -> PyResult<Bound<'py, PyArray3<f64>>> {
    let n = cells.len();
    let flat = cells.into_flattened().into_flattened();
    flat.into_pyarray(py).reshape([n, 3, 3])
}

fn dual_vectors(rows: &[[Dual; 3]]) -> Vec<[f64; 3]> {
    rows.iter().map(|row| row.map(|x| x.tangent)).collect()
}

/// Cell, boundary and batch as slices.
pub struct Raw<'a> {
    pub positions: &'a [[f64; 3]],
    pub cells: &'a [[[f64; 3]; 3]],
    pub pbc: &'a [[bool; 3]],
    pub batch: &'a [i64],
}

impl<'a> Raw<'a> {
    pub fn new(
        py: Python<'_>,
        positions: &'a Floats<'_>,
        cell: &'a Floats<'_>,
        pbc: &'a Flags<'_>,
        batch: &'a Integers<'_>,
    ) -> PyResult<Self> {
        Ok(Self {
            positions: slice(py, "positions", positions, &[3])?.as_chunks().0,
            cells: slice(py, "cell", cell, &[3, 3])?
                .as_chunks()
                .0
                .as_chunks()
                .0,
            pbc: slice(py, "pbc", pbc, &[3])?.as_chunks().0,
            batch: slice(py, "batch", batch, &[])?,
        })
    }

    pub fn systems(&self) -> Systems<'a, f64> {
        Systems {
            positions: self.positions,
            cells: self.cells,
            pbc: self.pbc,
            batch: self.batch,
        }
    }
}

/// Positions and cells with tangents.
struct DualSystems {
    positions: Vec<[Dual; 3]>,
    cells: Vec<[[Dual; 3]; 3]>,
}

impl DualSystems {
    fn new(
        py: Python<'_>,
        raw: &Raw<'_>,
        positions_tangent: &Floats<'_>,
        cell_tangent: &Floats<'_>,
    ) -> PyResult<Self> {
        let positions_tangent = slice(py, "positions_tangent", positions_tangent, &[3])?;
        let cell_tangent = slice(py, "cell_tangent", cell_tangent, &[3, 3])?;
        let positions = raw.positions.as_flattened();
        let cells = raw.cells.as_flattened().as_flattened();
        same_length(
            py,
            "positions_tangent",
            positions_tangent.len(),
            positions.len(),
        )?;
        same_length(py, "cell_tangent", cell_tangent.len(), cells.len())?;
        let cells = duals(cells, cell_tangent);
        Ok(Self {
            positions: duals(positions, positions_tangent).as_chunks().0.to_vec(),
            cells: cells.as_chunks().0.as_chunks().0.to_vec(),
        })
    }

    fn systems<'a>(&'a self, raw: &Raw<'a>) -> Systems<'a, Dual> {
        Systems {
            positions: &self.positions,
            cells: &self.cells,
            pbc: raw.pbc,
            batch: raw.batch,
        }
    }
}

fn same_length(py: Python<'_>, array: &'static str, found: usize, expected: usize) -> PyResult<()> {
    if found == expected {
        return Ok(());
    }
    let error = electret_core::Error::Shape {
        array,
        found: format!("{found} entries"),
        expected: format!("{expected} entries, as the array it belongs to"),
    };
    Err(to_python(py, &error))
}

#[pyfunction]
#[pyo3(signature = (positions, multipoles, sigma, cell, pbc, batch, boundary=None, method="auto", accuracy=1e-8, self_interaction=true, gradients=true))]
pub fn coulomb<'py>(
    py: Python<'py>,
    positions: Floats<'py>,
    multipoles: Floats<'py>,
    sigma: Floats<'py>,
    cell: Floats<'py>,
    pbc: Flags<'py>,
    batch: Integers<'py>,
    boundary: Option<&str>,
    method: &str,
    accuracy: f64,
    self_interaction: bool,
    gradients: bool,
) -> PyResult<Arrays<'py>> {
    let options = options(py, boundary, method, accuracy, self_interaction)?;
    let raw = Raw::new(py, &positions, &cell, &pbc, &batch)?;
    let max_l = max_l(py, "multipoles", multipoles.shape())?;
    let n_lm = multipoles.shape()[1];
    let sources = Sources {
        multipoles: slice(py, "multipoles", &multipoles, &[n_lm])?,
        max_l,
        sigma: slice(py, "sigma", &sigma, &[])?,
    };
    let systems = raw.systems();
    let out = detached(py, || {
        electrostatics::coulomb(&systems, &sources, &options, gradients)
    })?;
    Ok((
        out.value.into_pyarray(py),
        two(py, out.sources, n_lm)?,
        vectors(py, out.positions)?,
        matrices(py, out.cells)?,
    ))
}

#[pyfunction]
#[pyo3(signature = (positions, multipoles, sigma, cell, pbc, batch, positions_tangent, multipoles_tangent, cell_tangent, boundary=None, method="auto", accuracy=1e-8, self_interaction=true))]
pub fn coulomb_tangent<'py>(
    py: Python<'py>,
    positions: Floats<'py>,
    multipoles: Floats<'py>,
    sigma: Floats<'py>,
    cell: Floats<'py>,
    pbc: Flags<'py>,
    batch: Integers<'py>,
    positions_tangent: Floats<'py>,
    multipoles_tangent: Floats<'py>,
    cell_tangent: Floats<'py>,
    boundary: Option<&str>,
    method: &str,
    accuracy: f64,
    self_interaction: bool,
) -> PyResult<Arrays<'py>> {
    let options = options(py, boundary, method, accuracy, self_interaction)?;
    let raw = Raw::new(py, &positions, &cell, &pbc, &batch)?;
    let dual = DualSystems::new(py, &raw, &positions_tangent, &cell_tangent)?;
    let max_l = max_l(py, "multipoles", multipoles.shape())?;
    let n_lm = multipoles.shape()[1];
    let values = slice(py, "multipoles", &multipoles, &[n_lm])?;
    let tangent = slice(py, "multipoles_tangent", &multipoles_tangent, &[n_lm])?;
    same_length(py, "multipoles_tangent", tangent.len(), values.len())?;
    let sources = Sources {
        multipoles: &duals(values, tangent),
        max_l,
        sigma: slice(py, "sigma", &sigma, &[])?,
    };
    let systems = dual.systems(&raw);
    let out = detached(py, || {
        electrostatics::coulomb(&systems, &sources, &options, true)
    })?;
    Ok((
        tangents(&out.value).into_pyarray(py),
        two(py, tangents(&out.sources), n_lm)?,
        vectors(py, dual_vectors(&out.positions))?,
        matrices(
            py,
            out.cells
                .iter()
                .map(|c| c.map(|r| r.map(|x| x.tangent)))
                .collect(),
        )?,
    ))
}

#[pyfunction]
#[pyo3(signature = (positions, multipoles, sigma, widths, max_l, cell, pbc, batch, normalization="receiver", boundary=None, method="auto", accuracy=1e-8, self_interaction=false))]
pub fn features<'py>(
    py: Python<'py>,
    positions: Floats<'py>,
    multipoles: Floats<'py>,
    sigma: Floats<'py>,
    widths: Floats<'py>,
    max_l: usize,
    cell: Floats<'py>,
    pbc: Flags<'py>,
    batch: Integers<'py>,
    normalization: &str,
    boundary: Option<&str>,
    method: &str,
    accuracy: f64,
    self_interaction: bool,
) -> PyResult<Bound<'py, PyArray3<f64>>> {
    let options = options(py, boundary, method, accuracy, self_interaction)?;
    let raw = Raw::new(py, &positions, &cell, &pbc, &batch)?;
    let n_lm = multipoles.shape().last().copied().unwrap_or(0);
    let sources = Sources {
        multipoles: slice(py, "multipoles", &multipoles, &[n_lm])?,
        max_l: self::max_l(py, "multipoles", multipoles.shape())?,
        sigma: slice(py, "sigma", &sigma, &[])?,
    };
    let receivers = receivers(py, &widths, max_l, normalization)?;
    let shape = [
        raw.positions.len(),
        receivers.widths.len(),
        (max_l + 1) * (max_l + 1),
    ];
    let systems = raw.systems();
    let out = detached(py, || {
        electrostatics::features(&systems, &sources, &receivers, None, &options)
    })?;
    out.receivers.into_pyarray(py).reshape(shape)
}

pub fn receivers<'a>(
    py: Python<'_>,
    widths: &'a Floats<'_>,
    max_l: usize,
    normalization: &str,
) -> PyResult<Receivers<'a>> {
    Ok(Receivers {
        widths: slice(py, "widths", widths, &[])?,
        max_l,
        normalization: normalization
            .parse()
            .map_err(|error| to_python(py, &error))?,
    })
}

type GradientArrays<'py> = (
    Bound<'py, PyArray2<f64>>,
    Bound<'py, PyArray2<f64>>,
    Bound<'py, PyArray3<f64>>,
);

#[pyfunction]
#[pyo3(signature = (positions, multipoles, cotangent, sigma, widths, max_l, cell, pbc, batch, normalization="receiver", boundary=None, method="auto", accuracy=1e-8, self_interaction=false))]
pub fn features_gradient<'py>(
    py: Python<'py>,
    positions: Floats<'py>,
    multipoles: Floats<'py>,
    cotangent: Floats<'py>,
    sigma: Floats<'py>,
    widths: Floats<'py>,
    max_l: usize,
    cell: Floats<'py>,
    pbc: Flags<'py>,
    batch: Integers<'py>,
    normalization: &str,
    boundary: Option<&str>,
    method: &str,
    accuracy: f64,
    self_interaction: bool,
) -> PyResult<GradientArrays<'py>> {
    let options = options(py, boundary, method, accuracy, self_interaction)?;
    let raw = Raw::new(py, &positions, &cell, &pbc, &batch)?;
    let n_lm = multipoles.shape().last().copied().unwrap_or(0);
    let sources = Sources {
        multipoles: slice(py, "multipoles", &multipoles, &[n_lm])?,
        max_l: self::max_l(py, "multipoles", multipoles.shape())?,
        sigma: slice(py, "sigma", &sigma, &[])?,
    };
    let receivers = receivers(py, &widths, max_l, normalization)?;
    let trailing = [receivers.widths.len(), (max_l + 1) * (max_l + 1)];
    let cotangent = slice(py, "cotangent", &cotangent, &trailing)?;
    let systems = raw.systems();
    let out: Output<f64> = detached(py, || {
        electrostatics::features(&systems, &sources, &receivers, Some(cotangent), &options)
    })?;
    Ok((
        vectors(py, out.positions)?,
        two(py, out.sources, n_lm)?,
        matrices(py, out.cells)?,
    ))
}

type TangentArrays<'py> = (
    Bound<'py, PyArray2<f64>>,
    Bound<'py, PyArray2<f64>>,
    Bound<'py, PyArray3<f64>>,
    Bound<'py, PyArray3<f64>>,
);

#[pyfunction]
#[pyo3(signature = (positions, multipoles, cotangent, sigma, widths, max_l, cell, pbc, batch, positions_tangent, multipoles_tangent, cotangent_tangent, cell_tangent, normalization="receiver", boundary=None, method="auto", accuracy=1e-8, self_interaction=false))]
pub fn features_tangent<'py>(
    py: Python<'py>,
    positions: Floats<'py>,
    multipoles: Floats<'py>,
    cotangent: Floats<'py>,
    sigma: Floats<'py>,
    widths: Floats<'py>,
    max_l: usize,
    cell: Floats<'py>,
    pbc: Flags<'py>,
    batch: Integers<'py>,
    positions_tangent: Floats<'py>,
    multipoles_tangent: Floats<'py>,
    cotangent_tangent: Floats<'py>,
    cell_tangent: Floats<'py>,
    normalization: &str,
    boundary: Option<&str>,
    method: &str,
    accuracy: f64,
    self_interaction: bool,
) -> PyResult<TangentArrays<'py>> {
    let options = options(py, boundary, method, accuracy, self_interaction)?;
    let raw = Raw::new(py, &positions, &cell, &pbc, &batch)?;
    let dual = DualSystems::new(py, &raw, &positions_tangent, &cell_tangent)?;
    let n_lm = multipoles.shape().last().copied().unwrap_or(0);
    let values = slice(py, "multipoles", &multipoles, &[n_lm])?;
    let tangent = slice(py, "multipoles_tangent", &multipoles_tangent, &[n_lm])?;
    same_length(py, "multipoles_tangent", tangent.len(), values.len())?;
    let sources = Sources {
        multipoles: &duals(values, tangent),
        max_l: self::max_l(py, "multipoles", multipoles.shape())?,
        sigma: slice(py, "sigma", &sigma, &[])?,
    };
    let receivers = receivers(py, &widths, max_l, normalization)?;
    let trailing = [receivers.widths.len(), (max_l + 1) * (max_l + 1)];
    let values = slice(py, "cotangent", &cotangent, &trailing)?;
    let tangent = slice(py, "cotangent_tangent", &cotangent_tangent, &trailing)?;
    same_length(py, "cotangent_tangent", tangent.len(), values.len())?;
    let cotangent = duals(values, tangent);
    let systems = dual.systems(&raw);
    let out = detached(py, || {
        electrostatics::features(&systems, &sources, &receivers, Some(&cotangent), &options)
    })?;
    let shape = [raw.positions.len(), trailing[0], trailing[1]];
    Ok((
        vectors(py, dual_vectors(&out.positions))?,
        two(py, tangents(&out.sources), n_lm)?,
        tangents(&out.receivers).into_pyarray(py).reshape(shape)?,
        matrices(
            py,
            out.cells
                .iter()
                .map(|c| c.map(|r| r.map(|x| x.tangent)))
                .collect(),
        )?,
    ))
}

#[pyfunction]
#[pyo3(signature = (points, points_batch, positions, multipoles, sigma, cell, pbc, batch, boundary=None, method="auto", accuracy=1e-8))]
pub fn potential<'py>(
    py: Python<'py>,
    points: Floats<'py>,
    points_batch: Integers<'py>,
    positions: Floats<'py>,
    multipoles: Floats<'py>,
    sigma: Floats<'py>,
    cell: Floats<'py>,
    pbc: Flags<'py>,
    batch: Integers<'py>,
    boundary: Option<&str>,
    method: &str,
    accuracy: f64,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    let options = options(py, boundary, method, accuracy, true)?;
    let raw = Raw::new(py, &positions, &cell, &pbc, &batch)?;
    let n_lm = multipoles.shape().last().copied().unwrap_or(0);
    let sources = Sources {
        multipoles: slice(py, "multipoles", &multipoles, &[n_lm])?,
        max_l: max_l(py, "multipoles", multipoles.shape())?,
        sigma: slice(py, "sigma", &sigma, &[])?,
    };
    let points = slice(py, "points", &points, &[3])?.as_chunks().0;
    let points_batch = slice(py, "points_batch", &points_batch, &[])?;
    let systems = raw.systems();
    let out = detached(py, || {
        electrostatics::potential(&systems, &sources, points, points_batch, &options)
    })?;
    Ok(out.into_pyarray(py))
}
