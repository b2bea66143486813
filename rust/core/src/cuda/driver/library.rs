//! Finding NVIDIA's libraries: next to PyTorch's own first, then the system's.

use crate::error::{Error, Result};
use libloading::Library;
use std::path::{Path, PathBuf};
use std::sync::{OnceLock, RwLock};

/// Folders of Python packages with libraries (`site-packages`), set by the binding.
static PACKAGES: RwLock<Vec<PathBuf>> = RwLock::new(Vec::new());

/// Sets the folders of Python packages, for the libraries in them.
pub fn add_packages(folders: impl IntoIterator<Item = PathBuf>) {
    let mut packages = PACKAGES
        .write()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    for folder in folders {
        if !packages.contains(&folder) {
            packages.push(folder);
        }
    }
}

/// Files in `folder` whose names begin with `stem` and hold `.so`, the highest version first.
fn versions(folder: &Path, stem: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut out: Vec<(Vec<u32>, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let rest = name.strip_prefix(stem)?.strip_prefix(".so")?;
            let numbers = rest.split('.').filter_map(|part| part.parse().ok());
            Some((numbers.collect(), entry.path()))
        })
        .collect();
    out.sort_by(|a, b| b.cmp(a));
    out.into_iter().map(|(_, path)| path).collect()
}

/// Every place where a library may be, in the order of trying.
fn candidates(stem: &str, sonames: &[&str]) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let packages = PACKAGES
        .read()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    for site in packages.iter() {
        out.extend(versions(&site.join("torch").join("lib"), stem));
        let Ok(entries) = std::fs::read_dir(site.join("nvidia")) else {
            continue;
        };
        let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        folders.sort();
        for folder in folders.into_iter().rev() {
            out.extend(versions(&folder.join("lib"), stem));
        }
    }
    for variable in ["CUDA_HOME", "CUDA_PATH"] {
        if let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) {
            for lib in ["lib64", "lib"] {
                out.extend(versions(&Path::new(&path).join(lib), stem));
            }
        }
    }
    // The system's loader: LD_LIBRARY_PATH, ld.so.cache.
    out.extend(sonames.iter().map(PathBuf::from));
    for lib in ["lib64", "receivers/x86_64-linux/lib"] {
        out.extend(versions(&Path::new("/usr/local/cuda").join(lib), stem));
    }
    out
}

/// Candidate paths of NVRTC.
pub fn nvrtc_candidates() -> Vec<PathBuf> {
    candidates(
        "libnvrtc",
        &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"],
    )
}

/// Candidate paths of cuFFT.
pub fn cufft_candidates() -> Vec<PathBuf> {
    candidates(
        "libcufft",
        &["libcufft.so.12", "libcufft.so.11", "libcufft.so"],
    )
}

/// A loaded library and where it was found.
pub struct Loaded {
    pub library: Library,
    pub path: PathBuf,
}

/// Loads the first candidate that loads; the error lists every place that was tried.
pub fn load(what: &str, package: &str, places: Vec<PathBuf>) -> Result<Loaded> {
    let mut tried = String::new();
    for path in places {
        // SAFETY: loading NVIDIA's libraries runs their initialisers only.
        match unsafe { Library::new(&path) } {
            Ok(library) => return Ok(Loaded { library, path }),
            Err(error) => tried.push_str(&format!("\n  {}: {error}", path.display())),
        }
    }
    Err(Error::Device {
        what: format!("{what} was not found; tried:{tried}\n"),
        remedy: format!(
            "install it with `pip install {package}` or set CUDA_HOME to a CUDA toolkit"
        ),
    })
}

/// A library loaded once, or the error of loading it, returned at every call.
pub struct Once(OnceLock<std::result::Result<Loaded, Error>>);

impl Once {
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    pub fn get(&self, load: impl FnOnce() -> Result<Loaded>) -> Result<&Loaded> {
        self.0.get_or_init(load).as_ref().map_err(Clone::clone)
    }
}

impl Loaded {
    /// A function of the library.
    ///
    /// # Safety
    /// `F` must be the function's type.
    pub unsafe fn function<F: Copy>(&self, name: &str) -> Result<F> {
        // SAFETY: by contract.
        match unsafe { self.library.get::<F>(name.as_bytes()) } {
            Ok(symbol) => Ok(*symbol),
            Err(error) => Err(Error::Device {
                what: format!("{} has no {name}: {error}", self.path.display()),
                remedy: "install a CUDA 12 or 13 version of it".into(),
            }),
        }
    }
}
