//! The interaction of two Gaussian multipoles at any distance, with its gradients.
//!
//! U = K Σ p_lm q_l'm' (-1)^l / ((2l-1)!!(2l'-1)!!) C_lm(∇) C_l'm'(∇) f(d), d from source to receiver. The product
//! of harmonics expands in C_LM(∇) ∇^2n, and C_LM(∇) acts on a radial function as C_LM(d) (1/r d/dr)^L.

use crate::arithmetic::ring::{Element, Ring};
use crate::arithmetic::{Pack, Scalar};
use crate::special::boys::{BoysTable, MAX_ORDER};
use crate::special::harmonics::{
    GradientTerm, MAX_L, count, degree, double_factorial_odd, gradients, products, solid_harmonics,
};
use crate::special::radial::{Part, RadialTable, add_laplacians, add_radial};
use crate::units::COULOMB_CONSTANT;
use std::sync::OnceLock;

/// One term of the product expansion, prefactors included.
#[derive(Clone, Copy, Debug)]
pub struct Term {
    pub source: u16,
    pub receiver: u16,
    pub coefficient: f64,
}

/// The terms that share one C_LM and one power of the Laplacian.
#[derive(Clone, Debug)]
pub struct Component {
    pub product: usize,
    pub degree: usize,
    pub power: usize,
    pub terms: Vec<Term>,
}

/// Expansion tables for sources up to `source_l` and receivers up to `receiver_l`.
#[derive(Clone, Debug)]
pub struct PairTable {
    max_l: usize,
    components: Vec<Component>,
    gradients: Vec<Vec<GradientTerm>>,
}

/// Accumulators of eight pairs, one pair per lane.
pub struct PairOutput<'a, P> {
    pub source: &'a mut [P],
    pub receiver: &'a mut [P],
    /// dU/dd
    pub gradient: &'a mut [P],
}

impl PairTable {
    /// The tables, made at first use.
    pub fn of(source_l: usize, receiver_l: usize) -> &'static Self {
        static TABLES: [[OnceLock<PairTable>; MAX_L + 1]; MAX_L + 1] =
            [const { [const { OnceLock::new() }; MAX_L + 1] }; MAX_L + 1];
        TABLES[source_l][receiver_l].get_or_init(|| Self::new(source_l, receiver_l))
    }

    fn new(source_l: usize, receiver_l: usize) -> Self {
        let mut components: Vec<Component> = Vec::new();
        for term in products(source_l, receiver_l) {
            let (product, power) = (term.product as usize, term.power as usize);
            let l = degree(term.first as usize);
            let sign = if l.is_multiple_of(2) { 1.0 } else { -1.0 };
            let norm = double_factorial_odd(l) * double_factorial_odd(degree(term.second as usize));
            let entry = Term {
                source: term.first,
                receiver: term.second,
                coefficient: COULOMB_CONSTANT * sign * term.coefficient / norm,
            };
            match components
                .iter_mut()
                .find(|c| c.product == product && c.power == power)
            {
                Some(component) => component.terms.push(entry),
                None => components.push(Component {
                    product,
                    degree: degree(product),
                    power,
                    terms: vec![entry],
                }),
            }
        }
        let max_l = source_l + receiver_l;
        let mut by_product = vec![Vec::new(); count(max_l)];
        for term in gradients(max_l) {
            by_product[term.of as usize].push(*term);
        }
        Self {
            max_l,
            components,
            gradients: by_product,
        }
    }

    /// Number of tensors that a pair is described by.
    pub fn n_tensors(&self) -> usize {
        self.components.len()
    }

    /// Factors of eight pairs that do not depend on the multipoles: C_LM(d) (1/r d/dr)^L ∇^2n f, one per component.
    /// `boys` is the table of order [`PairTable::order`].
    #[inline(always)]
    pub fn tensors<P: Pack, const FMA: bool>(
        &self,
        d: &[P],
        parts: &[Part],
        boys: &BoysTable,
        out: &mut [P],
    ) {
        let harmonics = self.harmonics(d);
        let radial = self.radial::<P, FMA>(d, parts, boys);
        for (tensor, component) in out.iter_mut().zip(&self.components) {
            let function = radial[component.power][component.degree];
            *tensor = harmonics[component.product].0.mul(function);
        }
    }

    /// Adds the potentials of sources with multipoles `p` at receivers, and those of receivers with `q` at sources,
    /// from the tensors of eight pairs.
    #[inline(always)]
    pub fn add_potentials<P: Pack, const FMA: bool>(
        &self,
        tensors: &[P],
        p: &[P],
        q: &[P],
        source: &mut [P],
        receiver: &mut [P],
    ) {
        for (&tensor, component) in tensors.iter().zip(&self.components) {
            for term in &component.terms {
                let (i, j) = (term.source as usize, term.receiver as usize);
                let scaled = tensor.mul(P::splat(Scalar::constant(term.coefficient)));
                source[i] = scaled.mul_add::<FMA>(q[j], source[i]);
                receiver[j] = scaled.mul_add::<FMA>(p[i], receiver[j]);
            }
        }
    }

    pub fn components(&self) -> &[Component] {
        &self.components
    }

    /// ∇C_LM in harmonics of one degree less.
    pub fn gradients_of(&self, product: usize) -> &[GradientTerm] {
        &self.gradients[product]
    }

    /// (index of C_LM, power of the Laplacian) of each component.
    pub fn kinds(&self) -> Vec<(usize, usize)> {
        let kind = |c: &Component| (c.product, c.power);
        self.components.iter().map(kind).collect()
    }

    /// Adds a pair's tensors to its block of a matrix, rows of receivers `stride` apart. With `reversed`, the tensors
    /// are those of the opposite vector.
    #[inline]
    pub fn add_block(&self, tensors: &[f64], reversed: bool, block: &mut [f64], stride: usize) {
        for (&tensor, component) in tensors.iter().zip(&self.components) {
            let odd = reversed && component.degree % 2 == 1;
            let tensor = if odd { -tensor } else { tensor };
            for term in &component.terms {
                let place = term.receiver as usize * stride + term.source as usize;
                block[place] += tensor * term.coefficient;
            }
        }
    }

    /// Order of the Boys functions that gradients need.
    pub fn order<P: Pack>(&self) -> usize {
        self.max_l + 1 + P::TANGENTS
    }

    #[inline(always)]
    fn harmonics<P: Pack>(&self, d: &[P]) -> [Element<P>; count(2 * MAX_L)] {
        let mut out = [Element::zero(); count(2 * MAX_L)];
        let (x, y, z) = (Element(d[0]), Element(d[1]), Element(d[2]));
        solid_harmonics(x, y, z, self.max_l, &mut out);
        out
    }

    #[inline(always)]
    fn radial<P: Pack, const FMA: bool>(
        &self,
        d: &[P],
        parts: &[Part],
        boys: &BoysTable,
    ) -> RadialTable<P> {
        let mut radial = [[P::zero(); MAX_ORDER + 1]; MAX_L + 1];
        let r2 = square::<P, FMA>(d);
        for part in parts {
            add_radial::<P, FMA>(&mut radial[0], r2, part, self.max_l + 1, boys);
            add_laplacians::<P, FMA>(&mut radial, r2, part, self.max_l + 1);
        }
        radial
    }

    /// Adds the gradients of U of sources with multipoles `p` and receivers with `q`, eight pairs at a time. `boys` is
    /// the table of order [`PairTable::order`].
    #[inline(always)]
    pub fn add_gradients<P: Pack, const FMA: bool>(
        &self,
        d: &[P],
        parts: &[Part],
        boys: &BoysTable,
        p: &[P],
        q: &[P],
        out: &mut PairOutput<P>,
    ) {
        let harmonics = self.harmonics(d);
        let radial = self.radial::<P, FMA>(d, parts, boys);
        for component in &self.components {
            let harmonic = harmonics[component.product].0;
            let function = radial[component.power][component.degree];
            let tensor = harmonic.mul(function);
            let mut weight = P::zero();
            for term in &component.terms {
                let (i, j) = (term.source as usize, term.receiver as usize);
                let coefficient = P::splat(Scalar::constant(term.coefficient));
                let scaled = tensor.mul(coefficient);
                out.source[i] = scaled.mul_add::<FMA>(q[j], out.source[i]);
                out.receiver[j] = scaled.mul_add::<FMA>(p[i], out.receiver[j]);
                weight = p[i].mul(coefficient).mul_add::<FMA>(q[j], weight);
            }
            // ∇(C F) = F ∇C + C d (1/r dF/dr)
            let next = radial[component.power][component.degree + 1];
            let along = weight.mul(harmonic).mul(next);
            for axis in 0..3 {
                out.gradient[axis] = along.mul_add::<FMA>(d[axis], out.gradient[axis]);
            }
            let inner = weight.mul(function);
            for term in &self.gradients[component.product] {
                let axis = term.axis as usize;
                let lower = harmonics[term.lower as usize] * term.coefficient;
                out.gradient[axis] = inner.mul_add::<FMA>(lower.0, out.gradient[axis]);
            }
        }
    }
}

/// r² of eight vectors.
#[inline(always)]
pub fn square<P: Pack, const FMA: bool>(d: &[P]) -> P {
    let (x, y, z) = (d[0], d[1], d[2]);
    z.mul_add::<FMA>(z, y.mul_add::<FMA>(y, x.mul(x)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::Dual;
    use crate::arithmetic::{DualPack, F64x8, LANES};

    /// Deterministic numbers in (-1, 1).
    fn numbers(n: usize, seed: f64) -> Vec<f64> {
        (0..n)
            .map(|k| (seed + 12.9898 * (k + 1) as f64).sin())
            .collect()
    }

    /// dU/dp, dU/dq and dU/dd of equal pairs in all lanes.
    fn gradients_of<P: Pack>(
        table: &PairTable,
        d: [P::Scalar; 3],
        parts: &[(f64, f64)],
        p: &[f64],
        q: &[f64],
    ) -> [Vec<P::Scalar>; 3] {
        let splat = |values: &[f64]| -> Vec<P> {
            let packs = values.iter().map(|&x| P::splat(Scalar::constant(x)));
            packs.collect()
        };
        let (mut dp, mut dq) = (vec![P::zero(); p.len()], vec![P::zero(); q.len()]);
        let mut dd = [P::zero(); 3];
        let parts: Vec<Part> = parts
            .iter()
            .map(|&(gamma2, factor)| Part::new(F64x8::splat(gamma2), factor))
            .collect();
        table.add_gradients::<P, true>(
            &d.map(P::splat),
            &parts,
            BoysTable::up_to(table.order::<P>()),
            &splat(p),
            &splat(q),
            &mut PairOutput {
                source: &mut dp,
                receiver: &mut dq,
                gradient: &mut dd,
            },
        );
        let lane = |x: &P| x.get(LANES - 1);
        [
            dp.iter().map(lane).collect(),
            dq.iter().map(lane).collect(),
            dd.iter().map(lane).collect(),
        ]
    }

    #[test]
    fn two_charges() {
        let table = PairTable::of(0, 0);
        let at = |d| gradients_of::<F64x8>(table, d, &[(0.5, 1.0)], &[1.0], &[2.0])[0][0];
        assert!((at([0.0, 0.0, 40.0]) - 2.0 * COULOMB_CONSTANT / 40.0).abs() < 1e-14);
        let exact = 2.0 * COULOMB_CONSTANT * (2.0 / std::f64::consts::PI / 0.5f64).sqrt();
        assert!((at([0.0; 3]) - exact).abs() < 1e-13 * exact);
    }

    #[test]
    fn gradients_are_those_of_the_value() {
        for (source_l, receiver_l) in [(0, 1), (1, 1), (2, 1), (3, 2), (4, 4), (6, 6)] {
            let table = PairTable::of(source_l, receiver_l);
            let p = numbers(count(source_l), 0.3);
            let q = numbers(count(receiver_l), 1.1);
            let d = [0.9, -0.4, 0.7];
            let parts = [(1.3, 1.0), (2.9, -1.0)];
            let [dp, dq, dd] = gradients_of::<F64x8>(table, d, &parts, &p, &q);
            let value: f64 = dp.iter().zip(&p).map(|(a, b)| a * b).sum();
            assert!(value.abs() > 1e-3);
            let sum: f64 = dq.iter().zip(&q).map(|(a, b)| a * b).sum();
            assert!((sum - value).abs() < 1e-12 * dq.iter().map(|x| x.abs()).sum::<f64>());
            for axis in 0..3 {
                let mut dual = d.map(Dual::constant);
                dual[axis].tangent = 1.0;
                let [tangents, ..] = gradients_of::<DualPack>(table, dual, &parts, &p, &q);
                let tangent: f64 = tangents.iter().zip(&p).map(|(a, b)| a.tangent * b).sum();
                let scale = 1.0 + tangent.abs();
                assert!(
                    (tangent - dd[axis]).abs() < 1e-11 * scale,
                    "l {source_l} {receiver_l}"
                );
            }
        }
    }
}
