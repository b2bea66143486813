//! Tables made when a sum over k-vectors is planned: vectors, distinct widths, and units of work.

use crate::arithmetic::vector::{add_scaled, dot, zero_vector};
use crate::cuda::terms::{Batch, Layout, SystemPlan};
use crate::cuda::{Tile, tiles};
use crate::ewald::density::distinct_widths;
use crate::ewald::plan::{Plan, Split};
use crate::lattice::{Lattice, dimensions};
use crate::special::harmonics::count;
use bytemuck::{Pod, Zeroable};
use std::f64::consts::PI;

/// Modes of one block in kernels over modes, and threads of that block.
pub const BLOCK: usize = 128;

/// k = Σ_j n_j b_j; of each pair ±k one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Mode {
    pub n: [i32; 3],
    pub system: i32,
}

/// One system's part of the arrays over modes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct ModeSystem {
    pub first_gaussian: i64,
    pub first_mode: i32,
    pub n_modes: i32,
    pub first_width: i32,
    pub n_widths: i32,
    pub n_phases: [i32; 3],
    padding: i32,
}

/// One system's part of the arrays over a side's sites.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct SideSystem {
    pub first_phase: i64,
    pub first_partial: i64,
    pub n_chunks: i32,
    padding: i32,
}

/// Some modes and some sites of one system.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Work {
    pub system: i32,
    pub first_mode: i32,
    pub n_modes: i32,
    pub first_site: i32,
    pub n_sites: i32,
    pub chunk: i32,
}

/// The k-vectors of all systems that are summed over them.
#[derive(Default)]
pub struct ModePlan {
    pub modes: Vec<Mode>,
    pub systems: Vec<ModeSystem>,
    /// Per system the distinct widths of both sides, raised to the floor, ascending.
    pub widths: Vec<f64>,
    pub n_gaussians: usize,
}

/// How a system is split, if it is summed over k-vectors.
fn split_of(system: &SystemPlan) -> Option<&Split> {
    match &system.plan {
        Plan::Split(split) if split.mesh.is_none() => Some(split),
        _ => None,
    }
}

impl ModePlan {
    pub fn new(batch: &Batch) -> Self {
        let mut out = Self::default();
        for (number, system) in batch.systems.iter().enumerate() {
            let mut place = ModeSystem {
                first_gaussian: out.n_gaussians as i64,
                first_mode: out.modes.len() as i32,
                first_width: out.widths.len() as i32,
                ..ModeSystem::default()
            };
            let sides = [
                batch.source.widths_of(number),
                batch.receiving().widths_of(number),
            ];
            if let Some(split) = split_of(system)
                && sides.iter().all(|side| !side.is_empty())
            {
                let raised = sides.map(|side| distinct_widths(side.iter().copied(), split.floor));
                // Ascending: the first is the smallest.
                let width2 = raised[0][0].powi(2) + raised[1][0].powi(2);
                let cutoff = (2.0 * split.exponent / width2).sqrt();
                let lattice = Lattice::new(&system.cell, system.summed, split.open_length);
                place.n_phases = enumerate(&lattice, cutoff, number as i32, &mut out.modes);
                let widths = distinct_widths(raised.concat(), 0.0);
                place.n_modes = out.modes.len() as i32 - place.first_mode;
                place.n_widths = widths.len() as i32;
                out.n_gaussians += widths.len() * place.n_modes as usize;
                out.widths.extend(widths);
            }
            out.systems.push(place);
        }
        out
    }

    /// True if a system has k-vectors.
    pub fn has(&self, system: usize) -> bool {
        self.systems[system].n_modes > 0
    }

    /// Blocks of modes, each of one system.
    pub fn blocks(&self) -> Vec<Tile> {
        let mut first: Vec<usize> = self.systems.iter().map(|s| s.first_mode as usize).collect();
        first.push(self.modes.len());
        tiles(&first, |_| true, BLOCK)
    }

    /// Place of a raised width among its system's.
    fn kind(&self, system: usize, width: f64) -> i32 {
        let place = &self.systems[system];
        let first = place.first_width as usize;
        let widths = &self.widths[first..first + place.n_widths as usize];
        widths.partition_point(|&other| other < width) as i32
    }
}

/// Adds the modes within a cutoff, those along the axis with most of them together, so that neighbouring threads read
/// neighbouring phases. Gives the lengths of the tables of phases.
fn enumerate(lattice: &Lattice<f64>, cutoff: f64, system: i32, out: &mut Vec<Mode>) -> [i32; 3] {
    // |n_j| ≤ cutoff |h_j| / 2π
    let reach: [i32; 3] = std::array::from_fn(|axis| {
        let h = &lattice.vectors[axis];
        (cutoff * dot(h, h).sqrt() / (2.0 * PI) * (1.0 + 1e-12)) as i32
    });
    let mut axes = [0, 1, 2];
    axes.sort_by_key(|&axis| reach[axis]);
    let [u, v, w] = axes;
    let mut n_phases = [1; 3];
    for n_u in 0..=reach[u] {
        for n_v in -reach[v]..=reach[v] {
            for n_w in -reach[w]..=reach[w] {
                if (n_u, n_v, n_w) < (0, 0, 0) {
                    continue;
                }
                let mut n = [0; 3];
                (n[u], n[v], n[w]) = (n_u, n_v, n_w);
                let mut k = zero_vector();
                for axis in 0..3 {
                    add_scaled(&mut k, &lattice.reciprocal[axis], n[axis] as f64);
                }
                // In three dimensions the weight of k = 0 is zero.
                let nothing = n == [0; 3] && dimensions(lattice.pbc) == 3;
                if nothing || dot(&k, &k) > cutoff * cutoff * (1.0 + 1e-12) {
                    continue;
                }
                for axis in 0..3 {
                    n_phases[axis] = n_phases[axis].max(n[axis].abs() + 1);
                }
                out.push(Mode { n, system });
            }
        }
    }
    n_phases
}

/// Division of the work on the sites of one side.
pub struct SidePlan {
    pub systems: Vec<SideSystem>,
    /// `[site][channel]`: index of the width among those of its system.
    pub kinds: Vec<i32>,
    /// The sites of systems with modes.
    pub sites: Vec<i32>,
    pub works: Vec<Work>,
    pub tiles: Vec<Tile>,
    /// Largest count of a tile.
    pub tile_size: usize,
    /// Channels whose potentials are summed together.
    pub together: usize,
    pub n_phases: usize,
    /// Length of one component's partial structure factors.
    pub n_partials: usize,
}

/// Sites in a chunk, at least and (where that is not too many chunks) at most.
const CHUNK: [usize; 2] = [4, 64];
/// Largest number of chunks of one system.
const MAX_CHUNKS: usize = 48;
/// Blocks that fill a device.
const FULL: usize = 1024;
/// Sums that a thread keeps in registers.
const SUMS: usize = 16;

impl SidePlan {
    pub fn new(plan: &ModePlan, batch: &Batch, layout: &Layout) -> Self {
        let n_systems = plan.systems.len();
        let active: Vec<usize> = (0..n_systems).filter(|&k| plan.has(k)).collect();
        let n_sites = |k: usize| layout.first[k + 1] - layout.first[k];
        let n_blocks = |k: usize| (plan.systems[k].n_modes as usize).div_ceil(BLOCK);
        let whole: usize = active.iter().map(|&k| n_blocks(k) * n_sites(k)).sum();
        let usual = (whole / FULL).clamp(CHUNK[0], CHUNK[1]);

        let mut kinds = vec![0; layout.widths.len()];
        let mut systems = vec![SideSystem::default(); n_systems];
        let (mut sites, mut works) = (Vec::new(), Vec::new());
        let (mut n_phases, mut n_partials) = (0, 0);
        for &k in &active {
            let place = &plan.systems[k];
            let split = split_of(&batch.systems[k]).expect("only split sums have modes");
            let first = layout.first[k] * layout.n_channels;
            for (entry, width) in layout.widths_of(k).iter().enumerate() {
                kinds[first + entry] = plan.kind(k, width.max(split.floor));
            }
            sites.extend((layout.first[k]..layout.first[k + 1]).map(|site| site as i32));
            let size = usual.max(n_sites(k).div_ceil(MAX_CHUNKS));
            let n_chunks = n_sites(k).div_ceil(size);
            systems[k] = SideSystem {
                first_phase: n_phases as i64,
                first_partial: n_partials as i64,
                n_chunks: n_chunks as i32,
                padding: 0,
            };
            let of_site: i32 = place.n_phases.iter().sum();
            n_phases += n_sites(k) * of_site as usize;
            n_partials += n_chunks * place.n_modes as usize;
            for chunk in 0..n_chunks {
                for first_mode in (0..place.n_modes).step_by(BLOCK) {
                    works.push(Work {
                        system: k as i32,
                        first_mode,
                        n_modes: (place.n_modes - first_mode).min(BLOCK as i32),
                        first_site: (layout.first[k] + chunk * size) as i32,
                        n_sites: size.min(n_sites(k) - chunk * size) as i32,
                        chunk: chunk as i32,
                    });
                }
            }
        }
        let n_lm = count(layout.max_l);
        let together = layout.n_channels.clamp(1, (SUMS / n_lm).max(1));
        // A thread handles two sites for each mode that it reads, if there are enough sites.
        let shared = sites.len() >= FULL && 2 * together * n_lm <= SUMS;
        let tile_size = if shared { 2 } else { 1 };
        Self {
            systems,
            kinds,
            sites,
            works,
            tiles: tiles(&layout.first, |k| plan.has(k), tile_size),
            tile_size,
            together,
            n_phases,
            n_partials,
        }
    }
}
