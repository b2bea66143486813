//! Cache of chosen splits, which steps of a trajectory and epochs of a training repeat.

use super::extent::{Extent, Purpose};
use super::split::Candidate;
use crate::arithmetic::vector::Matrix;
use crate::ewald::options::{Method, Options};
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

/// Largest number of cached choices (some 200 kB); when it is reached, all are evicted.
const CAPACITY: usize = 1024;

/// Everything that the choice depends on, numbers by their bits.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    /// Address of the static rates.
    rates: usize,
    purpose: Purpose,
    method: Method,
    pbc: [bool; 3],
    /// All sites; sites and distinct widths of sources and receivers, and their degrees.
    counts: [usize; 7],
    /// Smallest and largest width of sources and of receivers, span, accuracy.
    lengths: [u64; 6],
    cell: [[u64; 3]; 3],
}

/// Arguments of the choice; the last one is the span of the sites along open directions.
pub type Arguments<'a> = (&'a Extent<'a>, &'a Matrix<f64>, [bool; 3], &'a Options, f64);

impl Key {
    fn new((extent, cell, pbc, options, span): Arguments) -> Self {
        let (source, receiver) = (extent.source, extent.receiver);
        Self {
            rates: std::ptr::from_ref(extent.rates) as usize,
            purpose: extent.purpose,
            method: options.method,
            pbc,
            counts: [
                extent.n_sites,
                extent.n_sources,
                extent.n_receivers,
                extent.n_widths[0],
                extent.n_widths[1],
                source.2,
                receiver.2,
            ],
            lengths: [
                source.0,
                source.1,
                receiver.0,
                receiver.1,
                span,
                options.accuracy,
            ]
            .map(f64::to_bits),
            cell: cell.map(|row| row.map(f64::to_bits)),
        }
    }
}

static CHOSEN: LazyLock<Mutex<HashMap<Key, Candidate>>> = LazyLock::new(Default::default);

/// The choice for the arguments, computed by `choose` if it is not in the cache.
pub fn split(arguments: Arguments, choose: impl FnOnce() -> Candidate) -> Candidate {
    let lock = || CHOSEN.lock().unwrap_or_else(PoisonError::into_inner);
    let key = Key::new(arguments);
    if let Some(found) = lock().get(&key) {
        return *found;
    }
    let found = choose();
    let mut chosen = lock();
    if chosen.len() >= CAPACITY {
        chosen.clear();
    }
    chosen.insert(key, found);
    found
}

#[cfg(test)]
mod tests {
    use super::super::extent::Place;
    use super::super::rates::{CPU, GPU};
    use super::super::search::cheapest;
    use super::*;
    use crate::limits::Budget;

    /// Each change of one argument gives the choice made without the cache, in the first call and in the next.
    #[test]
    fn every_argument_counts() {
        let base = Extent {
            place: Place::Span(0.0),
            rates: &CPU,
            budget: &Budget::new(500),
            purpose: Purpose::Energies,
            n_sites: 500,
            n_sources: 500,
            n_receivers: 500,
            n_widths: [1, 1],
            source: (0.3, 0.4, 1),
            receiver: (0.3, 0.4, 1),
        };
        let extents = [
            base,
            Extent {
                rates: &GPU,
                ..base
            },
            Extent {
                purpose: Purpose::Potentials,
                ..base
            },
            Extent {
                n_sources: 5000,
                ..base
            },
            Extent {
                n_receivers: 5000,
                ..base
            },
            Extent {
                n_widths: [2, 1],
                ..base
            },
            Extent {
                n_widths: [1, 3],
                ..base
            },
            Extent {
                source: (0.2, 0.4, 1),
                ..base
            },
            Extent {
                source: (0.3, 0.9, 1),
                ..base
            },
            Extent {
                source: (0.3, 0.4, 2),
                ..base
            },
            Extent {
                receiver: (0.2, 0.4, 1),
                ..base
            },
            Extent {
                receiver: (0.3, 0.9, 1),
                ..base
            },
            Extent {
                receiver: (0.3, 0.4, 2),
                ..base
            },
        ];
        let cube = |length: f64| [[length, 0.0, 0.0], [0.0, length, 0.0], [0.0, 0.0, length]];
        let options = |method: Method, accuracy: f64| Options {
            method,
            correction: None,
            accuracy,
            self_interaction: true,
        };
        let conditions = [
            (cube(17.0), [true; 3], options(Method::Auto, 1e-6), 0.0),
            (cube(18.0), [true; 3], options(Method::Auto, 1e-6), 0.0),
            (
                cube(17.0),
                [true, true, false],
                options(Method::Auto, 1e-6),
                0.0,
            ),
            (
                cube(17.0),
                [true, true, false],
                options(Method::Auto, 1e-6),
                9.0,
            ),
            (cube(17.0), [true; 3], options(Method::Sums, 1e-6), 0.0),
            (cube(17.0), [true; 3], options(Method::Auto, 1e-4), 0.0),
        ];
        let mut different = std::collections::HashSet::new();
        for _ in 0..2 {
            for extent in &extents {
                for (cell, pbc, options, span) in &conditions {
                    let wanted = cheapest(extent, cell, *pbc, options, *span);
                    let found = split((extent, cell, *pbc, options, *span), || wanted);
                    assert_eq!(format!("{found:?}"), format!("{wanted:?}"));
                    different.insert(format!("{wanted:?}"));
                }
            }
        }
        // Some arguments do not matter for some purposes; the others would reveal a wrong key.
        assert!(different.len() > 50, "{}", different.len());
    }
}
