//! Binding of `electret_core::cuda`: plans whose arrays are given by their addresses on a device.

use crate::arguments::Options;
use crate::arrays::{Flags, Floats, Integers, cells, detached, flags, slice};
use crate::errors::to_python;
use electret_core::cuda::evaluator::{Evaluator, Inputs, Outputs};
use electret_core::cuda::neighbors::{Atoms, DeviceSearch, Outputs as ListOutputs};
use electret_core::cuda::planning::{self, Request};
use electret_core::cuda::{self, Device, Queue};
use electret_core::systems::Receivers;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::PyDict;
use std::path::PathBuf;
use std::sync::Arc;

/// Number of CUDA devices; the error explains why no device is visible.
#[pyfunction]
pub fn device_count(py: Python<'_>) -> PyResult<i32> {
    detached(py, cuda::count)
}

/// Name, architecture, multiprocessors, memory and driver of a device.
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

/// Largest number of bytes of electret's work areas on a device at one time since the last reset.
#[pyfunction]
pub fn device_memory_peak(py: Python<'_>, device: i32, reset: bool) -> PyResult<u64> {
    detached(py, || Device::get(device)?.memory_peak(reset))
}

/// Folders of Python packages, with the libraries in them.
#[pyfunction]
pub fn add_package_folders(folders: Vec<PathBuf>) {
    cuda::add_packages(folders);
}

/// Paths of NVRTC, cuFFT and the cache, or the reasons why they were not found.
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

/// Arrays of a batch that decide how it is summed, as `electret/cuda/plans.py` reads them from a device.
#[derive(FromPyObject)]
struct Batch<'py> {
    cell: Floats<'py>,
    pbc: Flags<'py>,
    batch: Integers<'py>,
    sigma: Floats<'py>,
    widths: Option<Floats<'py>>,
    points_batch: Option<Integers<'py>>,
}

/// Settings of a plan, as in `electret/cuda/plans.py`.
#[derive(FromPyObject)]
struct Settings {
    max_l: usize,
    features_max_l: usize,
    normalization: String,
    options: Options,
    fixed: bool,
}

/// Plan of the sums over a batch on a device.
#[pyclass(frozen, module = "electret._native")]
pub struct DevicePlan {
    device: Arc<Device>,
    evaluator: Evaluator,
}

#[pymethods]
impl DevicePlan {
    #[new]
    fn new(
        py: Python<'_>,
        device: i32,
        stream: u64,
        batch: Batch<'_>,
        settings: Settings,
        spans: Option<Floats<'_>>,
    ) -> PyResult<Self> {
        let receivers = match &batch.widths {
            Some(widths) => Some(Receivers {
                widths: slice(py, "widths", widths, &[])?,
                max_l: settings.features_max_l,
                normalization: settings
                    .normalization
                    .parse()
                    .map_err(|error| to_python(py, &error))?,
            }),
            None => None,
        };
        let points = match &batch.points_batch {
            Some(points) => Some(slice(py, "points_batch", points, &[])?),
            None => None,
        };
        let spans = match &spans {
            Some(spans) => Some(slice(py, "spans", spans, &[])?),
            None => None,
        };
        let request = Request {
            cells: cells(py, "cell", &batch.cell)?,
            pbc: flags(py, "pbc", &batch.pbc)?,
            batch: slice(py, "batch", &batch.batch, &[])?,
            sigma: slice(py, "sigma", &batch.sigma, &[])?,
            max_l: settings.max_l,
            receivers,
            points,
            spans,
            fixed: settings.fixed,
            precision: settings.options.precision(py)?,
            options: settings.options.parse(py)?,
        };
        detached(py, || {
            let device = Device::get(device)?;
            let queue = Queue::new(device.clone(), stream)?;
            let evaluator = Evaluator::new(&queue, &request)?;
            Ok(Self { device, evaluator })
        })
    }

    /// True if planning depends on where the atoms are.
    #[staticmethod]
    fn needs_spans(py: Python<'_>, batch: Batch<'_>, options: Options) -> PyResult<bool> {
        Ok(planning::needs_spans(
            flags(py, "pbc", &batch.pbc)?,
            slice(py, "batch", &batch.batch, &[])?,
            &options.parse(py)?,
        ))
    }

    /// The method of each system.
    #[getter]
    fn methods(&self) -> Vec<&'static str> {
        self.evaluator.methods()
    }

    /// Methods with their parameters as text.
    #[getter]
    fn plans(&self) -> Vec<String> {
        self.evaluator.plans()
    }

    /// Evaluates arrays at these addresses; with a tangent of the positions it forms directional derivatives.
    #[pyo3(signature = (stream, **addresses))]
    fn evaluate(
        &self,
        py: Python<'_>,
        stream: u64,
        addresses: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let (mut inputs, mut outputs) = (Inputs::default(), Outputs::default());
        for (name, address) in addresses.into_iter().flat_map(|dict| dict.iter()) {
            let name: PyBackedStr = name.extract()?;
            let place = match &*name {
                "positions" => &mut inputs.positions,
                "multipoles" => &mut inputs.multipoles,
                "cell" => &mut inputs.cell,
                "cotangent" => &mut inputs.cotangent,
                "points" => &mut inputs.points,
                "positions_tangent" => &mut inputs.positions_tangent,
                "multipoles_tangent" => &mut inputs.multipoles_tangent,
                "cotangent_tangent" => &mut inputs.cotangent_tangent,
                "cell_tangent" => &mut inputs.cell_tangent,
                "value" => &mut outputs.value,
                "multipoles_gradient" => &mut outputs.multipoles,
                "features" => &mut outputs.features,
                "positions_gradient" => &mut outputs.positions,
                "cell_gradient" => &mut outputs.cell,
                _ => return Err(PyTypeError::new_err(format!("no array is called {name:?}"))),
            };
            *place = address.extract()?;
            inputs.tangents |= &*name == "positions_tangent";
        }
        detached(py, || {
            let queue = Queue::new(self.device.clone(), stream)?;
            self.evaluator.evaluate(&queue, &inputs, &outputs)
        })
    }
}

/// Pairs of atoms on a device, counted and not yet written.
#[pyclass(frozen, module = "electret._native")]
pub struct DeviceNeighborSearch {
    device: Arc<Device>,
    search: DeviceSearch,
}

#[pymethods]
impl DeviceNeighborSearch {
    /// Waits for the number of pairs. `positions` is an address; `first` holds the first atom of each system and then the
    /// number of atoms.
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
        let (cells, pbc) = (cells(py, "cell", &cell)?, flags(py, "pbc", &pbc)?);
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

    /// Writes the pairs to arrays of this length at the addresses; 0 skips an array.
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
        let outputs = ListOutputs {
            i,
            j,
            shifts,
            distances,
            vectors,
        };
        detached(py, || {
            let queue = Queue::new(self.device.clone(), stream)?;
            self.search.write(&queue, &outputs)
        })
    }
}

/// Compiles every module for an architecture (90 for sm_90) with NVRTC: names, definitions and sizes in bytes.
#[pyfunction]
pub fn compile_kernels(py: Python<'_>, architecture: i32) -> PyResult<Vec<(String, usize)>> {
    detached(py, || cuda::compile_all(architecture))
}
