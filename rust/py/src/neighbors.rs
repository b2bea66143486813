//! Binding of `electret_core::neighbors`.

use electret_core::Error;
use electret_core::neighbors::{Criteria, Pairs, Quantities, Quantity, Search, Systems};
use numpy::{
    Element, IntoPyArray, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArray3,
};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::arrays;
use crate::errors::to_python;

/// Pairs of neighbours as the arrays named by the letters of `quantities`, in their order.
#[pyfunction]
#[pyo3(signature = (quantities, positions, cell, pbc, cutoff, batch=None, half=false, self_interaction=false))]
pub fn neighbor_list<'py>(
    py: Python<'py>,
    quantities: &str,
    positions: PyReadonlyArray2<'py, f64>,
    cell: PyReadonlyArray3<'py, f64>,
    pbc: PyReadonlyArray2<'py, bool>,
    cutoff: f64,
    batch: Option<PyReadonlyArray1<'py, i64>>,
    half: bool,
    self_interaction: bool,
) -> PyResult<Bound<'py, PyTuple>> {
    let fail = |error: Error| to_python(py, &error);
    let letters = Quantity::parse(quantities).map_err(fail)?;
    let batch = batch.as_ref().map(|batch| arrays::scalars("batch", batch));
    let systems = Systems {
        positions: arrays::rows("positions", &positions).map_err(fail)?,
        cells: arrays::matrices("cell", &cell).map_err(fail)?,
        pbc: arrays::rows("pbc", &pbc).map_err(fail)?,
        batch: batch.transpose().map_err(fail)?,
    };
    let criteria = Criteria {
        cutoff,
        half,
        self_interaction,
    };
    let pairs: Pairs<i64, i64> = py
        .detach(|| Search::new(&systems, &criteria)?.pairs(Quantities::of(&letters)))
        .map_err(fail)?;
    let scalars = |values: Vec<i64>| values.into_pyarray(py).into_any();
    let i = scalars(pairs.i);
    let j = scalars(pairs.j);
    let shift = vectors(py, pairs.shift)?;
    let distance = pairs.distance.into_pyarray(py).into_any();
    let vector = vectors(py, pairs.vector)?;
    PyTuple::new(
        py,
        letters.iter().map(|quantity| match quantity {
            Quantity::I => &i,
            Quantity::J => &j,
            Quantity::Shift => &shift,
            Quantity::Distance => &distance,
            Quantity::Vector => &vector,
        }),
    )
}

/// An array `[n, 3]` that takes over the memory of `values`.
fn vectors<T: Element>(py: Python<'_>, values: Vec<[T; 3]>) -> PyResult<Bound<'_, PyAny>> {
    let n = values.len();
    Ok(values
        .into_flattened()
        .into_pyarray(py)
        .reshape([n, 3])?
        .into_any())
}
