//! Phase factors of the sites, as products of one-dimensional tables.

use super::columns::Columns;
use crate::arithmetic::vector::{Vector, dot};
use crate::arithmetic::{LANES, Pack, Scalar};
use crate::ewald::density::{Density, distinct_widths};
use crate::lattice::Lattice;
use crate::special::harmonics::{count, degree, double_factorial_odd};

/// (cos, sin) of n θ for eight sites.
pub type Phase<P> = [P; 2];

/// Phase tables of a set of sites, eight sites in a pack.
pub struct Phases<T: Scalar> {
    pub n_packs: usize,
    /// `[n][pack]` for each of the axes u, v, w of the columns, n ≥ 0.
    pub tables: [Vec<Phase<T::Pack>>; 3],
}

impl<T: Scalar> Phases<T> {
    pub fn new(positions: &[Vector<T>], lattice: &Lattice<T>, columns: &Columns<T>) -> Self {
        let n_packs = positions.len().div_ceil(LANES);
        let tables = std::array::from_fn(|axis| {
            let b = &lattice.reciprocal[columns.axes[axis]];
            let mut table = vec![[T::Pack::splat(T::constant(1.0)), T::Pack::zero()]; n_packs];
            table.reserve(columns.largest[axis] * n_packs);
            if columns.largest[axis] > 0 {
                for pack in 0..n_packs {
                    let mut phase = [T::Pack::zero(); 2];
                    for lane in 0..LANES {
                        if let Some(position) = positions.get(pack * LANES + lane) {
                            let (sin, cos) = dot(b, position).sin_cos();
                            phase[0].set(lane, cos);
                            phase[1].set(lane, sin);
                        }
                    }
                    table.push(phase);
                }
            }
            // e^{inθ} as a product of two earlier powers: errors grow with log n only.
            for n in 2..=columns.largest[axis] {
                let (low, high) = (n / 2, n - n / 2);
                for pack in 0..n_packs {
                    let product =
                        multiply(&table[low * n_packs + pack], &table[high * n_packs + pack]);
                    table.push(product);
                }
            }
            table
        });
        Self { n_packs, tables }
    }

    /// The phase of one column, n1 θ_u + n2 θ_v.
    #[inline(always)]
    pub fn base<const FMA: bool>(&self, n: [i32; 2], pack: usize) -> Phase<T::Pack> {
        let u = &self.tables[0][n[0] as usize * self.n_packs + pack];
        let v = &self.tables[1][n[1].unsigned_abs() as usize * self.n_packs + pack];
        let sin = if n[1] < 0 { v[1].neg() } else { v[1] };
        [
            u[1].neg_mul_add::<FMA>(sin, u[0].mul(v[0])),
            u[1].mul_add::<FMA>(v[0], u[0].mul(sin)),
        ]
    }
}

fn multiply<P: Pack>(a: &Phase<P>, b: &Phase<P>) -> Phase<P> {
    [
        a[1].neg_mul_add::<false>(b[1], a[0].mul(b[0])),
        a[1].mul_add::<false>(b[0], a[0].mul(b[1])),
    ]
}

/// Sign that reduces (-i)^l to +1 or +i; it also reduces Re[i^l z] to Re z or Im z.
#[inline]
pub fn parity_sign(l: usize) -> f64 {
    match l % 4 {
        0 | 3 => 1.0,
        _ => -1.0,
    }
}

/// Sites and one of their channels that share a width, with coefficients in packs.
pub struct Group<T: Scalar> {
    pub width: f64,
    pub channel: usize,
    pub max_l: usize,
    /// The packs that hold sites of this group.
    pub packs: Vec<u32>,
    /// Places in `packs` where any multipole is not zero.
    pub charged: Vec<u32>,
    /// `[position in packs][lm]`, times the parity sign, over (2l-1)!!; zero on other sites.
    pub coefficients: Vec<T::Pack>,
    /// Sites (or none) of each lane.
    pub members: Vec<[u32; LANES]>,
}

/// Lane without a site.
pub const NOBODY: u32 = u32::MAX;

impl<T: Scalar> Group<T> {
    /// Splits a density by width. Widths below `floor` are raised to it (the split of the Ewald sum).
    pub fn split(density: &Density<T>, floor: f64) -> Vec<Self> {
        let n_lm = density.n_lm();
        let mut out: Vec<Self> = Vec::new();
        for channel in 0..density.n_channels {
            let of_site = |site: usize| density.width(site, channel).max(floor);
            let widths = distinct_widths((0..density.n_sites()).map(of_site), floor);
            let first = out.len();
            out.extend(widths.iter().map(|&width| Self {
                width,
                channel,
                max_l: density.max_l,
                packs: Vec::new(),
                charged: Vec::new(),
                coefficients: Vec::new(),
                members: Vec::new(),
            }));
            for site in 0..density.n_sites() {
                let which = widths.partition_point(|&width| width < of_site(site));
                let group = &mut out[first + which];
                let pack = (site / LANES) as u32;
                if group.packs.last() != Some(&pack) {
                    group.packs.push(pack);
                    group.members.push([NOBODY; LANES]);
                    group
                        .coefficients
                        .resize(group.packs.len() * n_lm, T::Pack::zero());
                }
                let last = group.packs.len() - 1;
                group.members[last][site % LANES] = site as u32;
                let multipoles = density.at(site, channel);
                if group.charged.last() != Some(&(last as u32))
                    && multipoles.iter().any(|p| !p.is_zero())
                {
                    group.charged.push(last as u32);
                }
                for (lm, &value) in multipoles.iter().enumerate() {
                    let scaled = value * lm_factor(lm);
                    group.coefficients[last * n_lm + lm].set(site % LANES, scaled);
                }
            }
        }
        out
    }

    #[inline(always)]
    pub fn n_lm(&self) -> usize {
        count(self.max_l)
    }
}

/// Parity sign over (2l-1)!!.
#[inline]
pub fn lm_factor(lm: usize) -> f64 {
    let l = degree(lm);
    parity_sign(l) / double_factorial_odd(l)
}
