//! NVIDIA's run-time compiler.

use super::library::{Loaded, Once, load, nvrtc_candidates};
use super::unit::Unit;
use crate::error::{Error, Result};
use std::ffi::{CStr, CString, c_char, c_int};
use std::path::Path;

type Program = *mut std::ffi::c_void;
type Status = c_int;

/// NVRTC's functions.
pub struct Nvrtc {
    loaded: &'static Loaded,
}

static LIBRARY: Once = Once::new();

impl Nvrtc {
    /// Finds the library.
    pub fn find() -> Result<Self> {
        let loaded =
            LIBRARY.get(|| load("NVRTC (libnvrtc)", "nvidia-cuda-nvrtc", nvrtc_candidates()))?;
        Ok(Self { loaded })
    }

    /// Path of the library.
    pub fn path(&self) -> &Path {
        &self.loaded.path
    }

    /// (major, minor).
    pub fn version(&self) -> Result<(i32, i32)> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the function's signature in NVRTC's documentation.
        let status = unsafe {
            let version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status =
                self.loaded.function("nvrtcVersion")?;
            version(&mut major, &mut minor)
        };
        self.check("nvrtcVersion", status)?;
        Ok((major, minor))
    }

    /// Architectures that it compiles for, as 80 for sm_80, ascending.
    pub fn architectures(&self) -> Result<Vec<i32>> {
        let mut n = 0;
        // SAFETY: the functions' signatures in NVRTC's documentation; the array has the length returned by the first.
        unsafe {
            let count: unsafe extern "C" fn(*mut c_int) -> Status =
                self.loaded.function("nvrtcGetNumSupportedArchs")?;
            self.check("nvrtcGetNumSupportedArchs", count(&mut n))?;
            let mut out = vec![0; n.max(0) as usize];
            let list: unsafe extern "C" fn(*mut c_int) -> Status =
                self.loaded.function("nvrtcGetSupportedArchs")?;
            self.check("nvrtcGetSupportedArchs", list(out.as_mut_ptr()))?;
            Ok(out)
        }
    }

    /// Compiles a module to machine code of one architecture (90 for sm_90).
    pub fn compile(&self, source: &Unit, architecture: i32) -> Result<Vec<u8>> {
        let getters = ["nvrtcGetCUBINSize", "nvrtcGetCUBIN"];
        self.make(source, &format!("sm_{architecture}"), getters)
    }

    /// Machine code or PTX of a module for a real ("sm_90") or virtual ("compute_90") architecture.
    fn make(&self, source: &Unit, architecture: &str, getters: [&str; 2]) -> Result<Vec<u8>> {
        let strings = |texts: &[&str]| -> Vec<CString> {
            let c = |text: &&str| CString::new(*text).expect("sources have no zero bytes");
            texts.iter().map(c).collect()
        };
        let unit = source.unit();
        let headers = source.headers();
        let names = strings(&headers.iter().map(|h| h.0).collect::<Vec<_>>());
        let texts = strings(&headers.iter().map(|h| h.1.as_ref()).collect::<Vec<_>>());
        let pointers = |strings: &[CString]| -> Vec<*const c_char> {
            strings.iter().map(|text| text.as_ptr()).collect()
        };
        let receiver = format!("--gpu-architecture={architecture}");
        let options = strings(&[
            &receiver,
            "--std=c++17",
            "--device-as-default-execution-space",
        ]);
        let (unit, name) = (strings(&[&unit]), strings(&[source.name]));
        // SAFETY: the functions' signatures in NVRTC's documentation; all strings outlive the calls.
        unsafe {
            #[allow(clippy::type_complexity)]
            let create: unsafe extern "C" fn(
                *mut Program,
                *const c_char,
                *const c_char,
                c_int,
                *const *const c_char,
                *const *const c_char,
            ) -> Status = self.loaded.function("nvrtcCreateProgram")?;
            let compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status =
                self.loaded.function("nvrtcCompileProgram")?;
            let destroy: unsafe extern "C" fn(*mut Program) -> Status =
                self.loaded.function("nvrtcDestroyProgram")?;
            let mut program: Program = std::ptr::null_mut();
            let status = create(
                &mut program,
                unit[0].as_ptr(),
                name[0].as_ptr(),
                names.len() as c_int,
                pointers(&texts).as_ptr(),
                pointers(&names).as_ptr(),
            );
            self.check("nvrtcCreateProgram", status)?;
            let status = compile(program, options.len() as c_int, pointers(&options).as_ptr());
            let out = if status == 0 {
                self.bytes(program, getters[0], getters[1])
            } else {
                let log = self.bytes(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog")?;
                Err(Error::Device {
                    what: format!(
                        "NVRTC could not compile {} for {architecture}:\n{}",
                        source.name,
                        String::from_utf8_lossy(&log)
                    ),
                    remedy: "report this at electret's issue tracker, with `electret info`".into(),
                })
            };
            destroy(&mut program);
            out
        }
    }

    /// Text from a pair of size and content functions.
    ///
    /// # Safety
    /// The names must be those of such a pair, and the program alive.
    unsafe fn bytes(&self, program: Program, size: &str, content: &str) -> Result<Vec<u8>> {
        // SAFETY: by contract.
        unsafe {
            let ask: unsafe extern "C" fn(Program, *mut usize) -> Status =
                self.loaded.function(size)?;
            let fill: unsafe extern "C" fn(Program, *mut c_char) -> Status =
                self.loaded.function(content)?;
            let mut n = 0;
            self.check(size, ask(program, &mut n))?;
            let mut out = vec![0u8; n];
            self.check(content, fill(program, out.as_mut_ptr().cast()))?;
            Ok(out)
        }
    }

    fn check(&self, call: &str, status: Status) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: the function's signature in NVRTC's documentation; it returns a constant string.
        let text = unsafe {
            let describe: unsafe extern "C" fn(Status) -> *const c_char =
                self.loaded.function("nvrtcGetErrorString")?;
            CStr::from_ptr(describe(status))
                .to_string_lossy()
                .into_owned()
        };
        Err(Error::Device {
            what: format!("{call} failed: {text} ({})", self.loaded.path.display()),
            remedy: "check that this NVRTC belongs to CUDA 12 or 13".into(),
        })
    }
}

#[cfg(test)]
pub(in crate::cuda) mod tests {
    use super::*;
    use crate::cuda::add_packages;

    /// NVRTC with the libraries of `ELECTRET_SITE_PACKAGES`, or none.
    pub fn find() -> Option<Nvrtc> {
        if let Some(path) = std::env::var_os("ELECTRET_SITE_PACKAGES") {
            add_packages([path.into()]);
        }
        let found = Nvrtc::find().ok();
        if found.is_none() {
            println!("skipped: no NVRTC found; set ELECTRET_SITE_PACKAGES");
        }
        found
    }

    /// A module's PTX for compute_90.
    pub fn ptx(nvrtc: &Nvrtc, source: &Unit) -> String {
        let text = nvrtc.make(source, "compute_90", ["nvrtcGetPTXSize", "nvrtcGetPTX"]);
        String::from_utf8(text.unwrap()).unwrap()
    }

    /// Checks that modules compile for sm_90, where there is an NVRTC: `ELECTRET_SITE_PACKAGES` names the folders of
    /// Python packages. With `ELECTRET_CUBINS` set to a folder, the code is written there.
    pub fn compile_all(sources: &[Unit]) {
        let Some(nvrtc) = find() else {
            return;
        };
        for source in sources {
            let code = nvrtc.compile(source, 90).unwrap();
            if let Some(folder) = std::env::var_os("ELECTRET_CUBINS") {
                let values: Vec<&str> = source.definitions.iter().map(|d| d.1.as_str()).collect();
                let file = format!("{}-{}.cubin", source.name, values.join("-"));
                std::fs::write(std::path::Path::new(&folder).join(file), code).unwrap();
            }
        }
    }
}
