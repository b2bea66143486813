//! Three-vectors and 3 × 3 matrices (rows are vectors) over a [`Scalar`].

use super::scalar::Scalar;

pub type Vector<T> = [T; 3];
pub type Matrix<T> = [[T; 3]; 3];

#[inline]
pub fn dot<T: Scalar>(a: &Vector<T>, b: &Vector<T>) -> T {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

#[inline]
pub fn cross<T: Scalar>(a: &Vector<T>, b: &Vector<T>) -> Vector<T> {
    [
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    ]
}

#[inline]
pub fn sub<T: Scalar>(a: &Vector<T>, b: &Vector<T>) -> Vector<T> {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

#[inline]
pub fn scale<T: Scalar>(a: &Vector<T>, factor: T) -> Vector<T> {
    [a[0] * factor, a[1] * factor, a[2] * factor]
}

/// `target += vector * factor`
#[inline]
pub fn add_scaled<T: Scalar>(target: &mut Vector<T>, vector: &Vector<T>, factor: T) {
    for axis in 0..3 {
        target[axis] += vector[axis] * factor;
    }
}

#[inline]
pub fn norm<T: Scalar>(a: &Vector<T>) -> T {
    dot(a, a).sqrt()
}

pub fn zero_vector<T: Scalar>() -> Vector<T> {
    [T::zero(); 3]
}

pub fn zero_matrix<T: Scalar>() -> Matrix<T> {
    [[T::zero(); 3]; 3]
}

pub fn determinant<T: Scalar>(m: &Matrix<T>) -> T {
    dot(&m[0], &cross(&m[1], &m[2]))
}

/// m v
#[inline]
pub fn apply<T: Scalar>(m: &Matrix<T>, v: &Vector<T>) -> Vector<T> {
    [dot(&m[0], v), dot(&m[1], v), dot(&m[2], v)]
}

pub fn trace<T: Scalar>(m: &Matrix<T>) -> T {
    m[0][0] + m[1][1] + m[2][2]
}

/// Rows b_i with b_i · m_j = δ_ij: the transposed inverse.
pub fn reciprocal_rows<T: Scalar>(m: &Matrix<T>) -> Matrix<T> {
    let inverse = determinant(m).recip();
    [
        scale(&cross(&m[1], &m[2]), inverse),
        scale(&cross(&m[2], &m[0]), inverse),
        scale(&cross(&m[0], &m[1]), inverse),
    ]
}

/// Values without tangents.
pub fn values<T: Scalar>(a: &Vector<T>) -> Vector<f64> {
    [a[0].value(), a[1].value(), a[2].value()]
}
