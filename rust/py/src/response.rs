//! Binding of `electret_core::response`.

use crate::arguments::{Options, Receivers, Systems};
use crate::arrays::{
    Flags, Floats, Integers, array_of_vectors, array2, cells, contiguous, detached, slice, vectors,
};
use crate::errors::to_python;
use crate::geometry::Geometry;
use electret_core::Error;
use electret_core::ewald::longest_waves as longest_waves_of;
use electret_core::response::{
    self, Blocks, Edges, Eigenpairs, Elements, Reservoir, Settings, Solution,
};
use electret_core::special::harmonics::count;
use electret_core::systems::{check_receivers, receiver_factors as receiver_factors_of};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;

/// x, y and the status of each system.
type SolutionArrays<'py> = (
    Bound<'py, PyArray2<f64>>,
    Bound<'py, PyArray1<f64>>,
    Bound<'py, PyArray1<i64>>,
);
type Pair<'py> = (Bound<'py, PyArray2<f64>>, Bound<'py, PyArray1<f64>>);
/// Eigenvalues `[n_systems, 2]`, right and left vectors `[n_atoms * n_lm, 2]`: real and imaginary parts.
type EigenArrays<'py> = (
    Bound<'py, PyArray2<f64>>,
    Bound<'py, PyArray2<f64>>,
    Bound<'py, PyArray2<f64>>,
);

/// Vectors `[n_waves, 3]` and factors `[n_waves, n_lm]`.
type WaveArrays<'py> = (Bound<'py, PyArray2<f64>>, Bound<'py, PyArray2<f64>>);

/// Jacobians of a batch over one geometry.
#[pyclass(frozen, module = "electret._native")]
pub struct Jacobian(response::Jacobian);

impl Jacobian {
    fn two<'py>(&self, py: Python<'py>, flat: Vec<f64>) -> PyResult<Bound<'py, PyArray2<f64>>> {
        array2(py, flat, self.0.geometry().n_lm())
    }
}

#[pymethods]
impl Jacobian {
    #[new]
    fn new(
        py: Python<'_>,
        geometry: &Geometry,
        operator: &str,
        left: Option<Floats<'_>>,
        right: Option<Floats<'_>>,
        column: Option<Floats<'_>>,
        flow: Option<(Integers<'_>, Floats<'_>, Floats<'_>)>,
        constrained: Flags<'_>,
        method: &str,
        tolerance: f64,
        max_iterations: Option<usize>,
    ) -> PyResult<Self> {
        let error = |error| to_python(py, &error);
        let operator = operator.parse().map_err(error)?;
        let settings = Settings {
            method: method.parse().map_err(error)?,
            tolerance,
            max_iterations,
        };
        fn block<'a>(
            py: Python<'_>,
            name: &'static str,
            array: &'a Option<Floats<'_>>,
        ) -> PyResult<Option<&'a [f64]>> {
            array
                .as_ref()
                .map(|array| contiguous(py, name, array))
                .transpose()
        }
        let edges = match &flow {
            None => None,
            Some((ends, conductance, placement)) => Some(Edges {
                ends: slice(py, "edges", ends, &[2])?.as_chunks().0,
                conductance: contiguous(py, "conductance", conductance)?,
                placement: contiguous(py, "placement", placement)?,
            }),
        };
        let blocks = Blocks {
            left: block(py, "left", &left)?,
            right: block(py, "right", &right)?,
            column: block(py, "column", &column)?,
            flow: edges,
            constrained: contiguous(py, "constrained", &constrained)?,
        };
        let geometry = geometry.0.clone();
        detached(py, || {
            response::Jacobian::new(geometry, operator, &blocks, settings)
        })
        .map(Self)
    }

    #[pyo3(signature = (residual, constraint, transpose=false, tolerance=None))]
    fn solve<'py>(
        &self,
        py: Python<'py>,
        residual: Floats<'py>,
        constraint: Floats<'py>,
        transpose: bool,
        tolerance: Option<f64>,
    ) -> PyResult<SolutionArrays<'py>> {
        let residual = contiguous(py, "residual", &residual)?;
        let constraint = contiguous(py, "constraint", &constraint)?;
        let Solution { x, y, status } = detached(py, || match tolerance {
            None => self.0.solve(residual, constraint, transpose),
            Some(tolerance) => self
                .0
                .solve_within(residual, constraint, transpose, tolerance),
        })?;
        let status: Vec<i64> = status.into_iter().map(|status| status as i64).collect();
        Ok((
            self.two(py, x)?,
            y.into_pyarray(py),
            status.into_pyarray(py),
        ))
    }

    #[pyo3(signature = (x, y, transpose=false))]
    fn apply<'py>(
        &self,
        py: Python<'py>,
        x: Floats<'py>,
        y: Floats<'py>,
        transpose: bool,
    ) -> PyResult<Pair<'py>> {
        let (x, y) = (contiguous(py, "x", &x)?, contiguous(py, "y", &y)?);
        let (r, s) = detached(py, || self.0.apply(x, y, transpose))?;
        Ok((self.two(py, r)?, s.into_pyarray(py)))
    }

    fn eigenpair<'py>(&self, py: Python<'py>) -> PyResult<EigenArrays<'py>> {
        eigen_arrays(py, detached(py, || self.0.eigenpairs())?)
    }

    fn spectral_radius<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        Ok(detached(py, || self.0.spectral_radius())?.into_pyarray(py))
    }

    /// "dense" or "krylov" of each system.
    #[getter]
    fn methods(&self) -> Vec<&'static str> {
        self.0.methods()
    }
}

/// Dominant eigenpairs of `matrices [n_systems, n, n]`, of which the first `sizes [n_systems]` rows and columns count:
/// values `[n_systems, 2]`, right and left vectors `[n_systems * n, 2]`, zero beyond the sizes.
#[pyfunction]
pub fn dominant_eigenpairs<'py>(
    py: Python<'py>,
    matrices: Floats<'py>,
    sizes: Integers<'py>,
) -> PyResult<EigenArrays<'py>> {
    let shape = matrices.shape();
    let n = shape.last().copied().unwrap_or(0);
    let sizes: Vec<usize> = contiguous(py, "sizes", &sizes)?
        .iter()
        .map(|&size| size as usize)
        .collect();
    if *shape != [sizes.len(), n, n] || sizes.iter().any(|&size| size > n) {
        let error = Error::Shape {
            array: "matrices",
            found: format!("{shape:?}"),
            expected: format!(
                "[{}, n, n] with n at least {:?}",
                sizes.len(),
                sizes.iter().max()
            ),
        };
        return Err(to_python(py, &error));
    }
    let matrices = contiguous(py, "matrices", &matrices)?;
    eigen_arrays(
        py,
        detached(py, || response::dominant_pairs(matrices, n, &sizes))?,
    )
}

fn eigen_arrays(py: Python<'_>, pairs: Eigenpairs) -> PyResult<EigenArrays<'_>> {
    Ok((
        array2(py, pairs.values.into_flattened(), 2)?,
        array2(py, pairs.right.into_flattened(), 2)?,
        array2(py, pairs.left.into_flattened(), 2)?,
    ))
}

/// Most products of iterations with a system of so many unknowns.
#[pyfunction]
pub fn most_products(unknowns: usize) -> usize {
    response::most_products(unknowns)
}

/// Charges, Fermi levels, energies, dE/dpositions and dipoles.
type EquilibriumArrays<'py> = (
    Bound<'py, PyArray1<f64>>,
    Bound<'py, PyArray1<f64>>,
    Bound<'py, PyArray1<f64>>,
    Bound<'py, PyArray2<f64>>,
    Bound<'py, PyArray2<f64>>,
);

/// `held` is the Fermi level of each system with `fixed_fermi_level`, and else its total charge.
#[pyfunction]
pub fn charge_equilibration<'py>(
    py: Python<'py>,
    systems: Systems<'py>,
    electronegativity: Floats<'py>,
    hardness: Floats<'py>,
    sigma: Floats<'py>,
    held: Floats<'py>,
    fixed_fermi_level: bool,
    external_field: Floats<'py>,
    options: Options,
) -> PyResult<EquilibriumArrays<'py>> {
    let options = options.parse(py)?;
    let systems = systems.view(py)?;
    let elements = Elements {
        electronegativity: slice(py, "electronegativity", &electronegativity, &[])?,
        hardness: slice(py, "hardness", &hardness, &[])?,
        sigma: slice(py, "sigma", &sigma, &[])?,
    };
    let held = slice(py, "held", &held, &[])?;
    let reservoir = if fixed_fermi_level {
        Reservoir::FermiLevel(held)
    } else {
        Reservoir::Charge(held)
    };
    let field = vectors(py, "external_field", &external_field)?;
    let out = detached(py, || {
        response::equilibrate(&systems, &elements, reservoir, field, &options)
    })?;
    Ok((
        out.charges.into_pyarray(py),
        out.fermi_level.into_pyarray(py),
        out.energy.into_pyarray(py),
        array_of_vectors(py, out.positions)?,
        array_of_vectors(py, out.dipole)?,
    ))
}

/// Longest waves of a cell `[1, 3, 3]` for the preconditioner of a system with so many unknowns: k-vectors `[n_waves, 3]`
/// and factors of unit multipoles `[n_waves, n_lm]`.
#[pyfunction]
pub fn longest_waves<'py>(
    py: Python<'py>,
    cell: Floats<'py>,
    unknowns: usize,
    max_l: usize,
) -> PyResult<WaveArrays<'py>> {
    let cell = cells(py, "cell", &cell)?[0];
    let limit = response::most_waves(unknowns);
    let (waves, factors) = detached(py, || longest_waves_of(&cell, limit, max_l))?;
    Ok((
        array_of_vectors(py, waves)?,
        array2(py, factors, count(max_l))?,
    ))
}

/// Factors of the features of an atom in a normalisation, `[n_widths * n_lm]`.
#[pyfunction]
pub fn receiver_factors<'py>(
    py: Python<'py>,
    receivers: Receivers<'py>,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    let receivers = receivers.view(py)?;
    let factors = detached(py, || {
        check_receivers(&receivers)?;
        Ok(receiver_factors_of(&receivers))
    })?;
    Ok(factors.into_pyarray(py))
}
