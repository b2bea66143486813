//! Binding of `electret_core::neighbors`.

use crate::arguments::Systems;
use crate::arrays::{array_of_vectors, detached};
use crate::errors::to_python;
use electret_core::neighbors::{Criteria, Pairs, Quantities, Quantity, Search, VerletList};
use numpy::IntoPyArray;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use std::sync::{Mutex, PoisonError};

/// Pairs of neighbours as the arrays named by the letters of `quantities`, in their order.
#[pyfunction]
pub fn neighbor_list<'py>(
    py: Python<'py>,
    quantities: &str,
    systems: Systems<'py>,
    cutoff: f64,
    half: bool,
    self_interaction: bool,
) -> PyResult<Bound<'py, PyTuple>> {
    let letters = letters(py, quantities)?;
    let systems = systems.atoms(py)?;
    let criteria = Criteria {
        cutoff,
        half,
        self_interaction,
    };
    let pairs = detached(py, || {
        Search::new(&systems, &criteria)?.pairs(Quantities::of(&letters))
    })?;
    named(py, &letters, pairs)
}

/// Pairs of moving atoms; candidates are kept from call to call.
#[pyclass(frozen, module = "electret._native")]
pub struct NeighborList(Mutex<VerletList>);

impl NeighborList {
    /// Runs `f` when no other thread uses the list.
    fn alone<R: Send>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&mut VerletList) -> electret_core::Result<R> + Send,
    ) -> PyResult<R> {
        detached(py, || {
            f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
        })
    }
}

#[pymethods]
impl NeighborList {
    #[new]
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

    fn update(&self, py: Python<'_>, systems: Systems<'_>) -> PyResult<bool> {
        let systems = systems.atoms(py)?;
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

/// The arrays in the order of the letters.
fn named<'py>(
    py: Python<'py>,
    letters: &[Quantity],
    pairs: Pairs<i64, i64>,
) -> PyResult<Bound<'py, PyTuple>> {
    let i = pairs.i.into_pyarray(py).into_any();
    let j = pairs.j.into_pyarray(py).into_any();
    let shift = array_of_vectors(py, pairs.shift)?.into_any();
    let distance = pairs.distance.into_pyarray(py).into_any();
    let vector = array_of_vectors(py, pairs.vector)?.into_any();
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
