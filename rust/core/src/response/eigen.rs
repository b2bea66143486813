//! The eigenvalue of largest modulus of a real matrix, with its right and left eigenvectors.

use super::dense::{add_scaled, dot, multiply, multiply_transpose, norm};
use super::krylov::orthogonalise;
use crate::error::{Error, Result};
use faer::{Mat, c64};
use rayon::prelude::*;

/// Size up to which the whole spectrum is computed.
const SMALL: usize = 96;
/// Dimensions of the Krylov space at which convergence is checked; the iteration restarts from the best vector in the last.
const SUBSPACES: [usize; 6] = [24, 40, 64, 100, 160, 250];
const RESTARTS: usize = 20;
/// |T w - λ w| / |λ| at which an eigenvector has converged.
const TOLERANCE: f64 = 1e-12;
/// |T w - λ w| / |λ| that is accepted after the last restart.
const LAST_TOLERANCE: f64 = 1e-8;
/// Size up to which the whole spectrum is computed if the iteration fails, as it does for many eigenvalues of one modulus.
const FALLBACK: usize = 2000;

/// λ, w and u as (real, imaginary) parts: T w = λ w, uᴴ T = λ uᴴ, |w| = 1, uᴴ w = 1.
///
/// For a defective eigenvalue w and u are orthogonal, and u is zero.
#[derive(Clone, Debug)]
pub struct Eigenpair {
    pub value: [f64; 2],
    pub right: Vec<[f64; 2]>,
    pub left: Vec<[f64; 2]>,
}

/// Dominant eigenvalues of the matrices T of a batch, as (real, imaginary) parts.
#[derive(Clone, Debug)]
pub struct Eigenpairs {
    /// `[system]`.
    pub values: Vec<[f64; 2]>,
    /// T w = λ w with |w| = 1, `[atom][lm]`.
    pub right: Vec<[f64; 2]>,
    /// uᴴ T = λ uᴴ with uᴴ w = 1, `[atom][lm]`.
    pub left: Vec<[f64; 2]>,
}

/// Eigenpair of T; `apply(x, transpose)` is T x or Tᵀ x. The left eigenvector is computed with `vectors` only.
pub fn dominant(
    n: usize,
    apply: impl Fn(&[f64], bool) -> Vec<f64>,
    vectors: bool,
) -> Result<Eigenpair> {
    if n == 0 {
        return Ok(Eigenpair {
            value: [0.0; 2],
            right: Vec::new(),
            left: Vec::new(),
        });
    }
    let largest = |values: &[c64]| {
        (0..values.len()).max_by(|&a, &b| order(values[a]).total_cmp(&order(values[b])))
    };
    let (value, right) = search(n, |x| apply(x, false), largest)?;
    let mut left = vec![[0.0; 2]; n];
    if vectors {
        // uᴴ T = λ uᴴ: Tᵀ ū = λ ū
        let closest = |values: &[c64]| {
            let distance = |i: usize| (values[i] - value).norm();
            (0..values.len()).min_by(|&a, &b| distance(a).total_cmp(&distance(b)))
        };
        let (_, conjugate) = search(n, |x| apply(x, true), closest)?;
        let mut overlap = c64::new(0.0, 0.0);
        for (u, w) in conjugate.iter().zip(&right) {
            overlap += u * w;
        }
        if overlap.norm() > 1e-14 {
            for (out, u) in left.iter_mut().zip(&conjugate) {
                let scaled = u / overlap;
                *out = [scaled.re, -scaled.im];
            }
        }
    }
    Ok(Eigenpair {
        value: [value.re, value.im],
        right: right.iter().map(|w| [w.re, w.im]).collect(),
        left,
    })
}

/// Dominant eigenpairs of matrices padded to `n` rows and columns, `[system][row][column]`, of which the first `sizes`
/// count; vectors are padded likewise.
pub fn dominant_pairs(matrices: &[f64], n: usize, sizes: &[usize]) -> Result<Eigenpairs> {
    let pairs: Vec<Eigenpair> = (0..sizes.len())
        .into_par_iter()
        .map(|system| {
            let size = sizes[system];
            let rows = (0..size).map(|row| &matrices[(system * n + row) * n..][..size]);
            let block = rows.collect::<Vec<_>>().concat();
            let apply = |x: &[f64], transpose: bool| match transpose {
                false => multiply(&block, x),
                true => multiply_transpose(&block, size, x),
            };
            dominant(size, apply, true)
        })
        .collect::<Result<_>>()?;
    let padded = |vector: &[[f64; 2]]| {
        let mut out = vector.to_vec();
        out.resize(n, [0.0; 2]);
        out
    };
    Ok(Eigenpairs {
        values: pairs.iter().map(|pair| pair.value).collect(),
        right: pairs.iter().flat_map(|pair| padded(&pair.right)).collect(),
        left: pairs.iter().flat_map(|pair| padded(&pair.left)).collect(),
    })
}

/// Modulus; ties to rounding go to the larger real part, then to the positive imaginary part.
fn order(value: c64) -> f64 {
    let modulus = value.norm();
    modulus * (1.0 + 1e-12 * value.re.signum()) + if value.im > 0.0 { 1e-13 * modulus } else { 0.0 }
}

/// Eigenvalue selected by `choose` and its eigenvector of unit length.
fn search(
    n: usize,
    apply: impl Fn(&[f64]) -> Vec<f64>,
    choose: impl Fn(&[c64]) -> Option<usize>,
) -> Result<(c64, Vec<c64>)> {
    if n > SMALL
        && let Some(pair) = arnoldi(n, &apply, &choose)?
    {
        return Ok(pair);
    }
    if n <= FALLBACK {
        let mut matrix = Mat::<f64>::zeros(n, n);
        let mut unit = vec![0.0; n];
        for column in 0..n {
            unit[column] = 1.0;
            for (row, value) in apply(&unit).into_iter().enumerate() {
                matrix[(row, column)] = value;
            }
            unit[column] = 0.0;
        }
        return ritz(&matrix, &choose);
    }
    Err(Error::Unsupported {
        what: format!(
            "the iteration for the dominant eigenvalue of -R M ({n} unknowns) did not converge"
        ),
        remedy: "many eigenvalues may share the largest modulus; look at smaller systems".into(),
    })
}

/// Eigenpair of a small matrix.
fn ritz(matrix: &Mat<f64>, choose: &impl Fn(&[c64]) -> Option<usize>) -> Result<(c64, Vec<c64>)> {
    let failure = || Error::Unsupported {
        what: "the eigenvalues of -R M could not be computed".into(),
        remedy: "check that right holds values of a sensible size".into(),
    };
    let eigen = matrix.eigen().map_err(|_| failure())?;
    let values: Vec<c64> = eigen.S().column_vector().iter().copied().collect();
    let which = choose(&values).ok_or_else(failure)?;
    let mut vector: Vec<c64> = eigen.U().col(which).iter().copied().collect();
    let length = vector.iter().map(|v| v.norm_sqr()).sum::<f64>().sqrt();
    if !(length > 0.0 && length.is_finite() && values[which].norm().is_finite()) {
        return Err(failure());
    }
    for v in &mut vector {
        *v /= length;
    }
    Ok((values[which], vector))
}

/// Arnoldi's iteration (Saad, Numerical Methods for Large Eigenvalue Problems, ch. 6), started again from the wanted
/// Ritz vector where the largest subspace is not enough. None without convergence.
fn arnoldi(
    n: usize,
    apply: impl Fn(&[f64]) -> Vec<f64>,
    choose: impl Fn(&[c64]) -> Option<usize>,
) -> Result<Option<(c64, Vec<c64>)>> {
    // Fixed pseudo-random entries.
    let mut start: Vec<f64> = (0..n).map(|k| (1.0 + 12.9898 * k as f64).sin()).collect();
    let mut best = None;
    let mut gap = f64::INFINITY;
    for _ in 0..RESTARTS {
        let size = norm(&start);
        let mut basis = vec![start.iter().map(|x| x / size).collect::<Vec<f64>>()];
        let mut columns: Vec<Vec<f64>> = Vec::new();
        for dimension in SUBSPACES.map(|dimension| dimension.min(n)) {
            let mut below = columns.last().map_or(f64::INFINITY, |h| h[h.len() - 1]);
            while columns.len() < dimension && below > 0.0 {
                let mut w = apply(&basis[columns.len()]);
                let scale = norm(&w);
                let mut h = orthogonalise(&basis, &mut w);
                below = norm(&w);
                // An invariant subspace holds its eigenvectors exactly.
                if below <= 1e-14 * scale || columns.len() + 1 == n {
                    below = 0.0;
                }
                h.push(below);
                columns.push(h);
                if below > 0.0 {
                    basis.push(w.iter().map(|x| x / below).collect());
                }
            }
            let m = columns.len();
            let small = Mat::from_fn(m, m, |row, column| {
                columns[column].get(row).copied().unwrap_or(0.0)
            });
            let (value, weights) = ritz(&small, &choose)?;
            gap = below * weights[m - 1].norm() / value.norm();
            best = Some((value, combine(&basis, &weights)));
            if gap <= TOLERANCE || below == 0.0 {
                return Ok(best.map(normalised));
            }
        }
        if let Some((_, vector)) = &best {
            start = vector.iter().map(|v| v.re + v.im).collect();
        }
    }
    Ok(best.filter(|_| gap <= LAST_TOLERANCE).map(normalised))
}

fn combine(basis: &[Vec<f64>], weights: &[c64]) -> Vec<c64> {
    let n = basis[0].len();
    let (mut re, mut im) = (vec![0.0; n], vec![0.0; n]);
    for (v, weight) in basis.iter().zip(weights) {
        add_scaled(&mut re, v, weight.re);
        add_scaled(&mut im, v, weight.im);
    }
    re.iter()
        .zip(&im)
        .map(|(&re, &im)| c64::new(re, im))
        .collect()
}

fn normalised((value, mut vector): (c64, Vec<c64>)) -> (c64, Vec<c64>) {
    let flat: Vec<f64> = vector.iter().flat_map(|v| [v.re, v.im]).collect();
    let length = dot(&flat, &flat).sqrt();
    if length > 0.0 {
        for v in &mut vector {
            *v /= length;
        }
    }
    (value, vector)
}
