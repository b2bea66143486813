// Charges and dipoles, written out: the interaction of a target of degree TARGET_L ≤ 1 with a partner of degree
// PARTNER_L ≤ 1, as src/ewald/real/charges_dipoles.rs has it. Multipoles are in the order (q, p_y, p_z, p_x).
#pragma once
#include "radial.cuh"

// Adds the potentials at the target and, with GRADIENTS, dU/dd; d is from the partner to the target.
DEVICE void interact(const T *d_xyz, Widths widths, const BoysRow *table, const T *p, const T *q, T *v, T *g) {
    const int TOP = TARGET_L + PARTNER_L + GRADIENTS;
    T r2 = dot3(d_xyz, d_xyz);
    T f[TOP + 1];
#pragma unroll
    for (int a = 0; a <= TOP; a++) f[a] = zero<T>();
#pragma unroll 1
    for (int k = 0; k < count_of(widths); k++) add_radial<TOP>(f, r2, part_of(widths, k), table);
#pragma unroll
    for (int a = 0; a <= TOP; a++) f[a] = f[a] * COULOMB_CONSTANT;
#if TARGET_L + PARTNER_L + GRADIENTS > 0
    T d[3] = {d_xyz[1], d_xyz[2], d_xyz[0]};
#endif
    // The partner's potential, and q F_1 - p·d F_2, which makes it vary along d.
    T potential = p[0] * f[0];
#if PARTNER_L == 1
    T projection = dot3(p + 1, d);
    potential -= projection * f[1];
#endif
    v[0] += potential;
#if TARGET_L + GRADIENTS > 0
    T slope = p[0] * f[1];
#if PARTNER_L == 1
    slope -= projection * f[2];
#endif
#endif
#if TARGET_L == 1
#pragma unroll
    for (int k = 0; k < 3; k++) {
        v[k + 1] += d[k] * slope;
#if PARTNER_L == 1
        v[k + 1] -= p[k + 1] * f[1];
#endif
    }
#endif
#if GRADIENTS
    T along = q[0] * slope;
#if PARTNER_L == 1
    T across = q[0] * f[1];
#endif
#if TARGET_L == 1
    T own = dot3(q + 1, d);
    T second = p[0] * f[2];
#if PARTNER_L == 1
    across += own * f[2];
    second -= projection * f[3];
    along -= dot3(p + 1, q + 1) * f[2];
#endif
    along += own * second;
#endif
    T gradient[3];
#pragma unroll
    for (int k = 0; k < 3; k++) {
        gradient[k] = along * d[k];
#if TARGET_L == 1
        gradient[k] += q[k + 1] * slope;
#endif
#if PARTNER_L == 1
        gradient[k] -= p[k + 1] * across;
#endif
    }
    g[0] += gradient[2];
    g[1] += gradient[0];
    g[2] += gradient[1];
#endif
}
