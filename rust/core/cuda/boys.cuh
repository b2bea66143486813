// Boys functions B_m(t) = ∫₀¹ u^(2m) exp(-t u²) du, t ≥ 0, as in src/special/boys.rs.
#pragma once
#include "scalar.cuh"

// Polynomial of one interval of 1/8, lowest power first.
template <class R> struct alignas(16) BoysRowOf {
    R c[8];
};

// B_0 ... B_TOP, TOP ≥ 1, from the table of that order.
template <int TOP, class R> DEVICE void boys(R t, const BoysRowOf<R> *table, R *out) {
    R decay = TOP > 1 && t < 128 ? exp(-t) : 0;
    if (t < 40) {
        R place = rint(t * 8);
        R x = t - place * (R)0.125;
        BoysRowOf<R> row = table[(int)place];
        const R *c = row.c;
        R square = x * x, fourth = square * square;
        R low = (c[3] * x + c[2]) * square + (c[1] * x + c[0]);
        R high = (c[7] * x + c[6]) * square + (c[5] * x + c[4]);
        out[TOP - 1] = high * fourth + low;
        // The derivative with the opposite sign.
        low = (-4 * c[4] * x - 3 * c[3]) * square + (-2 * c[2] * x - c[1]);
        high = -7 * c[7] * square + (-6 * c[6] * x - 5 * c[5]);
        out[TOP] = high * fourth + low;
        R twice = t + t;
#pragma unroll
        for (int m = TOP - 2; m >= 0; m--) out[m] = (twice * out[m + 1] + decay) * (R)(1.0 / (2 * m + 1));
    } else {
        R inverse = (R)0.5 / t;
        R value = sqrt(inverse * (R)(0.5 * PI));
#pragma unroll
        for (int m = 0; m <= TOP; m++) {
            out[m] = value;
            value = (value * (2 * m + 1) - decay) * inverse;
        }
    }
}
