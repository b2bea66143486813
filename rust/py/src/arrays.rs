//! Views of numpy arrays as the core's slices, and back.

use crate::errors::to_python;
use crate::processes::at_work;
use electret_core::Error;
use electret_core::arithmetic::Dual;
use numpy::{PyReadonlyArrayDyn, PyUntypedArrayMethods};
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

fn shape_error(array: &'static str, found: &[usize], expected: &str) -> Error {
    Error::Shape {
        array,
        found: format!("{found:?}"),
        expected: expected.into(),
    }
}

/// The entries of an array whose trailing dimensions are `trailing`, in C order.
pub fn slice<'a, V: numpy::Element>(
    py: Python<'_>,
    name: &'static str,
    array: &'a PyReadonlyArrayDyn<'_, V>,
    trailing: &[usize],
) -> PyResult<&'a [V]> {
    let shape = array.shape();
    if shape.len() != trailing.len() + 1 || shape[1..] != *trailing {
        let expected = format!("[n, {trailing:?}] (trailing dimensions)");
        return Err(to_python(py, &shape_error(name, shape, &expected)));
    }
    contiguous(py, name, array)
}

/// The entries of an array in C order.
pub fn contiguous<'a, V: numpy::Element>(
    py: Python<'_>,
    name: &'static str,
    array: &'a PyReadonlyArrayDyn<'_, V>,
) -> PyResult<&'a [V]> {
    array.as_slice().map_err(|_| {
        to_python(
            py,
            &shape_error(name, array.shape(), "a C-contiguous array"),
        )
    })
}

/// max_l of an array `[n_atoms, (max_l + 1)²]`.
pub fn max_l(py: Python<'_>, name: &'static str, shape: &[usize]) -> PyResult<usize> {
    let n_lm = shape.last().copied().unwrap_or(0);
    let root = n_lm.isqrt();
    if shape.len() != 2 || n_lm == 0 || root * root != n_lm {
        let expected = "[n_atoms, (max_l + 1)²]";
        return Err(to_python(py, &shape_error(name, shape, expected)));
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

/// The tangents alone.
pub fn tangents(values: &[Dual]) -> Vec<f64> {
    values.iter().map(|x| x.tangent).collect()
}
