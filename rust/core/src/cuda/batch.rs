//! Arrays of a batch as the kernels take them: structures of the same layout as in `cuda/batch.cuh`.

use super::driver::unit::Unit;
use super::{Buffer, Queue};
use crate::error::{Error, Result};
use bytemuck::{Pod, Zeroable};

/// The scalar that a module is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScalarKind {
    Real,
    Dual,
}

impl ScalarKind {
    /// The type in CUDA.
    pub fn name(self) -> &'static str {
        match self {
            Self::Real => "double",
            Self::Dual => "Dual",
        }
    }

    /// Bytes of one scalar.
    pub fn size(self) -> usize {
        match self {
            Self::Real => 8,
            Self::Dual => 16,
        }
    }

    /// Real numbers in one scalar.
    pub fn parts(self) -> usize {
        self.size() / 8
    }
}

/// Precision of long sums over pairs, k-vectors and mesh points. Positions, cells, results and all quantities computed
/// once per atom or system are always double.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    #[default]
    Double,
    Single,
}

impl Precision {
    /// Bytes of a real number.
    pub fn size(self) -> usize {
        match self {
            Self::Double => 8,
            Self::Single => 4,
        }
    }

    /// A table of real numbers in this precision.
    pub fn table(self, queue: &Queue, values: &[f64]) -> Result<Buffer> {
        match self {
            Self::Double => queue.table(values),
            Self::Single => {
                let rounded: Vec<f32> = values.iter().map(|&value| value as f32).collect();
                queue.table(&rounded)
            }
        }
    }
}

impl std::str::FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "float64" => Ok(Self::Double),
            "float32" => Ok(Self::Single),
            _ => Err(Error::Unsupported {
                what: format!("precision {name:?} is unknown"),
                remedy: "use \"float64\" or \"float32\"".into(),
            }),
        }
    }
}

/// The scalars of a module that sums: of the batch's arrays, and the precision of the sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scalars {
    pub kind: ScalarKind,
    pub precision: Precision,
}

impl Scalars {
    /// Scalars of sums in double precision.
    pub fn double(kind: ScalarKind) -> Self {
        Self {
            kind,
            precision: Precision::Double,
        }
    }

    pub fn is_single(self) -> bool {
        self.precision == Precision::Single
    }

    /// Every combination, for checks that modules compile.
    pub fn all() -> impl Iterator<Item = Self> {
        let kinds = [ScalarKind::Real, ScalarKind::Dual].into_iter();
        kinds.flat_map(|kind| {
            [Precision::Double, Precision::Single].map(|precision| Self { kind, precision })
        })
    }

    /// Bytes of one scalar of the sums.
    pub fn size(self) -> usize {
        self.kind.parts() * self.precision.size()
    }

    /// Defines the scalars of a module.
    pub fn define(self, source: Unit) -> Unit {
        let source = source.define("SCALAR", self.kind.name());
        match (self.precision, self.kind) {
            (Precision::Double, _) => source,
            (Precision::Single, ScalarKind::Real) => source.define("WORK", "Single"),
            (Precision::Single, ScalarKind::Dual) => source.define("WORK", "SingleDual"),
        }
    }
}

/// Addresses of device memory are plain numbers.
pub type Address = u64;

/// Sources or receivers of a batch, sorted by system.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Side {
    pub positions: Address,
    pub coefficients: Address,
    /// Coefficients in the precision of long sums.
    pub rounded: Address,
    pub potentials: Address,
    pub gradients: Address,
    pub widths: Address,
    pub system: Address,
    pub first: Address,
    pub n_sites: i32,
    pub n_channels: i32,
}

/// Derivatives in the cells.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct CellGradients {
    pub cell: Address,
    pub reciprocal: Address,
    pub volume: Address,
}

/// Some sites of one system.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Tile {
    pub system: i32,
    pub first: i32,
    pub count: i32,
}

/// Splits the sites of the systems `wanted`, whose first sites are `first`, into tiles of at most `size`.
pub fn tiles(first: &[usize], wanted: impl Fn(usize) -> bool, size: usize) -> Vec<Tile> {
    let mut out = Vec::new();
    for system in (0..first.len().saturating_sub(1)).filter(|&system| wanted(system)) {
        for start in (first[system]..first[system + 1]).step_by(size) {
            out.push(Tile {
                system: system as i32,
                first: start as i32,
                count: size.min(first[system + 1] - start) as i32,
            });
        }
    }
    out
}
