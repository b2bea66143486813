//! The one error type of the numeric crate. Every variant carries the place, the value and the remedy.

/// Errors with the offending place and value.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// An array entry is NaN or infinite.
    #[error("{array}[{index}] is {value}; every entry must be finite")]
    NonFinite {
        array: &'static str,
        index: usize,
        value: f64,
    },
    /// An array has the wrong shape.
    #[error("{array} has shape {found}; expected {expected}")]
    Shape {
        array: &'static str,
        found: String,
        expected: String,
    },
    /// A quantity is outside its allowed range.
    #[error("{array}[{index}] = {value}; {remedy}")]
    Value {
        array: &'static str,
        index: usize,
        value: f64,
        remedy: &'static str,
    },
    /// The periodic cell vectors of a system do not span their space.
    #[error(
        "cell[{system}] is singular along its periodic axes (volume measure {measure:.3e}); \
         give linearly independent vectors for every periodic axis"
    )]
    SingularCell { system: usize, measure: f64 },
    /// A combination of settings that cannot be computed.
    #[error("{what}; {remedy}")]
    Unsupported { what: String, remedy: String },
    /// A graphics processor, its driver or its libraries are missing or failed.
    #[error("{what}; {remedy}")]
    Device { what: String, remedy: String },
}

pub type Result<T> = std::result::Result<T, Error>;

/// Fails with [`Error::NonFinite`] at the first entry that is not finite.
pub fn check_finite(array: &'static str, values: &[f64]) -> Result<()> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(index) => Err(Error::NonFinite {
            array,
            index,
            value: values[index],
        }),
    }
}

/// Lengths beyond this, in Å, are refused: neighbouring numbers are a tenth of an Å apart there, and powers of
/// distances soon overflow.
pub const MAX_LENGTH: f64 = 1e15;

/// Fails at the first coordinate that is not finite or beyond [`MAX_LENGTH`].
pub fn check_lengths(array: &'static str, values: &[f64]) -> Result<()> {
    match values.iter().position(|value| !in_range(value)) {
        None => Ok(()),
        Some(index) => check_row(array, &values[index..=index], index),
    }
}

/// Checks the vectors in one row of an array likewise.
pub fn check_row(array: &'static str, vectors: &[f64], index: usize) -> Result<()> {
    match vectors.iter().find(|value| !in_range(value)) {
        None => Ok(()),
        Some(&value) if value.is_finite() => Err(Error::Value {
            array,
            index,
            value,
            remedy: "give lengths up to 1e15 Å, beyond which arithmetic does not resolve atoms",
        }),
        Some(&value) => Err(Error::NonFinite {
            array,
            index,
            value,
        }),
    }
}

fn in_range(value: &f64) -> bool {
    value.abs() <= MAX_LENGTH
}
