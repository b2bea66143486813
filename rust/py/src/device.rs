//! Binding of `electret_core::cuda`: plans whose arrays are given by their addresses on a device.

use crate::arrays::{Flags, Floats, Integers, detached, slice};
use crate::electrostatics::{options, receivers};
use crate::errors::to_python;
use electret_core::cuda::evaluator::{Evaluator, Inputs, Outputs};
use electret_core::cuda::neighbors::{Atoms, DeviceSearch, Outputs as ListOutputs};
use electret_core::cuda::planning::{self, Request};
use electret_core::cuda::{self, Device, Queue};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::path::PathBuf;
use std::sync::Arc;

/// Number of CUDA devices; the error tells why there are none to be seen.
#[pyfunction]
pub fn device_count(py: Python<'_>) -> PyResult<i32> {
    detached(py, cuda::count)
}

/// What a device says of itself.
#[pyfunction]
pub fn device_properties(py: Python<'_>, device: i32) -> PyResult<Bound<'_, PyDict>> {
    let device = detached(py, || Device::get(device))?;
    let out = PyDict::new(py);
    if let Some(properties) = device.properties() {
        out.set_item("name", &properties.name)?;
        out.set_item("architecture", properties.architecture)?;
        out.set_item("multiprocessors", properties.multiprocessors)?;
        out.set_item("memory", properties.memory)?;
        out.set_item("driver", properties.driver)?;
    }
    Ok(out)
}

/// Bytes of electret's work areas on a device at one time, at most since the last reset.
#[pyfunction]
pub fn device_memory_peak(py: Python<'_>, device: i32, reset: bool) -> PyResult<u64> {
    detached(py, || Device::get(device)?.memory_peak(reset))
}

/// Folders of Python packages, for the libraries that come with them.
#[pyfunction]
pub fn add_package_folders(folders: Vec<PathBuf>) {
    cuda::add_packages(folders);
}

/// Where NVRTC, cuFFT and the cache are, or why they were not found.
#[pyfunction]
pub fn device_libraries(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let out = PyDict::new(py);
    let libraries = || {
        let nvrtc = cuda::Nvrtc::find().and_then(|nvrtc| {
            Ok((
                nvrtc.path().to_owned(),
                nvrtc.version()?,
                nvrtc.architectures()?,
            ))
        });
        Ok((nvrtc, cuda::mesh::fft::library()))
    };
    let (found, cufft) = detached(py, libraries)?;
    let (path, version, architectures, message) = match found {
        Ok((path, version, architectures)) => (Some(path), Some(version), architectures, None),
        Err(error) => (None, None, Vec::new(), Some(error.to_string())),
    };
    out.set_item("nvrtc", (path, version, message))?;
    out.set_item("architectures", architectures)?;
    let (path, message) = match cufft {
        Ok(path) => (Some(path), None),
        Err(error) => (None, Some(error.to_string())),
    };
    out.set_item("cufft", (path, message))?;
    out.set_item("cache", cuda::cache_directory())?;
    Ok(out)
}

/// How a batch is summed on a device.
#[pyclass(frozen, module = "electret._native")]
pub struct DevicePlan {
    device: Arc<Device>,
    evaluator: Evaluator,
}

#[pymethods]
impl DevicePlan {
    #[new]
    #[pyo3(signature = (device, stream, cell, pbc, batch, sigma, max_l, widths, features_max_l, normalization, points_batch, spans, fixed, boundary, method, accuracy, precision, self_interaction))]
    fn new(
        py: Python<'_>,
        device: i32,
        stream: u64,
        cell: Floats<'_>,
        pbc: Flags<'_>,
        batch: Integers<'_>,
        sigma: Floats<'_>,
        max_l: usize,
        widths: Option<Floats<'_>>,
        features_max_l: usize,
        normalization: &str,
        points_batch: Option<Integers<'_>>,
        spans: Option<Floats<'_>>,
        fixed: bool,
        boundary: Option<&str>,
        method: &str,
        accuracy: f64,
        precision: &str,
        self_interaction: bool,
    ) -> PyResult<Self> {
        let options = options(py, boundary, method, accuracy, self_interaction)?;
        let precision = precision.parse().map_err(|error| to_python(py, &error))?;
        let receivers = match &widths {
            Some(widths) => Some(receivers(py, widths, features_max_l, normalization)?),
            None => None,
        };
        let spans = match &spans {
            Some(spans) => Some(slice(py, "spans", spans, &[])?),
            None => None,
        };
        let points = match &points_batch {
            Some(points) => Some(slice(py, "points_batch", points, &[])?),
            None => None,
        };
        let request = Request {
            cells: slice(py, "cell", &cell, &[3, 3])?
                .as_chunks()
                .0
                .as_chunks()
                .0,
            pbc: slice(py, "pbc", &pbc, &[3])?.as_chunks().0,
            batch: slice(py, "batch", &batch, &[])?,
            sigma: slice(py, "sigma", &sigma, &[])?,
            max_l,
            receivers,
            points,
            spans,
            fixed,
            precision,
            options,
        };
        detached(py, || {
            let device = Device::get(device)?;
            let queue = Queue::new(device.clone(), stream)?;
            let evaluator = Evaluator::new(&queue, &request)?;
            Ok(Self { device, evaluator })
        })
    }

    /// Whether planning depends on where the atoms are.
    #[staticmethod]
    fn needs_spans(
        py: Python<'_>,
        pbc: Flags<'_>,
        batch: Integers<'_>,
        boundary: Option<&str>,
        method: &str,
    ) -> PyResult<bool> {
        let options = options(py, boundary, method, 1e-8, true)?;
        let pbc = slice(py, "pbc", &pbc, &[3])?.as_chunks().0;
        Ok(planning::needs_spans(
            pbc,
            slice(py, "batch", &batch, &[])?,
            &options,
        ))
    }

    /// The method of each system.
    #[getter]
    fn methods(&self) -> Vec<&'static str> {
        self.evaluator.methods()
    }

    /// The same with parameters, as text.
    #[getter]
    fn plans(&self) -> Vec<String> {
        self.evaluator.plans()
    }

    #[pyo3(signature = (stream, *, positions, multipoles, cell, cotangent=0, points=0, tangents=false, positions_tangent=0, multipoles_tangent=0, cotangent_tangent=0, cell_tangent=0, value=0, multipoles_gradient=0, features=0, positions_gradient=0, cell_gradient=0))]
    fn evaluate(
        &self,
        py: Python<'_>,
        stream: u64,
        positions: u64,
        multipoles: u64,
        cell: u64,
        cotangent: u64,
        points: u64,
        tangents: bool,
        positions_tangent: u64,
        multipoles_tangent: u64,
        cotangent_tangent: u64,
        cell_tangent: u64,
        value: u64,
        multipoles_gradient: u64,
        features: u64,
        positions_gradient: u64,
        cell_gradient: u64,
    ) -> PyResult<()> {
        let inputs = Inputs {
            positions,
            multipoles,
            cell,
            cotangent,
            points,
            tangents,
            positions_tangent,
            multipoles_tangent,
            cotangent_tangent,
            cell_tangent,
        };
        let outputs = Outputs {
            value,
            multipoles: multipoles_gradient,
            features,
            positions: positions_gradient,
            cell: cell_gradient,
        };
        let run = || {
            let queue = Queue::new(self.device.clone(), stream)?;
            self.evaluator.evaluate(&queue, &inputs, &outputs)
        };
        detached(py, run)
    }
}

/// The pairs of some atoms on a device, counted and not yet written.
#[pyclass(frozen, module = "electret._native")]
pub struct DeviceNeighborSearch {
    device: Arc<Device>,
    search: DeviceSearch,
}

#[pymethods]
impl DeviceNeighborSearch {
    /// `positions` is an address; `first` has the first atom of each system and the number of atoms. Waits for the
    /// number of pairs.
    #[new]
    fn new(
        py: Python<'_>,
        device: i32,
        stream: u64,
        positions: u64,
        cell: Floats<'_>,
        pbc: Flags<'_>,
        first: Vec<usize>,
        cutoff: f64,
    ) -> PyResult<Self> {
        let cells = slice(py, "cell", &cell, &[3, 3])?
            .as_chunks()
            .0
            .as_chunks()
            .0;
        let pbc = slice(py, "pbc", &pbc, &[3])?.as_chunks().0;
        detached(py, || {
            let device = Device::get(device)?;
            let queue = Queue::new(device.clone(), stream)?;
            let atoms = Atoms {
                positions,
                cells,
                pbc,
                first: &first,
            };
            let search = DeviceSearch::new(&queue, atoms, cutoff)?;
            Ok(Self { device, search })
        })
    }

    fn __len__(&self) -> usize {
        self.search.len()
    }

    /// Writes the pairs to addresses of arrays as long as this; 0 for what is not wanted.
    #[pyo3(signature = (stream, *, i=0, j=0, shifts=0, distances=0, vectors=0))]
    fn write(
        &self,
        py: Python<'_>,
        stream: u64,
        i: u64,
        j: u64,
        shifts: u64,
        distances: u64,
        vectors: u64,
    ) -> PyResult<()> {
        let targets = ListOutputs {
            i,
            j,
            shifts,
            distances,
            vectors,
        };
        detached(py, || {
            let queue = Queue::new(self.device.clone(), stream)?;
            self.search.write(&queue, &targets)
        })
    }
}

/// Compiles every module for an architecture (90 for sm_90) with NVRTC: names, definitions and sizes in bytes.
#[pyfunction]
pub fn compile_kernels(py: Python<'_>, architecture: i32) -> PyResult<Vec<(String, usize)>> {
    detached(py, || cuda::compile_all(architecture))
}
