// Multipoles of any degrees: the interaction of a receiver with a source, as in src/ewald/pair.rs.
#pragma once
#include "batch.cuh"
#include "harmonics.cuh"
#include "radial.cuh"

const int TOP = RECEIVER_L + SOURCE_L + GRADIENTS;
const int POWERS = RECEIVER_L < SOURCE_L ? RECEIVER_L : SOURCE_L;

// add_terms(d, h, f, p, q, v, g), or the tables for it; written by src/cuda/real/interaction.rs.
#include "terms.cuh"

#ifdef TERM_TABLES
// The terms as loops over tables.
DEVICE void add_terms(const W *d, const W *h, const W (*f)[TOP + 1], const W *p, const W *q, W *v, W *g) {
    W along = zero<W>();
    for (int k = 0; k < N_COMPONENTS; k++) {
        Component component = COMPONENTS[k];
        W harmonic = h[component.product], function = f[component.power][component.degree];
        W tensor = harmonic * function, weight = zero<W>();
        for (int n = component.first; n < COMPONENTS[k + 1].first; n++) {
            Term term = TERMS[n];
            W value = p[term.source] * term.coefficient;
            v[term.receiver] += tensor * value;
            if (GRADIENTS) weight += value * q[term.receiver];
        }
#if GRADIENTS
        // ∇(C F) = F ∇C + C d (1/r dF/dr)
        along += weight * harmonic * f[component.power][component.degree + 1];
        W inner = weight * function;
        for (int n = component.first_slope; n < component.last_slope; n++)
            g[SLOPES[n].axis] += inner * h[SLOPES[n].lower] * SLOPES[n].coefficient;
#endif
    }
#if GRADIENTS
    for (int k = 0; k < 3; k++) g[k] += along * d[k];
#endif
}
#endif

// Adds the potentials at the receiver and, with GRADIENTS, dU/dd; d is from the source to the receiver.
DEVICE void interact(const W *d, WidthsOf<R> widths, const BoysRowOf<R> *table, const W *p, const W *q, W *v, W *g) {
    W r2 = dot3(d, d);
    W h[COUNT(RECEIVER_L + SOURCE_L)], f[POWERS + 1][TOP + 1];
    solid_harmonics<RECEIVER_L + SOURCE_L>(d[0], d[1], d[2], h);
#pragma unroll
    for (int n = 0; n <= POWERS; n++)
#pragma unroll
        for (int a = 0; a <= TOP; a++) f[n][a] = zero<W>();
#pragma unroll 1
    for (int k = 0; k < count_of(widths); k++) {
        PartOf<R> part = part_of(widths, k);
        add_radial<TOP>(f[0], r2, part, table);
        add_laplacians<TOP, POWERS>(f, r2, part);
    }
    add_terms(d, h, f, p, q, v, g);
}
