//! Devices, and queues of work on them.

use super::cache;
use super::emulation;
use super::module::{Code, Module};
use super::nvrtc::Nvrtc;
use super::unit::Unit;
use crate::error::{Error, Result};
use cudarc::driver::{DriverError, result, sys};
use std::collections::HashMap;
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// A device that kernels run on.
pub struct Device {
    kind: Kind,
    modules: Mutex<HashMap<Unit, Arc<Module>>>,
}

enum Kind {
    Cuda {
        ordinal: i32,
        context: sys::CUcontext,
        properties: Properties,
    },
    Emulated,
}

// SAFETY: a primary context may be made current on any thread.
unsafe impl Send for Device {}
unsafe impl Sync for Device {}

/// Properties of a device.
#[derive(Clone, Debug)]
pub struct Properties {
    pub name: String,
    /// 90 for compute capability 9.0.
    pub architecture: i32,
    pub multiprocessors: i32,
    /// Bytes.
    pub memory: usize,
    /// 12080 for CUDA 12.8.
    pub driver: i32,
}

/// Ordinal that stands for the emulated device.
pub const EMULATED: i32 = -1;

fn driver_error(what: &str, error: DriverError) -> Error {
    let name = error
        .error_name()
        .map_or("unknown error".into(), |n| n.to_string_lossy().into_owned());
    let text = error
        .error_string()
        .map_or(String::new(), |n| n.to_string_lossy().into_owned());
    Error::Device {
        what: format!("CUDA: {what} failed: {name}: {text}"),
        remedy: "check the device with nvidia-smi; after an illegal access the process must be started again".into(),
    }
}

/// True once the driver is loaded.
static STARTED: AtomicBool = AtomicBool::new(false);
/// True in a fork of the process that loaded it.
static LOST: AtomicBool = AtomicBool::new(false);

/// To be called in a forked child, where the driver does not work.
pub fn after_fork() {
    LOST.fetch_or(STARTED.load(SeqCst), SeqCst);
}

fn check_process() -> Result<()> {
    if LOST.load(SeqCst) {
        return Err(Error::Device {
            what: "CUDA was in use when this process was forked, and does not work in a fork"
                .into(),
            remedy: "start processes by \"spawn\": multiprocessing.get_context(\"spawn\"), \
                     DataLoader(..., multiprocessing_context=\"spawn\")"
                .into(),
        });
    }
    Ok(())
}

/// Loads the driver.
fn initialise() -> Result<()> {
    check_process()?;
    // SAFETY: calls the loader only.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::Device {
            what: "there is no CUDA driver (libcuda.so was not found)".into(),
            remedy: "install NVIDIA's driver, or use the CPU".into(),
        });
    }
    STARTED.store(true, SeqCst);
    result::init().map_err(|error| driver_error("cuInit", error))
}

/// Number of CUDA devices; the error explains why no device is visible.
pub fn count() -> Result<i32> {
    initialise()?;
    result::device::get_count().map_err(|error| driver_error("cuDeviceGetCount", error))
}

static DEVICES: Mutex<Vec<(i32, Arc<Device>)>> = Mutex::new(Vec::new());

impl Device {
    /// The device of an ordinal ([`EMULATED`] for the emulated one), created at first use.
    pub fn get(ordinal: i32) -> Result<Arc<Self>> {
        let mut devices = DEVICES
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((_, device)) = devices.iter().find(|(known, _)| *known == ordinal) {
            return Ok(device.clone());
        }
        let kind = if ordinal == EMULATED {
            emulation::check()?;
            Kind::Emulated
        } else {
            Kind::cuda(ordinal)?
        };
        let device = Arc::new(Self {
            kind,
            modules: Mutex::new(HashMap::new()),
        });
        devices.push((ordinal, device.clone()));
        Ok(device)
    }

    /// The device on which tests run kernels without a GPU.
    pub fn emulated() -> Arc<Self> {
        Self::get(EMULATED).expect("tests are built with the feature `emulation`")
    }

    pub fn is_emulated(&self) -> bool {
        matches!(self.kind, Kind::Emulated)
    }

    /// None for the emulated device.
    pub fn properties(&self) -> Option<&Properties> {
        match &self.kind {
            Kind::Cuda { properties, .. } => Some(properties),
            Kind::Emulated => None,
        }
    }

    pub fn ordinal(&self) -> i32 {
        match self.kind {
            Kind::Cuda { ordinal, .. } => ordinal,
            Kind::Emulated => EMULATED,
        }
    }

    /// Makes the device's context the thread's current one for as long as the result lives.
    pub(super) fn bind(&self) -> Result<Bound> {
        let Kind::Cuda { context, .. } = &self.kind else {
            return Ok(Bound { before: None });
        };
        check_process()?;
        let before = result::ctx::get_current()
            .map_err(|error| driver_error("cuCtxGetCurrent", error))?
            .unwrap_or(std::ptr::null_mut());
        if before == *context {
            return Ok(Bound { before: None });
        }
        // SAFETY: the primary context was retained and is never released.
        unsafe { result::ctx::set_current(*context) }
            .map_err(|error| driver_error("cuCtxSetCurrent", error))?;
        Ok(Bound {
            before: Some(before),
        })
    }

    pub(super) fn check<V>(
        &self,
        what: &str,
        status: std::result::Result<V, DriverError>,
    ) -> Result<V> {
        status.map_err(|error| driver_error(what, error))
    }

    /// The compiled module of a source: loaded before, from the cache on disk, or compiled now.
    pub fn module(&self, source: Unit) -> Result<Arc<Module>> {
        let mut modules = self
            .modules
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(module) = modules.get(&source) {
            return Ok(module.clone());
        }
        let code = match &self.kind {
            Kind::Emulated => Code::Emulated(emulation::Library::new(&source)?),
            Kind::Cuda { properties, .. } => {
                let image = machine_code(&source, properties.architecture)?;
                // SAFETY: the image is a whole cubin.
                let module = unsafe { result::module::load_data(image.as_ptr().cast()) };
                Code::Cuda(self.check("cuModuleLoadData", module)?)
            }
        };
        let module = Arc::new(Module::new(source.name, code));
        modules.insert(source, module.clone());
        Ok(module)
    }
}

/// The cubin of a source, from the cache if it holds one.
fn machine_code(source: &Unit, architecture: i32) -> Result<Vec<u8>> {
    let nvrtc = Nvrtc::find()?;
    let (major, minor) = nvrtc.version()?;
    let file = format!(
        "{}.cubin",
        source.key(&format!("nvrtc {major}.{minor} sm_{architecture}"))
    );
    if let Some(image) = cache::read(&file) {
        return Ok(image);
    }
    // A device newer than the compiler runs the code of the newest architecture of its generation.
    let known = nvrtc.architectures()?;
    if !known.contains(&architecture) {
        return Err(Error::Device {
            what: format!(
                "NVRTC {major}.{minor} ({}) does not support sm_{architecture} of the device, only {known:?}",
                nvrtc.path().display()
            ),
            remedy: "install a newer NVRTC: pip install --upgrade nvidia-cuda-nvrtc".into(),
        });
    }
    let image = nvrtc.compile(source, architecture)?;
    cache::write(&file, &image);
    Ok(image)
}

impl Kind {
    fn cuda(ordinal: i32) -> Result<Self> {
        let n = count()?;
        if !(0..n).contains(&ordinal) {
            return Err(Error::Device {
                what: format!("there is no CUDA device {ordinal}; {n} are visible"),
                remedy: "give a lower number, or look at CUDA_VISIBLE_DEVICES".into(),
            });
        }
        let wrap = |what: &'static str| move |error| driver_error(what, error);
        let device = result::device::get(ordinal as c_int).map_err(wrap("cuDeviceGet"))?;
        // SAFETY: the device is a valid handle; the context is kept for as long as the process lives.
        unsafe {
            let context =
                result::primary_ctx::retain(device).map_err(wrap("cuDevicePrimaryCtxRetain"))?;
            let attribute = |which| {
                result::device::get_attribute(device, which).map_err(wrap("cuDeviceGetAttribute"))
            };
            use sys::CUdevice_attribute_enum as Which;
            let major = attribute(Which::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
            let minor = attribute(Which::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
            let mut driver = 0;
            sys::cuDriverGetVersion(&mut driver)
                .result()
                .map_err(wrap("cuDriverGetVersion"))?;
            let properties = Properties {
                name: result::device::get_name(device).map_err(wrap("cuDeviceGetName"))?,
                architecture: 10 * major + minor,
                multiprocessors: attribute(Which::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
                memory: result::device::total_mem(device).map_err(wrap("cuDeviceTotalMem"))?,
                driver,
            };
            keep_memory(device).map_err(wrap("cuMemPoolSetAttribute"))?;
            Ok(Self::Cuda {
                ordinal,
                context,
                properties,
            })
        }
    }
}

/// Lets the device's memory pool keep what was freed, so that work areas are reused at no cost.
///
/// # Safety
/// The device must be a valid handle.
unsafe fn keep_memory(device: sys::CUdevice) -> std::result::Result<(), DriverError> {
    // SAFETY: the attribute is a 64-bit number.
    unsafe {
        let pool = result::device::get_default_mem_pool(device)?;
        let mut threshold = u64::MAX;
        sys::cuMemPoolSetAttribute(
            pool,
            sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
            std::ptr::from_mut(&mut threshold).cast(),
        )
        .result()
    }
}

/// Restores the context that was current before another was bound: PyTorch's current device is that of the current
/// context, and users of several devices would find theirs changed.
#[must_use]
pub(super) struct Bound {
    /// Null where there was none; None where nothing was changed.
    before: Option<sys::CUcontext>,
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Some(context) = self.before {
            // SAFETY: the context was current on this thread. An error here was reported by the call that caused it.
            let _ = unsafe { result::ctx::set_current(context) };
        }
    }
}

/// A stream of a device, which is current on this thread while this lives. The stream is the caller's (PyTorch's) and
/// is never destroyed here.
pub struct Queue {
    device: Arc<Device>,
    stream: u64,
    /// Belongs to one thread; its pointer keeps it from being sent to another.
    _bound: Bound,
}

impl Queue {
    /// `stream` is a CUstream as a number; 0 is the default stream.
    pub fn new(device: Arc<Device>, stream: u64) -> Result<Self> {
        let bound = device.bind()?;
        Ok(Self {
            device,
            stream,
            _bound: bound,
        })
    }

    /// Work on the emulated device, which ends before the call that queues it does.
    pub fn emulated() -> Self {
        Self {
            device: Device::emulated(),
            stream: 0,
            _bound: Bound { before: None },
        }
    }

    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    pub(super) fn stream(&self) -> sys::CUstream {
        self.stream as usize as sys::CUstream
    }

    pub(in crate::cuda) fn stream_number(&self) -> u64 {
        self.stream
    }

    /// The compiled module of a source.
    pub fn module(&self, source: Unit) -> Result<Arc<Module>> {
        self.device.module(source)
    }

    /// Waits for everything queued.
    pub fn synchronize(&self) -> Result<()> {
        if self.device.is_emulated() {
            return Ok(());
        }
        // SAFETY: the stream is alive by contract of `new`.
        let status = unsafe { result::stream::synchronize(self.stream()) };
        self.device.check("cuStreamSynchronize", status)
    }
}
