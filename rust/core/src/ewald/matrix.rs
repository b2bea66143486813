//! Matrices of the bilinear form: all columns at once, from tensors of each pair of sites.
//!
//! Every block depends on the vector between two sites and their widths through a few tensors, which are shared by all
//! their multipoles in both directions. This is faster than the columns one by one by the number of multipoles of an
//! atom times the number of atoms, over the number of those tensors.

use super::background;
use super::corrections::add_correction;
use super::density::{Density, Gradient};
use super::options::{Method, Options};
use super::own::OwnWeights;
use super::pair::PairTable;
use super::plan::Plan;
use super::prepared::{LongRange, Prepared};
use super::reciprocal::{LatticeSums, MAX_TOTAL, Reciprocal};
use crate::arithmetic::LANES;
use crate::arithmetic::vector::{Vector, sub};
use crate::error::Result;
use crate::lattice::periodic_measure;
use crate::limits::{Budget, Estimate};
use crate::special::harmonics::degree;
use rayon::prelude::*;

/// Largest number of kinds of sites (by widths); beyond it columns are computed one by one.
const MAX_KINDS: usize = 16;
/// Points evaluated together: their phases stay in the cache.
const TILE: usize = 256;

impl Prepared<f64> {
    /// The matrix U = qᵀ M p between multipoles on sources and receivers on the same sites: rows `[site][channel][lm]`
    /// of receivers, columns `[site][lm]`. None if columns one by one are faster: for very high degrees, and where
    /// nearly every site has a width of its own.
    ///
    /// The coefficients of the densities do not matter.
    pub fn matrix(
        &self,
        source: &Density<f64>,
        receiver: Option<&Density<f64>>,
    ) -> Result<Option<Vec<f64>>> {
        let rec = receiver.unwrap_or(source);
        let n_sites = source.n_sites();
        let kinds = Kinds::new(source, rec, receiver.is_none());
        let fits =
            source.max_l + rec.max_l <= MAX_TOTAL && kinds.representatives.len() <= MAX_KINDS;
        let reciprocal = match &self.long_range {
            Some(LongRange::Mesh(_)) if fits => {
                let sums = self.without_mesh(source, receiver);
                if let Ok(found) = sums.and_then(|sums| sums.matrix(source, receiver)) {
                    return Ok(found);
                }
                None
            }
            Some(LongRange::Sum(reciprocal)) if fits => Some(&**reciprocal),
            _ => None,
        };
        let together = reciprocal.is_some() || self.long_range.is_none();
        if !together || !self.fits_together(source, rec, &kinds, reciprocal) {
            self.check_columns(source, rec)?;
            return Ok(None);
        }
        let n_columns = n_sites * source.n_lm();
        let height = rec.n_channels * rec.n_lm();
        let table = PairTable::of(source.max_l, rec.max_l);
        let sums =
            reciprocal.map(|reciprocal| PairSums::new(reciprocal, source, rec, &kinds, table));
        let pairs = self
            .real
            .as_ref()
            .map(|real| real.pair_tensors(source, receiver));
        let sizes = [source.n_lm(), rec.n_lm(), n_columns];
        let cell = &self.boundary.cell;
        let periodic = self.boundary.pbc == [true; 3] || self.options.correction.is_some();
        let split = match self.plan {
            Plan::Split(split) if periodic => Some(split),
            _ => None,
        };
        let volume = split.map_or(1.0, |_| periodic_measure(cell, [true; 3]));
        let mut out = vec![0.0; n_sites * height * n_columns];
        out.par_chunks_mut((height * n_columns).max(1))
            .enumerate()
            .for_each(|(site, panel)| {
                if let Some(sums) = &sums {
                    sums.add_rows(site, table, panel);
                }
                if let (Some(pairs), Some(real)) = (&pairs, &self.real) {
                    pairs.add_rows(site, table, sizes, panel);
                    add_own_blocks(source, rec, site, real.own_weights(), panel);
                }
                if let Some(split) = split.filter(|split| split.cutoff > 0.0) {
                    for channel in 0..rec.n_channels {
                        let row = &mut panel[channel * rec.n_lm() * n_columns..][..n_columns];
                        for (other, value) in row.iter_mut().step_by(source.n_lm()).enumerate() {
                            let (sigma, s) = (source.width(other, 0), rec.width(site, channel));
                            *value += background::between(sigma, s, split.floor, volume);
                        }
                    }
                }
                if !self.options.self_interaction {
                    add_own_blocks(source, rec, site, OwnWeights::excluded(), panel);
                }
            });
        if let (Some(correction), Some(_)) = (self.options.correction, split) {
            let box_ = (cell, self.boundary.pbc, volume);
            let columns: Vec<Vec<f64>> = (0..n_columns)
                .into_par_iter()
                .map(|column| {
                    let mut unit = vec![0.0; n_columns];
                    unit[column] = 1.0;
                    let zeros = vec![0.0; n_sites * height];
                    let source = Density {
                        coefficients: &unit,
                        ..*source
                    };
                    // A separate receiver, since without one the source would act on itself.
                    let rec = Density {
                        coefficients: &zeros,
                        ..*rec
                    };
                    let mut gradient = Gradient::zero(&source, &rec);
                    add_correction(correction, &source, Some(&rec), box_, &mut gradient);
                    gradient.receiver
                })
                .collect();
            out.par_chunks_mut(n_columns.max(1))
                .enumerate()
                .for_each(|(row, values)| {
                    for (value, column) in values.iter_mut().zip(&columns) {
                        *value += column[row];
                    }
                });
        }
        Ok(Some(out))
    }

    /// Refuses matrices that take too long one column after the other.
    fn check_columns(&self, source: &Density<f64>, rec: &Density<f64>) -> Result<()> {
        let (rows, columns) = (rec.coefficients.len(), source.coefficients.len());
        let mut estimate = self.estimate;
        estimate.seconds *= columns as f64;
        estimate.bytes += 24.0 * rows as f64 * columns as f64;
        estimate.check(source.n_sites(), || {
            [
                format!("the matrix of {rows} × {columns} elements is too large"),
                "use energy, potential and features without a matrix, wider Gaussians, a lower max_l or accuracy"
                    .into(),
            ]
        })
    }

    /// True if the work of all elements together, lattice sums and pairs, is within the bounds.
    fn fits_together(
        &self,
        source: &Density<f64>,
        rec: &Density<f64>,
        kinds: &Kinds,
        reciprocal: Option<&Reciprocal<f64>>,
    ) -> bool {
        let (rows, columns) = (rec.coefficients.len(), source.coefficients.len());
        let n_tensors = PairTable::of(source.max_l, rec.max_l).n_tensors() as f64;
        let channels = rec.n_channels as f64;
        let n_pairs = (source.n_sites() as f64).powi(2);
        let n_listed = self
            .real
            .as_ref()
            .map_or(0.0, |real| real.n_pairs(source, rec));
        let n_blocks = channels * (n_pairs + n_listed);
        let numbers = rows as f64 * columns as f64 + n_blocks * n_tensors;
        let mut estimate = Estimate::new(4.0 * numbers + 2.0 * n_blocks * n_tensors, 8.0 * numbers);
        if let Some(reciprocal) = reciprocal {
            let stride = (source.max_l + rec.max_l + 1) as f64;
            let n_kinds = kinds.representatives.len() as f64;
            let spectra = channels * n_kinds * n_kinds;
            let entries = reciprocal.n_entries() as f64;
            // Packs of points, for each spectrum of theirs; and columns, with all powers of their numbers.
            let packs = channels * (0.5 * n_pairs / LANES as f64 + 1.0);
            let columns = reciprocal.n_columns() as f64;
            let sums = packs * stride * (1.5 * entries + 3.0 * stride * columns);
            let made = spectra * entries * (30.0 + stride);
            estimate += Estimate::new(sums + made, 16.0 * spectra * entries * stride);
        }
        estimate.fits(source.n_sites())
    }

    /// Equal operator as a sum, whose matrix elements are computed one by one.
    fn without_mesh(&self, source: &Density<f64>, receiver: Option<&Density<f64>>) -> Result<Self> {
        let options = Options {
            method: Method::Sums,
            ..self.options
        };
        let budget = Budget::new(source.n_sites());
        let (boundary, purpose) = (self.boundary, self.purpose);
        Self::new(0, boundary, source, receiver, purpose, &options, &budget)
    }
}

/// Sites sorted by their widths.
struct Kinds {
    /// Kind of each site.
    of: Vec<usize>,
    /// A site of each kind.
    representatives: Vec<usize>,
    /// True if receivers are the sources, so that widths can be swapped.
    symmetric: bool,
}

impl Kinds {
    fn new(source: &Density<f64>, rec: &Density<f64>, symmetric: bool) -> Self {
        let widths = |site: usize| {
            let receivers = (0..rec.n_channels).map(move |channel| rec.width(site, channel));
            std::iter::once(source.width(site, 0)).chain(receivers)
        };
        let mut representatives: Vec<usize> = Vec::new();
        let of = (0..source.n_sites())
            .map(|site| {
                let known = representatives
                    .iter()
                    .position(|&r| widths(r).eq(widths(site)));
                known.unwrap_or_else(|| {
                    representatives.push(site);
                    representatives.len() - 1
                })
            })
            .collect();
        Self {
            of,
            representatives,
            symmetric,
        }
    }
}

/// The reciprocal part of all pairs.
struct PairSums {
    n_sites: usize,
    n_channels: usize,
    n_source: usize,
    n_receiver: usize,
    /// Tensors `[pair][slot][component]` of each pair of kinds, for receiver i and source j.
    values: Vec<Vec<f64>>,
    /// List of `values` that holds a pair (i, j) of sites, its place there, and true if it is stored as (j, i).
    places: Vec<(u32, u32, bool)>,
    /// For each list the slots of the receivers' channels, as stored and for the pair reversed.
    slots: Vec<[Vec<usize>; 2]>,
    n_tensors: usize,
}

impl PairSums {
    fn new(
        reciprocal: &Reciprocal<f64>,
        source: &Density<f64>,
        rec: &Density<f64>,
        kinds: &Kinds,
        table: &PairTable,
    ) -> Self {
        let n_sites = source.n_sites();
        let n_kinds = kinds.representatives.len();
        let mut widths: Vec<[f64; 2]> = Vec::new();
        // For each two kinds, the pairs and the spectra that they need.
        let mut lists: Vec<(Vec<[u32; 2]>, Vec<usize>)> = Vec::new();
        let mut slots = Vec::new();
        let mut places = vec![(0, 0, false); n_sites * n_sites];
        for a in 0..n_kinds {
            for b in a..n_kinds {
                let mut needed: Vec<usize> = Vec::new();
                let mut slots_of = |receiving: usize, sending: usize| -> Vec<usize> {
                    let sigma = source.width(kinds.representatives[sending], 0);
                    (0..rec.n_channels)
                        .map(|channel| {
                            let s = rec.width(kinds.representatives[receiving], channel);
                            let swap = kinds.symmetric && s < sigma;
                            let pair = if swap { [s, sigma] } else { [sigma, s] };
                            let which = place_of(&mut widths, pair);
                            place_of(&mut needed, which)
                        })
                        .collect()
                };
                slots.push([slots_of(a, b), slots_of(b, a)]);
                let list = lists.len();
                let mut pairs = Vec::new();
                for i in (0..n_sites).filter(|&i| kinds.of[i] == a) {
                    for j in (0..n_sites).filter(|&j| kinds.of[j] == b && (a != b || j >= i)) {
                        let place = (list as u32, pairs.len() as u32);
                        places[i * n_sites + j] = (place.0, place.1, false);
                        if i != j {
                            places[j * n_sites + i] = (place.0, place.1, true);
                        }
                        pairs.push([i as u32, j as u32]);
                    }
                }
                lists.push((pairs, needed));
            }
        }
        let narrowest = [source.smallest_width(), rec.smallest_width()];
        let max_l = source.max_l + rec.max_l;
        let sums = LatticeSums::new(reciprocal, max_l, &table.kinds(), &widths, narrowest);
        let n_tensors = table.n_tensors();
        let values = lists
            .into_par_iter()
            .map(|(pairs, needed)| {
                let stride = needed.len() * n_tensors;
                let mut values = vec![0.0; pairs.len() * stride];
                values
                    .par_chunks_mut(TILE * stride)
                    .zip(pairs.par_chunks(TILE))
                    .for_each(|(values, pairs)| {
                        let points: Vec<Vector<f64>> = pairs
                            .iter()
                            .map(|&[i, j]| {
                                let receiver = &rec.positions[i as usize];
                                sub(receiver, &source.positions[j as usize])
                            })
                            .collect();
                        sums.evaluate(&points, &needed, values);
                    });
                values
            })
            .collect();
        Self {
            n_sites,
            n_channels: rec.n_channels,
            n_source: source.n_lm(),
            n_receiver: rec.n_lm(),
            values,
            places,
            slots,
            n_tensors,
        }
    }

    /// Adds the rows of one receiving site.
    fn add_rows(&self, site: usize, table: &PairTable, panel: &mut [f64]) {
        let n_columns = self.n_sites * self.n_source;
        let n = self.n_tensors;
        for other in 0..self.n_sites {
            let (list, place, reversed) = self.places[site * self.n_sites + other];
            let (list, place) = (list as usize, place as usize);
            let slots = &self.slots[list][usize::from(reversed)];
            let n_slots = self.slots[list]
                .iter()
                .flatten()
                .max()
                .map_or(0, |slot| slot + 1);
            for (channel, slot) in slots.iter().enumerate().take(self.n_channels) {
                let start = (place * n_slots + slot) * n;
                let tensors = &self.values[list][start..start + n];
                let corner = channel * self.n_receiver * n_columns + other * self.n_source;
                table.add_block(tensors, reversed, &mut panel[corner..], n_columns);
            }
        }
    }
}

/// Index of a value in a list, at the end if it is new.
fn place_of<V: PartialEq>(list: &mut Vec<V>, value: V) -> usize {
    list.iter()
        .position(|known| *known == value)
        .unwrap_or_else(|| {
            list.push(value);
            list.len() - 1
        })
}

/// Adds the interaction of a site's receivers with its source.
fn add_own_blocks(
    source: &Density<f64>,
    rec: &Density<f64>,
    site: usize,
    mut weights: OwnWeights,
    panel: &mut [f64],
) {
    let n_columns = source.n_sites() * source.n_lm();
    for channel in 0..rec.n_channels {
        let weights = weights.of(source.width(site, 0), rec.width(site, channel));
        let corner = channel * rec.n_lm() * n_columns + site * source.n_lm();
        for lm in 0..source.n_lm().min(rec.n_lm()) {
            panel[corner + lm * (n_columns + 1)] += weights[degree(lm)];
        }
    }
}
