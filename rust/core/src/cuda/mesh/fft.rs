//! Three-dimensional transforms of real fields, in place: by cuFFT on a CUDA device, by rustfft on the emulated one.
//!
//! A field of n_x × n_y × n_z reals is stored in rows along z with room for n_z/2 + 1 complex numbers, the half
//! spectrum that the forward transform writes in its place. Nothing is normalised in either direction.

use crate::cuda::Queue;
use crate::cuda::batch::{Address, Precision};
use crate::cuda::driver::library::{Loaded, Once, cufft_candidates, load};
use crate::error::{Error, Result};
use bytemuck::Pod;
use realfft::RealFftPlanner;
use rustfft::{FftDirection, FftNum, FftPlanner, num_complex::Complex};
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::sync::{LazyLock, Mutex};

/// Direction of a transform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// Σ f exp(-2πi k·x/n)
    Forward,
    /// Σ F exp(2πi k·x/n)
    Backward,
}

/// Fields of one size, one after the other in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fields {
    pub points: [usize; 3],
    pub n_fields: usize,
    pub precision: Precision,
}

impl Fields {
    /// Complex numbers in a row along z.
    pub fn half(&self) -> usize {
        self.points[2] / 2 + 1
    }

    /// Reals from one field to the next.
    pub fn stride(&self) -> usize {
        self.points[0] * self.points[1] * 2 * self.half()
    }

    pub fn bytes(&self) -> usize {
        self.n_fields * self.stride() * self.precision.size()
    }

    /// Queues the transform of all fields at an address, which must be of the queue's device and hold them.
    pub fn transform(&self, queue: &Queue, address: Address, way: Way) -> Result<()> {
        if self.n_fields == 0 {
            return Ok(());
        }
        if queue.device().is_emulated() {
            match self.precision {
                Precision::Double => self.emulate_all::<f64>(address, way),
                Precision::Single => self.emulate_all::<f32>(address, way),
            }
            return Ok(());
        }
        let cufft = Cufft::find()?;
        let mut plans = PLANS
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let key = (queue.device().ordinal(), *self, way);
        let plan = match plans.get(&key) {
            Some(plan) => *plan,
            None => {
                let plan = cufft.plan(self, way)?;
                plans.insert(key, plan);
                plan
            }
        };
        // The plans stay locked until the transform is queued, so that no other thread changes its stream.
        let work = queue.allocate(plan.work_bytes)?;
        cufft.run(&plan, queue, work.address(), (address, self.precision), way)
    }

    /// The address must be of host memory that holds the fields, of numbers `R`.
    fn emulate_all<R: FftNum + Pod>(&self, address: Address, way: Way) {
        // SAFETY: by contract of `transform`; work on the emulated device ends before the call that queues it.
        let values = unsafe {
            std::slice::from_raw_parts_mut(
                address as *mut Complex<R>,
                self.bytes() / size_of::<Complex<R>>(),
            )
        };
        for field in values.chunks_mut(self.stride() / 2) {
            self.emulate(field, way);
        }
    }

    fn emulate<R: FftNum + Pod>(&self, field: &mut [Complex<R>], way: Way) {
        let [nx, ny, nz] = self.points;
        let half = self.half();
        match way {
            Way::Forward => {
                let plan = RealFftPlanner::new().plan_fft_forward(nz);
                for row in field.chunks_mut(half) {
                    let mut input = bytemuck::cast_slice::<_, R>(row)[..nz].to_vec();
                    plan.process(&mut input, row)
                        .expect("lengths are those of the plan");
                }
                columns(field, FftDirection::Forward, ny, half, nx);
                columns(field, FftDirection::Forward, nx, ny * half, 1);
            }
            Way::Backward => {
                columns(field, FftDirection::Inverse, nx, ny * half, 1);
                columns(field, FftDirection::Inverse, ny, half, nx);
                let plan = RealFftPlanner::new().plan_fft_inverse(nz);
                for row in field.chunks_mut(half) {
                    let mut input = row.to_vec();
                    // Real by symmetry, up to rounding.
                    input[0].im = R::zero();
                    if nz.is_multiple_of(2) {
                        input[nz / 2].im = R::zero();
                    }
                    let output = &mut bytemuck::cast_slice_mut::<_, R>(row)[..nz];
                    plan.process(&mut input, output)
                        .expect("lengths are those of the plan");
                }
            }
        }
    }
}

/// Transforms `n_blocks` blocks of `n` rows of `stride` numbers along the rows' number.
fn columns<R: FftNum>(
    field: &mut [Complex<R>],
    direction: FftDirection,
    n: usize,
    stride: usize,
    n_blocks: usize,
) {
    let plan = FftPlanner::new().plan_fft(n, direction);
    let mut column = vec![Complex::new(R::zero(), R::zero()); n];
    for block in field.chunks_mut(field.len() / n_blocks) {
        for first in 0..stride {
            for (k, value) in column.iter_mut().enumerate() {
                *value = block[k * stride + first];
            }
            plan.process(&mut column);
            for (k, value) in column.iter().enumerate() {
                block[k * stride + first] = *value;
            }
        }
    }
}

type Status = c_int;

/// A cuFFT plan, never destroyed.
#[derive(Clone, Copy)]
struct Plan {
    handle: c_int,
    work_bytes: usize,
}

/// Plans by the device's ordinal, fields and direction.
type Plans = HashMap<(i32, Fields, Way), Plan>;

static PLANS: LazyLock<Mutex<Plans>> = LazyLock::new(Default::default);

static LIBRARY: Once = Once::new();

/// Path of cuFFT.
pub fn library() -> Result<std::path::PathBuf> {
    Ok(Cufft::find()?.loaded.path.clone())
}

/// cuFFT's functions.
struct Cufft {
    loaded: &'static Loaded,
}

impl Cufft {
    fn find() -> Result<Self> {
        let loaded =
            LIBRARY.get(|| load("cuFFT (libcufft)", "nvidia-cufft", cufft_candidates()))?;
        Ok(Self { loaded })
    }

    fn plan(&self, fields: &Fields, way: Way) -> Result<Plan> {
        // cufftType: D2Z, Z2D, R2C, C2R.
        let kind: c_int = match (fields.precision, way) {
            (Precision::Double, Way::Forward) => 0x6a,
            (Precision::Double, Way::Backward) => 0x6c,
            (Precision::Single, Way::Forward) => 0x2a,
            (Precision::Single, Way::Backward) => 0x2c,
        };
        let number = |n: usize| -> Result<c_int> {
            c_int::try_from(n).map_err(|_| Error::Unsupported {
                what: format!(
                    "a mesh of {:?} points is too large for cuFFT",
                    fields.points
                ),
                remedy: "use a lower accuracy or wider Gaussians".into(),
            })
        };
        let [nx, ny, nz] = [
            number(fields.points[0])?,
            number(fields.points[1])?,
            number(fields.points[2])?,
        ];
        let half = number(fields.half())?;
        let mut points = [nx, ny, nz];
        let mut real = [nx, ny, 2 * half];
        let mut complex = [nx, ny, half];
        let (real_stride, complex_stride) =
            (number(fields.stride())?, number(fields.stride() / 2)?);
        let ((input, input_stride), (output, output_stride)) = match way {
            Way::Forward => ((&mut real, real_stride), (&mut complex, complex_stride)),
            Way::Backward => ((&mut complex, complex_stride), (&mut real, real_stride)),
        };
        let mut handle = 0;
        let mut work_bytes = 0;
        // SAFETY: the functions' signatures in cuFFT's documentation; the arrays have the plan's rank, 3.
        unsafe {
            let create: unsafe extern "C" fn(*mut c_int) -> Status =
                self.loaded.function("cufftCreate")?;
            let set_auto: unsafe extern "C" fn(c_int, c_int) -> Status =
                self.loaded.function("cufftSetAutoAllocation")?;
            #[allow(clippy::type_complexity)]
            let make: unsafe extern "C" fn(
                c_int,
                c_int,
                *mut c_int,
                *mut c_int,
                c_int,
                c_int,
                *mut c_int,
                c_int,
                c_int,
                c_int,
                c_int,
                *mut usize,
            ) -> Status = self.loaded.function("cufftMakePlanMany")?;
            self.check("cufftCreate", create(&mut handle))?;
            self.check("cufftSetAutoAllocation", set_auto(handle, 0))?;
            let status = make(
                handle,
                3,
                points.as_mut_ptr(),
                input.as_mut_ptr(),
                1,
                input_stride,
                output.as_mut_ptr(),
                1,
                output_stride,
                kind,
                number(fields.n_fields)?,
                &mut work_bytes,
            );
            if status != 0 {
                let destroy: unsafe extern "C" fn(c_int) -> Status =
                    self.loaded.function("cufftDestroy")?;
                destroy(handle);
            }
            self.check("cufftMakePlanMany", status)?;
        }
        Ok(Plan { handle, work_bytes })
    }

    fn run(
        &self,
        plan: &Plan,
        queue: &Queue,
        work: Address,
        (fields, precision): (Address, Precision),
        way: Way,
    ) -> Result<()> {
        let pointer = |address: Address| address as usize as *mut c_void;
        let name = match (precision, way) {
            (Precision::Double, Way::Forward) => "cufftExecD2Z",
            (Precision::Double, Way::Backward) => "cufftExecZ2D",
            (Precision::Single, Way::Forward) => "cufftExecR2C",
            (Precision::Single, Way::Backward) => "cufftExecC2R",
        };
        // SAFETY: the functions' signatures in cuFFT's documentation; the areas are on the queue's device, have the
        // size that the plan needs, and are freed in the order of its stream.
        unsafe {
            let set_stream: unsafe extern "C" fn(c_int, *mut c_void) -> Status =
                self.loaded.function("cufftSetStream")?;
            let set_work: unsafe extern "C" fn(c_int, *mut c_void) -> Status =
                self.loaded.function("cufftSetWorkArea")?;
            let execute: unsafe extern "C" fn(c_int, *mut c_void, *mut c_void) -> Status =
                self.loaded.function(name)?;
            let stream = pointer(queue.stream_number());
            self.check("cufftSetStream", set_stream(plan.handle, stream))?;
            if plan.work_bytes > 0 {
                self.check("cufftSetWorkArea", set_work(plan.handle, pointer(work)))?;
            }
            let address = pointer(fields);
            self.check(name, execute(plan.handle, address, address))
        }
    }

    fn check(&self, call: &str, status: Status) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        Err(Error::Device {
            what: format!(
                "{call} failed: {} ({})",
                status_name(status),
                self.loaded.path.display()
            ),
            remedy: "check that this cuFFT belongs to the driver's CUDA version, and that memory is left".into(),
        })
    }
}

/// The name of a cufftResult.
fn status_name(status: Status) -> String {
    let name = match status {
        1 => "CUFFT_INVALID_PLAN",
        2 => "CUFFT_ALLOC_FAILED",
        3 => "CUFFT_INVALID_TYPE",
        4 => "CUFFT_INVALID_VALUE",
        5 => "CUFFT_INTERNAL_ERROR",
        6 => "CUFFT_EXEC_FAILED",
        7 => "CUFFT_SETUP_FAILED",
        8 => "CUFFT_INVALID_SIZE",
        9 => "CUFFT_UNALIGNED_DATA",
        11 => "CUFFT_INVALID_DEVICE",
        13 => "CUFFT_NO_WORKSPACE",
        14 => "CUFFT_NOT_IMPLEMENTED",
        16 => "CUFFT_NOT_SUPPORTED",
        17 => "CUFFT_MISSING_DEPENDENCY",
        18 => "CUFFT_NVRTC_FAILURE",
        19 => "CUFFT_NVJITLINK_FAILURE",
        20 => "CUFFT_NVSHMEM_FAILURE",
        _ => return format!("cufftResult {status}"),
    };
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::PI;

    #[test]
    fn transforms_are_fourier_sums() {
        let queue = Queue::emulated();
        let fields = Fields {
            points: [4, 3, 6],
            n_fields: 2,
            precision: Precision::Double,
        };
        let [nx, ny, nz] = fields.points;
        let row = 2 * fields.half();
        let mut values = vec![f64::NAN; 2 * fields.stride()];
        for (place, value) in values.iter_mut().enumerate() {
            if place % row < nz {
                *value = (1.3 * place as f64).sin();
            }
        }
        let buffer = queue.upload(&values).unwrap();
        fields
            .transform(&queue, buffer.address(), Way::Forward)
            .unwrap();
        let spectrum: Vec<f64> = queue.download(buffer.address(), values.len()).unwrap();
        for (field, k) in [(0, [1, 2, 3]), (1, [3, 1, 1])] {
            let mut exact = Complex::new(0.0, 0.0);
            for x in 0..nx {
                for y in 0..ny {
                    for z in 0..nz {
                        let phase = (k[0] * x) as f64 / nx as f64
                            + (k[1] * y) as f64 / ny as f64
                            + (k[2] * z) as f64 / nz as f64;
                        let value = values[field * fields.stride() + (x * ny + y) * row + z];
                        exact += Complex::from_polar(value, -2.0 * PI * phase);
                    }
                }
            }
            let place = field * fields.stride() + (k[0] * ny + k[1]) * row + 2 * k[2];
            assert!((spectrum[place] - exact.re).abs() < 1e-13);
            assert!((spectrum[place + 1] - exact.im).abs() < 1e-13);
        }
        fields
            .transform(&queue, buffer.address(), Way::Backward)
            .unwrap();
        let back: Vec<f64> = queue.download(buffer.address(), values.len()).unwrap();
        let n = (nx * ny * nz) as f64;
        for (place, (&a, &b)) in values.iter().zip(&back).enumerate() {
            assert!(place % row >= nz || (a * n - b).abs() < 1e-12);
        }
    }
}
