//! What sums of single precision take instead of arrays of double precision: coefficients, and sites whose differences
//! are exact to single precision.

use super::batch::{Address, Precision, ScalarKind, Scalars, Side};
use super::driver::source::Source;
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
    targets: Side,
    partners: Side,
    lattices: Address,
    grids: Address,
    sorted: Address,
    rounded_targets: Address,
    binned_partners: Address,
    partner_sites: Address,
    partner_tangents: Address,
    n_slots: i32,
    padding: i32,
}

/// Bytes of a `RoundedSite` and of a `RoundedTarget`.
const SITE: usize = 40;
const TARGET: usize = 56;
const THREADS: u32 = 128;

fn source(scalars: Scalars) -> Source {
    scalars.define(Source::new(
        "rounding.cu",
        include_str!("../../cuda/rounding.cu"),
    ))
}

/// The modules of this file, for checks that they compile.
pub fn sources() -> Vec<Source> {
    let rounded = Scalars::all().filter(|scalars| scalars.is_single());
    rounded.map(source).collect()
}

/// `n` coefficients in the precision of sums: those at `address` themselves where that is double. The buffer must
/// live as long as they are used.
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
    let kernel = queue
        .module(source(scalars))?
        .kernel("round_coefficients")?;
    queue.launch(&kernel, [blocks(n, THREADS), 1, 1], THREADS, &arguments)?;
    Ok((out.address(), out))
}

/// Targets and partners of a sum over pairs, as `partners.cuh` has them; zeros where sums are of double precision.
#[derive(Clone, Copy, Default)]
pub struct Sites {
    pub targets: Address,
    pub binned_partners: Address,
    pub partners: Address,
    pub tangents: Address,
}

/// Where the sites of a sum over pairs are.
pub struct Given {
    pub targets: Side,
    pub partners: Side,
    pub lattices: Address,
    pub grids: Address,
    /// `Binned[slot]` of the partners that are binned.
    pub sorted: Address,
    pub n_slots: usize,
}

/// Rounds the sites of a sum over pairs. The buffer must live as long as they are used.
pub fn sites(queue: &Queue, scalars: Scalars, given: &Given) -> Result<(Sites, Buffer)> {
    if scalars.precision == Precision::Double {
        return Ok((Sites::default(), queue.allocate(0)?));
    }
    let (n_targets, n_partners) = (
        given.targets.n_sites as usize,
        given.partners.n_sites as usize,
    );
    let tangents = match scalars.kind {
        ScalarKind::Real => 0,
        ScalarKind::Dual => 3 * n_partners * Precision::Single.size(),
    };
    let sizes = [
        TARGET * n_targets,
        SITE * given.n_slots,
        SITE * n_partners,
        tangents,
    ];
    let memory = queue.allocate(sizes.iter().sum())?;
    let mut end = memory.address();
    let [targets, binned_partners, partners, tangents] = sizes.map(|bytes| {
        let address = if bytes == 0 { 0 } else { end };
        end += bytes as u64;
        address
    });
    let arguments = SiteArguments {
        targets: given.targets,
        partners: given.partners,
        lattices: given.lattices,
        grids: given.grids,
        sorted: given.sorted,
        rounded_targets: targets,
        binned_partners,
        partner_sites: partners,
        partner_tangents: tangents,
        n_slots: given.n_slots as i32,
        padding: 0,
    };
    let n = n_targets.max(n_partners).max(given.n_slots);
    let kernel = queue.module(source(scalars))?.kernel("round_sites")?;
    queue.launch(&kernel, [blocks(n, THREADS), 1, 1], THREADS, &arguments)?;
    let sites = Sites {
        targets,
        binned_partners,
        partners,
        tangents,
    };
    Ok((sites, memory))
}
