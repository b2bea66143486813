//! Charges and dipoles written out against the table-driven kernel, and the same bits on any number of threads.

use super::*;
use crate::arithmetic::Dual;
use crate::special::harmonics::count;

/// Deterministic numbers in (-1, 1).
fn number(k: usize) -> f64 {
    (0.7 + 12.9898 * (k + 1) as f64).sin()
}

const N_SITES: usize = 37;
const LENGTH: f64 = 5.0;

struct Sites<T> {
    positions: Vec<Vector<T>>,
    widths: Vec<f64>,
    coefficients: Vec<T>,
    n_channels: usize,
    max_l: usize,
}

impl<T: Scalar> Sites<T> {
    fn new(seed: usize, n_channels: usize, max_l: usize, make: fn(f64, f64) -> T) -> Self {
        let scalar = |k: usize, scale: f64| make(number(k) * scale, number(k + 7));
        let n = N_SITES * n_channels;
        Self {
            positions: (0..N_SITES)
                .map(|k| [0, 1, 2].map(|axis| scalar(seed + 3 * k + axis, 0.5 * LENGTH)))
                .collect(),
            widths: (0..n).map(|k| [0.3, 0.5, 1.4][(k + seed) % 3]).collect(),
            coefficients: (0..n * count(max_l))
                .map(|k| scalar(seed + 1000 + k, 1.0))
                .collect(),
            n_channels,
            max_l,
        }
    }

    /// A copy with coefficients up to l = 2, the new ones zero.
    fn padded(&self) -> Self {
        let mut coefficients = Vec::new();
        for own in self.coefficients.chunks(count(self.max_l)) {
            coefficients.extend_from_slice(own);
            coefficients.resize(coefficients.len() + count(2) - own.len(), T::zero());
        }
        Self {
            positions: self.positions.clone(),
            widths: self.widths.clone(),
            coefficients,
            n_channels: self.n_channels,
            max_l: 2,
        }
    }

    fn density<'a>(&'a self, positions: &'a [Vector<T>]) -> Density<'a, T> {
        Density {
            positions,
            widths: &self.widths,
            n_channels: self.n_channels,
            max_l: self.max_l,
            coefficients: &self.coefficients,
        }
    }
}

fn numbers<T: Scalar>(
    gradient: &Gradient<T>,
    sizes: [usize; 2],
    bits: fn(T) -> [f64; 2],
) -> Vec<f64> {
    let mut all = vec![gradient.value];
    for (values, stored) in [(&gradient.source, sizes[0]), (&gradient.receiver, sizes[1])] {
        let per_site = values.len() / stored.max(1);
        assert_eq!(per_site * stored, values.len());
        all.extend(values.iter().copied());
    }
    for vectors in [
        &gradient.source_positions[..],
        &gradient.receiver_positions,
        &gradient.cell,
    ] {
        all.extend(vectors.iter().flatten().copied());
    }
    all.into_iter().flat_map(bits).collect()
}

/// Drops the coefficients that only the padded density has.
fn cut<T: Scalar>(values: &[T], max_l: usize) -> Vec<T> {
    let chunks = values.chunks(count(2));
    chunks
        .flat_map(|chunk| chunk[..count(max_l)].to_vec())
        .collect()
}

fn compare<T: Scalar>(make: fn(f64, f64) -> T, bits: fn(T) -> [f64; 2]) {
    let cell = [0, 1, 2].map(|row| {
        [0, 1, 2].map(|axis| {
            let tilt = 0.3 * number(3 * row + axis);
            make(tilt + if row == axis { LENGTH } else { 0.0 }, tilt)
        })
    });
    for (source_l, receiver_l) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        for relation in [Relation::Same, Relation::SameSites, Relation::Apart] {
            if relation == Relation::Same && source_l != receiver_l {
                continue;
            }
            for split in [None, Some(0.8)] {
                let n_channels = if relation == Relation::Same { 1 } else { 2 };
                let sources = Sites::new(0, n_channels, source_l, make);
                let receivers = Sites::new(500, 3, receiver_l, make);
                let run = |sources: &Sites<T>, receivers: &Sites<T>| {
                    let source = sources.density(&sources.positions);
                    let elsewhere = receivers.density(match relation {
                        Relation::Apart => &receivers.positions,
                        _ => &sources.positions,
                    });
                    let receiver = (relation != Relation::Same).then_some(&elsewhere);
                    let pairs = match split {
                        None => Pairs::All,
                        Some(_) => Pairs::Listed(
                            Rows::new(&source, receiver, &cell, [true, true, false], 6.0)
                                .expect("a neighbour list"),
                        ),
                    };
                    RealSpace::new(pairs, split, cell).evaluate(&source, receiver, Want::ALL)
                };
                let found = run(&sources, &receivers);
                let mut exact = run(&sources.padded(), &receivers.padded());
                exact.source = cut(&exact.source, source_l);
                exact.receiver = cut(&exact.receiver, receiver_l);
                let sizes = [found.source.len(), found.receiver.len()];
                let (found, exact) = (numbers(&found, sizes, bits), numbers(&exact, sizes, bits));
                let scale = exact.iter().fold(0.0_f64, |a, b| a.max(b.abs()));
                assert!(scale > 1.0 && found.len() == exact.len());
                for (a, b) in found.iter().zip(&exact) {
                    let error = (a - b).abs() / scale;
                    assert!(
                        error < 1e-13,
                        "l {source_l} {receiver_l} {relation:?} {split:?}: {error:e}"
                    );
                }
            }
        }
    }
}

#[test]
fn written_out_and_table_driven_kernels_agree() {
    compare::<f64>(|value, _| value, |x| [x, 0.0]);
    compare::<Dual>(Dual::new, |x| [x.value, x.tangent]);
}

#[test]
fn each_pair_once_is_each_pair_twice() {
    let sites = Sites::<f64>::new(0, 1, 1, |value, _| value);
    let source = sites.density(&sites.positions);
    let copy = sites.density(&sites.positions);
    let cell = [[LENGTH, 0.0, 0.0], [1.0, LENGTH, 0.0], [0.0, -0.5, LENGTH]];
    let run = |receiver: Option<&Density<f64>>| {
        let rows = Rows::new(&source, receiver, &cell, [true; 3], 6.0).expect("a neighbour list");
        RealSpace::new(Pairs::Listed(rows), Some(0.8), cell).evaluate(&source, receiver, Want::ALL)
    };
    let (once, twice) = (run(None), run(Some(&copy)));
    let close = |a: f64, b: f64, scale: f64| assert!((a - b).abs() < 1e-12 * scale, "{a} {b}");
    close(once.value, 0.5 * twice.value, twice.value.abs());
    for (k, &value) in once.receiver.iter().enumerate() {
        close(value, twice.receiver[k], 100.0);
        close(value, twice.source[k], 100.0);
    }
    for site in 0..N_SITES {
        for axis in 0..3 {
            let both = twice.receiver_positions[site][axis] + twice.source_positions[site][axis];
            close(once.receiver_positions[site][axis], 0.5 * both, 100.0);
        }
    }
    for axis in 0..9 {
        let at = |cell: &Matrix<f64>| cell[axis / 3][axis % 3];
        close(at(&once.cell), 0.5 * at(&twice.cell), 1000.0);
    }
}

#[test]
fn cached_tensors_give_the_same_potentials() {
    for n_channels in [1, 2] {
        let sources = Sites::<f64>::new(0, n_channels, 2, |value, _| value);
        let receivers = Sites::<f64>::new(500, 2, 1, |value, _| value);
        let source = sources.density(&sources.positions);
        let other = receivers.density(&sources.positions);
        for receiver in [None, Some(&other)] {
            if receiver.is_none() && n_channels > 1 {
                continue;
            }
            for want in [Want::RECEIVER, Want::SOURCE] {
                let mut real = RealSpace::new(Pairs::All, None, [[0.0; 3]; 3]);
                let exact = real.evaluate(&source, receiver, want);
                real.cache(&source, receiver, usize::MAX);
                let found = real.evaluate(&source, receiver, want);
                let pick = |g: &Gradient<f64>| match want {
                    Want::SOURCE if receiver.is_some() => g.source.clone(),
                    _ => g.receiver.clone(),
                };
                for (a, b) in pick(&found).iter().zip(&pick(&exact)) {
                    assert!((a - b).abs() < 1e-12 * (1.0 + b.abs()));
                }
            }
        }
    }
}

#[test]
fn same_bits_on_any_number_of_threads() {
    let sites = Sites::<f64>::new(0, 1, 1, |value, _| value);
    let source = sites.density(&sites.positions);
    let cell = [[LENGTH, 0.0, 0.0], [1.0, LENGTH, 0.0], [0.0, -0.5, LENGTH]];
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("a thread pool");
        pool.install(|| {
            let rows = Rows::new(&source, None, &cell, [true; 3], 6.0).expect("a neighbour list");
            let listed = RealSpace::new(Pairs::Listed(rows), Some(0.8), cell);
            let all = RealSpace::new(Pairs::All, None, cell);
            [listed, all].map(|real| {
                let gradient = real.evaluate(&source, None, Want::ALL);
                let sizes = [gradient.source.len(), gradient.receiver.len()];
                numbers(&gradient, sizes, |x| [x, 0.0])
            })
        })
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(4));
}
