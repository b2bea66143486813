//! Binding of `electret_core::electrostatics`.

use crate::arguments::{Duals, Options, Receivers, Sources, Systems, Tangents};
use crate::arrays::{
    Floats, Integers, array_of_cells, array_of_vectors, array2, detached, slice, vectors,
};
use electret_core::arithmetic::Dual;
use electret_core::electrostatics::{self as sums, Output};
use electret_core::systems;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArray3, PyArrayMethods};
use pyo3::prelude::*;

type Array1<'py> = Bound<'py, PyArray1<f64>>;
type Array2<'py> = Bound<'py, PyArray2<f64>>;
type Array3<'py> = Bound<'py, PyArray3<f64>>;

/// The tangents of all entries.
fn tangents(out: Output<Dual>) -> Output<f64> {
    let flat = |values: Vec<Dual>| values.into_iter().map(|x| x.tangent).collect();
    let row = |row: [Dual; 3]| row.map(|x| x.tangent);
    Output {
        value: flat(out.value),
        sources: flat(out.sources),
        receivers: flat(out.receivers),
        positions: out.positions.into_iter().map(row).collect(),
        cells: out.cells.into_iter().map(|cell| cell.map(row)).collect(),
    }
}

/// Energy and derivatives in multipoles, positions and cells.
type Energies<'py> = (Array1<'py>, Array2<'py>, Array2<'py>, Array3<'py>);

fn energies(py: Python<'_>, out: Output<f64>, n_lm: usize) -> PyResult<Energies<'_>> {
    Ok((
        out.value.into_pyarray(py),
        array2(py, out.sources, n_lm)?,
        array_of_vectors(py, out.positions)?,
        array_of_cells(py, out.cells)?,
    ))
}

#[pyfunction]
pub fn coulomb<'py>(
    py: Python<'py>,
    systems: Systems<'py>,
    sources: Sources<'py>,
    options: Options,
    gradients: bool,
) -> PyResult<Energies<'py>> {
    let options = options.parse(py)?;
    let (atoms, density) = (systems.view(py)?, sources.view(py)?);
    let out = detached(py, || sums::coulomb(&atoms, &density, &options, gradients))?;
    energies(py, out, sources.n_lm())
}

#[pyfunction]
pub fn coulomb_tangent<'py>(
    py: Python<'py>,
    systems: Systems<'py>,
    sources: Sources<'py>,
    options: Options,
    directions: Tangents<'py>,
) -> PyResult<Energies<'py>> {
    let options = options.parse(py)?;
    let (atoms, density) = (systems.view(py)?, sources.view(py)?);
    let duals = Duals::new(py, &systems, &sources, None, &directions)?;
    let (atoms, density) = (duals.systems(&atoms), duals.sources(&density));
    let out = detached(py, || sums::coulomb(&atoms, &density, &options, true))?;
    energies(py, tangents(out), sources.n_lm())
}

#[pyfunction]
pub fn features<'py>(
    py: Python<'py>,
    systems: Systems<'py>,
    sources: Sources<'py>,
    receivers: Receivers<'py>,
    options: Options,
) -> PyResult<Array3<'py>> {
    let options = options.parse(py)?;
    let (atoms, density) = (systems.view(py)?, sources.view(py)?);
    let receivers = receivers.view(py)?;
    let out = detached(py, || {
        sums::features(&atoms, &density, &receivers, None, &options)
    })?;
    array3(py, out.receivers, &receivers)
}

/// An array `[n_atoms, n_widths, n_lm]`.
fn array3<'py>(
    py: Python<'py>,
    flat: Vec<f64>,
    receivers: &systems::Receivers<'_>,
) -> PyResult<Array3<'py>> {
    let [n_widths, n_lm] = trailing(receivers);
    let n_atoms = flat.len() / (n_widths * n_lm).max(1);
    flat.into_pyarray(py).reshape([n_atoms, n_widths, n_lm])
}

fn trailing(receivers: &systems::Receivers<'_>) -> [usize; 2] {
    let orders = receivers.max_l + 1;
    [receivers.widths.len(), orders * orders]
}

#[pyfunction]
pub fn features_gradient<'py>(
    py: Python<'py>,
    systems: Systems<'py>,
    sources: Sources<'py>,
    receivers: Receivers<'py>,
    options: Options,
    cotangent: Floats<'py>,
) -> PyResult<(Array2<'py>, Array2<'py>, Array3<'py>)> {
    let options = options.parse(py)?;
    let (atoms, density) = (systems.view(py)?, sources.view(py)?);
    let receivers = receivers.view(py)?;
    let cotangent = slice(py, "cotangent", &cotangent, &trailing(&receivers))?;
    let out = detached(py, || {
        sums::features(&atoms, &density, &receivers, Some(cotangent), &options)
    })?;
    Ok((
        array_of_vectors(py, out.positions)?,
        array2(py, out.sources, sources.n_lm())?,
        array_of_cells(py, out.cells)?,
    ))
}

#[pyfunction]
pub fn features_tangent<'py>(
    py: Python<'py>,
    systems: Systems<'py>,
    sources: Sources<'py>,
    receivers: Receivers<'py>,
    options: Options,
    cotangent: Floats<'py>,
    directions: Tangents<'py>,
) -> PyResult<(Array2<'py>, Array2<'py>, Array3<'py>, Array3<'py>)> {
    let options = options.parse(py)?;
    let (atoms, density) = (systems.view(py)?, sources.view(py)?);
    let receivers = receivers.view(py)?;
    slice(py, "cotangent", &cotangent, &trailing(&receivers))?;
    let duals = Duals::new(py, &systems, &sources, Some(&cotangent), &directions)?;
    let (atoms, density) = (duals.systems(&atoms), duals.sources(&density));
    let out = detached(py, || {
        let cotangent = Some(duals.cotangent.as_slice());
        sums::features(&atoms, &density, &receivers, cotangent, &options)
    })?;
    let out = tangents(out);
    Ok((
        array_of_vectors(py, out.positions)?,
        array2(py, out.sources, sources.n_lm())?,
        array3(py, out.receivers, &receivers)?,
        array_of_cells(py, out.cells)?,
    ))
}

#[pyfunction]
pub fn potential<'py>(
    py: Python<'py>,
    systems: Systems<'py>,
    sources: Sources<'py>,
    options: Options,
    points: Floats<'py>,
    points_batch: Integers<'py>,
) -> PyResult<Array1<'py>> {
    let options = options.parse(py)?;
    let (atoms, density) = (systems.view(py)?, sources.view(py)?);
    let points = vectors(py, "points", &points)?;
    let points_batch = slice(py, "points_batch", &points_batch, &[])?;
    let out = detached(py, || {
        sums::potential(&atoms, &density, points, points_batch, &options)
    })?;
    Ok(out.into_pyarray(py))
}
