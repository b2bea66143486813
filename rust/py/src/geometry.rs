//! Binding of `electret_core::geometry`.

use crate::arrays::{Flags, Floats, Integers, contiguous, detached, slice};
use crate::electrostatics::{Raw, options, receivers, two};
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
    #[new]
    #[pyo3(signature = (positions, sigma, widths, max_l, features_max_l, cell, pbc, batch, normalization="receiver", boundary=None, method="auto", accuracy=1e-8, self_interaction=true, features_self_interaction=false))]
    fn new(
        py: Python<'_>,
        positions: Floats<'_>,
        sigma: Floats<'_>,
        widths: Floats<'_>,
        max_l: usize,
        features_max_l: usize,
        cell: Floats<'_>,
        pbc: Flags<'_>,
        batch: Integers<'_>,
        normalization: &str,
        boundary: Option<&str>,
        method: &str,
        accuracy: f64,
        self_interaction: bool,
        features_self_interaction: bool,
    ) -> PyResult<Self> {
        let coulomb = options(py, boundary, method, accuracy, self_interaction)?;
        let features = options(py, boundary, method, accuracy, features_self_interaction)?;
        let raw = Raw::new(py, &positions, &cell, &pbc, &batch)?;
        let receivers = receivers(py, &widths, features_max_l, normalization)?;
        let sigma = slice(py, "sigma", &sigma, &[])?;
        let systems = raw.systems();
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
        Ok((energy.into_pyarray(py), two(py, potential, self.0.n_lm())?))
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
        two(py, out, self.0.n_lm())
    }

    fn coulomb_matrix<'py>(
        &self,
        py: Python<'py>,
        system: usize,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let out = detached(py, || self.0.coulomb_matrix(system).map(<[f64]>::to_vec))?;
        let columns = out.len().isqrt();
        two(py, out, columns)
    }

    fn features_matrix<'py>(
        &self,
        py: Python<'py>,
        system: usize,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let out = detached(py, || self.0.features_matrix(system).map(<[f64]>::to_vec))?;
        let columns = self.0.n_columns(system);
        two(py, out, columns)
    }

    /// (method for energies, method for features) of each system.
    #[getter]
    fn methods(&self) -> Vec<(&'static str, Option<&'static str>)> {
        self.0.methods()
    }

    /// The same with parameters, for people.
    #[getter]
    fn plans(&self) -> Vec<(String, Option<String>)> {
        self.0.plans()
    }
}
