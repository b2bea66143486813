//! `electret._native`: a thin binding of `electret-core`. No arithmetic lives here.

mod arrays;
mod electrostatics;
mod errors;

use pyo3::prelude::*;

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("COULOMB_CONSTANT", electret_core::units::COULOMB_CONSTANT)?;
    module.add("ElectretError", py.get_type::<errors::ElectretError>())?;
    module.add("InputError", errors::input_error(py)?)?;
    module.add_function(wrap_pyfunction!(electrostatics::coulomb, module)?)?;
    module.add_function(wrap_pyfunction!(electrostatics::coulomb_tangent, module)?)?;
    module.add_function(wrap_pyfunction!(electrostatics::features, module)?)?;
    module.add_function(wrap_pyfunction!(electrostatics::features_gradient, module)?)?;
    module.add_function(wrap_pyfunction!(electrostatics::features_tangent, module)?)?;
    module.add_function(wrap_pyfunction!(electrostatics::potential, module)?)?;
    Ok(())
}
