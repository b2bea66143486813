//! The constraint of a system: row, column and corner that it adds to J = L + R M.

use super::dense::{add_scaled, dot};

/// K = [[J, c], [wᵀ, d]] of one system. At constant charge w is one at charges and d = 0, so that the last row is the charge;
/// at constant Fermi level w = 0 and d = 1, so that it is the Fermi level.
pub struct Border {
    column: Vec<f64>,
    row: Vec<f64>,
    corner: f64,
}

impl Border {
    /// `column` is c `[atom][lm]`.
    pub fn new(column: Vec<f64>, n_lm: usize, constrained: bool) -> Self {
        let mut row = vec![0.0; column.len()];
        if constrained {
            row.iter_mut().step_by(n_lm).for_each(|w| *w = 1.0);
        }
        Self {
            column,
            row,
            corner: f64::from(u8::from(!constrained)),
        }
    }

    pub fn column(&self) -> &[f64] {
        &self.column
    }

    pub fn row(&self) -> &[f64] {
        &self.row
    }

    pub fn corner(&self) -> f64 {
        self.corner
    }

    /// Column and row of K, or of Kᵀ.
    fn sides(&self, transpose: bool) -> (&[f64], &[f64]) {
        match transpose {
            false => (&self.column, &self.row),
            true => (&self.row, &self.column),
        }
    }

    /// K (x, y) from `product` = J x, or Kᵀ (x, y) from Jᵀ x.
    pub fn product(&self, mut product: Vec<f64>, x: &[f64], y: f64, transpose: bool) -> Vec<f64> {
        let (column, row) = self.sides(transpose);
        add_scaled(&mut product, column, y);
        product.push(dot(row, x) + self.corner * y);
        product
    }

    /// The inverse of K, or of Kᵀ, from the inverse of an approximation P of J, or of Pᵀ.
    pub fn inverse<P: Fn(&[f64]) -> Vec<f64>>(&self, inner: P, transpose: bool) -> Bordered<'_, P> {
        let (column, row) = self.sides(transpose);
        let column = inner(column);
        let schur = dot(row, &column) - self.corner;
        let scale = row
            .iter()
            .zip(&column)
            .map(|(w, u)| (w * u).abs())
            .sum::<f64>();
        Bordered {
            inner,
            row,
            column,
            schur: (schur.abs() > SMALLEST_SCHUR * (scale + self.corner)).then_some(schur),
        }
    }
}

/// Size of a Schur complement, relative to its terms, below which a border is left out of the preconditioner.
pub const SMALLEST_SCHUR: f64 = 1e-8;

/// The inverse of [[P, c], [wᵀ, d]].
pub struct Bordered<'a, P> {
    inner: P,
    row: &'a [f64],
    /// P⁻¹ c.
    column: Vec<f64>,
    /// wᵀ P⁻¹ c - d; none where it is rounding.
    schur: Option<f64>,
}

impl<P: Fn(&[f64]) -> Vec<f64>> Bordered<'_, P> {
    /// (x, y) from (r, s).
    pub fn solve(&self, b: &[f64]) -> Vec<f64> {
        let (r, s) = split(b);
        let mut x = (self.inner)(r);
        let y = match self.schur {
            Some(schur) => {
                let y = (dot(self.row, &x) - s) / schur;
                add_scaled(&mut x, &self.column, -y);
                y
            }
            None => s,
        };
        x.push(y);
        x
    }
}

/// x and y of (x, y).
pub fn split(v: &[f64]) -> (&[f64], f64) {
    match v.split_last() {
        Some((&y, x)) => (x, y),
        None => (v, 0.0),
    }
}
