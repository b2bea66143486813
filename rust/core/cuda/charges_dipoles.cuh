// Charges and dipoles, written out: the interaction of a receiver of degree RECEIVER_L ≤ 1 with a source of degree
// SOURCE_L ≤ 1, as in src/ewald/real/charges_dipoles.rs. Multipoles are in the order (q, p_y, p_z, p_x).
#pragma once
#include "batch.cuh"
#include "radial.cuh"

// Adds the potentials at the receiver and, with GRADIENTS, dU/dd; d is from the source to the receiver.
DEVICE void interact(const W *d_xyz, WidthsOf<R> widths, const BoysRowOf<R> *table, const W *p, const W *q, W *v, W *g) {
    const int TOP = RECEIVER_L + SOURCE_L + GRADIENTS;
    W r2 = dot3(d_xyz, d_xyz);
    W f[TOP + 1];
#pragma unroll
    for (int a = 0; a <= TOP; a++) f[a] = zero<W>();
#pragma unroll 1
    for (int k = 0; k < count_of(widths); k++) add_radial<TOP>(f, r2, part_of(widths, k), table);
#pragma unroll
    for (int a = 0; a <= TOP; a++) f[a] = f[a] * COULOMB_CONSTANT;
#if RECEIVER_L + SOURCE_L + GRADIENTS > 0
    W d[3] = {d_xyz[1], d_xyz[2], d_xyz[0]};
#endif
    // Potential of the source, and q F_1 - p·d F_2, the factor of its variation along d.
    W potential = p[0] * f[0];
#if SOURCE_L == 1
    W projection = dot3(p + 1, d);
    potential -= projection * f[1];
#endif
    v[0] += potential;
#if RECEIVER_L + GRADIENTS > 0
    W slope = p[0] * f[1];
#if SOURCE_L == 1
    slope -= projection * f[2];
#endif
#endif
#if RECEIVER_L == 1
#pragma unroll
    for (int k = 0; k < 3; k++) {
        v[k + 1] += d[k] * slope;
#if SOURCE_L == 1
        v[k + 1] -= p[k + 1] * f[1];
#endif
    }
#endif
#if GRADIENTS
    W along = q[0] * slope;
#if SOURCE_L == 1
    W across = q[0] * f[1];
#endif
#if RECEIVER_L == 1
    W own = dot3(q + 1, d);
    W second = p[0] * f[2];
#if SOURCE_L == 1
    across += own * f[2];
    second -= projection * f[3];
    along -= dot3(p + 1, q + 1) * f[2];
#endif
    along += own * second;
#endif
    W gradient[3];
#pragma unroll
    for (int k = 0; k < 3; k++) {
        gradient[k] = along * d[k];
#if RECEIVER_L == 1
        gradient[k] += q[k + 1] * slope;
#endif
#if SOURCE_L == 1
        gradient[k] -= p[k + 1] * across;
#endif
    }
    g[0] += gradient[2];
    g[1] += gradient[0];
    g[2] += gradient[1];
#endif
}
