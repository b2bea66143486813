//! Turns [`electret_core::Error`] into the Python exceptions of the package.

use electret_core::Error;
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyType};

create_exception!(
    electret,
    ElectretError,
    PyException,
    "Base class of every error that electret raises."
);

/// A class that derives from `ElectretError` and a builtin, created once.
fn derived<'py>(
    py: Python<'py>,
    class: &'py PyOnceLock<Py<PyType>>,
    name: &str,
    builtin: Bound<'py, PyType>,
    doc: &str,
) -> PyResult<&'py Bound<'py, PyType>> {
    class
        .get_or_try_init(py, || {
            let bases = (py.get_type::<ElectretError>(), builtin);
            let namespace = PyDict::new(py);
            namespace.set_item("__module__", "electret")?;
            namespace.set_item("__doc__", doc)?;
            let class = py.get_type::<PyType>().call1((name, bases, namespace))?;
            Ok(class.cast_into::<PyType>()?.unbind())
        })
        .map(|class| class.bind(py))
}

/// `InputError(ElectretError, ValueError)`.
pub fn input_error(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    derived(
        py,
        &CLASS,
        "InputError",
        py.get_type::<PyValueError>(),
        "An argument cannot be used: the message names the array, the index, the value and a remedy.",
    )
}

/// `DeviceError(ElectretError, RuntimeError)`.
pub fn device_error(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    derived(
        py,
        &CLASS,
        "DeviceError",
        py.get_type::<PyRuntimeError>(),
        "A graphics processor, its driver or a library of it is missing or failed; the message names it and the reason.",
    )
}

/// The exception for one core error.
pub fn to_python(py: Python<'_>, error: &Error) -> PyErr {
    let class = match error {
        Error::Device { .. } => device_error(py),
        _ => input_error(py),
    };
    match class {
        Ok(class) => PyErr::from_type(class.clone(), error.to_string()),
        Err(failure) => failure,
    }
}

/// The error of an array whose shape is not the `expected` one.
pub fn shape_error(py: Python<'_>, array: &'static str, found: &[usize], expected: &str) -> PyErr {
    let error = Error::Shape {
        array,
        found: format!("{found:?}"),
        expected: expected.into(),
    };
    to_python(py, &error)
}
