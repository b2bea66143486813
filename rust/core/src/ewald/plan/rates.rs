//! Measured rates of operations on a CPU and a GPU.
//!
//! Only ratios of the rates matter. Those of the CPU were fitted to `benches/targets.py --only auto`, those of the GPU
//! to the kernels' times in `benches/gpu.py`.

/// Durations of operations on one kind of machine, ns.
#[derive(Debug)]
pub struct Rates {
    /// Per k-vector, site and polynomial degree that is summed.
    pub(super) phase: f64,
    /// Per k-vector, with the kernel of open, wire, slab and bulk systems: Bessel functions, exponentials, a quotient.
    pub(super) mode: [f64; 4],
    /// Per pair of charges, of charges and dipoles, and per product of higher multipoles.
    pub(super) pair: [f64; 2],
    pub(super) product: f64,
    /// Per pair and direction of a neighbour list, on top: finding it and its short rows.
    pub(super) listed: f64,
    /// Per mesh point and transform, for each factor two in their number.
    pub(super) butterfly: f64,
    /// Per mesh point, for the influence function.
    pub(super) point: f64,
    /// Per site, row of eight mesh points along z, and derivative.
    pub(super) row: f64,
    /// Per site and spline: weights, coefficients, scattered results.
    pub(super) site: f64,
    /// Overhead of the tasks of one evaluation: all pairs, k-vectors, a list of neighbours, a mesh.
    pub(super) direct_tasks: f64,
    pub(super) sum_tasks: f64,
    pub(super) real_tasks: f64,
    pub mesh_tasks: f64,
}

/// One core of an AMD EPYC with AVX-512.
pub const CPU: Rates = Rates {
    phase: 0.25,
    mode: [40.0, 400.0, 40.0, 15.0],
    pair: [6.5, 8.5],
    product: 1.8,
    listed: 25.0,
    butterfly: 0.3,
    point: 6.0,
    row: 1.0,
    site: 400.0,
    direct_tasks: 0.0,
    sum_tasks: 0.0,
    real_tasks: 0.0,
    mesh_tasks: 30_000.0,
};

/// An NVIDIA H200 at work on many atoms; launches cost microseconds.
pub const GPU: Rates = Rates {
    phase: 0.0037,
    mode: [0.05, 0.5, 0.05, 0.02],
    pair: [0.02, 0.03],
    product: 0.006,
    listed: 0.14,
    butterfly: 0.0009,
    point: 0.015,
    row: 0.006,
    site: 1.0,
    direct_tasks: 5_000.0,
    sum_tasks: 15_000.0,
    real_tasks: 50_000.0,
    mesh_tasks: 80_000.0,
};
