//! Water-like boxes that the benchmarks of the Rust core share.

/// 192 jittered sites in a 13.73 Å cell, repeated along x and y, with charges and dipoles.
pub fn water(repeats: [usize; 3]) -> (Vec<[f64; 3]>, Vec<f64>, [[f64; 3]; 3]) {
    const LENGTH: f64 = 13.73;
    let mut state = 1_u64;
    let mut random = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 40) as f64 / (1 << 24) as f64
    };
    let (mut positions, mut multipoles) = (Vec::new(), Vec::new());
    for copy in 0..repeats.iter().product() {
        let offset = [
            copy % repeats[0],
            copy / repeats[0] % repeats[1],
            copy / (repeats[0] * repeats[1]),
        ];
        for site in 0..192 {
            let at = [site / 24, site / 4 % 6, site % 4];
            positions.push([0, 1, 2].map(|axis| {
                let place = (at[axis] as f64 + 0.8 * random()) / [8.0, 6.0, 4.0][axis];
                (place + offset[axis] as f64) * LENGTH
            }));
            multipoles.push(if site % 3 == 0 { -0.8 } else { 0.4 });
            multipoles.extend((0..3).map(|_| 0.2 * random() - 0.1));
        }
    }
    let mut cell = [[0.0; 3]; 3];
    for axis in 0..3 {
        cell[axis][axis] = LENGTH * repeats[axis] as f64;
    }
    (positions, multipoles, cell)
}
