//! Iterative solvers, which use products with the matrix only.

use super::border::{Bordered, split};
use super::dense::{add_scaled, dot, norm};
use super::jacobian::Status;

/// Vectors kept before GMRES starts again from its best solution.
pub const RESTART: usize = 100;
/// Fraction of the residual that a restart has to remove: one that does not has met rounding or a singular matrix.
pub const LEAST_GAIN: f64 = 0.1;
/// Relative residual at which iterations end, unless overridden by a solve.
pub const TOLERANCE: f64 = 1e-12;

/// Most products with the matrix of a system of so many unknowns, unless the user chooses.
pub fn most_products(unknowns: usize) -> usize {
    unknowns.clamp(20, 1000)
}

/// When iterations end.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// |b - A x| ≤ tolerance |b| is convergence.
    pub tolerance: f64,
    /// Most products with the matrix.
    pub products: usize,
}

/// Solves A x = b by restarted GMRES with the preconditioner on the right (Saad and Schultz, SIAM J. Sci. Stat. Comput.
/// 7, 856). None without convergence.
pub fn gmres(
    apply: impl Fn(&[f64]) -> Vec<f64>,
    precondition: impl Fn(&[f64]) -> Vec<f64>,
    b: &[f64],
    limits: Limits,
) -> Option<Vec<f64>> {
    let limit = limits.products;
    let target = limits.tolerance * norm(b);
    let mut x = vec![0.0; b.len()];
    let mut residual = b.to_vec();
    let mut products = 0;
    let mut last = f64::INFINITY;
    loop {
        let size = norm(&residual);
        if !size.is_finite() {
            return None;
        }
        if size <= target {
            return Some(x);
        }
        if products >= limit || size > (1.0 - LEAST_GAIN) * last {
            return None;
        }
        last = size;
        let cycle = RESTART.min(limit - products).min(b.len());
        let (step, used) = cycle_of(&apply, &precondition, &residual, target, cycle)?;
        products += used + 1;
        add_scaled(&mut x, &step, 1.0);
        let product = apply(&x);
        for ((r, b), p) in residual.iter_mut().zip(b).zip(product) {
            *r = b - p;
        }
    }
}

/// One cycle: the correction and the products used.
fn cycle_of(
    apply: impl Fn(&[f64]) -> Vec<f64>,
    precondition: impl Fn(&[f64]) -> Vec<f64>,
    residual: &[f64],
    target: f64,
    length: usize,
) -> Option<(Vec<f64>, usize)> {
    let size = norm(residual);
    let mut basis: Vec<Vec<f64>> = vec![residual.iter().map(|r| r / size).collect()];
    let mut columns: Vec<Vec<f64>> = Vec::new();
    let mut rotations: Vec<[f64; 2]> = Vec::new();
    let mut g = vec![size];
    for k in 0..length {
        let mut w = apply(&precondition(&basis[k]));
        let mut h = orthogonalise(&basis, &mut w);
        let below = norm(&w);
        if !below.is_finite() {
            return None;
        }
        for (row, [cos, sin]) in rotations.iter().enumerate() {
            let (a, b) = (h[row], h[row + 1]);
            h[row] = cos * a + sin * b;
            h[row + 1] = cos * b - sin * a;
        }
        let length = h[k].hypot(below);
        let [cos, sin] = if length > 0.0 {
            [h[k] / length, below / length]
        } else {
            [1.0, 0.0]
        };
        h[k] = length;
        rotations.push([cos, sin]);
        columns.push(h);
        g.push(-sin * g[k]);
        g[k] *= cos;
        if g[k + 1].abs() <= 0.5 * target || below <= f64::EPSILON * length {
            break;
        }
        basis.push(w.iter().map(|value| value / below).collect());
    }
    let used = columns.len();
    // Back substitution in the triangle; a zero on its diagonal is a direction without effect.
    let mut weights = vec![0.0; used];
    for k in (0..used).rev() {
        let mut value = g[k];
        for j in k + 1..used {
            value -= columns[j][k] * weights[j];
        }
        weights[k] = if columns[k][k] == 0.0 {
            0.0
        } else {
            value / columns[k][k]
        };
    }
    let mut step = vec![0.0; residual.len()];
    for (v, weight) in basis.iter().zip(weights) {
        add_scaled(&mut step, v, weight);
    }
    Some((precondition(&step), used))
}

/// Orthogonalises `w` to the basis, twice against rounding; returns the components.
pub fn orthogonalise(basis: &[Vec<f64>], w: &mut [f64]) -> Vec<f64> {
    let mut components = vec![0.0; basis.len()];
    for _ in 0..2 {
        for (component, v) in components.iter_mut().zip(basis) {
            let along = dot(v, w);
            add_scaled(w, v, -along);
            *component += along;
        }
    }
    components
}

/// Solves [[J, 1_q], [wᵀ, d]] (x, y) = b with a symmetric J by conjugate gradients in the space of the constraint (Gould,
/// Hribar and Nocedal, SIAM J. Sci. Comput. 23, 1376): they minimise ½ xᵀJx - r·x at its total charge, or Fermi level.
///
/// `preconditioner` inverts the matrix with P in place of J: it gives a start that meets the constraint, and changes of x that
/// keep it. Fails with [`Status::Indefinite`] at a direction without positive curvature.
pub fn projected_cg<P: Fn(&[f64]) -> Vec<f64>>(
    apply: impl Fn(&[f64]) -> Vec<f64>,
    preconditioner: &Bordered<P>,
    b: &[f64],
    n_lm: usize,
    limits: Limits,
) -> Result<Vec<f64>, Status> {
    let target = limits.tolerance * norm(b);
    let mut x = preconditioner.solve(b);
    let mut y = x.pop().unwrap_or(0.0);
    let right = split(b).0;
    let shift = |values: &mut [f64], by: f64| {
        values
            .iter_mut()
            .step_by(n_lm)
            .for_each(|value| *value -= by);
    };
    let residual_of = |x: &[f64], y: f64| {
        let mut r: Vec<f64> = apply(x).iter().zip(right).map(|(p, b)| b - p).collect();
        shift(&mut r, y);
        r
    };
    let mut residual = residual_of(&x, y);
    let mut direction = vec![0.0; x.len()];
    let mut last = 1.0;
    let mut verified = false;
    for iteration in 0..limits.products {
        // Multipliers belong to y; left in the residual they would drown the rest in rounding.
        residual.push(0.0);
        let mut step = preconditioner.solve(&residual);
        residual.pop();
        let multiplier = step.pop().unwrap_or(0.0);
        y += multiplier;
        shift(&mut residual, multiplier);
        let size = norm(&residual);
        if !size.is_finite() {
            return Err(Status::NotConverged);
        }
        if size <= target {
            // The recursion drifts from the true residual, which decides.
            if verified || iteration == 0 {
                x.push(y);
                return Ok(x);
            }
            residual = residual_of(&x, y);
            last = 1.0;
            direction.fill(0.0);
            verified = true;
            continue;
        }
        verified = false;
        let along = dot(&residual, &step);
        let gain = if direction.iter().all(|&d| d == 0.0) {
            0.0
        } else {
            along / last
        };
        for (d, s) in direction.iter_mut().zip(&step) {
            *d = s + gain * *d;
        }
        last = along;
        let product = apply(&direction);
        let curvature = dot(&direction, &product);
        if !(curvature > 0.0 && along > 0.0) {
            return Err(Status::Indefinite);
        }
        add_scaled(&mut x, &direction, along / curvature);
        add_scaled(&mut residual, &product, -along / curvature);
    }
    Err(Status::NotConverged)
}
