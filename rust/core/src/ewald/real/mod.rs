//! Sums over pairs in real space: all pairs of an open system, or the short-range part of an Ewald sum.

mod block;
mod cached;
mod charges_dipoles;
mod list;
mod tensors;
#[cfg(test)]
mod tests;
mod widths;

pub use list::{Pairs, Relation, Rows};

use super::density::{Density, Gradient, Want};
use super::own::{OwnWeights, add_own_terms};
use crate::arithmetic::Scalar;
use crate::arithmetic::dispatch::ANY_DEGREE;
use crate::arithmetic::vector::{Matrix, Vector, add_scaled};
use block::{BlockOutput, Work, row_length};
use list::Block;
use rayon::prelude::*;
use std::borrow::Cow;
use tensors::Tensors;

/// Blocks whose results are kept at the same time.
const WAVE: usize = 64;

/// A pair sum. `split` is the width that the reciprocal sum raises narrower Gaussians to; none means that there is
/// no reciprocal sum.
pub struct RealSpace<T: Scalar> {
    pairs: Pairs,
    split: Option<f64>,
    cell: Matrix<T>,
    tensors: Option<Tensors<T>>,
}

impl<T: Scalar> RealSpace<T> {
    /// The list must be one for the densities to come.
    pub fn new(pairs: Pairs, split: Option<f64>, cell: Matrix<T>) -> Self {
        Self {
            pairs,
            split,
            cell,
            tensors: None,
        }
    }

    /// Weights of the interaction of a site with itself.
    pub fn own_weights(&self) -> OwnWeights {
        OwnWeights::short_range(self.split)
    }

    /// Pairs that are summed, with what fills up the last pack of each receiver.
    pub fn n_pairs(&self, source: &Density<T>, rec: &Density<T>) -> f64 {
        match &self.pairs {
            Pairs::All => source.n_sites() as f64 * rec.n_sites() as f64,
            Pairs::Listed(rows) => rows.n_lanes() as f64,
        }
    }

    /// The block of one work: a block and a channel of the sources.
    fn block(
        &self,
        number: usize,
        source: &Density<T>,
        rec: &Density<T>,
        relation: Relation,
    ) -> Cow<'_, Block> {
        let block = number / source.n_channels;
        self.pairs
            .block(block, source.n_sites(), rec.n_sites(), relation)
    }

    fn work<'a>(
        &'a self,
        number: usize,
        block: &'a Block,
        source: &'a Density<T>,
        rec: &'a Density<T>,
        both_sides: bool,
    ) -> Work<'a, T> {
        Work {
            block,
            source,
            rec,
            cell: &self.cell,
            split: self.split,
            channel: number % source.n_channels,
            both_sides,
        }
    }

    /// U(p, q) (or ½ U(p, p) without a receiver) over the pairs, and each site's terms with itself.
    pub fn evaluate(
        &self,
        source: &Density<T>,
        receiver: Option<&Density<T>>,
        want: Want,
    ) -> Gradient<T> {
        let rec = receiver.unwrap_or(source);
        let relation = Relation::of(source, receiver);
        let mut out = Gradient::zero(source, rec);
        let potentials_only = !want.positions && !want.cell;
        let tensors = self.tensors.as_ref().filter(|_| potentials_only);
        let both_sides = relation == Relation::Same || want.source || !potentials_only;
        let n_works = self.pairs.n_blocks(rec.n_sites()) * source.n_channels;
        for start in (0..n_works).step_by(WAVE) {
            let results: Vec<(Cow<Block>, BlockOutput<T>)> = (start..n_works.min(start + WAVE))
                .into_par_iter()
                .map(|number| {
                    let block = self.block(number, source, rec, relation);
                    let work = self.work(number, &block, source, rec, both_sides);
                    let result = match tensors {
                        Some(tensors) => tensors.evaluate(&work, number),
                        None => block::evaluate(&work),
                    };
                    (block, result)
                })
                .collect();
            for (number, (block, result)) in (start..).zip(&results) {
                let work = self.work(number, block, source, rec, both_sides);
                add_result(&work, result, relation, &mut out);
            }
        }
        if relation != Relation::Apart {
            add_own_terms(source, receiver, want, self.own_weights(), &mut out);
        }
        out
    }
}

/// Adds what a work has collected.
fn add_result<T: Scalar>(
    work: &Work<T>,
    result: &BlockOutput<T>,
    relation: Relation,
    out: &mut Gradient<T>,
) {
    out.value += result.value;
    let n_row = work.rec.n_channels * work.rec.n_lm();
    for (row, &site) in work.block.receivers.iter().enumerate() {
        let site = site as usize;
        add(
            &mut out.receiver[site * n_row..(site + 1) * n_row],
            &result.potentials[row * n_row..(row + 1) * n_row],
        );
        if let Some(gradient) = result.gradients.get(row) {
            add(&mut out.receiver_positions[site], gradient);
        }
    }
    let (coefficients, positions): (&mut [T], &mut [Vector<T>]) = match relation {
        Relation::Same => (&mut out.receiver, &mut out.receiver_positions),
        _ => (&mut out.source, &mut out.source_positions),
    };
    let n_lm = work.source.n_lm();
    let rows = result.images.chunks_exact(row_length::<ANY_DEGREE>(n_lm));
    for (row, image) in rows.zip(&work.block.images).skip(1) {
        let site = image.site as usize;
        let gradient = [row[0], row[1], row[2]];
        add(&mut positions[site], &gradient);
        for axis in 0..3 {
            if image.shift[axis] != 0 {
                let factor = T::constant(image.shift[axis] as f64);
                add_scaled(&mut out.cell[axis], &gradient, factor);
            }
        }
        let start = (site * work.source.n_channels + work.channel) * n_lm;
        add(&mut coefficients[start..start + n_lm], &row[3..3 + n_lm]);
    }
}

fn add<T: Scalar>(target: &mut [T], values: &[T]) {
    for (total, &value) in target.iter_mut().zip(values) {
        *total += value;
    }
}
