//! The interaction of two Gaussian multipoles at any distance, with its gradients.
//!
//! U = K Σ p_lm q_l'm' (-1)^l / ((2l-1)!!(2l'-1)!!) C_lm(∇) C_l'm'(∇) f(d), d from source to receiver. The product
//! of harmonics expands in C_LM(∇) ∇^2n, and C_LM(∇) acts on a radial function as C_LM(d) (1/r d/dr)^L.

use crate::harmonics::{
    GradientTerm, MAX_DEGREE, MAX_L, count, degree, double_factorial_odd, gradients, products,
    solid_harmonics,
};
use crate::radial::{RadialTable, add_radial};
use crate::scalar::Scalar;
use crate::units::COULOMB_CONSTANT;
use crate::vector::{Vector, dot};

/// One term of the product expansion, prefactors included.
#[derive(Clone, Copy, Debug)]
struct Term {
    source: u16,
    receiver: u16,
    coefficient: f64,
}

/// The terms that share one C_LM and one power of the Laplacian.
#[derive(Clone, Debug)]
struct Component {
    product: usize,
    degree: usize,
    power: usize,
    terms: Vec<Term>,
}

/// Expansion tables for sources up to `source_l` and receivers up to `receiver_l`.
#[derive(Clone, Debug)]
pub struct PairTable {
    max_l: usize,
    components: Vec<Component>,
    gradients: Vec<Vec<GradientTerm>>,
}

/// A Gaussian width γ² with a factor: +1 for the interaction itself, -1 for what another sum has counted.
pub type Part = (f64, f64);

/// Where the results of one pair are added.
pub struct PairOutput<'a, T> {
    pub source: Option<&'a mut [T]>,
    pub receiver: Option<&'a mut [T]>,
    /// dU/dd, only when asked for.
    pub gradient: Option<&'a mut Vector<T>>,
}

impl PairTable {
    pub fn new(source_l: usize, receiver_l: usize) -> Self {
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

    /// Everything of a pair that does not depend on the multipoles: C_LM(d) (1/r d/dr)^L ∇^2n f, one per component.
    pub fn tensors<T: Scalar>(&self, d: &Vector<T>, parts: &[Part], out: &mut [T]) {
        let mut harmonics = [T::zero(); count(2 * MAX_L)];
        solid_harmonics(d[0], d[1], d[2], self.max_l, &mut harmonics);
        let radial = self.radial(d, parts, self.max_l);
        for (tensor, component) in out.iter_mut().zip(&self.components) {
            *tensor = harmonics[component.product] * radial[component.power][component.degree];
        }
    }

    /// Adds the potential of a source with multipoles `p` at a receiver, from the pair's tensors.
    #[inline]
    pub fn add_potential<T: Scalar>(&self, tensors: &[T], p: &[T], receiver: &mut [T]) {
        for (&tensor, component) in tensors.iter().zip(&self.components) {
            for term in &component.terms {
                receiver[term.receiver as usize] +=
                    tensor * p[term.source as usize] * term.coefficient;
            }
        }
    }

    /// Adds the potential at a source of a receiver with coefficients `q`, from the pair's tensors.
    #[inline]
    pub fn add_source_potential<T: Scalar>(&self, tensors: &[T], q: &[T], source: &mut [T]) {
        for (&tensor, component) in tensors.iter().zip(&self.components) {
            for term in &component.terms {
                source[term.source as usize] +=
                    tensor * q[term.receiver as usize] * term.coefficient;
            }
        }
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

    fn radial<T: Scalar>(&self, d: &Vector<T>, parts: &[Part], max_a: usize) -> RadialTable<T> {
        let mut radial: RadialTable<T> = [[T::zero(); MAX_DEGREE + 3]; MAX_L + 1];
        let r2 = dot(d, d);
        for &(gamma2, factor) in parts {
            add_radial(&mut radial, r2, gamma2, factor, max_a, self.max_l / 2);
        }
        radial
    }

    /// U of one source with multipoles `p` and one receiver with `q`, adding gradients to `out`.
    pub fn evaluate<T: Scalar>(
        &self,
        d: &Vector<T>,
        parts: &[Part],
        p: &[T],
        q: &[T],
        out: &mut PairOutput<T>,
    ) -> T {
        let mut harmonics = [T::zero(); count(2 * MAX_L)];
        solid_harmonics(d[0], d[1], d[2], self.max_l, &mut harmonics);
        let radial = self.radial(d, parts, self.max_l + 1);
        let mut value = T::zero();
        for component in &self.components {
            let harmonic = harmonics[component.product];
            let function = radial[component.power][component.degree];
            let tensor = harmonic * function;
            let mut weight = T::zero();
            for term in &component.terms {
                let (i, j) = (term.source as usize, term.receiver as usize);
                let scaled = tensor * term.coefficient;
                if let Some(source) = out.source.as_deref_mut() {
                    source[i] += scaled * q[j];
                }
                if let Some(receiver) = out.receiver.as_deref_mut() {
                    receiver[j] += scaled * p[i];
                }
                weight += p[i] * q[j] * term.coefficient;
            }
            value += weight * tensor;
            if let Some(gradient) = out.gradient.as_deref_mut() {
                // ∇(C F) = F ∇C + C d (1/r dF/dr)
                let next = radial[component.power][component.degree + 1];
                let along = weight * harmonic * next;
                for axis in 0..3 {
                    gradient[axis] += along * d[axis];
                }
                let inner = weight * function;
                for term in &self.gradients[component.product] {
                    gradient[term.axis as usize] +=
                        inner * harmonics[term.lower as usize] * term.coefficient;
                }
            }
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scalar::Dual;

    /// Deterministic numbers in (-1, 1).
    fn numbers(n: usize, seed: f64) -> Vec<f64> {
        (0..n)
            .map(|k| (seed + 12.9898 * (k + 1) as f64).sin())
            .collect()
    }

    #[test]
    fn two_charges() {
        let table = PairTable::new(0, 0);
        let mut out = PairOutput {
            source: None,
            receiver: None,
            gradient: None,
        };
        let far = table.evaluate(&[0.0, 0.0, 40.0], &[(0.5, 1.0)], &[1.0], &[2.0], &mut out);
        assert!((far - 2.0 * COULOMB_CONSTANT / 40.0).abs() < 1e-14);
        let same = table.evaluate(&[0.0; 3], &[(0.5, 1.0)], &[1.0], &[1.0], &mut out);
        let exact = COULOMB_CONSTANT * (2.0 / std::f64::consts::PI / 0.5f64).sqrt();
        assert!((same - exact).abs() < 1e-13 * exact);
    }

    #[test]
    fn gradients_are_those_of_the_value() {
        for (source_l, receiver_l) in [(0, 1), (1, 1), (2, 1), (3, 2), (4, 4), (6, 6)] {
            let table = PairTable::new(source_l, receiver_l);
            let p = numbers(count(source_l), 0.3);
            let q = numbers(count(receiver_l), 1.1);
            let d = [0.9, -0.4, 0.7];
            let parts = [(1.3, 1.0), (2.9, -1.0)];
            let mut dp = vec![0.0; p.len()];
            let mut dq = vec![0.0; q.len()];
            let mut dd = [0.0; 3];
            let value = table.evaluate(
                &d,
                &parts,
                &p,
                &q,
                &mut PairOutput {
                    source: Some(&mut dp),
                    receiver: Some(&mut dq),
                    gradient: Some(&mut dd),
                },
            );
            assert!(value.abs() > 1e-3);
            let sum: f64 = dp.iter().zip(&p).map(|(a, b)| a * b).sum();
            assert!((sum - value).abs() < 1e-12 * dp.iter().map(|x| x.abs()).sum::<f64>());
            let sum: f64 = dq.iter().zip(&q).map(|(a, b)| a * b).sum();
            assert!((sum - value).abs() < 1e-12 * dq.iter().map(|x| x.abs()).sum::<f64>());
            for axis in 0..3 {
                let mut dual = d.map(Dual::constant);
                dual[axis].tangent = 1.0;
                let tangent = table
                    .evaluate(
                        &dual,
                        &parts,
                        &p.iter().copied().map(Dual::constant).collect::<Vec<_>>(),
                        &q.iter().copied().map(Dual::constant).collect::<Vec<_>>(),
                        &mut PairOutput {
                            source: None,
                            receiver: None,
                            gradient: None,
                        },
                    )
                    .tangent;
                let scale = 1.0 + tangent.abs();
                assert!(
                    (tangent - dd[axis]).abs() < 1e-11 * scale,
                    "l {source_l} {receiver_l}"
                );
            }
        }
    }
}
