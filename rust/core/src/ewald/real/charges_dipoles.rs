//! Charges and dipoles: the pair interaction written out.
//!
//! With F_a = (1/r d/dr)^a f, charges q, Q and dipoles p, P of source and receiver, d from source to receiver:
//! U/K = qQ F_0 + (q P·d - Q p·d) F_1 - p·P F_1 - (p·d)(P·d) F_2.

use crate::arithmetic::{Pack, Scalar};
use crate::ewald::pair::PairOutput;
use crate::units::COULOMB_CONSTANT;

/// Axes of the coefficients.
const AXES: [usize; 3] = [1, 2, 0];

#[inline(always)]
fn dot<P: Pack, const FMA: bool>(a: &[P], b: &[P]) -> P {
    let first = a[0].mul(b[0]);
    a[2].mul_add::<FMA>(b[2], a[1].mul_add::<FMA>(b[1], first))
}

/// Adds the gradients of U for sources of degree `S` and receivers of degree `R`, at most one; `f` holds F_0 to
/// F_(S+R+1). Multipoles are in the order of the coefficients, (q, p_y, p_z, p_x).
#[inline(always)]
pub fn add_gradients<P: Pack, const S: usize, const R: usize, const FMA: bool>(
    d: &[P],
    f: &[P],
    source: &[P],
    receiver: &[P],
    out: &mut PairOutput<P>,
) {
    let d = [d[AXES[0]], d[AXES[1]], d[AXES[2]]];
    let mut scaled = [P::zero(); 4];
    for a in 0..S + R + 2 {
        scaled[a] = f[a].mul(P::splat(Scalar::constant(COULOMB_CONSTANT)));
    }
    let f = &scaled;
    // Q F_1 + P·d F_2 and q F_1 - p·d F_2: the factors of the potentials' variation along d.
    let (mut from_receiver, mut from_source) = (receiver[0].mul(f[1]), source[0].mul(f[1]));
    let mut at_source = receiver[0].mul(f[0]);
    let mut at_receiver = source[0].mul(f[0]);
    let mut along = P::zero();
    if R == 1 {
        let projection = dot::<P, FMA>(&receiver[1..4], &d);
        from_receiver = projection.mul_add::<FMA>(f[2], from_receiver);
        at_source = projection.mul_add::<FMA>(f[1], at_source);
        let mut slope = source[0].mul(f[2]);
        if S == 1 {
            slope = dot::<P, FMA>(&source[1..4], &d).neg_mul_add::<FMA>(f[3], slope);
        }
        along = projection.mul(slope);
    }
    if S == 1 {
        let projection = dot::<P, FMA>(&source[1..4], &d);
        from_source = projection.neg_mul_add::<FMA>(f[2], from_source);
        at_receiver = projection.neg_mul_add::<FMA>(f[1], at_receiver);
        if R == 1 {
            let dipoles = dot::<P, FMA>(&source[1..4], &receiver[1..4]);
            along = dipoles.neg_mul_add::<FMA>(f[2], along);
        }
    }
    along = receiver[0].mul_add::<FMA>(from_source, along);
    out.source[0] = out.source[0].add(at_source);
    out.receiver[0] = out.receiver[0].add(at_receiver);
    for k in 0..3 {
        let axis = AXES[k];
        let mut gradient = along.mul_add::<FMA>(d[k], out.gradient[axis]);
        if S == 1 {
            gradient = source[k + 1].neg_mul_add::<FMA>(from_receiver, gradient);
            let mut potential = d[k].neg_mul_add::<FMA>(from_receiver, out.source[k + 1]);
            if R == 1 {
                potential = receiver[k + 1].neg_mul_add::<FMA>(f[1], potential);
            }
            out.source[k + 1] = potential;
        }
        if R == 1 {
            gradient = receiver[k + 1].mul_add::<FMA>(from_source, gradient);
            let mut potential = d[k].mul_add::<FMA>(from_source, out.receiver[k + 1]);
            if S == 1 {
                potential = source[k + 1].neg_mul_add::<FMA>(f[1], potential);
            }
            out.receiver[k + 1] = potential;
        }
        out.gradient[axis] = gradient;
    }
}
