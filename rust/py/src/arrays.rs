//! Borrows numpy arrays as slices of rows, without copies.

use electret_core::{Error, Result};
use numpy::{Element, PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArray3, PyUntypedArrayMethods};

/// The entries of an array `[n]`.
pub fn scalars<'a, T: Element>(
    name: &'static str,
    array: &'a PyReadonlyArray1<'_, T>,
) -> Result<&'a [T]> {
    array
        .as_slice()
        .map_err(|_| not_contiguous(name, array.shape()))
}

/// The rows of an array `[n, 3]`.
pub fn rows<'a, T: Element>(
    name: &'static str,
    array: &'a PyReadonlyArray2<'_, T>,
) -> Result<&'a [[T; 3]]> {
    let shape = array.shape();
    let values = array.as_slice().map_err(|_| not_contiguous(name, shape))?;
    if shape[1] != 3 {
        return Err(wrong_shape(name, shape, "[n, 3]"));
    }
    Ok(values.as_chunks().0)
}

/// The matrices of an array `[n, 3, 3]`.
pub fn matrices<'a, T: Element>(
    name: &'static str,
    array: &'a PyReadonlyArray3<'_, T>,
) -> Result<&'a [[[T; 3]; 3]]> {
    let shape = array.shape();
    let values = array.as_slice().map_err(|_| not_contiguous(name, shape))?;
    if shape[1..] != [3, 3] {
        return Err(wrong_shape(name, shape, "[n, 3, 3]"));
    }
    Ok(values.as_chunks().0.as_chunks().0)
}

fn wrong_shape(array: &'static str, shape: &[usize], expected: &str) -> Error {
    Error::Shape {
        array,
        found: format!("{shape:?}"),
        expected: expected.into(),
    }
}

fn not_contiguous(array: &'static str, shape: &[usize]) -> Error {
    wrong_shape(
        array,
        shape,
        "the same shape in C-contiguous memory (numpy.ascontiguousarray)",
    )
}
