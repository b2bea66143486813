//! Radial parts of pairs: the interaction of their widths, less the part in the reciprocal sum.

use crate::arithmetic::{F64x8, LANES, Pack};
use crate::special::radial::Part;

/// Most parts of a pair.
pub const MAX_PARTS: usize = 2;

/// The parts of a pair and how many there are.
pub type Parts = ([Part; MAX_PARTS], usize);

/// σ² of one channel of the sources of a block.
pub enum Widths {
    /// All the same.
    Uniform(f64),
    /// By image.
    Varied(Vec<f64>),
}

impl Widths {
    /// From the widths of the images but image 0, which gets one of theirs.
    pub fn new(values: impl Iterator<Item = f64>) -> Self {
        let mut squares = vec![1.0];
        squares.extend(values.map(|sigma| sigma * sigma));
        let first = squares[squares.len() - 1];
        squares[0] = first;
        if squares.iter().all(|&square| square == first) {
            Self::Uniform(first)
        } else {
            Self::Varied(squares)
        }
    }

    #[inline(always)]
    pub fn of(&self, pack: &[u32; LANES]) -> F64x8 {
        match self {
            Self::Uniform(square) => F64x8::splat(*square),
            Self::Varied(squares) => {
                let mut out = F64x8::zero();
                for lane in 0..LANES {
                    out.0[lane] = squares[pack[lane] as usize];
                }
                out
            }
        }
    }
}

/// True if the reciprocal sum contains all of the interaction.
pub fn complete(sigma2: f64, s2: f64, split: Option<f64>) -> bool {
    split.is_some_and(|floor| sigma2.min(s2) >= floor * floor)
}

/// The parts for σ² per pair and s².
#[inline(always)]
pub fn parts(sigma2: F64x8, s2: f64, split: Option<f64>) -> Parts {
    let narrow = Part::new(sigma2.add(F64x8::splat(s2)), 1.0);
    let Some(floor) = split else {
        return ([narrow; MAX_PARTS], 1);
    };
    let floor2 = floor * floor;
    let raised = sigma2.max(floor2).add(F64x8::splat(s2.max(floor2)));
    ([narrow, Part::new(raised, -1.0)], MAX_PARTS)
}
