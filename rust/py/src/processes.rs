//! Native work in processes that fork. A child has the memory of its parent and none of its other threads: a thread pool
//! of the parent never works there, and a lock that another thread held is never released.
//!
//! A fork therefore waits for the calls in progress, which leave no lock taken and no table half made, and a child
//! works in a pool of its own.

use electret_core::{Error, Result, cuda};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Calls in progress.
static CALLS: AtomicUsize = AtomicUsize::new(0);
/// Forks that wait for calls or are in progress.
static FORKS: AtomicUsize = AtomicUsize::new(0);
/// True in a forked child.
static FORKED: AtomicBool = AtomicBool::new(false);
/// The pool of a child, made at its first call.
static POOL: Mutex<Option<&'static ThreadPool>> = Mutex::new(None);

/// A call in progress.
struct Call;

impl Call {
    fn begin() -> Self {
        loop {
            CALLS.fetch_add(1, SeqCst);
            if FORKS.load(SeqCst) == 0 {
                return Self;
            }
            CALLS.fetch_sub(1, SeqCst);
            pause();
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        CALLS.fetch_sub(1, SeqCst);
    }
}

fn pause() {
    std::thread::sleep(Duration::from_micros(20));
}

/// Runs `f` in the thread pool of this process.
pub fn at_work<R: Send>(f: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    let _call = Call::begin();
    if FORKED.load(SeqCst) {
        pool()?.install(f)
    } else {
        f()
    }
}

/// The pool of a child, with as many threads as the parent's.
fn pool() -> Result<&'static ThreadPool> {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pool) = *pool {
        return Ok(pool);
    }
    let made = ThreadPoolBuilder::new()
        .build()
        .map_err(|error| Error::Unsupported {
            what: format!("no threads for a forked process ({error})"),
            remedy: "start fewer processes, or set RAYON_NUM_THREADS=1".into(),
        })?;
    Ok(pool.insert(Box::leak(Box::new(made))))
}

/// Waits, with the GIL, for calls in progress, which do not need it.
#[pyfunction]
fn before_fork() {
    FORKS.fetch_add(1, SeqCst);
    while CALLS.load(SeqCst) > 0 {
        pause();
    }
}

#[pyfunction]
fn after_fork_in_parent() {
    FORKS.fetch_sub(1, SeqCst);
}

#[pyfunction]
fn after_fork_in_child() {
    FORKED.store(true, SeqCst);
    *POOL.lock().unwrap_or_else(PoisonError::into_inner) = None;
    FORKS.store(0, SeqCst);
    cuda::after_fork();
}

/// Registers these functions to be called around every fork; Windows has no forks.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let os = py.import("os")?;
    if os.hasattr("register_at_fork")? {
        let hooks = PyDict::new(py);
        hooks.set_item("before", wrap_pyfunction!(before_fork, module)?)?;
        let parent = wrap_pyfunction!(after_fork_in_parent, module)?;
        hooks.set_item("after_in_parent", parent)?;
        let child = wrap_pyfunction!(after_fork_in_child, module)?;
        hooks.set_item("after_in_child", child)?;
        os.call_method("register_at_fork", (), Some(&hooks))?;
    }
    Ok(())
}
