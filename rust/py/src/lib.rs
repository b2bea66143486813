//! `electret._native`: a thin binding of `electret-core`. No arithmetic lives here.

mod arrays;
mod errors;
mod neighbors;

use pyo3::prelude::*;

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("COULOMB_CONSTANT", electret_core::units::COULOMB_CONSTANT)?;
    module.add("ElectretError", py.get_type::<errors::ElectretError>())?;
    module.add("InputError", errors::input_error(py)?)?;
    module.add_function(wrap_pyfunction!(neighbors::neighbor_list, module)?)?;
    Ok(())
}
