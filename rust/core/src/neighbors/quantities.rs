//! Quantities of a pair in a neighbour list, and the letters that stand for them.

use crate::error::{Error, Result};

/// One property of a pair, with its letter in ASE and matscipy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantity {
    /// `i`: the atom.
    I,
    /// `j`: its neighbour.
    J,
    /// `S`: the whole numbers of cell vectors to add to the neighbour's position.
    Shift,
    /// `d`: the distance, Å.
    Distance,
    /// `D`: the vector from the atom to its neighbour, Å.
    Vector,
}

impl Quantity {
    /// The quantities named by a string of letters.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an unknown letter or none at all.
    pub fn parse(letters: &str) -> Result<Vec<Self>> {
        let quantities: Option<Vec<Self>> = letters
            .chars()
            .map(|letter| match letter {
                'i' => Some(Self::I),
                'j' => Some(Self::J),
                'S' => Some(Self::Shift),
                'd' => Some(Self::Distance),
                'D' => Some(Self::Vector),
                _ => None,
            })
            .collect();
        quantities
            .filter(|quantities| !quantities.is_empty())
            .ok_or_else(|| Error::Unsupported {
                what: format!("quantities = {letters:?} names no quantities of pairs"),
                remedy: "use the letters i, j (atoms), S (cell shifts), d (distances), D (vectors)"
                    .into(),
            })
    }
}

/// Quantities to compute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quantities {
    pub i: bool,
    pub j: bool,
    pub shift: bool,
    pub distance: bool,
    pub vector: bool,
}

impl Quantities {
    /// Quantities of a list.
    pub fn of(quantities: &[Quantity]) -> Self {
        Self {
            i: quantities.contains(&Quantity::I),
            j: quantities.contains(&Quantity::J),
            shift: quantities.contains(&Quantity::Shift),
            distance: quantities.contains(&Quantity::Distance),
            vector: quantities.contains(&Quantity::Vector),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters() {
        assert_eq!(
            Quantity::parse("Dij").unwrap(),
            [Quantity::Vector, Quantity::I, Quantity::J]
        );
        let all = Quantities::of(&Quantity::parse("ijSdD").unwrap());
        assert!(all.i && all.j && all.shift && all.distance && all.vector);
        for wrong in ["", "ijs", "ij "] {
            let Err(Error::Unsupported { what, .. }) = Quantity::parse(wrong) else {
                panic!("{wrong:?} was accepted");
            };
            assert!(what.contains(wrong));
        }
    }
}
