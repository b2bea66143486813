// Boys functions B_m(t) = ∫₀¹ u^(2m) exp(-t u²) du, t ≥ 0, as src/boys.rs has them.
#pragma once
#include "scalar.cuh"

// Polynomial of one interval of 1/8, lowest power first.
struct alignas(16) BoysRow {
    double c[8];
};

// B_0 ... B_TOP, TOP ≥ 1, from the table of that order.
template <int TOP> DEVICE void boys(double t, const BoysRow *table, double *out) {
    double decay = TOP > 1 && t < 128.0 ? exp(-t) : 0.0;
    if (t < 40.0) {
        double place = rint(t * 8.0);
        double x = t - place * 0.125;
        BoysRow row = table[(int)place];
        const double *c = row.c;
        double square = x * x, fourth = square * square;
        double low = (c[3] * x + c[2]) * square + (c[1] * x + c[0]);
        double high = (c[7] * x + c[6]) * square + (c[5] * x + c[4]);
        out[TOP - 1] = high * fourth + low;
        // The derivative with the opposite sign.
        low = (-4.0 * c[4] * x - 3.0 * c[3]) * square + (-2.0 * c[2] * x - c[1]);
        high = -7.0 * c[7] * square + (-6.0 * c[6] * x - 5.0 * c[5]);
        out[TOP] = high * fourth + low;
        double twice = t + t;
#pragma unroll
        for (int m = TOP - 2; m >= 0; m--) out[m] = (twice * out[m + 1] + decay) * (1.0 / (2 * m + 1));
    } else {
        double inverse = 0.5 / t;
        double value = sqrt(inverse * (0.5 * PI));
#pragma unroll
        for (int m = 0; m <= TOP; m++) {
            out[m] = value;
            value = (value * (2 * m + 1) - decay) * inverse;
        }
    }
}
