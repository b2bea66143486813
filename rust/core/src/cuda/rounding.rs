//! Single-precision copies of the arrays of a sum: coefficients, and sites whose differences
//! are exact to single precision.

use super::batch::{Address, Precision, ScalarKind, Scalars, Side};
use super::driver::unit::Unit;
use super::{Buffer, Queue, blocks};
use crate::error::Result;
use bytemuck::{Pod, Zeroable};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct CoefficientArguments {
    values: Address,
    out: Address,
    n: i64,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct SiteArguments {
    receivers: Side,
    sources: Side,
    lattices: Address,
    grids: Address,
    sorted: Address,
    rounded_receivers: Address,
    binned_sources: Address,
    source_sites: Address,
    source_tangents: Address,
    n_slots: i32,
    padding: i32,
}

/// Bytes of a `RoundedSite` and of a `RoundedReceiver`.
const SITE: usize = 40;
const RECEIVER: usize = 56;
const THREADS: u32 = 128;

fn unit(scalars: Scalars) -> Unit {
    scalars
        .define(Unit::new(
            "rounding.cu",
            include_str!("../../cuda/rounding.cu"),
        ))
        .mirror::<CoefficientArguments>("CoefficientArguments")
        .mirror::<SiteArguments>("RoundingArguments")
        .size("RoundedSite", SITE)
        .size("RoundedReceiver", RECEIVER)
}

/// The modules of this file, for checks that they compile.
pub fn units() -> Vec<Unit> {
    let rounded = Scalars::all().filter(|scalars| scalars.is_single());
    rounded.map(unit).collect()
}

/// `n` coefficients in the precision of sums: those at `address` themselves in double precision. The buffer must
/// outlive their use.
pub fn coefficients(
    queue: &Queue,
    scalars: Scalars,
    address: Address,
    n: usize,
) -> Result<(Address, Buffer)> {
    if scalars.precision == Precision::Double {
        return Ok((address, queue.allocate(0)?));
    }
    let out = queue.allocate(n * scalars.size())?;
    let arguments = CoefficientArguments {
        values: address,
        out: out.address(),
        n: n as i64,
    };
    let kernel = queue.module(unit(scalars))?.kernel("round_coefficients")?;
    queue.launch(&kernel, [blocks(n, THREADS), 1, 1], THREADS, &arguments)?;
    Ok((out.address(), out))
}

/// Receivers and sources of a sum over pairs, as in `real_sources.cuh`; zeros if sums are of double precision.
#[derive(Clone, Copy, Default)]
pub struct Sites {
    pub receivers: Address,
    pub binned_sources: Address,
    pub sources: Address,
    pub tangents: Address,
}

/// Sites of a sum over pairs.
pub struct Given {
    pub receivers: Side,
    pub sources: Side,
    pub lattices: Address,
    pub grids: Address,
    /// `Binned[slot]` of the sources that are binned.
    pub sorted: Address,
    pub n_slots: usize,
}

/// Rounds the sites of a sum over pairs. The buffer must outlive their use.
pub fn sites(queue: &Queue, scalars: Scalars, given: &Given) -> Result<(Sites, Buffer)> {
    if scalars.precision == Precision::Double {
        return Ok((Sites::default(), queue.allocate(0)?));
    }
    let (n_receivers, n_sources) = (
        given.receivers.n_sites as usize,
        given.sources.n_sites as usize,
    );
    let tangents = match scalars.kind {
        ScalarKind::Real => 0,
        ScalarKind::Dual => 3 * n_sources * Precision::Single.size(),
    };
    let sizes = [
        RECEIVER * n_receivers,
        SITE * given.n_slots,
        SITE * n_sources,
        tangents,
    ];
    let memory = queue.allocate(sizes.iter().sum())?;
    let mut end = memory.address();
    let [receivers, binned_sources, sources, tangents] = sizes.map(|bytes| {
        let address = if bytes == 0 { 0 } else { end };
        end += bytes as u64;
        address
    });
    let arguments = SiteArguments {
        receivers: given.receivers,
        sources: given.sources,
        lattices: given.lattices,
        grids: given.grids,
        sorted: given.sorted,
        rounded_receivers: receivers,
        binned_sources,
        source_sites: sources,
        source_tangents: tangents,
        n_slots: given.n_slots as i32,
        padding: 0,
    };
    let n = n_receivers.max(n_sources).max(given.n_slots);
    let kernel = queue.module(unit(scalars))?.kernel("round_sites")?;
    queue.launch(&kernel, [blocks(n, THREADS), 1, 1], THREADS, &arguments)?;
    let sites = Sites {
        receivers,
        binned_sources,
        sources,
        tangents,
    };
    Ok((sites, memory))
}
