//! The emulated device: kernels compiled by the host's C++ compiler, run in tests without a GPU.
//!
//! In builds with the feature `emulation` only.

pub(super) mod memory;

use super::cache;
use super::unit::Unit;
use crate::error::{Error, Result};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// A kernel as `host.cuh` exports it: its arguments, grid, threads of a block, order of blocks and threads.
pub type Function = unsafe extern "C" fn(*const u8, *const u32, u32, u32);

/// Order in which the emulated device runs the blocks of a kernel, the warps of a block and the threads of a warp. A
/// device guarantees none, so results must not depend on it; they do if a barrier is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Forward,
    Backward,
    /// One of many permutations, by its seed.
    Shuffled(u16),
}

impl Order {
    /// Number of the order in `host.cuh`.
    fn code(self) -> u32 {
        match self {
            Self::Forward => 0,
            Self::Backward => 1,
            Self::Shuffled(seed) => 2 + u32::from(seed),
        }
    }

    /// Parses forward, backward, or the seed of a permutation.
    fn parse(text: &str) -> Result<Self> {
        match text {
            "" | "forward" => Ok(Self::Forward),
            "backward" => Ok(Self::Backward),
            seed => seed.parse().map(Self::Shuffled).map_err(|_| Error::Device {
                what: format!("{VARIABLE} is {text:?}"),
                remedy: "give forward, backward or the seed of a permutation, 0 to 65535".into(),
            }),
        }
    }
}

const VARIABLE: &str = "ELECTRET_EMULATED_ORDER";

thread_local! {
    static ORDER: Cell<Option<Order>> = const { Cell::new(None) };
}

/// Runs `work` with the kernels of the emulated device in this order; the order is otherwise that of
/// `ELECTRET_EMULATED_ORDER` (forward, backward, or the seed of a permutation), forward without it.
pub fn in_order<R>(order: Order, work: impl FnOnce() -> R) -> R {
    let before = ORDER.replace(Some(order));
    let result = work();
    ORDER.set(before);
    result
}

/// Runs `work` in several orders; `work` checks its results.
#[cfg(test)]
pub fn in_every_order(check: impl Fn()) {
    for order in [Order::Forward, Order::Backward, Order::Shuffled(5)] {
        in_order(order, || {
            // Printed where a check fails.
            eprintln!("order of blocks and threads: {order:?}");
            check();
        });
    }
}

fn order() -> Result<Order> {
    match ORDER.get() {
        Some(order) => Ok(order),
        None => Order::parse(&std::env::var(VARIABLE).unwrap_or_default()),
    }
}

/// Succeeds: this build has the emulated device.
///
/// # Errors
/// None here.
pub fn check() -> Result<()> {
    Ok(())
}

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
    // Without this flag modules, which run at the same time, would share the variables of inline functions.
    "-fvisibility=hidden",
    "-DELECTRET_HOST",
];

/// Flags that give variables invalid initial values and stop the program at indices beyond an array, so that tests fail
/// on both. Older compilers lack them (GCC before 12).
const CHECKS: [&str; 3] = [
    "-ftrivial-auto-var-init=pattern",
    "-fsanitize=bounds",
    "-fsanitize-undefined-trap-on-error",
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
    pub fn new(source: &Unit) -> Result<Self> {
        let compiler = compiler();
        let key = source.key(&format!("{compiler} {OPTIONS:?} {CHECKS:?}"));
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
    ///
    /// # Errors
    /// The environment names an unknown order.
    pub fn run(
        &self,
        function: Function,
        arguments: &[u8],
        grid: [u32; 3],
        threads: u32,
    ) -> Result<()> {
        let order = order()?.code();
        let _running = self
            .running
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        // SAFETY: the function is one of this library's kernels, and runs alone.
        unsafe { function(arguments.as_ptr(), grid.as_ptr(), threads, order) }
        Ok(())
    }
}

/// Compiles in a separate folder, so that other processes find the whole library or none.
fn build(
    compiler: &str,
    source: &Unit,
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
    let compiled = |checks: &[&str]| {
        let output = Command::new(compiler)
            .args(OPTIONS)
            .args(checks)
            .arg("-I")
            .arg(folder)
            .arg(&unit)
            .arg("-o")
            .arg(&library)
            .output()
            .map_err(|cause| format!("{compiler}: {cause}"))?;
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    };
    compiled(&CHECKS).or_else(|_| compiled(&[]))?;
    std::fs::rename(&library, path).map_err(text)?;
    let _ = std::fs::remove_dir_all(folder);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Kernel, Queue};
    use super::*;
    use bytemuck::{Pod, Zeroable};

    /// Every thread reads the value that another thread has written to shared memory, after a barrier or without one; a
    /// block adds to the result of the blocks before it.
    const CODE: &str = r#"
#include "host.cuh"
struct Arguments {
    double *out;
    double *total;
    int apart;
    int barrier;
};
KERNEL(take, Arguments) {
    SHARED double given[128];
    int thread = threadIdx.x;
    if (blockIdx.x == 1) args.total[0] *= 2;
    if (thread == 0 && blockIdx.x == 0) args.total[0] += 1;
    double before = given[thread];
    __syncthreads();
    given[thread] = thread;
    if (args.barrier == 1) WARP_BARRIER();
    if (args.barrier == 2) __syncthreads();
    if (blockIdx.x == 0) args.out[thread] = args.barrier < 0 ? before : given[thread ^ args.apart];
    __syncthreads();
}
"#;

    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Arguments {
        out: u64,
        total: u64,
        apart: i32,
        barrier: i32,
    }

    const ORDERS: [Order; 3] = [Order::Forward, Order::Backward, Order::Shuffled(11)];

    /// Values taken by the threads of the first block, and the total, in one order.
    fn taken(order: Order, threads: u32, apart: i32, barrier: i32) -> (Vec<f64>, f64) {
        let queue = Queue::emulated();
        let module = queue.device().module(Unit::new("take.cu", CODE)).unwrap();
        let kernel: Kernel = module.kernel("take").unwrap();
        let out = queue.upload(&vec![f64::NAN; threads as usize]).unwrap();
        let total = queue.upload(&[0.0]).unwrap();
        let arguments = Arguments {
            out: out.address(),
            total: total.address(),
            apart,
            barrier,
        };
        in_order(order, || {
            queue.launch(&kernel, [3, 1, 1], threads, &arguments)
        })
        .unwrap();
        let found = queue.download(out.address(), threads as usize).unwrap();
        (found, queue.download::<f64>(total.address(), 1).unwrap()[0])
    }

    #[test]
    fn barriers_join_their_threads_in_every_order() {
        for threads in [32, 128] {
            let exact: Vec<f64> = (0..threads).map(|t| f64::from(t ^ 5)).collect();
            for order in ORDERS {
                assert_eq!(taken(order, threads, 5, 1).0, exact, "{order:?}");
                assert_eq!(taken(order, threads, 5, 2).0, exact, "{order:?}");
                let across: Vec<f64> = (0..threads).map(|t| f64::from(t ^ 16)).collect();
                assert_eq!(taken(order, threads, 16, 1).0, across, "{order:?}");
            }
        }
        // A block whose last warp is incomplete.
        let exact: Vec<f64> = (0..72).map(|t| f64::from(t ^ 1)).collect();
        for order in ORDERS {
            assert_eq!(taken(order, 72, 1, 1).0, exact, "{order:?}");
        }
    }

    #[test]
    fn orders_show_barriers_that_are_missing_or_too_weak() {
        for (apart, barrier) in [(1, 0), (32, 0), (32, 1)] {
            let found = ORDERS.map(|order| taken(order, 128, apart, barrier).0);
            assert_ne!(found[0], found[1], "{apart} {barrier}");
            assert_ne!(found[0], found[2], "{apart} {barrier}");
        }
        let across: Vec<f64> = (0..128).map(|t| f64::from(t ^ 32)).collect();
        for order in ORDERS {
            assert_eq!(taken(order, 128, 32, 2).0, across);
        }
    }

    #[test]
    fn orders_show_what_depends_on_the_order_of_blocks() {
        // Every thread of the second block doubles the result of the first.
        assert_eq!(taken(Order::Forward, 32, 1, 2).1, 2f64.powi(32));
        assert_eq!(taken(Order::Backward, 32, 1, 2).1, 1.0);
    }

    // Formats of libraries other than ELF have no names for the ends of shared memory.
    #[cfg(target_os = "linux")]
    #[test]
    fn shared_memory_is_not_a_number_when_a_block_begins() {
        for order in ORDERS {
            let found = taken(order, 64, 0, -1).0;
            assert!(found.iter().all(|x| x.is_nan()), "{order:?}: {found:?}");
        }
    }

    #[test]
    fn shuffled_orders_reach_every_block_once() {
        for seed in [0, 1, 2, 40_000, u16::MAX] {
            for threads in [1, 2, 3, 31, 33, 128] {
                let (mut found, _) = taken(Order::Shuffled(seed), threads, 0, 2);
                found.sort_by(f64::total_cmp);
                let all: Vec<f64> = (0..threads).map(f64::from).collect();
                assert_eq!(found, all, "{seed}");
            }
        }
    }

    #[test]
    fn orders_are_read_from_the_environment() {
        assert_eq!(Order::parse("").unwrap(), Order::Forward);
        assert_eq!(Order::parse("backward").unwrap(), Order::Backward);
        assert_eq!(Order::parse("12").unwrap(), Order::Shuffled(12));
        for wrong in ["reverse", "-1", "70000"] {
            let text = Order::parse(wrong).unwrap_err().to_string();
            assert!(text.contains(VARIABLE) && text.contains(wrong), "{text}");
        }
    }
}
