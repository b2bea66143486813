//! The lattices of a batch on the device, and derivatives back to the cells.

use super::driver::unit::Unit;
use super::terms::Batch;
use super::{Address, Buffer, CellGradients, Queue, ScalarKind, blocks};
use crate::error::Result;
use crate::ewald::plan::Plan;
use bytemuck::{Pod, Zeroable};

/// Plan of a system's lattice: axes and length along open ones.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct LatticePlan {
    open_length: f64,
    pbc: [i32; 3],
    padding: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct FillArguments {
    cells: Address,
    tangents: Address,
    plans: Address,
    out: Address,
    n_systems: i32,
    padding: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct PullBackArguments {
    lattices: Address,
    gradients: CellGradients,
    out: Address,
    n_systems: i32,
    padding: i32,
}

/// Systems of one block.
const THREADS: u32 = 64;

/// Makes `Lattice[system]` of `batch.cuh`.
pub struct Lattices {
    plans: Buffer,
    n_systems: usize,
}

impl Lattices {
    pub fn new(queue: &Queue, batch: &Batch) -> Result<Self> {
        let plans: Vec<LatticePlan> = batch
            .systems
            .iter()
            .map(|system| LatticePlan {
                open_length: match system.plan {
                    Plan::Direct => 1.0,
                    Plan::Split(split) => split.open_length,
                },
                pbc: system.summed.map(i32::from),
                padding: 0,
            })
            .collect();
        Ok(Self {
            n_systems: plans.len(),
            plans: queue.table(&plans)?,
        })
    }

    /// The modules of this file, for checks that they compile.
    pub fn units() -> Vec<Unit> {
        [ScalarKind::Real, ScalarKind::Dual].map(Self::unit).into()
    }

    /// Bytes of one `Lattice`: vectors, reciprocal vectors and volume, the open length, axes and padding.
    pub fn size(scalar: ScalarKind) -> usize {
        19 * scalar.size() + 24
    }

    fn unit(scalar: ScalarKind) -> Unit {
        Unit::new("lattices.cu", include_str!("../../cuda/lattices.cu"))
            .define("SCALAR", scalar.name())
            .mirror::<LatticePlan>("LatticePlan")
            .mirror::<FillArguments>("FillArguments")
            .mirror::<PullBackArguments>("PullBackArguments")
            .size("Lattice", Self::size(scalar))
    }

    /// Writes `out`, `Lattice[system]`, from cells and their tangents, both `[system][3][3]` of real numbers. The
    /// tangents may be at address 0 for none, and are not read for real scalars.
    pub fn fill(
        &self,
        queue: &Queue,
        scalar: ScalarKind,
        cells: Address,
        tangents: Address,
        out: Address,
    ) -> Result<()> {
        let kernel = queue.module(Self::unit(scalar))?.kernel("fill_lattices")?;
        let arguments = FillArguments {
            cells,
            tangents,
            plans: self.plans.address(),
            out,
            n_systems: self.n_systems as i32,
            padding: 0,
        };
        let grid = [blocks(self.n_systems, THREADS), 1, 1];
        queue.launch(&kernel, grid, THREADS, &arguments)
    }

    /// Writes `out`, dU/d(cell vectors) `[system][3][3]`, from the derivatives that the terms have collected.
    pub fn pull_back(
        &self,
        queue: &Queue,
        scalar: ScalarKind,
        lattices: Address,
        gradients: CellGradients,
        out: Address,
    ) -> Result<()> {
        let kernel = queue.module(Self::unit(scalar))?.kernel("pull_back")?;
        let arguments = PullBackArguments {
            lattices,
            gradients,
            out,
            n_systems: self.n_systems as i32,
            padding: 0,
        };
        let grid = [blocks(self.n_systems, THREADS), 1, 1];
        queue.launch(&kernel, grid, THREADS, &arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::vector::{Matrix, add_scaled};
    use crate::arithmetic::{Dual, Scalar};
    use crate::cuda::Precision;
    use crate::cuda::terms::{Layout, SystemPlan};
    use crate::ewald::plan::Split;
    use crate::lattice::Lattice;

    fn batch() -> Batch {
        let cells = [
            [[4.0, 0.3, -0.5], [0.7, 5.0, 0.2], [-0.4, 0.6, -6.0]],
            [[0.2, 3.9, 0.4], [0.1, -0.6, 5.0], [6.0, 0.5, 0.3]],
        ];
        let systems = (0..16).map(|k| {
            let split = Split {
                floor: 0.0,
                exponent: 30.0,
                cutoff: 0.0,
                open_length: 9.0 + k as f64,
                mesh: None,
            };
            SystemPlan {
                plan: Plan::Split(split),
                summed: [k & 1 > 0, k & 2 > 0, k & 4 > 0],
                cell: cells[k / 8],
            }
        });
        let layout = Layout {
            first: vec![0; 17],
            widths: Vec::new(),
            n_channels: 1,
            max_l: 0,
        };
        Batch {
            systems: systems.collect(),
            source: layout,
            receiver: None,
            same_sites: true,
            precision: Precision::Double,
        }
    }

    fn tangent(system: usize, i: usize, j: usize) -> f64 {
        ((7 * system + 3 * i + j) as f64).sin()
    }

    fn scalars<T: Scalar>(flat: &[f64]) -> Vec<T> {
        flat.chunks(T::PARTS)
            .map(|parts| T::from_parts(|part| parts[part]))
            .collect()
    }

    fn close<T: Scalar>(found: T, exact: T, what: &str) {
        for part in 0..T::PARTS {
            let (found, exact) = (found.part(part), exact.part(part));
            assert!(
                (found - exact).abs() < 1e-12 * (1.0 + exact.abs()),
                "{what}, part {part}: {found} against {exact}"
            );
        }
    }

    fn check<T: Scalar>(kind: ScalarKind) {
        let (queue, batch) = (Queue::emulated(), batch());
        let n = batch.systems.len();
        let lattices = Lattices::new(&queue, &batch).unwrap();
        let flat = |f: &dyn Fn(usize, usize, usize) -> f64| -> Vec<f64> {
            (0..9 * n).map(|k| f(k / 9, k / 3 % 3, k % 3)).collect()
        };
        // Rows along open axes are never read.
        let cell = |s: usize, i: usize, j: usize| match batch.systems[s].summed[i] {
            true => batch.systems[s].cell[i][j],
            false => f64::NAN,
        };
        let cells = queue.upload(&flat(&cell)).unwrap();
        let tangents = queue.upload(&flat(&tangent)).unwrap();
        let bytes = Lattices::size(kind);
        let out = queue.allocate(n * bytes).unwrap();
        let (cells, tangents) = (cells.address(), tangents.address());
        lattices
            .fill(&queue, kind, cells, tangents, out.address())
            .unwrap();
        let raw: Vec<f64> = queue.download(out.address(), n * bytes / 8).unwrap();

        let reciprocal = |s: usize, i: usize, j: usize| ((s + 5 * i + 11 * j) as f64).cos();
        let random =
            |f: &dyn Fn(usize) -> f64, n: usize| -> Vec<f64> { (0..n * T::PARTS).map(f).collect() };
        let d_reciprocal = random(&|k| reciprocal(k, 1, 0), 9 * n);
        let d_volume = random(&|k| reciprocal(0, k, 1), n);
        let d_cell = random(&|k| reciprocal(k, 0, k), 9 * n);
        let upload = |values: &[f64]| queue.upload(values).unwrap();
        let (a, b, c) = (upload(&d_cell), upload(&d_reciprocal), upload(&d_volume));
        let gradients = CellGradients {
            cell: a.address(),
            reciprocal: b.address(),
            volume: c.address(),
        };
        let pulled = queue.allocate(9 * n * kind.size()).unwrap();
        lattices
            .pull_back(&queue, kind, out.address(), gradients, pulled.address())
            .unwrap();
        let pulled: Vec<f64> = queue.download(pulled.address(), 9 * n * T::PARTS).unwrap();
        let pulled: Vec<T> = scalars(&pulled);

        for (s, system) in batch.systems.iter().enumerate() {
            let cell: Matrix<T> = std::array::from_fn(|i| {
                std::array::from_fn(|j| {
                    T::from_parts(|part| match part {
                        0 => system.cell[i][j],
                        _ => tangent(s, i, j),
                    })
                })
            });
            let exact = Lattice::new(&cell, system.summed, 9.0 + s as f64);
            let found = &raw[s * bytes / 8..];
            let numbers: Vec<T> = scalars(&found[..19 * T::PARTS]);
            for k in 0..9 {
                let what = format!("system {s}, entry {k}");
                close(numbers[k], exact.vectors[k / 3][k % 3], &what);
                close(numbers[9 + k], exact.reciprocal[k / 3][k % 3], &what);
            }
            close(numbers[18], exact.volume, "volume");
            assert_eq!(found[19 * T::PARTS], exact.open_length);
            let matrix = |flat: &[f64]| -> Matrix<T> {
                let of_system = &scalars::<T>(flat)[9 * s..];
                std::array::from_fn(|i| std::array::from_fn(|j| of_system[3 * i + j]))
            };
            let volume = scalars::<T>(&d_volume)[s];
            let mut expected = exact.pull_back(&matrix(&d_reciprocal), volume);
            for (row, direct) in expected.iter_mut().zip(matrix(&d_cell)) {
                add_scaled(row, &direct, T::constant(1.0));
            }
            for k in 0..9 {
                let what = format!("system {s}, derivative {k}");
                close(pulled[9 * s + k], expected[k / 3][k % 3], &what);
            }
        }
    }

    #[test]
    fn as_on_the_cpu_for_every_boundary() {
        check::<f64>(ScalarKind::Real);
        check::<Dual>(ScalarKind::Dual);
    }

    #[test]
    fn compiles_for_devices() {
        let units = [ScalarKind::Real, ScalarKind::Dual].map(Lattices::unit);
        crate::cuda::driver::nvrtc::tests::compile_all(&units);
    }
}
