//! Pairs of a sum, in blocks: a few receiving sites and the images of their sources.
//!
//! Contributions of a block to its images are collected in the block and combined in the order of blocks, so that
//! results do not depend on the number of threads.

use crate::arithmetic::vector::{Matrix, Vector, values};
use crate::arithmetic::{LANES, Scalar};
use crate::error::Result;
use crate::ewald::density::Density;
use crate::neighbors::{self, Bins, Criteria, Systems};
use rayon::prelude::*;
use std::borrow::Cow;

/// Pairs of a sum.
pub enum Pairs {
    /// Every pair of different sites, no images.
    All,
    /// Neighbours with cell shifts.
    Listed(Rows),
}

/// A neighbour list in blocks.
pub struct Rows {
    blocks: Vec<Block>,
}

/// How sources and receivers are related.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Sources are the receivers: each pair is listed once, and serves both directions.
    Same,
    /// Different densities on the same sites.
    SameSites,
    /// Receivers on sites of their own.
    Apart,
}

impl Relation {
    pub fn of<T>(source: &Density<T>, receiver: Option<&Density<T>>) -> Self {
        match receiver {
            None => Self::Same,
            Some(receiver) if std::ptr::eq(receiver.positions, source.positions) => Self::SameSites,
            Some(_) => Self::Apart,
        }
    }
}

/// A source site in some cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    pub site: u32,
    pub shift: [i32; 3],
}

/// Receivers, and the pairs they are in. Pairs come in packs, whose unused lanes point to image 0.
#[derive(Clone, Debug, Default)]
pub struct Block {
    pub receivers: Vec<u32>,
    /// The sources from image 1 on; image 0 is no site.
    pub images: Vec<Image>,
    /// First pack of each receiver, and the number of packs.
    first: Vec<u32>,
    packs: Vec<[u32; LANES]>,
}

impl Block {
    fn new(receivers: Vec<u32>) -> Self {
        let nobody = Image {
            site: u32::MAX,
            shift: [0; 3],
        };
        Self {
            receivers,
            images: vec![nobody],
            first: vec![0],
            packs: Vec::new(),
        }
    }

    /// Adds the next receiver's pairs.
    fn push_row(&mut self, images: &[u32]) {
        let (packs, rest) = images.as_chunks::<LANES>();
        self.packs.extend_from_slice(packs);
        if !rest.is_empty() {
            let mut pack = [0; LANES];
            pack[..rest.len()].copy_from_slice(rest);
            self.packs.push(pack);
        }
        self.first.push(self.packs.len() as u32);
    }

    /// The packs of each receiver.
    pub fn rows(&self) -> impl Iterator<Item = &[[u32; LANES]]> {
        let range = |ends: &[u32]| ends[0] as usize..ends[1] as usize;
        self.first.windows(2).map(move |w| &self.packs[range(w)])
    }

    pub fn n_packs(&self) -> usize {
        self.packs.len()
    }

    /// Rows of the atoms of a group of bins: the first `n_sources` atoms are sources, those from `offset` on receivers.
    fn of_bins(
        bins: &Bins,
        group: &[usize],
        n_sources: usize,
        offset: usize,
        scratch: &mut Scratch,
    ) -> Result<Self> {
        let mut block = Self::new(Vec::new());
        let mut images = std::mem::take(&mut block.images);
        let Scratch {
            search,
            places,
            known,
            hits,
        } = scratch;
        for &bin in group {
            let near = bins.near(bin, search)?;
            for cells in near.cells() {
                known.clear();
                known.resize(near.n_candidates(), UNKNOWN);
                for (number, (atom, of)) in near.receivers().enumerate() {
                    if of != cells || (atom as usize) < offset {
                        continue;
                    }
                    block.receivers.push(atom - offset as u32);
                    near.neighbors(number, hits);
                    for hit in &mut *hits {
                        let known = &mut known[*hit as usize];
                        if *known == UNKNOWN {
                            let (site, shift) = near.image(*hit, cells);
                            *known = if (site as usize) < n_sources {
                                places.of(Image { site, shift }, &mut images)
                            } else {
                                NO_SOURCE
                            };
                        }
                        *hit = *known;
                    }
                    if n_sources < bins.n_atoms() {
                        hits.retain(|&image| image != NO_SOURCE);
                    }
                    block.push_row(hits);
                }
            }
        }
        places.clear(&images);
        block.images = images;
        Ok(block)
    }

    /// Some rows of all pairs of sites.
    fn all_pairs(rows: std::ops::Range<usize>, n_sources: usize, relation: Relation) -> Self {
        let n = n_sources as u32;
        let mut block = Self::new(rows.clone().map(|site| site as u32).collect());
        block.images.extend((0..n).map(|site| Image {
            site,
            shift: [0; 3],
        }));
        block.packs.reserve(rows.len() * n_sources.div_ceil(LANES));
        let mut row: Vec<u32> = Vec::with_capacity(n_sources);
        for site in rows {
            let site = site as u32;
            row.clear();
            match relation {
                // Each with the half of the others that follow it in a circle: rows of equal length.
                Relation::Same => {
                    let opposite = n.is_multiple_of(2) && site < n / 2;
                    let half = (n - 1) / 2 + u32::from(opposite);
                    let last = n.min(site + half + 1);
                    row.extend((site + 2..=last).chain(1..=site + half + 1 - last));
                }
                Relation::SameSites => row.extend((1..=site).chain(site + 2..=n)),
                Relation::Apart => row.extend(1..=n),
            }
            block.push_row(&row);
        }
        block
    }
}

impl Pairs {
    /// Blocks, as a function of the number of receivers only.
    pub fn n_blocks(&self, n_receivers: usize) -> usize {
        match self {
            Self::All => n_receivers.div_ceil(rows_per_block(n_receivers, ALL_PAIRS)),
            Self::Listed(rows) => rows.blocks.len(),
        }
    }

    pub fn block(
        &self,
        number: usize,
        n_sources: usize,
        n_receivers: usize,
        relation: Relation,
    ) -> Cow<'_, Block> {
        match self {
            Self::All => {
                let size = rows_per_block(n_receivers, ALL_PAIRS);
                let rows = number * size..n_receivers.min((number + 1) * size);
                Cow::Owned(Block::all_pairs(rows, n_sources, relation))
            }
            Self::Listed(rows) => Cow::Borrowed(&rows.blocks[number]),
        }
    }
}

/// Most receivers of a block of all pairs, and of a block of a list.
const ALL_PAIRS: usize = 64;
const LISTED: usize = 512;

/// Few enough for blocks on many threads, many enough to share images.
fn rows_per_block(n_receivers: usize, most: usize) -> usize {
    (n_receivers / 8).clamp(8, most)
}

/// Buffers of one thread that makes blocks.
#[derive(Default)]
struct Scratch {
    search: neighbors::Scratch,
    places: Places,
    /// Image of each candidate near a bin.
    known: Vec<u32>,
    /// Neighbours of one receiver.
    hits: Vec<u32>,
}

/// A candidate that has not been met yet, and one that is not among the sources.
const UNKNOWN: u32 = u32::MAX;
const NO_SOURCE: u32 = u32::MAX - 1;

/// Hash table of the images of a block: chains of places in `Block::images`, each bucket's from its last image on.
struct Places {
    /// As many buckets as a power of two.
    last: Vec<u32>,
    before: Vec<u32>,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            last: vec![Self::NONE; 1024],
            before: vec![Self::NONE],
        }
    }
}

impl Places {
    const NONE: u32 = u32::MAX;

    #[inline]
    fn bucket(&self, image: &Image) -> usize {
        const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
        let word = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
        let [a, b, c] = image.shift.map(|n| n as u32);
        let mixed = word(image.site, a).wrapping_mul(MULTIPLIER).rotate_left(29) ^ word(b, c);
        (mixed.wrapping_mul(MULTIPLIER) >> (64 - self.last.len().ilog2())) as usize
    }

    #[inline]
    fn of(&mut self, image: Image, images: &mut Vec<Image>) -> u32 {
        let bucket = self.bucket(&image);
        let mut place = self.last[bucket];
        while place != Self::NONE {
            if images[place as usize] == image {
                return place;
            }
            place = self.before[place as usize];
        }
        place = images.len() as u32;
        images.push(image);
        self.before.push(self.last[bucket]);
        self.last[bucket] = place;
        if images.len() > self.last.len() {
            self.grow(images);
        }
        place
    }

    #[cold]
    fn grow(&mut self, images: &[Image]) {
        self.last = vec![Self::NONE; 4 * self.last.len()];
        for (place, image) in images.iter().enumerate().skip(1) {
            let bucket = self.bucket(image);
            self.before[place] = std::mem::replace(&mut self.last[bucket], place as u32);
        }
    }

    /// Empties the table.
    fn clear(&mut self, images: &[Image]) {
        for image in &images[1..] {
            let bucket = self.bucket(image);
            self.last[bucket] = Self::NONE;
        }
        self.before.truncate(1);
    }
}

impl Rows {
    /// Pairs within `cutoff`; receivers on other positions than the sources interact with all of them.
    pub fn new<T: Scalar>(
        source: &Density<T>,
        receiver: Option<&Density<T>>,
        cell: &Matrix<T>,
        pbc: [bool; 3],
        cutoff: f64,
    ) -> Result<Self> {
        let cell: Matrix<f64> = cell.map(|row| values(&row));
        let mut positions: Vec<Vector<f64>> = source.positions.iter().map(values).collect();
        let relation = Relation::of(source, receiver);
        let n_sources = positions.len();
        if let (Relation::Apart, Some(receiver)) = (relation, receiver) {
            positions.extend(receiver.positions.iter().map(values));
        }
        let systems = Systems {
            positions: &positions,
            cells: std::slice::from_ref(&cell),
            pbc: &[pbc],
            batch: None,
        };
        let criteria = Criteria {
            cutoff,
            half: relation == Relation::Same,
            self_interaction: false,
        };
        let bins = Bins::new(&systems, &criteria)?;
        let offset = match relation {
            Relation::Apart => n_sources,
            _ => 0,
        };
        let size = rows_per_block(positions.len() - offset, LISTED);
        let blocks = bins
            .groups(size)
            .par_iter()
            .map_init(Scratch::default, |scratch, group| {
                Block::of_bins(&bins, group, n_sources, offset, scratch)
            })
            .collect::<Result<_>>()?;
        Ok(Self { blocks })
    }

    /// Pairs, with what fills up the last pack of each receiver.
    pub fn n_lanes(&self) -> usize {
        let packs: usize = self.blocks.iter().map(Block::n_packs).sum();
        packs * LANES
    }
}
