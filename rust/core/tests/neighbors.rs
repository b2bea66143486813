//! Neighbour lists against a sum over all images, and the laws they obey.

use electret_core::Error;
use electret_core::neighbors::{Criteria, Pairs, Quantities, Search, Systems, full_list};
use proptest::prelude::*;

const ALL: Quantities = Quantities {
    i: true,
    j: true,
    shift: true,
    distance: true,
    vector: true,
};
/// Distances this close to the cutoff may fall on either side of it.
const DOUBT: f64 = 1e-9;

#[derive(Debug, Clone)]
struct System {
    positions: Vec<[f64; 3]>,
    cell: [[f64; 3]; 3],
    pbc: [bool; 3],
    cutoff: f64,
}

type Key = (usize, usize, [i64; 3]);

fn cross(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    ]
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

impl System {
    fn pairs(&self, half: bool, self_interaction: bool) -> Pairs<i64, i64> {
        let systems = Systems {
            positions: &self.positions,
            cells: &[self.cell],
            pbc: &[self.pbc],
            batch: None,
        };
        let criteria = Criteria {
            cutoff: self.cutoff,
            half,
            self_interaction,
        };
        Search::new(&systems, &criteria)
            .unwrap()
            .pairs(ALL)
            .unwrap()
    }

    fn separation(&self, i: usize, j: usize, shift: [i64; 3]) -> [f64; 3] {
        std::array::from_fn(|k| {
            let image: f64 = (0..3)
                .map(|axis| shift[axis] as f64 * self.cell[axis][k])
                .sum();
            self.positions[j][k] - self.positions[i][k] + image
        })
    }

    /// Pairs by trying every image that can be near, and true if any is too close to the cutoff to decide.
    fn brute_force(&self) -> (Vec<(Key, f64)>, bool) {
        let [a, b, c] = self.cell;
        let faces = [cross(b, c), cross(c, a), cross(a, b)];
        let volume = dot(a, faces[0]);
        let mut found = Vec::new();
        let mut doubtful = false;
        for i in 0..self.positions.len() {
            for j in 0..self.positions.len() {
                let apart = self.separation(i, j, [0; 3]);
                let range: [(i64, i64); 3] = std::array::from_fn(|axis| {
                    if !self.pbc[axis] {
                        return (0, 0);
                    }
                    // Generous for partly periodic cells too: the height of the full cell is the smaller one.
                    let dual = faces[axis].map(|entry| entry / volume);
                    let reach = self.cutoff * dot(dual, dual).sqrt();
                    let middle = -dot(dual, apart);
                    // With open axes the nearest image is not at `middle`; the open components move it.
                    let slack = if self.pbc == [true; 3] { 1.0 } else { 40.0 };
                    (
                        (middle - reach - slack).floor() as i64,
                        (middle + reach + slack).ceil() as i64,
                    )
                });
                for sa in range[0].0..=range[0].1 {
                    for sb in range[1].0..=range[1].1 {
                        for sc in range[2].0..=range[2].1 {
                            let shift = [sa, sb, sc];
                            if i == j && shift == [0; 3] {
                                continue;
                            }
                            let vector = self.separation(i, j, shift);
                            let distance = dot(vector, vector).sqrt();
                            doubtful |= (distance - self.cutoff).abs() < DOUBT;
                            if distance < self.cutoff {
                                found.push(((i, j, shift), distance));
                            }
                        }
                    }
                }
            }
        }
        (found, doubtful)
    }
}

fn keys(pairs: &Pairs<i64, i64>) -> Vec<Key> {
    (0..pairs.i.len())
        .map(|n| (pairs.i[n] as usize, pairs.j[n] as usize, pairs.shift[n]))
        .collect()
}

fn system() -> impl Strategy<Value = System> {
    let vector = || prop::array::uniform3(-6.0..6.0_f64);
    let atoms = prop::collection::vec(prop::array::uniform3(-9.0..9.0_f64), 0..12);
    (
        atoms,
        prop::array::uniform3(vector()),
        any::<[bool; 3]>(),
        0.3..7.0_f64,
    )
        .prop_filter("a cell with some volume", |(_, cell, _, _)| {
            let [a, b, c] = *cell;
            let lengths = (dot(a, a) * dot(b, b) * dot(c, c)).sqrt();
            dot(a, cross(b, c)).abs() > (0.15 * lengths).max(4.0)
        })
        .prop_map(|(positions, cell, pbc, cutoff)| System {
            positions,
            cell,
            pbc,
            cutoff,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn agrees_with_all_images(system in system()) {
        let (expected, doubtful) = system.brute_force();
        prop_assume!(!doubtful);
        let pairs = system.pairs(false, false);
        prop_assert_eq!(keys(&pairs), expected.iter().map(|pair| pair.0).collect::<Vec<_>>());
        for (n, &((i, j, shift), distance)) in expected.iter().enumerate() {
            prop_assert!((pairs.distance[n] - distance).abs() < 1e-12);
            let vector = system.separation(i, j, shift);
            for axis in 0..3 {
                prop_assert!((pairs.vector[n][axis] - vector[axis]).abs() < 1e-12);
            }
        }
        let rows = full_list(&system.positions, &system.cell, system.pbc, system.cutoff).unwrap();
        prop_assert_eq!(rows.first.len(), system.positions.len() + 1);
        for i in 0..system.positions.len() {
            for n in rows.first[i]..rows.first[i + 1] {
                let shift = rows.shift[n].map(i64::from);
                prop_assert_eq!((i, rows.j[n] as usize, shift), expected[n].0);
            }
        }
    }

    #[test]
    fn both_directions_of_a_pair_are_exact_opposites(system in system()) {
        let pairs = system.pairs(false, false);
        let keys = keys(&pairs);
        for (n, &(i, j, shift)) in keys.iter().enumerate() {
            let back = keys.binary_search(&(j, i, shift.map(|s| -s)));
            prop_assert!(back.is_ok());
            prop_assert_eq!(pairs.vector[n], pairs.vector[back.unwrap()].map(|entry| -entry));
            prop_assert!(pairs.distance[n] < system.cutoff);
        }
    }

    #[test]
    fn a_half_list_keeps_one_direction(system in system(), self_interaction: bool) {
        let full = keys(&system.pairs(false, self_interaction));
        let half = keys(&system.pairs(true, self_interaction));
        let kept: Vec<Key> = full.into_iter()
            .filter(|(i, j, shift)| i < j || (i == j && *shift >= [0; 3]))
            .collect();
        prop_assert_eq!(half, kept);
    }

    #[test]
    fn a_batch_is_its_systems_side_by_side(systems in prop::collection::vec(system(), 1..5), interleave: bool) {
        let cutoff = systems[0].cutoff;
        let mut batch = Vec::new();
        let mut positions = Vec::new();
        let mut local = Vec::new();
        let longest = systems.iter().map(|system| system.positions.len()).max().unwrap();
        if interleave {
            for atom in 0..longest {
                for (number, system) in systems.iter().enumerate().rev().filter(|(_, s)| atom < s.positions.len()) {
                    batch.push(number as i64);
                    positions.push(system.positions[atom]);
                    local.push(atom);
                }
            }
        } else {
            for (number, system) in systems.iter().enumerate() {
                batch.resize(batch.len() + system.positions.len(), number as i64);
                positions.extend_from_slice(&system.positions);
                local.extend(0..system.positions.len());
            }
        }
        let cells: Vec<_> = systems.iter().map(|system| system.cell).collect();
        let pbc: Vec<_> = systems.iter().map(|system| system.pbc).collect();
        let together = Systems { positions: &positions, cells: &cells, pbc: &pbc, batch: Some(&batch) };
        let criteria = Criteria { cutoff, half: false, self_interaction: true };
        let pairs: Pairs<i64, i64> = Search::new(&together, &criteria).unwrap().pairs(ALL).unwrap();
        prop_assert!(pairs.i.is_sorted());
        for (number, system) in systems.iter().enumerate() {
            let alone = System { cutoff, ..system.clone() }.pairs(false, true);
            let of_system: Vec<usize> =
                (0..pairs.i.len()).filter(|&n| batch[pairs.i[n] as usize] == number as i64).collect();
            prop_assert_eq!(of_system.len(), alone.i.len());
            for (&n, m) in of_system.iter().zip(0..) {
                prop_assert_eq!(local[pairs.i[n] as usize] as i64, alone.i[m]);
                prop_assert_eq!(local[pairs.j[n] as usize] as i64, alone.j[m]);
                prop_assert_eq!(batch[pairs.j[n] as usize], number as i64);
                prop_assert_eq!(pairs.shift[n], alone.shift[m]);
                prop_assert_eq!(pairs.vector[n], alone.vector[m]);
            }
        }
    }
}

/// A reproducible sequence of numbers in [0, 1).
fn numbers(mut state: u64) -> impl FnMut() -> f64 {
    move || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[test]
fn bitwise_the_same_for_any_number_of_threads() {
    let mut number = numbers(7);
    let system = System {
        positions: (0..1500)
            .map(|_| std::array::from_fn(|_| 60.0 * number() - 20.0))
            .collect(),
        cell: [[24.0, 1.0, 0.0], [-3.0, 23.0, 2.0], [1.0, 0.0, -25.0]],
        pbc: [true, true, false],
        cutoff: 6.0,
    };
    let lists: Vec<Pairs<i64, i64>> = [1, 2, 4]
        .map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| system.pairs(false, false))
        })
        .into();
    assert!(lists[0].i.len() > 30_000);
    assert_eq!(lists[0], lists[1]);
    assert_eq!(lists[0], lists[2]);
}

#[test]
fn one_stray_atom_does_not_make_a_cluster_quadratic() {
    let mut number = numbers(3);
    let mut positions: Vec<[f64; 3]> = (0..3000)
        .map(|_| std::array::from_fn(|_| 30.0 * number()))
        .collect();
    let alone = full_list(&positions, &[[0.0; 3]; 3], [false; 3], 4.0).unwrap();
    assert!(alone.j.len() > 50_000);
    positions.push([-4e3, 5e3, 6e3]);
    let with_stray = full_list(&positions, &[[0.0; 3]; 3], [false; 3], 4.0).unwrap();
    assert_eq!(alone.j, with_stray.j);
    assert_eq!(alone.first, with_stray.first[..3001]);
}

#[test]
fn bad_input_is_refused() {
    let one = [[0.0; 3]];
    let unit = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    for cutoff in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e200] {
        assert!(matches!(
            full_list(&one, &unit, [true; 3], cutoff),
            Err(Error::Unsupported { .. })
        ));
    }
    assert!(matches!(
        full_list(&[[0.0; 3], [0.0, f64::NAN, 0.0]], &unit, [true; 3], 1.0),
        Err(Error::NonFinite {
            array: "positions",
            index: 1,
            ..
        })
    ));
    assert!(matches!(
        full_list(&[[0.0, -1e18, 2.0]], &unit, [true; 3], 1.0),
        Err(Error::Value {
            array: "positions",
            index: 0,
            value: -1e18,
            ..
        })
    ));
    assert!(matches!(
        full_list(&one, &[[1.0; 3]; 3], [true; 3], 1.0),
        Err(Error::SingularCell { system: 0, .. })
    ));
    assert!(matches!(
        full_list(&one, &unit, [true; 3], 1e4),
        Err(Error::Unsupported { .. })
    ));
    let criteria = Criteria {
        cutoff: 1.0,
        half: false,
        self_interaction: false,
    };
    let search = |cells: &[_], pbc: &[_], batch| {
        Search::new(
            &Systems {
                positions: &one,
                cells,
                pbc,
                batch,
            },
            &criteria,
        )
        .map(|search| search.len())
    };
    assert_eq!(search(&[unit], &[[false; 3]], None), Ok(0));
    assert!(matches!(
        search(&[unit], &[], None),
        Err(Error::Shape { array: "pbc", .. })
    ));
    assert!(matches!(
        search(&[unit; 2], &[[true; 3]; 2], None),
        Err(Error::Shape { array: "cell", .. })
    ));
    assert!(matches!(
        search(&[unit], &[[true; 3]], Some(&[0, 0])),
        Err(Error::Shape { array: "batch", .. })
    ));
    assert!(matches!(
        search(&[unit], &[[true; 3]], Some(&[1])),
        Err(Error::Value {
            array: "batch",
            index: 0,
            value: 1.0,
            ..
        })
    ));
}
