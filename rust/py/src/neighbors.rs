//! Binding of `electret_core::neighbors`.

use electret_core::neighbors::{Criteria, Pairs, Quantities, Quantity, Search, Systems};
use numpy::{Element, IntoPyArray, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::arrays::{self, Flags, Floats, Integers};
use crate::errors::to_python;

/// Pairs of neighbours as the arrays named by the letters of `quantities`, in their order.
#[pyfunction]
#[pyo3(signature = (quantities, positions, cell, pbc, cutoff, batch=None, half=false, self_interaction=false))]
pub fn neighbor_list<'py>(
    py: Python<'py>,
    quantities: &str,
    positions: Floats<'py>,
    cell: Floats<'py>,
    pbc: Flags<'py>,
    cutoff: f64,
    batch: Option<Integers<'py>>,
    half: bool,
    self_interaction: bool,
) -> PyResult<Bound<'py, PyTuple>> {
    let letters = Quantity::parse(quantities).map_err(|error| to_python(py, &error))?;
    let cells = arrays::slice(py, "cell", &cell, &[3, 3])?.as_chunks().0;
    let batch = match &batch {
        Some(batch) => Some(arrays::slice(py, "batch", batch, &[])?),
        None => None,
    };
    let systems = Systems {
        positions: arrays::slice(py, "positions", &positions, &[3])?
            .as_chunks()
            .0,
        cells: cells.as_chunks().0,
        pbc: arrays::slice(py, "pbc", &pbc, &[3])?.as_chunks().0,
        batch,
    };
    let criteria = Criteria {
        cutoff,
        half,
        self_interaction,
    };
    let pairs: Pairs<i64, i64> = arrays::detached(py, || {
        Search::new(&systems, &criteria)?.pairs(Quantities::of(&letters))
    })?;
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
