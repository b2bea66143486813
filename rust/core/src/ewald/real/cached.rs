//! Tensors of all pairs, computed once: for potentials at fixed atoms, and for the rows of a matrix.

use super::RealSpace;
use super::list::{Block, Relation};
use super::tensors::{Tensors, tensors};
use crate::arithmetic::dispatch::ANY_DEGREE;
use crate::arithmetic::{LANES, Pack, Scalar};
use crate::ewald::density::Density;
use crate::ewald::pair::PairTable;
use rayon::prelude::*;
use std::borrow::Cow;

impl<T: Scalar> RealSpace<T> {
    /// Keeps the tensors of all pairs if they fit into `limit` numbers, so that later potentials at fixed atoms need no
    /// special functions.
    pub fn cache(&mut self, source: &Density<T>, receiver: Option<&Density<T>>, limit: usize) {
        let rec = receiver.unwrap_or(source);
        let relation = Relation::of(source, receiver);
        let n_works = self.pairs.n_blocks(rec.n_sites()) * source.n_channels;
        let n_packs: usize = (0..n_works)
            .into_par_iter()
            .map(|number| self.block(number, source, rec, relation).n_packs())
            .sum();
        let table = PairTable::of(source.max_l, rec.max_l);
        let per_pair = rec.n_channels * table.n_tensors();
        if (n_packs * LANES).saturating_mul(per_pair) <= limit {
            self.tensors = Some(self.all_tensors(source, rec, relation));
        }
    }

    fn all_tensors(&self, source: &Density<T>, rec: &Density<T>, relation: Relation) -> Tensors<T> {
        let n_works = self.pairs.n_blocks(rec.n_sites()) * source.n_channels;
        let works = (0..n_works)
            .into_par_iter()
            .map(|number| {
                let block = self.block(number, source, rec, relation);
                tensors::<T, ANY_DEGREE>(&self.work(number, &block, source, rec, false))
            })
            .collect();
        Tensors { works }
    }
}

/// Tensors of all pairs, found by site: for the rows of a matrix.
pub struct PairTensors<'a> {
    tensors: Cow<'a, Tensors<f64>>,
    n_channels: usize,
    /// First entry of each receiver, and the number of entries.
    first: Vec<usize>,
    entries: Vec<Entry>,
}

/// Place of the tensors of a pair.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    other: u32,
    block: u32,
    /// Lane of all lanes of the block.
    lane: u32,
    /// Stored for the other direction.
    reversed: bool,
}

impl RealSpace<f64> {
    pub fn pair_tensors(
        &self,
        source: &Density<f64>,
        receiver: Option<&Density<f64>>,
    ) -> PairTensors<'_> {
        let rec = receiver.unwrap_or(source);
        let relation = Relation::of(source, receiver);
        let tensors = match &self.tensors {
            Some(tensors) => Cow::Borrowed(tensors),
            None => Cow::Owned(self.all_tensors(source, rec, relation)),
        };
        let n_blocks = self.pairs.n_blocks(rec.n_sites());
        let blocks: Vec<Cow<Block>> = (0..n_blocks)
            .into_par_iter()
            .map(|number| self.block(number, source, rec, relation))
            .collect();
        let each = |f: &mut dyn FnMut(usize, Entry)| {
            for (number, block) in blocks.iter().enumerate() {
                let mut lane = 0;
                for (&site, packs) in block.receivers.iter().zip(block.rows()) {
                    for &image in packs.as_flattened() {
                        let entry = Entry {
                            other: block.images[image as usize].site,
                            block: number as u32,
                            lane,
                            reversed: false,
                        };
                        lane += 1;
                        if image == 0 {
                            continue;
                        }
                        f(site as usize, entry);
                        if relation == Relation::Same {
                            let reversed = Entry {
                                other: site,
                                reversed: true,
                                ..entry
                            };
                            f(entry.other as usize, reversed);
                        }
                    }
                }
            }
        };
        let mut first = vec![0; rec.n_sites() + 1];
        each(&mut |site, _| first[site + 1] += 1);
        for site in 0..rec.n_sites() {
            first[site + 1] += first[site];
        }
        let mut next = first.clone();
        let mut entries = vec![Entry::default(); first[rec.n_sites()]];
        each(&mut |site, entry| {
            entries[next[site]] = entry;
            next[site] += 1;
        });
        PairTensors {
            tensors,
            n_channels: rec.n_channels,
            first,
            entries,
        }
    }
}

impl PairTensors<'_> {
    /// Adds the rows of one receiving site to its panel of a matrix with one source channel.
    pub fn add_rows(
        &self,
        site: usize,
        table: &PairTable,
        [n_source, n_receiver, n_columns]: [usize; 3],
        panel: &mut [f64],
    ) {
        let n = table.n_tensors();
        let mut tensors = vec![0.0; n];
        for entry in &self.entries[self.first[site]..self.first[site + 1]] {
            let (pack, lane) = (entry.lane as usize / LANES, entry.lane as usize % LANES);
            let values = &self.tensors.works[entry.block as usize][pack * self.n_channels * n..];
            for channel in 0..self.n_channels {
                for (tensor, values) in tensors.iter_mut().zip(&values[channel * n..]) {
                    *tensor = values.get(lane);
                }
                let corner = channel * n_receiver * n_columns + entry.other as usize * n_source;
                table.add_block(&tensors, entry.reversed, &mut panel[corner..], n_columns);
            }
        }
    }
}
