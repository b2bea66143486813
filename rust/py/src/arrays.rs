//! Views of numpy arrays as the core's slices, and back.

use crate::errors::{shape_error, to_python};
use crate::processes::at_work;
use electret_core::arithmetic::Dual;
use numpy::{
    Element, IntoPyArray, PyArray2, PyArray3, PyArrayMethods, PyReadonlyArrayDyn,
    PyUntypedArrayMethods,
};
use pyo3::prelude::*;

/// A C-contiguous float64 array of any shape.
pub type Floats<'py> = PyReadonlyArrayDyn<'py, f64>;
pub type Integers<'py> = PyReadonlyArrayDyn<'py, i64>;
pub type Flags<'py> = PyReadonlyArrayDyn<'py, bool>;

/// Runs `f` without the GIL and turns its error into an exception. All work of the core goes through here.
pub fn detached<R: Send>(
    py: Python<'_>,
    f: impl FnOnce() -> electret_core::Result<R> + Send,
) -> PyResult<R> {
    py.detach(|| at_work(f))
        .map_err(|error| to_python(py, &error))
}

/// The entries of an array whose trailing dimensions are `trailing`, in C order.
pub fn slice<'a, V: Element>(
    py: Python<'_>,
    name: &'static str,
    array: &'a PyReadonlyArrayDyn<'_, V>,
    trailing: &[usize],
) -> PyResult<&'a [V]> {
    let shape = array.shape();
    if shape.len() != trailing.len() + 1 || shape[1..] != *trailing {
        let expected = format!("[n, {trailing:?}] (trailing dimensions)");
        return Err(shape_error(py, name, shape, &expected));
    }
    contiguous(py, name, array)
}

/// The entries of an array in C order.
pub fn contiguous<'a, V: Element>(
    py: Python<'_>,
    name: &'static str,
    array: &'a PyReadonlyArrayDyn<'_, V>,
) -> PyResult<&'a [V]> {
    array
        .as_slice()
        .map_err(|_| shape_error(py, name, array.shape(), "a C-contiguous array"))
}

/// Rows of an array `[n, 3]`.
pub fn vectors<'a>(
    py: Python<'_>,
    name: &'static str,
    array: &'a Floats<'_>,
) -> PyResult<&'a [[f64; 3]]> {
    Ok(slice(py, name, array, &[3])?.as_chunks().0)
}

/// Matrices of an array `[n, 3, 3]`.
pub fn cells<'a>(
    py: Python<'_>,
    name: &'static str,
    array: &'a Floats<'_>,
) -> PyResult<&'a [[[f64; 3]; 3]]> {
    Ok(slice(py, name, array, &[3, 3])?.as_chunks().0.as_chunks().0)
}

/// Rows of an array of flags `[n, 3]`.
pub fn flags<'a>(
    py: Python<'_>,
    name: &'static str,
    array: &'a Flags<'_>,
) -> PyResult<&'a [[bool; 3]]> {
    Ok(slice(py, name, array, &[3])?.as_chunks().0)
}

/// max_l of an array `[n_atoms, (max_l + 1)²]`.
pub fn max_l(py: Python<'_>, name: &'static str, shape: &[usize]) -> PyResult<usize> {
    let n_lm = shape.last().copied().unwrap_or(0);
    let root = n_lm.isqrt();
    if shape.len() != 2 || n_lm == 0 || root * root != n_lm {
        return Err(shape_error(py, name, shape, "[n_atoms, (max_l + 1)²]"));
    }
    Ok(root - 1)
}

/// Values and tangents side by side.
pub fn duals(values: &[f64], tangents: &[f64]) -> Vec<Dual> {
    values
        .iter()
        .zip(tangents)
        .map(|(&value, &tangent)| Dual::new(value, tangent))
        .collect()
}

/// An array `[n, columns]` that takes over the memory of `flat`.
pub fn array2<'py>(
    py: Python<'py>,
    flat: Vec<f64>,
    columns: usize,
) -> PyResult<Bound<'py, PyArray2<f64>>> {
    let rows = flat.len() / columns.max(1);
    flat.into_pyarray(py).reshape([rows, columns])
}

/// An array `[n, 3]` that takes over the memory of `rows`.
pub fn array_of_vectors<V: Element>(
    py: Python<'_>,
    rows: Vec<[V; 3]>,
) -> PyResult<Bound<'_, PyArray2<V>>> {
    let n = rows.len();
    rows.into_flattened().into_pyarray(py).reshape([n, 3])
}

/// An array `[n, 3, 3]` that takes over the memory of `cells`.
pub fn array_of_cells(
    py: Python<'_>,
    cells: Vec<[[f64; 3]; 3]>,
) -> PyResult<Bound<'_, PyArray3<f64>>> {
    let n = cells.len();
    let flat = cells.into_flattened().into_flattened();
    flat.into_pyarray(py).reshape([n, 3, 3])
}
