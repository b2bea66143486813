//! Binding of `electret_core::geometry`.

use crate::arguments::{Options, Receivers, Systems};
use crate::arrays::{Floats, array2, contiguous, detached, slice};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArray3, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;
use std::sync::Arc;

/// Energies and potentials.
type EnergyArrays<'py> = (Bound<'py, PyArray1<f64>>, Bound<'py, PyArray2<f64>>);

/// Cached operators at fixed atoms.
#[pyclass(frozen, module = "electret._native")]
pub struct Geometry(pub Arc<electret_core::geometry::Geometry>);

#[pymethods]
impl Geometry {
    /// `options.self_interaction` belongs to the energies.
    #[new]
    fn new(
        py: Python<'_>,
        systems: Systems<'_>,
        sigma: Floats<'_>,
        max_l: usize,
        receivers: Receivers<'_>,
        options: Options,
        features_self_interaction: bool,
    ) -> PyResult<Self> {
        let coulomb = options.parse(py)?;
        let mut features = coulomb;
        features.self_interaction = features_self_interaction;
        let (systems, receivers) = (systems.view(py)?, receivers.view(py)?);
        let sigma = slice(py, "sigma", &sigma, &[])?;
        detached(py, || {
            electret_core::geometry::Geometry::new(
                &systems, sigma, max_l, &receivers, &coulomb, &features,
            )
        })
        .map(|geometry| Self(Arc::new(geometry)))
    }

    fn energy<'py>(&self, py: Python<'py>, multipoles: Floats<'py>) -> PyResult<EnergyArrays<'py>> {
        let flat = contiguous(py, "multipoles", &multipoles)?;
        let (energy, potential) = detached(py, || self.0.energy(flat))?;
        let potential = array2(py, potential, self.0.n_lm())?;
        Ok((energy.into_pyarray(py), potential))
    }

    fn features<'py>(
        &self,
        py: Python<'py>,
        multipoles: Floats<'py>,
    ) -> PyResult<Bound<'py, PyArray3<f64>>> {
        let n_atoms = multipoles.shape().first().copied().unwrap_or(0);
        let flat = contiguous(py, "multipoles", &multipoles)?;
        let out = detached(py, || self.0.features(flat))?;
        let (n_widths, n_lm) = self.0.feature_shape();
        out.into_pyarray(py).reshape([n_atoms, n_widths, n_lm])
    }

    fn features_transpose<'py>(
        &self,
        py: Python<'py>,
        cotangent: Floats<'py>,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let flat = contiguous(py, "cotangent", &cotangent)?;
        let out = detached(py, || self.0.features_transpose(flat))?;
        array2(py, out, self.0.n_lm())
    }

    fn coulomb_matrix<'py>(
        &self,
        py: Python<'py>,
        system: usize,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let out = detached(py, || self.0.coulomb_matrix(system).map(<[f64]>::to_vec))?;
        let columns = out.len().isqrt();
        array2(py, out, columns)
    }

    fn features_matrix<'py>(
        &self,
        py: Python<'py>,
        system: usize,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let out = detached(py, || self.0.features_matrix(system).map(<[f64]>::to_vec))?;
        array2(py, out, self.0.n_columns(system))
    }

    /// Methods of the energies and of the features of each system.
    #[getter]
    fn methods(&self) -> Vec<(&'static str, Option<&'static str>)> {
        self.0.methods()
    }

    /// Methods with their parameters as text.
    #[getter]
    fn plans(&self) -> Vec<(String, Option<String>)> {
        self.0.plans()
    }
}
