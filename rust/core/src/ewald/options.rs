//! Options of a sum: method, correction, accuracy, self-interaction.

use super::corrections::Correction;
use super::mesh::MAX_ORDER;
use crate::error::{Error, Result};

/// Methods that a user can choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    Auto,
    Direct,
    Reciprocal,
    Ewald,
    /// Any method but a mesh: sums whose matrix elements are computed one by one.
    Sums,
    /// Particle mesh, with splines of a given order or of the best one.
    Mesh(Option<usize>),
}

impl std::str::FromStr for Method {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Self::Auto),
            "direct" => Ok(Self::Direct),
            "reciprocal" => Ok(Self::Reciprocal),
            "ewald" => Ok(Self::Ewald),
            "mesh" => Ok(Self::Mesh(None)),
            _ => {
                let order = name.strip_prefix("mesh-").map(str::parse::<usize>);
                match order {
                    Some(Ok(order)) if (MIN_ORDER..=MAX_ORDER).contains(&order) => {
                        Ok(Self::Mesh(Some(order)))
                    }
                    Some(_) => Err(Error::Unsupported {
                        what: format!("method {name:?} names no order of B-splines"),
                        remedy: format!(
                            "use \"mesh-{MIN_ORDER}\" ... \"mesh-{MAX_ORDER}\", or \"mesh\" for the best order"
                        ),
                    }),
                    None => Err(Error::Unsupported {
                        what: format!("method {name:?} is unknown"),
                        remedy: "use \"auto\", \"direct\", \"reciprocal\", \"ewald\" or \"mesh\""
                            .into(),
                    }),
                }
            }
        }
    }
}

/// Orders that users can choose.
pub(super) const MIN_ORDER: usize = 4;

/// Options of a user.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub method: Method,
    pub correction: Option<Correction>,
    /// Relative accuracy.
    pub accuracy: f64,
    pub self_interaction: bool,
}

impl Options {
    pub fn check(&self) -> Result<()> {
        if self.accuracy >= 1e-15 && self.accuracy <= 1e-1 {
            return Ok(());
        }
        Err(Error::Value {
            array: "accuracy",
            index: 0,
            value: self.accuracy,
            remedy: "give a relative accuracy between 1e-15 and 1e-1",
        })
    }
}
