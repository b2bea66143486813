//! Tensors of the pairs of a block, and potentials from them.

use super::block::{BlockOutput, Gathered, Work, row_length};
use super::widths::parts;
use crate::arithmetic::dispatch::{ANY_DEGREE, dispatch};
use crate::arithmetic::{Pack, Scalar};
use crate::ewald::pair::PairTable;
use crate::special::boys::BoysTable;

/// The tensors of each block and source channel: `[pack][receiver channel][component]`.
#[derive(Clone)]
pub struct Tensors<T: Scalar> {
    pub(super) works: Vec<Vec<T::Pack>>,
}

impl<T: Scalar> Tensors<T> {
    /// Potentials of one of the works that there are tensors for.
    pub fn evaluate(&self, work: &Work<T>, number: usize) -> BlockOutput<T> {
        potentials::<T, ANY_DEGREE>(&(work, &self.works[number]))
    }
}

dispatch! {
    fn tensors<T, L>(work: &Work<T>) -> Vec<T::Pack> => tensors_body
}

#[inline(always)]
fn tensors_body<T: Scalar, const L: usize, const FMA: bool>(work: &Work<T>) -> Vec<T::Pack> {
    let Work {
        block, source, rec, ..
    } = *work;
    let table = PairTable::of(source.max_l, rec.max_l);
    let boys = BoysTable::up_to(table.order::<T::Pack>());
    let n = table.n_tensors();
    let mut images = Gathered::new(work);
    let mut out = vec![T::Pack::zero(); block.n_packs() * rec.n_channels * n];
    let mut slots = out.chunks_exact_mut(n);
    let mut row = vec![T::Pack::zero(); row_length::<L>(source.n_lm())];
    for (&site, packs) in block.receivers.iter().zip(block.rows()) {
        let site = site as usize;
        images.start_row(packs);
        for pack in packs {
            images.gather(&images.places(pack), &rec.positions[site], &mut row);
            let sigma2 = images.widths.of(pack);
            for b in 0..rec.n_channels {
                let s = rec.width(site, b);
                let (parts, n_parts) = parts(sigma2, s * s, work.split);
                if let Some(slot) = slots.next() {
                    table.tensors::<T::Pack, FMA>(&row[..3], &parts[..n_parts], boys, slot);
                }
            }
        }
    }
    out
}

dispatch! {
    fn potentials<T, L>(work: &(&Work<T>, &[T::Pack])) -> BlockOutput<T> => potentials_body
}

#[inline(always)]
fn potentials_body<T: Scalar, const L: usize, const FMA: bool>(
    (work, tensors): &(&Work<T>, &[T::Pack]),
) -> BlockOutput<T> {
    let Work {
        block, source, rec, ..
    } = **work;
    let table = PairTable::of(source.max_l, rec.max_l);
    let (n_source, n_receiver) = (source.n_lm(), rec.n_lm());
    let images = Gathered::new(work);
    let n_row = rec.n_channels * n_receiver;
    let mut out = BlockOutput::new(work, images.values.len());
    let mut q = vec![T::Pack::zero(); n_row];
    let mut potential = vec![T::Pack::zero(); n_row];
    let mut row = vec![T::Pack::zero(); row_length::<L>(n_source)];
    let mut added = row.clone();
    let mut slots = tensors.chunks_exact(table.n_tensors());
    for (&site, packs) in block.receivers.iter().zip(block.rows()) {
        let coefficients = &rec.coefficients[site as usize * n_row..][..n_row];
        for (pack, &coefficient) in q.iter_mut().zip(coefficients) {
            *pack = T::Pack::splat(coefficient);
        }
        potential.fill(T::Pack::zero());
        for pack in packs {
            let places = images.places(pack);
            images.gather(&places, &rec.positions[site as usize], &mut row);
            added.fill(T::Pack::zero());
            for b in 0..rec.n_channels {
                let receiver = b * n_receiver..(b + 1) * n_receiver;
                if let Some(slot) = slots.next() {
                    table.add_potentials::<T::Pack, FMA>(
                        slot,
                        &row[3..3 + n_source],
                        &q[receiver.clone()],
                        &mut added[3..3 + n_source],
                        &mut potential[receiver],
                    );
                }
            }
            if work.both_sides {
                T::Pack::add_to_rows(&mut out.images, &places, images.avx512, &added);
            }
        }
        out.push_row(&potential, coefficients);
    }
    out
}
