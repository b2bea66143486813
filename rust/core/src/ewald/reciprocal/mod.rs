//! The sum over k-vectors: U = Σ_k w(k) Re[S_p(k) S_q(k)*] with w = K G(k) / V.
//!
//! With fixed (n1, n2) every multipole is a polynomial in n3, so structure factors and potentials are real
//! matrix products of amplitudes with tables of cos(n3 θ), sin(n3 θ), each serving +n3 and -n3.

mod backward;
mod columns;
mod forward;
mod sites;
mod tensors;

use super::density::{Density, Gradient, Want};
use super::kernel::Kernel;
use crate::arithmetic::dispatch::with_degree;
use crate::arithmetic::vector::{Matrix, Vector, add_scaled, dot, scale, zero_matrix};
use crate::arithmetic::{LANES, Scalar};
use crate::lattice::Lattice;
use crate::units::COULOMB_CONSTANT;
use backward::{Field, PackOutput};
use columns::Columns;
use forward::{Spectrum, StructureFactor};
use rayon::prelude::*;
pub use sites::lm_factor;
use sites::{Group, NOBODY, Phases};
use std::ops::Range;
pub use tensors::{LatticeSums, MAX_TOTAL};

/// Columns in one parallel task.
const BLOCK: usize = 16;

/// Precomputation of one geometry: k-vectors and phases.
pub struct Reciprocal<T: Scalar> {
    lattice: Lattice<T>,
    columns: Columns<T>,
    weights: Weights<T>,
    source_phases: Phases<T>,
    /// Only when the receivers sit elsewhere.
    receiver_phases: Option<Phases<T>>,
    /// Gaussian exponent k² γ² / 2 at which terms are dropped.
    exponent: f64,
    floor: f64,
}

/// Settings of one reciprocal sum.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Widths of sources and receivers are raised to this before the sum (0 for no split).
    pub floor: f64,
    /// k² (σ² + s²) / 2 beyond which terms are dropped.
    pub exponent: f64,
}

impl<T: Scalar> Reciprocal<T> {
    /// Makes the k-vectors for Gaussians no narrower than the given widths.
    pub fn new(
        lattice: Lattice<T>,
        source: &Density<T>,
        receiver: Option<&Density<T>>,
        settings: Settings,
    ) -> Self {
        let Settings { floor, exponent } = settings;
        let rec = receiver.unwrap_or(source);
        let width2 =
            source.smallest_width().max(floor).powi(2) + rec.smallest_width().max(floor).powi(2);
        let cutoff = (2.0 * exponent / width2).sqrt();
        let columns = Columns::new(&lattice, cutoff, source.max_l.max(rec.max_l));
        let source_phases = Phases::new(source.positions, &lattice, &columns);
        let elsewhere = receiver.filter(|r| !std::ptr::eq(r.positions, source.positions));
        let receiver_phases = elsewhere.map(|r| Phases::new(r.positions, &lattice, &columns));
        let weights = Weights::new(&lattice, &columns);
        Self {
            lattice,
            columns,
            weights,
            source_phases,
            receiver_phases,
            exponent,
            floor,
        }
    }

    /// Number of columns of k-vectors, and of ±k along them.
    pub fn n_columns(&self) -> usize {
        self.columns.columns.len()
    }

    pub fn n_entries(&self) -> usize {
        self.columns.n_entries
    }

    /// Number of k-vectors, each pair ±k counted once.
    pub fn n_modes(&self) -> usize {
        // n3 and -n3 share an entry.
        let columns = &self.columns.columns;
        let both: usize = columns.iter().map(|column| 2 * column.count - 1).sum();
        both - columns.first().map_or(0, |column| column.count - 1)
    }

    /// U(p, q), or with `receiver` = None the energy ½ U(p, p), whose gradient in p is `receiver` of the result.
    pub fn evaluate(
        &self,
        source: &Density<T>,
        receiver: Option<&Density<T>>,
        want: Want,
    ) -> Gradient<T> {
        let rec = receiver.unwrap_or(source);
        let mut out = Gradient::zero(source, rec);
        let source_groups = Group::split(source, self.floor);
        let source_counts = self.counts(&source_groups, rec.smallest_width());
        let receiver_groups = receiver.map(|r| Group::split(r, self.floor));
        let receiver_counts = receiver_groups
            .as_ref()
            .map(|groups| self.counts(groups, source.smallest_width()));
        let receiver_phases = self.receiver_phases.as_ref().unwrap_or(&self.source_phases);

        let forward = |phases, max_l: usize, groups: &[Group<T>], counts: &[Vec<u32>]| {
            self.blocks()
                .into_par_iter()
                .map(|block| {
                    let input = forward::Input {
                        phases,
                        columns: &self.columns,
                        block,
                        groups,
                        counts,
                        step: self.step(),
                    };
                    with_degree!(max_l, forward::structure_factor, T, &input)
                })
                .collect::<Vec<StructureFactor<T>>>()
        };
        let source_factor = forward(
            &self.source_phases,
            source.max_l,
            &source_groups,
            &source_counts,
        );
        // Potentials alone do not need the receivers' structure factor.
        let receiver_factor = match (&receiver_groups, &receiver_counts) {
            (Some(groups), Some(counts)) if want != Want::RECEIVER => {
                Some(forward(receiver_phases, rec.max_l, groups, counts))
            }
            _ => None,
        };

        let symmetric = receiver.is_none();
        let other = if symmetric {
            Some(&source_factor)
        } else {
            receiver_factor.as_ref()
        };
        let mut reciprocal = zero_matrix();
        let mut volume = T::zero();
        // Potentials alone need no value.
        if let Some(other) = other.filter(|_| want != Want::RECEIVER) {
            let half = if symmetric { 0.5 } else { 1.0 };
            let sums = self.contract(&source_factor, other, want.cell);
            for (value, derivative) in sums {
                out.value += value * half;
                for row in 0..3 {
                    add_scaled(&mut reciprocal[row], &derivative[row], T::constant(half));
                }
            }
            volume = -(out.value * self.lattice.volume.recip());
        }

        let receiving = receiver_groups.as_ref().unwrap_or(&source_groups);
        let receiving_counts = receiver_counts.as_ref().unwrap_or(&source_counts);
        if want.receiver || want.positions || want.cell {
            let positions = want.positions || want.cell;
            self.backward(
                receiver_phases,
                receiving,
                receiving_counts,
                (&source_factor, positions),
                &mut out.receiver,
                &mut out.receiver_positions,
                &mut reciprocal,
            );
        }
        if !symmetric
            && (want.source || want.positions || want.cell)
            && let Some(factor) = &receiver_factor
        {
            let positions = want.positions || want.cell;
            self.backward(
                &self.source_phases,
                &source_groups,
                &source_counts,
                (factor, positions),
                &mut out.source,
                &mut out.source_positions,
                &mut reciprocal,
            );
        }
        if want.cell {
            let lattice = &self.lattice;
            lattice.add_phases(source.positions, &out.source_positions, &mut reciprocal);
            lattice.add_phases(rec.positions, &out.receiver_positions, &mut reciprocal);
            out.cell = self.lattice.pull_back(&reciprocal, volume);
        }
        out
    }

    fn step(&self) -> Vector<T> {
        self.lattice.reciprocal[self.columns.axes[2]]
    }

    fn blocks(&self) -> Vec<Range<usize>> {
        let n = self.columns.columns.len();
        (0..n)
            .step_by(BLOCK)
            .map(|start| start..(start + BLOCK).min(n))
            .collect()
    }

    /// n3 beyond which each group is negligible, per column.
    fn counts(&self, groups: &[Group<T>], narrowest: f64) -> Vec<Vec<u32>> {
        groups
            .iter()
            .map(|group| self.counts_of(group.width, narrowest))
            .collect()
    }

    /// n3 beyond which Gaussians of one width are negligible, the narrowest on the other side having another.
    fn counts_of(&self, width: f64, narrowest: f64) -> Vec<u32> {
        let step = self.step().map(|x| x.value());
        let step2 = dot(&step, &step);
        let width2 = width.powi(2) + narrowest.max(self.floor).powi(2);
        let cutoff2 = 2.0 * self.exponent / width2;
        self.columns
            .columns
            .iter()
            .map(|column| {
                let base = column.base.map(|x| x.value());
                let along = dot(&base, &step).abs();
                let rest = along * along - step2 * (dot(&base, &base) - cutoff2);
                if rest < 0.0 {
                    return 0;
                }
                let count = ((rest.sqrt() + along) / step2) as usize + 1;
                count.min(column.count) as u32
            })
            .collect()
    }

    /// U and its derivative in the reciprocal vectors through w(k) and the Gaussians, block by block.
    fn contract(
        &self,
        source: &[StructureFactor<T>],
        receiver: &[StructureFactor<T>],
        want_cell: bool,
    ) -> Vec<(T, Matrix<T>)> {
        let step = self.step();
        self.blocks()
            .into_par_iter()
            .zip(source.par_iter().zip(receiver))
            .map(|(block, (source, receiver))| {
                let mut value = T::zero();
                let mut derivative = zero_matrix();
                let first = self.columns.columns[block.start].offset;
                for column in &self.columns.columns[block] {
                    for n3 in 0..column.count {
                        let entry = column.offset + n3;
                        let local = entry - first;
                        for sign in [1, -1] {
                            let pick = |s: &Spectrum<T>| {
                                if sign > 0 {
                                    s.plus[local]
                                } else {
                                    s.minus[local]
                                }
                            };
                            let (weight, slope) = if sign > 0 {
                                self.weights.plus[entry]
                            } else {
                                self.weights.minus[entry]
                            };
                            let (a, b) = (pick(&source.value), pick(&receiver.value));
                            let product = a[0] * b[0] + a[1] * b[1];
                            value += weight * product;
                            if !want_cell {
                                continue;
                            }
                            let (aw, bw) = (pick(&source.by_width), pick(&receiver.by_width));
                            let widths = aw[0] * b[0] + aw[1] * b[1] + a[0] * bw[0] + a[1] * bw[1];
                            let n = [column.n[0], column.n[1], sign * n3 as i32];
                            let mut k = column.base;
                            add_scaled(&mut k, &step, T::constant(n[2] as f64));
                            let (parallel, _) = parallel(&self.lattice, &self.columns, n);
                            for (place, &axis) in self.columns.axes.iter().enumerate() {
                                let n = n[place] as f64;
                                let row = &mut derivative[axis];
                                add_scaled(row, &k, -(weight * widths) * n);
                                if self.lattice.pbc[axis] {
                                    add_scaled(row, &parallel, slope * product * (2.0 * n));
                                }
                            }
                        }
                    }
                }
                (value, derivative)
            })
            .collect()
    }

    /// Potentials (and gradients) at the sites of `groups` in the field of a structure factor.
    #[allow(clippy::type_complexity)]
    fn backward(
        &self,
        phases: &Phases<T>,
        groups: &[Group<T>],
        counts: &[Vec<u32>],
        (factor, gradients): (&[StructureFactor<T>], bool),
        coefficients: &mut [T],
        positions: &mut [Vector<T>],
        reciprocal: &mut Matrix<T>,
    ) {
        let n_channels = groups.iter().map(|g| g.channel + 1).max().unwrap_or(1);
        for (group, counts) in groups.iter().zip(counts) {
            let field = self.field(factor, group, gradients);
            let n_packs = group.packs.len();
            // Fixed by the problem, never by the number of threads.
            let size = n_packs.div_ceil(16).clamp(1, 16);
            let tiles: Vec<Range<usize>> = (0..n_packs)
                .step_by(size)
                .map(|start| start..(start + size).min(n_packs))
                .collect();
            let outputs: Vec<_> = tiles
                .par_iter()
                .map(|tile| {
                    let input = backward::Input {
                        phases,
                        columns: &self.columns,
                        group,
                        tile: tile.clone(),
                        field: &field,
                        counts,
                        step: self.step(),
                        gradients,
                    };
                    with_degree!(group.max_l, backward::potentials, T, &input)
                })
                .collect();
            for (tile, output) in tiles.into_iter().zip(outputs) {
                for (place, pack) in tile.zip(&output.packs) {
                    scatter(group, n_channels, place, pack, coefficients, positions);
                }
                for (place, &axis) in self.columns.axes.iter().enumerate() {
                    add_scaled(
                        &mut reciprocal[axis],
                        &output.harmonics[place],
                        T::constant(1.0),
                    );
                }
            }
        }
    }

    fn field(&self, factor: &[StructureFactor<T>], group: &Group<T>, gradients: bool) -> Field<T> {
        let n_powers = group.max_l + 1 + usize::from(gradients);
        let step = self.step();
        let half_width2 = -0.5 * group.width * group.width;
        let parts: Vec<Vec<[T; 4]>> = self
            .blocks()
            .into_par_iter()
            .zip(factor)
            .map(|(block, factor)| {
                let first = self.columns.columns[block.start].offset;
                let mut part = Vec::new();
                for column in &self.columns.columns[block] {
                    for n3 in 0..column.count {
                        let entry = column.offset + n3;
                        let shift = scale(&step, T::constant(n3 as f64));
                        let mut k_plus = column.base;
                        add_scaled(&mut k_plus, &shift, T::constant(1.0));
                        let mut k_minus = column.base;
                        add_scaled(&mut k_minus, &shift, T::constant(-1.0));
                        let plus = self.weights.plus[entry].0
                            * (dot(&k_plus, &k_plus) * half_width2).exp();
                        let minus = self.weights.minus[entry].0
                            * (dot(&k_minus, &k_minus) * half_width2).exp();
                        let plus = factor.value.plus[entry - first].map(|s| s * plus);
                        let minus = factor.value.minus[entry - first].map(|s| s * minus);
                        let mut power = 1.0;
                        let mut sign = 1.0;
                        for _ in 0..n_powers {
                            part.push([
                                (plus[0] + minus[0] * sign) * power,
                                (plus[1] + minus[1] * sign) * power,
                                (plus[0] - minus[0] * sign) * power,
                                (plus[1] - minus[1] * sign) * power,
                            ]);
                            power *= n3 as f64;
                            sign = -sign;
                        }
                    }
                }
                part
            })
            .collect();
        Field {
            combinations: parts.concat(),
            n_powers,
        }
    }
}

/// w(k) and dw/d(k∥²) over (column, n3).
struct Weights<T> {
    plus: Vec<(T, T)>,
    minus: Vec<(T, T)>,
}

impl<T: Scalar> Weights<T> {
    /// Each pair ±k is counted once, hence the factor two.
    fn new(lattice: &Lattice<T>, columns: &Columns<T>) -> Self {
        let kernel = Kernel::new(lattice.pbc, lattice.open_length);
        let mut plus = Vec::with_capacity(columns.n_entries);
        let mut minus = Vec::with_capacity(columns.n_entries);
        let inverse = lattice.volume.recip() * COULOMB_CONSTANT;
        for column in &columns.columns {
            for n3 in 0..column.count {
                for (sign, out) in [(1, &mut plus), (-1, &mut minus)] {
                    let n = [column.n[0], column.n[1], sign * n3 as i32];
                    let zero_column = n[0] == 0 && n[1] == 0;
                    let weight = if zero_column && n3 == 0 {
                        let value = if sign > 0 { kernel.at_zero() } else { 0.0 };
                        (inverse * value, T::zero())
                    } else if sign < 0 && (n3 == 0 || zero_column) {
                        (T::zero(), T::zero())
                    } else {
                        let (parallel, open2) = parallel(lattice, columns, n);
                        let (g, slope) = kernel.evaluate(dot(&parallel, &parallel), open2);
                        (inverse * g * 2.0, inverse * slope * 2.0)
                    };
                    out.push(weight);
                }
            }
        }
        Self { plus, minus }
    }
}

/// The part of k along periodic axes, and the square of the rest.
fn parallel<T: Scalar>(
    lattice: &Lattice<T>,
    columns: &Columns<T>,
    n: [i32; 3],
) -> (Vector<T>, f64) {
    let mut parallel = [T::zero(); 3];
    let mut open2 = 0.0;
    for (place, &axis) in columns.axes.iter().enumerate() {
        if lattice.pbc[axis] {
            let n = T::constant(n[place] as f64);
            add_scaled(&mut parallel, &lattice.reciprocal[axis], n);
        } else {
            let k = 2.0 * std::f64::consts::PI * n[place] as f64 / lattice.open_length;
            open2 += k * k;
        }
    }
    (parallel, open2)
}

fn scatter<T: Scalar>(
    group: &Group<T>,
    n_channels: usize,
    place: usize,
    pack: &PackOutput<T>,
    coefficients: &mut [T],
    positions: &mut [Vector<T>],
) {
    use crate::arithmetic::Pack;
    let n_lm = group.n_lm();
    for lane in 0..LANES {
        let site = group.members[place][lane];
        if site == NOBODY {
            continue;
        }
        let site = site as usize;
        let start = (site * n_channels + group.channel) * n_lm;
        for lm in 0..n_lm {
            coefficients[start + lm] += pack.potential[lm].get(lane) * lm_factor(lm);
        }
        for axis in 0..3 {
            positions[site][axis] += pack.position[axis].get(lane);
        }
    }
}
