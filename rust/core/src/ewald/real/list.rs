//! Which pairs are summed, in blocks: a few receiving sites and the images of sources that they see.
//!
//! What a block adds to its images is collected in the block and combined in the order of blocks, so that results do
//! not depend on the number of threads.

use super::super::density::Density;
use crate::error::Result;
use crate::lattice::Lattice;
use crate::neighbors::{Criteria, Quantities, Search, Systems};
use crate::pack::LANES;
use crate::scalar::Scalar;
use crate::vector::{Matrix, Vector, dot, values};
use rayon::prelude::*;
use std::borrow::Cow;

/// Which pairs are summed.
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
    /// The sources from image 1 on; image 0 is nobody's.
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
    fn push_row(&mut self, images: impl Iterator<Item = u32>) {
        let mut pack = [0; LANES];
        let mut lane = 0;
        for image in images {
            pack[lane] = image;
            lane += 1;
            if lane == LANES {
                self.packs.push(pack);
                (pack, lane) = ([0; LANES], 0);
            }
        }
        if lane > 0 {
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

    /// Some rows of all pairs of sites.
    fn all_pairs(rows: std::ops::Range<usize>, n_sources: usize, relation: Relation) -> Self {
        let n = n_sources as u32;
        let mut block = Self::new(rows.clone().map(|site| site as u32).collect());
        block.images.extend((0..n).map(|site| Image {
            site,
            shift: [0; 3],
        }));
        block.packs.reserve(rows.len() * n_sources.div_ceil(LANES));
        for site in rows {
            let site = site as u32;
            match relation {
                // Each with the half of the others that follow it in a circle: rows of equal length.
                Relation::Same => {
                    let opposite = n.is_multiple_of(2) && site < n / 2;
                    let half = (n - 1) / 2 + u32::from(opposite);
                    let last = n.min(site + half + 1);
                    block.push_row((site + 2..=last).chain(1..=site + half + 1 - last));
                }
                Relation::SameSites => {
                    block.push_row((0..n).filter(|&other| other != site).map(|other| 1 + other));
                }
                Relation::Apart => block.push_row(1..=n),
            }
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

/// Few enough for many threads, enough to share images.
fn rows_per_block(n_receivers: usize, most: usize) -> usize {
    (n_receivers / 8).clamp(8, most)
}

/// Images of a block, found by site: lists of places in `Block::images`, for each site from its last image on.
#[derive(Default)]
struct Places {
    last: Vec<u32>,
    before: Vec<u32>,
}

impl Places {
    const NONE: u32 = u32::MAX;

    #[inline]
    fn of(&mut self, image: Image, images: &mut Vec<Image>) -> u32 {
        let last = &mut self.last[image.site as usize];
        let mut place = *last;
        while place != Self::NONE {
            if images[place as usize].shift == image.shift {
                return place;
            }
            place = self.before[place as usize];
        }
        place = images.len() as u32;
        images.push(image);
        self.before.push(*last);
        *last = place;
        place
    }

    fn start(&mut self, n_sources: usize) {
        self.last.resize(n_sources, Self::NONE);
        self.before.clear();
        self.before.push(Self::NONE);
    }

    fn finish(&mut self, images: &[Image]) {
        for image in &images[1..] {
            self.last[image.site as usize] = Self::NONE;
        }
    }
}

impl Rows {
    /// Pairs within `cutoff`; receivers on other positions than the sources see all of them.
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
        let search = Search::new(&systems, &criteria)?;
        let wanted = Quantities {
            j: true,
            shift: true,
            ..Quantities::default()
        };
        let pairs = search.pairs::<u32, i32>(wanted)?;
        let offset = match relation {
            Relation::Apart => n_sources,
            _ => 0,
        };
        let size = rows_per_block(positions.len() - offset, LISTED);
        let order = spatial_order(&positions[offset..], &cell, pbc, size);
        let blocks = order
            .par_chunks(size)
            .map_init(Places::default, |places, receivers| {
                let mut block = Block::new(receivers.to_vec());
                let mut images = std::mem::take(&mut block.images);
                places.start(n_sources);
                for &receiver in receivers {
                    let row = offset + receiver as usize;
                    let row = search.first()[row]..search.first()[row + 1];
                    let listed = pairs.j[row.clone()].iter().zip(&pairs.shift[row]);
                    let seen = listed.filter(|(j, _)| (**j as usize) < n_sources);
                    block.push_row(
                        seen.map(|(&site, &shift)| places.of(Image { site, shift }, &mut images)),
                    );
                }
                places.finish(&images);
                block.images = images;
                block
            })
            .collect();
        Ok(Self { blocks })
    }
}

/// Sites in an order in which `size` of them in a row are close to one another: columns along the first axis, up and
/// down in turns.
fn spatial_order(
    positions: &[Vector<f64>],
    cell: &Matrix<f64>,
    pbc: [bool; 3],
    size: usize,
) -> Vec<u32> {
    let n = positions.len();
    let mut order: Vec<u32> = (0..n as u32).collect();
    if n <= 2 * size {
        return order;
    }
    // Fractions along periodic axes, lengths along open ones, which have unit vectors here.
    let lattice = Lattice::new(cell, pbc, 1.0);
    let rows = crate::vector::reciprocal_rows(&lattice.vectors);
    let fraction = |position: &Vector<f64>, axis: usize| {
        let along = dot(position, &rows[axis]);
        if pbc[axis] {
            along - along.floor()
        } else {
            along
        }
    };
    let mut lengths = [0.0; 3];
    let mut lowest = [0.0; 3];
    for axis in 0..3 {
        lengths[axis] = 1.0 / dot(&rows[axis], &rows[axis]).sqrt();
        if !pbc[axis] {
            let along = |p: &Vector<f64>| fraction(p, axis);
            lowest[axis] = positions.iter().map(along).fold(f64::INFINITY, f64::min);
            let highest = positions
                .iter()
                .map(along)
                .fold(f64::NEG_INFINITY, f64::max);
            lengths[axis] *= (highest - lowest[axis]).max(1e-3);
        }
    }
    let edge = (lengths[0] * lengths[1] * lengths[2] * size as f64 / n as f64).cbrt();
    let bins = |axis: usize| (lengths[axis] / edge).round().clamp(1.0, 1024.0);
    // The part of the whole length, 0 ... 1.
    let part = |position: &Vector<f64>, axis: usize| {
        let scale = if pbc[axis] { 1.0 } else { 1.0 / lengths[axis] };
        (fraction(position, axis) - lowest[axis]) * scale
    };
    let keys: Vec<u64> = positions
        .iter()
        .map(|position| {
            let bin = |axis: usize| (part(position, axis) * bins(axis)) as u64;
            let (y, z) = (bin(1), bin(2));
            let y = if z % 2 == 1 {
                bins(1) as u64 - y.min(bins(1) as u64)
            } else {
                y
            };
            let column = z * 2048 + y;
            let along = (part(position, 0) * f64::from(1 << 20)) as u64;
            let backwards = (y + z) % 2 == 1;
            column << 32
                | if backwards {
                    (1 << 21) - along.min(1 << 21)
                } else {
                    along
                }
        })
        .collect();
    order.sort_unstable_by_key(|&site| (keys[site as usize], site));
    order
}
