//! Iterative solvers that need only products with the matrix.

use super::dense::{add_scaled, dot, norm};
use super::jacobian::Status;

/// Vectors kept before GMRES starts again from its best solution.
const RESTART: usize = 100;

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
        // A restart that gains nothing has met rounding or a singular matrix.
        if products >= limit || size > 0.9 * last {
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

/// Takes the basis out of `w`, twice for the sake of rounding; returns the components.
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

/// Minimises ½ xᵀAx - b·x by conjugate gradients, at fixed total charge with a `constraint` (Gould, Hribar and Nocedal,
/// SIAM J. Sci. Comput. 23, 1376): A x + 1_q y = b, with 1_q one at every `constraint`-th entry.
///
/// `project(r)` is (L⁻¹(r - 1_q v), v) with a total charge of zero, or L⁻¹ r without constraint; `start` = (x, y) has the
/// right charge. Fails with [`Status::Indefinite`] where a direction without positive curvature is met.
pub fn projected_cg(
    apply: impl Fn(&[f64]) -> Vec<f64>,
    project: impl Fn(&[f64]) -> Vec<f64>,
    b: &[f64],
    start: Vec<f64>,
    constraint: Option<usize>,
    limits: Limits,
) -> Result<Vec<f64>, Status> {
    let n = b.len();
    let mut x = start;
    let mut y = x.split_off(n).first().copied().unwrap_or(0.0);
    // The norm of the whole right-hand side, with the charge.
    let charge: f64 = constraint.map_or(0.0, |step| x.iter().step_by(step).sum());
    let target = limits.tolerance * norm(b).hypot(charge);
    let shift = |values: &mut [f64], by: f64| {
        if let Some(step) = constraint {
            values
                .iter_mut()
                .step_by(step)
                .for_each(|value| *value -= by);
        }
    };
    let residual_of = |x: &[f64], y: f64| {
        let mut r: Vec<f64> = apply(x).iter().zip(b).map(|(p, b)| b - p).collect();
        shift(&mut r, y);
        r
    };
    let mut residual = residual_of(&x, y);
    let mut direction = vec![0.0; n];
    let mut last = 1.0;
    let mut verified = false;
    for iteration in 0..limits.products {
        let mut step = project(&residual);
        // What the constraint takes up belongs to y; carried along, it would drown the rest in rounding.
        let multiplier = step.split_off(n).first().copied().unwrap_or(0.0);
        y += multiplier;
        shift(&mut residual, multiplier);
        let size = norm(&residual);
        if !size.is_finite() {
            return Err(Status::NotConverged);
        }
        if size <= target {
            // The recursion drifts from the true residual; look at that one before believing.
            if verified || iteration == 0 {
                x.extend(constraint.map(|_| y));
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
