//! Arrays of the caller, packed into scalars in the order of systems, and back.

use super::driver::unit::Unit;
use super::{Address, Queue, ScalarKind, blocks};
use crate::error::Result;
use bytemuck::{Pod, Zeroable};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct PackArguments {
    values: Address,
    tangents: Address,
    order: Address,
    factors: Address,
    out: Address,
    n_rows: i32,
    n_columns: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct UnpackArguments {
    values: Address,
    order: Address,
    factors: Address,
    out: Address,
    n_rows: i32,
    n_columns: i32,
    tangents: i32,
    padding: i32,
}

const THREADS: u32 = 256;

fn unit(scalar: ScalarKind) -> Unit {
    Unit::new("rows.cu", include_str!("../../cuda/rows.cu"))
        .define("SCALAR", scalar.name())
        .mirror::<PackArguments>("PackArguments")
        .mirror::<UnpackArguments>("UnpackArguments")
}

/// The modules of this file, for checks that they compile.
pub fn units() -> Vec<Unit> {
    [ScalarKind::Real, ScalarKind::Dual].map(unit).into()
}

/// Rows of an array of the caller, as scalars in the order of systems.
#[derive(Clone, Copy)]
pub struct Rows {
    pub n_rows: usize,
    pub n_columns: usize,
    /// Row of each place; 0 to keep the order.
    pub order: Address,
    /// Factor of each column; 0 for ones.
    pub factors: Address,
}

impl Rows {
    /// One thread for each entry.
    fn grid(&self) -> [u32; 3] {
        [blocks(self.n_rows * self.n_columns, THREADS), 1, 1]
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
        values,
        tangents,
        order: rows.order,
        factors: rows.factors,
        out,
        n_rows: rows.n_rows as i32,
        n_columns: rows.n_columns as i32,
    };
    let kernel = queue.module(unit(scalar))?.kernel("pack")?;
    queue.launch(&kernel, rows.grid(), THREADS, &arguments)
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
        values,
        order: rows.order,
        factors: rows.factors,
        out,
        n_rows: rows.n_rows as i32,
        n_columns: rows.n_columns as i32,
        tangents: i32::from(scalar == ScalarKind::Dual),
        padding: 0,
    };
    let kernel = queue.module(unit(scalar))?.kernel("unpack")?;
    queue.launch(&kernel, rows.grid(), THREADS, &arguments)
}
