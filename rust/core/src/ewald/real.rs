//! Sums over pairs in real space: all pairs of an open system, or the short-range part of an Ewald sum.

use super::density::{Density, Gradient, Want};
use super::pair::{PairOutput, PairTable, Part};
use crate::error::Result;
use crate::neighbors;
use crate::scalar::Scalar;
use crate::vector::{Matrix, Vector, add_scaled, sub, values};
use rayon::prelude::*;

/// Which pairs are summed, and how their radial functions are put together.
pub enum Pairs {
    /// Every pair of different sites once in each direction, no images.
    All,
    /// Neighbours with cell shifts: rows of receivers, entries are sources.
    Listed(Rows),
}

/// Sparse rows of a neighbour list.
pub struct Rows {
    pub first: Vec<usize>,
    pub source: Vec<u32>,
    pub shift: Vec<[i32; 3]>,
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
        let elsewhere = receiver.filter(|r| !std::ptr::eq(r.positions, source.positions));
        let n_sources = positions.len();
        if let Some(receiver) = elsewhere {
            positions.extend(receiver.positions.iter().map(values));
        }
        let list = neighbors::full_list(&positions, &cell, pbc, cutoff)?;
        if elsewhere.is_none() {
            return Ok(Self {
                first: list.first,
                source: list.j,
                shift: list.shift,
            });
        }
        let mut rows = Self {
            first: vec![0],
            source: Vec::new(),
            shift: Vec::new(),
        };
        for point in n_sources..positions.len() {
            for pair in list.first[point]..list.first[point + 1] {
                if (list.j[pair] as usize) < n_sources {
                    rows.source.push(list.j[pair]);
                    rows.shift.push(list.shift[pair]);
                }
            }
            rows.first.push(rows.source.len());
        }
        Ok(rows)
    }
}

/// A pair sum. `split` is the width that the reciprocal sum raises narrower Gaussians to; none means that there is
/// no reciprocal sum.
pub struct RealSpace<T: Scalar> {
    pub pairs: Pairs,
    pub split: Option<f64>,
    pub cell: Matrix<T>,
    /// Tensors of every pair, once cached: `[pair][source channel][receiver channel][component]`.
    pub(super) tensors: Option<Tensors<T>>,
}

pub(super) struct Tensors<T> {
    table: PairTable,
    pub(super) values: Vec<T>,
}

/// Radial parts for widths σ and s: the interaction, less what the reciprocal sum has.
pub(super) fn parts(sigma: f64, s: f64, split: Option<f64>) -> Vec<Part> {
    let gamma2 = sigma * sigma + s * s;
    match split {
        None => vec![(gamma2, 1.0)],
        Some(floor) => {
            let raised = sigma.max(floor).powi(2) + s.max(floor).powi(2);
            if raised == gamma2 {
                Vec::new()
            } else {
                vec![(gamma2, 1.0), (raised, -1.0)]
            }
        }
    }
}

impl<T: Scalar> RealSpace<T> {
    pub fn new(pairs: Pairs, split: Option<f64>, cell: Matrix<T>) -> Self {
        Self {
            pairs,
            split,
            cell,
            tensors: None,
        }
    }

    /// Keeps the tensors of all pairs if they fit into `limit` numbers, so that potentials at fixed atoms need no
    /// more special functions.
    pub fn cache(&mut self, source: &Density<T>, rec: &Density<T>, limit: usize) {
        let table = PairTable::new(source.max_l, rec.max_l);
        let per_pair = source.n_channels * rec.n_channels * table.n_tensors();
        let first = self.row_starts(source, rec);
        let n_pairs = first[first.len() - 1];
        if n_pairs.saturating_mul(per_pair) > limit {
            return;
        }
        let rows: Vec<Vec<T>> = (0..rec.n_sites())
            .into_par_iter()
            .map(|site| {
                let mut row = vec![T::zero(); (first[site + 1] - first[site]) * per_pair];
                let mut slots = row.chunks_exact_mut(table.n_tensors());
                self.for_pairs(source, rec, site, true, |other, d, _| {
                    for a in 0..source.n_channels {
                        for b in 0..rec.n_channels {
                            let parts =
                                parts(source.width(other, a), rec.width(site, b), self.split);
                            if let Some(slot) = slots.next() {
                                table.tensors(d, &parts, slot);
                            }
                        }
                    }
                });
                row
            })
            .collect();
        self.tensors = Some(Tensors {
            table,
            values: rows.concat(),
        });
    }

    /// First pair of each receiver.
    pub(super) fn row_starts(&self, source: &Density<T>, rec: &Density<T>) -> Vec<usize> {
        match &self.pairs {
            Pairs::All => {
                let per_row = source.n_sites().saturating_sub(1);
                (0..=rec.n_sites()).map(|site| site * per_row).collect()
            }
            Pairs::Listed(rows) => rows.first.clone(),
        }
    }

    /// Potentials of the pairs from cached tensors, without sites' terms with themselves.
    fn cached_potentials(
        &self,
        tensors: &Tensors<T>,
        source: &Density<T>,
        rec: &Density<T>,
    ) -> Vec<T> {
        let n_lm = rec.n_lm();
        let n_row = rec.n_channels * n_lm;
        let per_pair = source.n_channels * rec.n_channels * tensors.table.n_tensors();
        let first = self.row_starts(source, rec);
        let mut out = vec![T::zero(); rec.n_sites() * n_row];
        out.par_chunks_mut(n_row)
            .with_min_len(16)
            .enumerate()
            .for_each(|(site, row)| {
                let values = &tensors.values[first[site] * per_pair..first[site + 1] * per_pair];
                let mut slots = values.chunks_exact(tensors.table.n_tensors());
                for pair in first[site]..first[site + 1] {
                    let other = self.source_of(site, pair, first[site]);
                    for a in 0..source.n_channels {
                        for b in 0..rec.n_channels {
                            if let Some(slot) = slots.next() {
                                let row = &mut row[b * n_lm..(b + 1) * n_lm];
                                tensors.table.add_potential(slot, source.at(other, a), row);
                            }
                        }
                    }
                }
            });
        out
    }

    /// Potentials at the sources, of what is on the receivers, from cached tensors.
    fn cached_source_potentials(
        &self,
        tensors: &Tensors<T>,
        source: &Density<T>,
        rec: &Density<T>,
    ) -> Vec<T> {
        let n_lm = source.n_lm();
        let n = tensors.table.n_tensors();
        let per_pair = source.n_channels * rec.n_channels * n;
        let first = self.row_starts(source, rec);
        // Rows of receivers add to any source: parts of fixed size have sums of their own.
        let size = rec.n_sites().div_ceil(16).max(1);
        let sums: Vec<Vec<T>> = (0..rec.n_sites())
            .into_par_iter()
            .chunks(size)
            .map(|sites| {
                let mut out = vec![T::zero(); source.coefficients.len()];
                for site in sites {
                    for pair in first[site]..first[site + 1] {
                        let other = self.source_of(site, pair, first[site]);
                        let values = &tensors.values[pair * per_pair..(pair + 1) * per_pair];
                        for (slot, values) in values.chunks_exact(n).enumerate() {
                            let (a, b) = (slot / rec.n_channels, slot % rec.n_channels);
                            let start = (other * source.n_channels + a) * n_lm;
                            let out = &mut out[start..start + n_lm];
                            tensors
                                .table
                                .add_source_potential(values, rec.at(site, b), out);
                        }
                    }
                }
                out
            })
            .collect();
        let mut out = vec![T::zero(); source.coefficients.len()];
        for part in sums {
            for (total, value) in out.iter_mut().zip(part) {
                *total += value;
            }
        }
        out
    }

    /// The source of one pair of a receiver's row.
    pub(super) fn source_of(&self, site: usize, pair: usize, first: usize) -> usize {
        match &self.pairs {
            Pairs::All => pair - first + usize::from(pair - first >= site),
            Pairs::Listed(rows) => rows.source[pair] as usize,
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
        let mut out = Gradient::zero(source, rec);
        let table = PairTable::new(source.max_l, rec.max_l);
        let symmetric = receiver.is_none();
        if let (Some(tensors), Want::RECEIVER) = (&self.tensors, want) {
            out.receiver = self.cached_potentials(tensors, source, rec);
            add_own_terms(source, receiver, &table, want, &mut out, |sigma, s| {
                parts(sigma, s, self.split)
            });
            return out;
        }
        if let (Some(tensors), Want::SOURCE, Some(_)) = (&self.tensors, want, receiver) {
            out.source = self.cached_source_potentials(tensors, source, rec);
            add_own_terms(source, receiver, &table, want, &mut out, |sigma, s| {
                parts(sigma, s, self.split)
            });
            return out;
        }
        let positions = want.positions || want.cell;
        // U is counted once per direction, so the energy gets a half.
        let half = if symmetric { 0.5 } else { 1.0 };
        let same_sites = receiver.is_none_or(|r| std::ptr::eq(r.positions, source.positions));
        let n_lm = rec.n_lm();
        let rows: Vec<Row<T>> = (0..rec.n_sites())
            .into_par_iter()
            .map(|site| {
                let mut row = Row::zero(rec.n_channels * n_lm);
                self.for_pairs(source, rec, site, same_sites, |other, d, shift| {
                    let mut gradient = [T::zero(); 3];
                    for a in 0..source.n_channels {
                        for b in 0..rec.n_channels {
                            let sigma = source.width(other, a);
                            let parts = parts(sigma, rec.width(site, b), self.split);
                            if parts.is_empty() {
                                continue;
                            }
                            let value = table.evaluate(
                                d,
                                &parts,
                                source.at(other, a),
                                rec.at(site, b),
                                &mut PairOutput {
                                    source: None,
                                    receiver: Some(&mut row.potential[b * n_lm..(b + 1) * n_lm]),
                                    gradient: positions.then_some(&mut gradient),
                                },
                            );
                            row.value += value;
                        }
                    }
                    add_scaled(&mut row.position, &gradient, T::constant(1.0));
                    if want.cell {
                        for axis in 0..3 {
                            if shift[axis] != 0 {
                                let factor = T::constant(-shift[axis] as f64 * half);
                                add_scaled(&mut row.cell[axis], &gradient, factor);
                            }
                        }
                    }
                });
                row
            })
            .collect();
        for (site, row) in rows.iter().enumerate() {
            out.value += row.value * half;
            let start = site * rec.n_channels * n_lm;
            for (k, &value) in row.potential.iter().enumerate() {
                out.receiver[start + k] = value;
            }
            out.receiver_positions[site] = row.position;
            for axis in 0..3 {
                add_scaled(&mut out.cell[axis], &row.cell[axis], T::constant(1.0));
            }
        }
        if !symmetric && (want.source || positions) {
            self.source_side(source, rec, same_sites, &table, positions, &mut out);
        }
        if same_sites {
            add_own_terms(source, receiver, &table, want, &mut out, |sigma, s| {
                parts(sigma, s, self.split)
            });
        }
        out
    }

    /// Gradients in the sources, row by row of sources (the pair list is symmetric).
    fn source_side(
        &self,
        source: &Density<T>,
        rec: &Density<T>,
        same_sites: bool,
        table: &PairTable,
        positions: bool,
        out: &mut Gradient<T>,
    ) {
        let n_lm = source.n_lm();
        if !same_sites {
            // The rows are the receivers': add up in their order.
            for site in 0..rec.n_sites() {
                self.for_pairs(source, rec, site, false, |other, d, _| {
                    for a in 0..source.n_channels {
                        for b in 0..rec.n_channels {
                            let start = (other * source.n_channels + a) * n_lm;
                            let mut gradient = [T::zero(); 3];
                            table.evaluate(
                                d,
                                &parts(source.width(other, a), rec.width(site, b), self.split),
                                source.at(other, a),
                                rec.at(site, b),
                                &mut PairOutput {
                                    source: Some(&mut out.source[start..start + n_lm]),
                                    receiver: None,
                                    gradient: positions.then_some(&mut gradient),
                                },
                            );
                            add_scaled(
                                &mut out.source_positions[other],
                                &gradient,
                                T::constant(-1.0),
                            );
                        }
                    }
                });
            }
            return;
        }
        let rows: Vec<Row<T>> = (0..source.n_sites())
            .into_par_iter()
            .map(|site| {
                let mut row = Row::zero(source.n_channels * n_lm);
                self.for_pairs(source, rec, site, true, |other, d, _| {
                    let d = d.map(|x| -x);
                    let mut gradient = [T::zero(); 3];
                    for a in 0..source.n_channels {
                        for b in 0..rec.n_channels {
                            let sigma = source.width(site, a);
                            let parts = parts(sigma, rec.width(other, b), self.split);
                            if parts.is_empty() {
                                continue;
                            }
                            table.evaluate(
                                &d,
                                &parts,
                                source.at(site, a),
                                rec.at(other, b),
                                &mut PairOutput {
                                    source: Some(&mut row.potential[a * n_lm..(a + 1) * n_lm]),
                                    receiver: None,
                                    gradient: positions.then_some(&mut gradient),
                                },
                            );
                        }
                    }
                    add_scaled(&mut row.position, &gradient, T::constant(-1.0));
                });
                row
            })
            .collect();
        for (site, row) in rows.iter().enumerate() {
            let start = site * source.n_channels * n_lm;
            for (k, &value) in row.potential.iter().enumerate() {
                out.source[start + k] = value;
            }
            out.source_positions[site] = row.position;
        }
    }

    /// Calls `f(source site, d from source to receiver, shift)` for the pairs of one receiver.
    pub(super) fn for_pairs(
        &self,
        source: &Density<T>,
        rec: &Density<T>,
        site: usize,
        same_sites: bool,
        mut f: impl FnMut(usize, &Vector<T>, [i32; 3]),
    ) {
        match &self.pairs {
            Pairs::All => {
                for other in 0..source.n_sites() {
                    if !(same_sites && other == site) {
                        let d = sub(&rec.positions[site], &source.positions[other]);
                        f(other, &d, [0; 3]);
                    }
                }
            }
            Pairs::Listed(rows) => {
                for pair in rows.first[site]..rows.first[site + 1] {
                    let other = rows.source[pair] as usize;
                    let shift = rows.shift[pair];
                    // the list's vector is receiver -> source + shift
                    let mut d = sub(&rec.positions[site], &source.positions[other]);
                    for axis in 0..3 {
                        if shift[axis] != 0 {
                            let factor = T::constant(-shift[axis] as f64);
                            add_scaled(&mut d, &self.cell[axis], factor);
                        }
                    }
                    f(other, &d, shift);
                }
            }
        }
    }
}

/// Subtracts each Gaussian's interaction with itself.
pub fn subtract_self_interaction<T: Scalar>(
    source: &Density<T>,
    receiver: Option<&Density<T>>,
    want: Want,
    out: &mut Gradient<T>,
) {
    let rec = receiver.unwrap_or(source);
    let table = PairTable::new(source.max_l, rec.max_l);
    add_own_terms(source, receiver, &table, want, out, |sigma, s| {
        vec![(sigma * sigma + s * s, -1.0)]
    });
}

/// Adds terms between source and receiver on the same site, where only the multipoles matter.
fn add_own_terms<T: Scalar>(
    source: &Density<T>,
    receiver: Option<&Density<T>>,
    table: &PairTable,
    want: Want,
    out: &mut Gradient<T>,
    parts: impl Fn(f64, f64) -> Vec<Part>,
) {
    let rec = receiver.unwrap_or(source);
    let half = if receiver.is_none() { 0.5 } else { 1.0 };
    let (n_source, n_receiver) = (source.n_lm(), rec.n_lm());
    let want_source = receiver.is_some() && want.source;
    for site in 0..source.n_sites() {
        for a in 0..source.n_channels {
            for b in 0..rec.n_channels {
                let parts = parts(source.width(site, a), rec.width(site, b));
                if parts.is_empty() {
                    continue;
                }
                let from = (site * source.n_channels + a) * n_source;
                let to = (site * rec.n_channels + b) * n_receiver;
                let value = table.evaluate(
                    &[T::zero(); 3],
                    &parts,
                    source.at(site, a),
                    rec.at(site, b),
                    &mut PairOutput {
                        source: want_source.then_some(&mut out.source[from..from + n_source]),
                        receiver: Some(&mut out.receiver[to..to + n_receiver]),
                        gradient: None,
                    },
                );
                out.value += value * half;
            }
        }
    }
}

/// What one site collects.
struct Row<T> {
    value: T,
    potential: Vec<T>,
    position: Vector<T>,
    cell: Matrix<T>,
}

impl<T: Scalar> Row<T> {
    fn zero(n: usize) -> Self {
        Self {
            value: T::zero(),
            potential: vec![T::zero(); n],
            position: [T::zero(); 3],
            cell: [[T::zero(); 3]; 3],
        }
    }
}
