//! Kernels compiled by the host's C++ compiler: every kernel runs in tests without a device.

use super::cache;
use super::source::Source;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// A kernel as `host.cuh` exports it: its arguments, grid, threads of a block.
pub type Function = unsafe extern "C" fn(*const u8, *const u32, u32);

/// A module compiled for the host.
pub struct Library {
    library: libloading::Library,
    name: &'static str,
    /// The emulation's threads are one set of fibers.
    running: Mutex<()>,
}

fn compiler() -> String {
    std::env::var("CXX")
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "c++".into())
}

const OPTIONS: [&str; 8] = [
    "-std=c++17",
    "-O1",
    "-shared",
    "-fPIC",
    "-fno-math-errno",
    "-w",
    // Or variables of inline functions would be shared by all modules, which run at the same time.
    "-fvisibility=hidden",
    "-DELECTRET_HOST",
];

fn error(what: String) -> Error {
    Error::Device {
        what,
        remedy: "the emulated device is for tests and needs a C++ compiler: install g++ or set CXX"
            .into(),
    }
}

impl Library {
    /// Compiles a module, or takes it from the cache.
    pub fn new(source: &Source) -> Result<Self> {
        let compiler = compiler();
        let key = source.key(&format!("{compiler} {OPTIONS:?}"));
        let folder = cache::directory()
            .unwrap_or_else(std::env::temp_dir)
            .join("emulation");
        let path = folder.join(format!("{key}.so"));
        if !path.exists() {
            build(
                &compiler,
                source,
                &folder.join(format!("{key}.{}", std::process::id())),
                &path,
            )
            .map_err(|what| {
                error(format!(
                    "cannot compile {} for the host: {what}",
                    source.name
                ))
            })?;
        }
        // SAFETY: the library was compiled from the project's own kernels and has no initialisers.
        let library = unsafe { libloading::Library::new(&path) };
        let library =
            library.map_err(|cause| error(format!("cannot load {}: {cause}", path.display())))?;
        Ok(Self {
            library,
            name: source.name,
            running: Mutex::new(()),
        })
    }

    pub fn function(&self, name: &str) -> Result<Function> {
        // SAFETY: `host.cuh` exports kernels with this signature.
        let symbol = unsafe { self.library.get::<Function>(name.as_bytes()) };
        match symbol {
            Ok(symbol) => Ok(*symbol),
            Err(cause) => Err(error(format!(
                "{} has no kernel {name}: {cause}",
                self.name
            ))),
        }
    }

    /// Runs a kernel to its end.
    pub fn run(&self, function: Function, arguments: &[u8], grid: [u32; 3], threads: u32) {
        let _running = self
            .running
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        // SAFETY: the function is one of this library's kernels, and runs alone.
        unsafe { function(arguments.as_ptr(), grid.as_ptr(), threads) }
    }
}

/// Compiles in a folder of its own, so that other processes see the whole library or none.
fn build(
    compiler: &str,
    source: &Source,
    folder: &Path,
    path: &PathBuf,
) -> std::result::Result<(), String> {
    let text = |cause: std::io::Error| cause.to_string();
    std::fs::create_dir_all(folder).map_err(text)?;
    for (name, content) in source.headers() {
        std::fs::write(folder.join(name), content.as_ref()).map_err(text)?;
    }
    let unit = folder.join("unit.cpp");
    std::fs::write(&unit, source.unit()).map_err(text)?;
    let library = folder.join("library.so");
    let output = Command::new(compiler)
        .args(OPTIONS)
        .arg("-I")
        .arg(folder)
        .arg(&unit)
        .arg("-o")
        .arg(&library)
        .output()
        .map_err(|cause| format!("{compiler}: {cause}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    std::fs::rename(&library, path).map_err(text)?;
    let _ = std::fs::remove_dir_all(folder);
    Ok(())
}
