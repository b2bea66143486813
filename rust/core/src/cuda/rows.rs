//! Arrays of the caller, packed into scalars in the order of systems, and back.

use super::driver::unit::Unit;
use super::{Address, Queue, ScalarKind, blocks};
use crate::error::Result;
use bytemuck::{Pod, Zeroable};

/// Rows of an array of the caller, as scalars in the order of systems.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Rows {
    /// Row of each place; 0 to keep the order.
    pub order: Address,
    /// Factor of each column; 0 for ones.
    pub factors: Address,
    n_rows: i32,
    n_columns: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct PackArguments {
    rows: Rows,
    values: Address,
    tangents: Address,
    out: Address,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct UnpackArguments {
    rows: Rows,
    values: Address,
    out: Address,
    tangents: i32,
    padding: i32,
}

const THREADS: u32 = 256;

fn unit(scalar: ScalarKind) -> Unit {
    Unit::new("rows.cu", include_str!("../../cuda/rows.cu"))
        .define("SCALAR", scalar.name())
        .mirror::<Rows>("Rows")
        .mirror::<PackArguments>("PackArguments")
        .mirror::<UnpackArguments>("UnpackArguments")
}

/// The modules of this file, for checks that they compile.
pub fn units() -> Vec<Unit> {
    [ScalarKind::Real, ScalarKind::Dual].map(unit).into()
}

impl Rows {
    /// Rows without factors.
    pub fn new(n_rows: usize, n_columns: usize, order: Address) -> Self {
        Self {
            order,
            factors: 0,
            n_rows: n_rows as i32,
            n_columns: n_columns as i32,
        }
    }

    pub fn n_entries(&self) -> usize {
        self.n_rows as usize * self.n_columns as usize
    }

    /// One thread for each entry.
    fn launch<A: Pod>(
        &self,
        queue: &Queue,
        scalar: ScalarKind,
        kernel: &'static str,
        arguments: &A,
    ) -> Result<()> {
        let kernel = queue.module(unit(scalar))?.kernel(kernel)?;
        let grid = [blocks(self.n_entries(), THREADS), 1, 1];
        queue.launch(&kernel, grid, THREADS, arguments)
    }
}

/// Values and tangents (either may be 0 for zeros) into `out`.
pub fn pack(
    queue: &Queue,
    scalar: ScalarKind,
    rows: Rows,
    values: Address,
    tangents: Address,
    out: Address,
) -> Result<()> {
    let arguments = PackArguments {
        rows,
        values,
        tangents,
        out,
    };
    rows.launch(queue, scalar, "pack", &arguments)
}

/// Values (or, for dual numbers, tangents) of scalars, written to an array of the caller.
pub fn unpack(
    queue: &Queue,
    scalar: ScalarKind,
    rows: Rows,
    values: Address,
    out: Address,
) -> Result<()> {
    let arguments = UnpackArguments {
        rows,
        values,
        out,
        tangents: i32::from(scalar == ScalarKind::Dual),
        padding: 0,
    };
    rows.launch(queue, scalar, "unpack", &arguments)
}
