//! `electret._native`: a thin binding of `electret-core`, without arithmetic.

mod arguments;
mod arrays;
mod device;
mod electrostatics;
mod errors;
mod geometry;
mod neighbors;
mod processes;
mod response;

use electret_core::arithmetic::dispatch;
use pyo3::prelude::*;

/// Large results are allocated and freed again and again; this allocator keeps their pages for a moment, where the
/// system's would return them to the kernel and pay for fresh ones at every call.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    processes::register(module)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("COULOMB_CONSTANT", electret_core::units::COULOMB_CONSTANT)?;
    module.add("ElectretError", py.get_type::<errors::ElectretError>())?;
    module.add("InputError", errors::input_error(py)?)?;
    module.add("DeviceError", errors::device_error(py)?)?;
    // An unknown instruction set is refused at import, not in the middle of a computation.
    let instructions = dispatch::chosen().map_err(|error| errors::to_python(py, &error))?;
    module.add("INSTRUCTIONS", instructions.name())?;
    module.add_function(wrap_pyfunction!(electrostatics::coulomb, module)?)?;
    module.add_function(wrap_pyfunction!(electrostatics::coulomb_tangent, module)?)?;
    module.add_function(wrap_pyfunction!(electrostatics::features, module)?)?;
    module.add_function(wrap_pyfunction!(electrostatics::features_gradient, module)?)?;
    module.add_function(wrap_pyfunction!(electrostatics::features_tangent, module)?)?;
    module.add_function(wrap_pyfunction!(electrostatics::potential, module)?)?;
    module.add_class::<device::DevicePlan>()?;
    module.add_class::<device::DeviceNeighborSearch>()?;
    module.add_function(wrap_pyfunction!(device::compile_kernels, module)?)?;
    module.add_function(wrap_pyfunction!(device::device_memory_peak, module)?)?;
    module.add_function(wrap_pyfunction!(device::device_count, module)?)?;
    module.add_function(wrap_pyfunction!(device::device_properties, module)?)?;
    module.add_function(wrap_pyfunction!(device::device_libraries, module)?)?;
    module.add_function(wrap_pyfunction!(device::add_package_folders, module)?)?;
    module.add_class::<geometry::Geometry>()?;
    module.add_class::<neighbors::NeighborList>()?;
    module.add_class::<response::Jacobian>()?;
    use electret_core::response as limits;
    module.add("DENSE_LIMIT", limits::DENSE_LIMIT)?;
    module.add("FLOW_CAPACITY", limits::CAPACITY)?;
    module.add("KRYLOV_RESTART", limits::RESTART)?;
    module.add("KRYLOV_LEAST_GAIN", limits::LEAST_GAIN)?;
    module.add("KRYLOV_TOLERANCE", limits::TOLERANCE)?;
    module.add("SMALLEST_SCHUR", limits::SMALLEST_SCHUR)?;
    module.add_function(wrap_pyfunction!(response::most_products, module)?)?;
    module.add_function(wrap_pyfunction!(response::dominant_eigenpairs, module)?)?;
    module.add_function(wrap_pyfunction!(response::charge_equilibration, module)?)?;
    module.add_function(wrap_pyfunction!(response::longest_waves, module)?)?;
    module.add_function(wrap_pyfunction!(response::receiver_factors, module)?)?;
    module.add_function(wrap_pyfunction!(neighbors::neighbor_list, module)?)?;
    Ok(())
}
