//! Binding of `electret_core::neighbors`.

use electret_core::neighbors::{
    Criteria, Pairs, Quantities, Quantity, Search, Systems, VerletList,
};
use numpy::{Element, IntoPyArray, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use std::sync::{Mutex, PoisonError};

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
    let letters = letters(py, quantities)?;
    let systems = systems(py, &positions, &cell, &pbc, batch.as_ref())?;
    let criteria = Criteria {
        cutoff,
        half,
        self_interaction,
    };
    let pairs = arrays::detached(py, || {
        Search::new(&systems, &criteria)?.pairs(Quantities::of(&letters))
    })?;
    named(py, &letters, pairs)
}

/// Pairs of moving atoms, whose candidates are kept from call to call.
#[pyclass(frozen, module = "electret._native")]
pub struct NeighborList(Mutex<VerletList>);

impl NeighborList {
    /// Runs `f` when no other thread uses the list.
    fn alone<R: Send>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&mut VerletList) -> electret_core::Result<R> + Send,
    ) -> PyResult<R> {
        arrays::detached(py, || {
            f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
        })
    }
}

#[pymethods]
impl NeighborList {
    #[new]
    #[pyo3(signature = (cutoff, skin, half=false, self_interaction=false))]
    fn new(
        py: Python<'_>,
        cutoff: f64,
        skin: f64,
        half: bool,
        self_interaction: bool,
    ) -> PyResult<Self> {
        let criteria = Criteria {
            cutoff,
            half,
            self_interaction,
        };
        VerletList::new(criteria, skin)
            .map(|list| Self(Mutex::new(list)))
            .map_err(|error| to_python(py, &error))
    }

    #[pyo3(signature = (positions, cell, pbc, batch=None))]
    fn update<'py>(
        &self,
        py: Python<'py>,
        positions: Floats<'py>,
        cell: Floats<'py>,
        pbc: Flags<'py>,
        batch: Option<Integers<'py>>,
    ) -> PyResult<bool> {
        let systems = systems(py, &positions, &cell, &pbc, batch.as_ref())?;
        self.alone(py, |list| list.update(&systems))
    }

    fn get<'py>(&self, py: Python<'py>, quantities: &str) -> PyResult<Bound<'py, PyTuple>> {
        let letters = letters(py, quantities)?;
        let pairs = self.alone(py, |list| list.pairs(Quantities::of(&letters)))?;
        named(py, &letters, pairs)
    }

    #[getter]
    fn n_builds(&self, py: Python<'_>) -> PyResult<u64> {
        self.alone(py, |list| Ok(list.n_builds()))
    }

    #[getter]
    fn n_updates(&self, py: Python<'_>) -> PyResult<u64> {
        self.alone(py, |list| Ok(list.n_updates()))
    }

    #[getter]
    fn cutoff(&self, py: Python<'_>) -> PyResult<f64> {
        self.alone(py, |list| Ok(list.criteria().cutoff))
    }

    #[getter]
    fn skin(&self, py: Python<'_>) -> PyResult<f64> {
        self.alone(py, |list| Ok(list.skin()))
    }

    #[getter]
    fn half(&self, py: Python<'_>) -> PyResult<bool> {
        self.alone(py, |list| Ok(list.criteria().half))
    }

    #[getter]
    fn self_interaction(&self, py: Python<'_>) -> PyResult<bool> {
        self.alone(py, |list| Ok(list.criteria().self_interaction))
    }
}

fn letters(py: Python<'_>, quantities: &str) -> PyResult<Vec<Quantity>> {
    Quantity::parse(quantities).map_err(|error| to_python(py, &error))
}

fn systems<'a>(
    py: Python<'_>,
    positions: &'a Floats<'_>,
    cell: &'a Floats<'_>,
    pbc: &'a Flags<'_>,
    batch: Option<&'a Integers<'_>>,
) -> PyResult<Systems<'a>> {
    let cells = arrays::slice(py, "cell", cell, &[3, 3])?.as_chunks().0;
    let batch = match batch {
        Some(batch) => Some(arrays::slice(py, "batch", batch, &[])?),
        None => None,
    };
    Ok(Systems {
        positions: arrays::slice(py, "positions", positions, &[3])?
            .as_chunks()
            .0,
        cells: cells.as_chunks().0,
        pbc: arrays::slice(py, "pbc", pbc, &[3])?.as_chunks().0,
        batch,
    })
}

/// The arrays in the order of the letters.
fn named<'py>(
    py: Python<'py>,
    letters: &[Quantity],
    pairs: Pairs<i64, i64>,
) -> PyResult<Bound<'py, PyTuple>> {
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
