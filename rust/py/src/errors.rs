//! Turns [`electret_core::Error`] into the Python exceptions of the package.

use electret_core::Error;
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;

create_exception!(
    electret,
    ElectretError,
    PyException,
    "Base class of every error that electret raises."
);

/// `InputError` derives from both `ElectretError` and `ValueError`, so it is made in Python terms once.
pub fn input_error(py: Python<'_>) -> PyResult<&Bound<'_, pyo3::types::PyType>> {
    static CLASS: pyo3::sync::PyOnceLock<Py<pyo3::types::PyType>> = pyo3::sync::PyOnceLock::new();
    CLASS
        .get_or_try_init(py, || {
            let bases = (py.get_type::<ElectretError>(), py.get_type::<PyValueError>());
            let namespace = pyo3::types::PyDict::new(py);
            namespace.set_item("__module__", "electret")?;
            namespace.set_item(
                "__doc__",
                "An argument cannot be used: the message names the array, the index, the value and a remedy.",
            )?;
            let class = py
                .get_type::<pyo3::types::PyType>()
                .call1(("InputError", bases, namespace))?;
            Ok(class.cast_into::<pyo3::types::PyType>()?.unbind())
        })
        .map(|class| class.bind(py))
}

/// The exception for one core error.
pub fn to_python(py: Python<'_>, error: &Error) -> PyErr {
    match input_error(py) {
        Ok(class) => PyErr::from_type(class.clone(), error.to_string()),
        Err(failure) => failure,
    }
}
