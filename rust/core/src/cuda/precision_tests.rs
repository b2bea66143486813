//! Float64 instructions in the loops of single precision, counted in the PTX of the most expensive kernels. On GPUs
//! with few float64 units one float64 instruction costs more than all others.

use super::batch::{ScalarKind, Scalars};
use super::driver::nvrtc::tests::{find, ptx};
use super::driver::unit::Unit;
use super::mesh;
use super::{Precision, real, reciprocal};
use std::collections::HashMap;

/// Arithmetic instructions of float64 and of float32 inside at least `depth` nested loops of a kernel.
fn arithmetic(text: &str, kernel: &str, depth: usize) -> [usize; 2] {
    let body = text
        .split(".entry ")
        .find(|part| part.starts_with(kernel))
        .expect("the kernel is there");
    let lines: Vec<&str> = body.lines().map(str::trim).collect();
    let labels: HashMap<&str, usize> = lines
        .iter()
        .enumerate()
        .filter_map(|(k, line)| Some((line.strip_suffix(':')?, k)))
        .collect();
    // First and last line of each loop: a branch back.
    let mut loops: HashMap<usize, usize> = HashMap::new();
    for (k, line) in lines.iter().enumerate() {
        let receiver = line.split_once("bra").and_then(|(_, rest)| {
            labels.get(rest.split_whitespace().last()?.trim_end_matches(';'))
        });
        if let Some(&first) = receiver.filter(|&&first| first <= k) {
            let last = loops.entry(first).or_insert(k);
            *last = k.max(*last);
        }
    }
    let mut out = [0; 2];
    for (k, line) in lines.iter().enumerate() {
        let mut words = line.split_whitespace();
        let Some(name) = words.find(|word| !word.starts_with('@')) else {
            continue;
        };
        let moves = ["ld.", "st.", "mov.", "selp."];
        let around = loops
            .iter()
            .filter(|&(&first, &last)| first <= k && k <= last);
        if moves.iter().any(|prefix| name.starts_with(prefix)) || around.count() < depth {
            continue;
        }
        out[0] += usize::from(name.contains(".f64"));
        out[1] += usize::from(name.contains(".f32") && !name.contains(".f64"));
    }
    out
}

/// The most expensive kernels, and the depth of their innermost loops.
fn hot(scalars: Scalars) -> Vec<(Unit, &'static str, usize)> {
    let mut out = vec![(real::hot_unit(scalars), "pair_sums", 2)];
    out.extend(reciprocal::hot_units(scalars));
    out.extend(mesh::hot_units(scalars));
    out
}

#[test]
fn loops_of_single_precision_have_no_double() {
    let Some(nvrtc) = find() else {
        return;
    };
    for kind in [ScalarKind::Real, ScalarKind::Dual] {
        for precision in [Precision::Double, Precision::Single] {
            for (source, kernel, depth) in hot(Scalars { kind, precision }) {
                let [double, single] = arithmetic(&ptx(&nvrtc, &source), kernel, depth);
                println!(
                    "{kernel} {kind:?} {precision:?}: {double} of float64, {single} of float32"
                );
                match precision {
                    Precision::Double => assert!(double > 10 * single && double >= 40, "{kernel}"),
                    // The other instructions are executed once per receiver, not for each of its terms.
                    Precision::Single => assert!(single > 20 * double && single > 40, "{kernel}"),
                }
            }
        }
    }
}
