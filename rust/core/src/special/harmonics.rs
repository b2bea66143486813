//! Real solid harmonics in Racah normalisation, C_lm(r) = sqrt(4π/(2l+1)) r^l Y_lm, z polar axis, no
//! Condon–Shortley sign, and the tables that products and gradients of them need.

use crate::arithmetic::ring::Ring;
use std::sync::OnceLock;

/// Largest degree that the tables are made for: sources and receivers to `MAX_L` each.
pub const MAX_L: usize = 6;
/// Largest degree of one harmonic: a product of two and one gradient.
pub const MAX_DEGREE: usize = 2 * MAX_L + 1;

/// Index of (l, m) in a coefficient array.
#[inline]
pub const fn index(l: usize, m: isize) -> usize {
    ((l * l + l) as isize + m) as usize
}

/// Number of coefficients up to degree `max_l`.
#[inline]
pub const fn count(max_l: usize) -> usize {
    (max_l + 1) * (max_l + 1)
}

const DEGREES: [u8; count(MAX_DEGREE + 1)] = {
    let mut out = [0; count(MAX_DEGREE + 1)];
    let mut lm = 0;
    while lm < out.len() {
        out[lm] = lm.isqrt() as u8;
        lm += 1;
    }
    out
};

/// Degree of a flat index.
#[inline(always)]
pub const fn degree(lm: usize) -> usize {
    DEGREES[lm] as usize
}

/// (2l - 1)!!
pub fn double_factorial_odd(l: usize) -> f64 {
    (1..=l).map(|k| (2 * k - 1) as f64).product()
}

/// Fills `out[l*l + l + m]` for all l ≤ `max_l` (recursion of Helgaker, Jørgensen, Olsen, eqs. 6.4.70–6.4.73).
#[inline(always)]
pub fn solid_harmonics<R: Ring>(x: R, y: R, z: R, max_l: usize, out: &mut [R]) {
    out[0] = R::one();
    if max_l == 0 {
        return;
    }
    out[1] = y;
    out[2] = z;
    out[3] = x;
    if max_l == 1 {
        return;
    }
    let r2 = x * x + y * y + z * z;
    for l in 1..max_l {
        let top = out[index(l, l as isize)];
        let bottom = out[index(l, -(l as isize))];
        let factor = ((2 * l + 1) as f64 / (2 * l + 2) as f64).sqrt();
        out[index(l + 1, (l + 1) as isize)] = (x * top - y * bottom) * factor;
        out[index(l + 1, -((l + 1) as isize))] = (y * top + x * bottom) * factor;
        for m in -(l as isize)..=(l as isize) {
            let a = (l as isize + m) as f64;
            let b = (l as isize - m) as f64;
            let mut value = z * out[index(l, m)] * (2 * l + 1) as f64;
            if m.unsigned_abs() < l {
                value = value - r2 * out[index(l - 1, m)] * (a * b).sqrt();
            }
            out[index(l + 1, m)] = value * (1.0 / ((a + 1.0) * (b + 1.0)).sqrt());
        }
    }
}

/// Gauss–Legendre nodes and weights on [-1, 1].
fn gauss_legendre(n: usize) -> Vec<(f64, f64)> {
    (0..n)
        .map(|i| {
            let mut x = (std::f64::consts::PI * (i as f64 + 0.75) / (n as f64 + 0.5)).cos();
            let mut slope = 0.0;
            for _ in 0..100 {
                let (mut p0, mut p1) = (1.0, x);
                for k in 2..=n {
                    let p2 = ((2 * k - 1) as f64 * x * p1 - (k - 1) as f64 * p0) / k as f64;
                    (p0, p1) = (p1, p2);
                }
                slope = n as f64 * (x * p1 - p0) / (x * x - 1.0);
                let step = p1 / slope;
                x -= step;
                if step.abs() < 1e-16 {
                    break;
                }
            }
            (x, 2.0 / ((1.0 - x * x) * slope * slope))
        })
        .collect()
}

/// Points on the unit sphere with weights summing to one, exact for polynomials up to `degree`, and the
/// harmonics up to `max_l` at each.
fn sphere_rule(degree: usize, max_l: usize) -> Vec<(f64, Vec<f64>)> {
    let n_polar = degree / 2 + 1;
    let n_azimuth = degree + 2;
    let mut points = Vec::with_capacity(n_polar * n_azimuth);
    for (z, weight) in gauss_legendre(n_polar.max(2)) {
        let rho = (1.0 - z * z).sqrt();
        for k in 0..n_azimuth {
            let phi = 2.0 * std::f64::consts::PI * (k as f64 + 0.25) / n_azimuth as f64;
            let mut harmonics = vec![0.0; count(max_l)];
            solid_harmonics(rho * phi.cos(), rho * phi.sin(), z, max_l, &mut harmonics);
            points.push((weight / (2.0 * n_azimuth as f64), harmonics));
        }
    }
    points
}

/// One term of a product: C_first C_second ∋ coefficient · r^(2 power) C_product.
#[derive(Clone, Copy, Debug)]
pub struct ProductTerm {
    pub first: u16,
    pub second: u16,
    pub product: u16,
    pub power: u16,
    pub coefficient: f64,
}

/// All terms of C_lm C_l'm' = Σ g r^(l+l'-L) C_LM for l ≤ `first_l`, l' ≤ `second_l` (real Gaunt coefficients).
pub fn products(first_l: usize, second_l: usize) -> &'static [ProductTerm] {
    static TABLES: [[OnceLock<Vec<ProductTerm>>; MAX_L + 1]; MAX_L + 1] =
        [const { [const { OnceLock::new() }; MAX_L + 1] }; MAX_L + 1];
    TABLES[first_l][second_l].get_or_init(|| {
        let max_l = first_l + second_l;
        let rule = sphere_rule(2 * max_l, max_l);
        let mut terms = Vec::new();
        for first in 0..count(first_l) {
            for second in 0..count(second_l) {
                let total = degree(first) + degree(second);
                let lowest = degree(first).abs_diff(degree(second));
                for product_l in (lowest..=total).step_by(2) {
                    for product in product_l * product_l..count(product_l) {
                        let integral: f64 = rule
                            .iter()
                            .map(|(weight, c)| weight * c[first] * c[second] * c[product])
                            .sum();
                        let coefficient = integral * (2 * product_l + 1) as f64;
                        if coefficient.abs() > 1e-12 {
                            terms.push(ProductTerm {
                                first: first as u16,
                                second: second as u16,
                                product: product as u16,
                                power: ((total - product_l) / 2) as u16,
                                coefficient,
                            });
                        }
                    }
                }
            }
        }
        terms
    })
}

/// One term of a gradient: ∂_axis C_of ∋ coefficient · C_lower.
#[derive(Clone, Copy, Debug)]
pub struct GradientTerm {
    pub of: u16,
    pub lower: u16,
    pub axis: u8,
    pub coefficient: f64,
}

/// Gradients of all harmonics up to `max_l` as combinations of those one degree lower.
pub fn gradients(max_l: usize) -> &'static [GradientTerm] {
    static TABLES: [OnceLock<Vec<GradientTerm>>; MAX_DEGREE + 1] =
        [const { OnceLock::new() }; MAX_DEGREE + 1];
    TABLES[max_l].get_or_init(|| {
        // ∂_α C_lm is harmonic of degree l-1, and ∇(C_lm) projects out of C_1α C_lm: since
        // x_α C_lm = (harmonic of degree l+1) + r² ∂_α C_lm / (2l+1), the product's r² part is the gradient.
        let rule = sphere_rule(2 * max_l.max(1), max_l);
        let mut terms = Vec::new();
        for of in 1..count(max_l) {
            let l = degree(of);
            // C_1m is (y, z, x)
            for (linear, axis) in [(1, 1), (2, 2), (3, 0)] {
                for lower in (l - 1) * (l - 1)..l * l {
                    let integral: f64 = rule
                        .iter()
                        .map(|(weight, c)| weight * c[of] * c[linear] * c[lower])
                        .sum();
                    let coefficient = integral * ((2 * l - 1) * (2 * l + 1)) as f64;
                    if coefficient.abs() > 1e-12 {
                        terms.push(GradientTerm {
                            of: of as u16,
                            lower: lower as u16,
                            axis,
                            coefficient,
                        });
                    }
                }
            }
        }
        terms
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POINT: [f64; 3] = [0.3, -0.8, 0.55];

    fn at(p: [f64; 3], max_l: usize) -> Vec<f64> {
        let mut out = vec![0.0; count(max_l)];
        solid_harmonics(p[0], p[1], p[2], max_l, &mut out);
        out
    }

    #[test]
    fn low_degrees_are_the_textbook_polynomials() {
        let [x, y, z] = POINT;
        let c = at(POINT, 2);
        let r2 = x * x + y * y + z * z;
        let s3 = 3f64.sqrt();
        let expected = [
            1.0,
            y,
            z,
            x,
            s3 * x * y,
            s3 * y * z,
            0.5 * (3.0 * z * z - r2),
            s3 * x * z,
            0.5 * s3 * (x * x - y * y),
        ];
        for (value, expected) in c.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-15);
        }
    }

    #[test]
    fn products_expand() {
        let c = at(POINT, 2 * MAX_L);
        let r2: f64 = POINT.iter().map(|x| x * x).sum();
        let mut sums = vec![0.0; count(MAX_L) * count(MAX_L)];
        for t in products(MAX_L, MAX_L) {
            sums[t.first as usize * count(MAX_L) + t.second as usize] +=
                t.coefficient * r2.powi(t.power as i32) * c[t.product as usize];
        }
        for i in 0..count(MAX_L) {
            for j in 0..count(MAX_L) {
                assert!((sums[i * count(MAX_L) + j] - c[i] * c[j]).abs() < 1e-13);
            }
        }
    }

    #[test]
    fn gradients_match_finite_differences() {
        let max_l = MAX_DEGREE;
        let c = at(POINT, max_l);
        let h = 1e-5;
        for axis in 0..3 {
            let mut exact = vec![0.0; count(max_l)];
            for t in gradients(max_l) {
                if t.axis as usize == axis {
                    exact[t.of as usize] += t.coefficient * c[t.lower as usize];
                }
            }
            let (mut plus, mut minus) = (POINT, POINT);
            plus[axis] += h;
            minus[axis] -= h;
            let (plus, minus) = (at(plus, max_l), at(minus, max_l));
            assert!(exact.iter().any(|g| g.abs() > 0.5));
            for lm in 0..count(max_l) {
                assert!(((plus[lm] - minus[lm]) / (2.0 * h) - exact[lm]).abs() < 1e-7);
            }
        }
    }
}
