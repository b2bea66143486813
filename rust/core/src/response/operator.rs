//! The operator M of one system in a Jacobian, as a matrix or by its action.

use crate::error::{Error, Result};
use crate::ewald::Waves;
use crate::geometry::Geometry;

/// Operators of the geometry that a residual may contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// A of energies ½ pᵀAp, symmetric.
    Coulomb,
    /// B from multipoles to features.
    Features,
}

impl std::str::FromStr for Operator {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "coulomb" => Ok(Self::Coulomb),
            "features" => Ok(Self::Features),
            _ => Err(Error::Unsupported {
                what: format!("operator {name:?} is unknown"),
                remedy: "use \"coulomb\" or \"features\"".into(),
            }),
        }
    }
}

impl Operator {
    /// Rows per atom.
    pub fn n_rows(self, geometry: &Geometry) -> usize {
        match self {
            Self::Coulomb => geometry.n_lm(),
            Self::Features => {
                let (n_widths, n_lm) = geometry.feature_shape();
                n_widths * n_lm
            }
        }
    }

    /// M by rows; cached in the geometry.
    pub fn matrix(self, geometry: &Geometry, system: usize) -> Result<&[f64]> {
        match self {
            Self::Coulomb => geometry.coulomb_matrix(system),
            Self::Features => geometry.features_matrix(system),
        }
    }

    /// Long waves of M of one system; none unless its cell is periodic along every axis.
    pub fn waves(self, geometry: &Geometry, system: usize, limit: usize) -> Option<&Waves> {
        match self {
            Self::Coulomb => geometry.coulomb_waves(system, limit),
            Self::Features => geometry.features_waves(system, limit),
        }
    }

    /// M x of one system, without the matrix.
    pub fn apply(self, geometry: &Geometry, system: usize, x: &[f64]) -> Vec<f64> {
        match self {
            Self::Coulomb => geometry.apply_coulomb(system, x),
            Self::Features => geometry.apply_features(system, x),
        }
    }

    /// Mᵀ g of one system, without the matrix.
    pub fn apply_transpose(self, geometry: &Geometry, system: usize, g: &[f64]) -> Vec<f64> {
        match self {
            Self::Coulomb => geometry.apply_coulomb(system, g),
            Self::Features => geometry.apply_features_transpose(system, g),
        }
    }
}

/// Error for an operator that the geometry does not have.
pub fn check_operator(operator: Operator, geometry: &Geometry) -> Result<()> {
    let (n_widths, _) = geometry.feature_shape();
    if operator == Operator::Features && n_widths == 0 {
        return Err(Error::Unsupported {
            what: "operator \"features\" needs receivers, but the Geometry has no widths".into(),
            remedy: "make the Geometry with widths=[...]".into(),
        });
    }
    Ok(())
}
