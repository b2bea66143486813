// Real solid harmonics in Racah normalisation, C_lm, with z as polar axis and no Condon–Shortley sign; (l, m) is at
// l*l + l + m. The recursion of Helgaker, Jørgensen, Olsen, eqs. 6.4.70-6.4.73.
#pragma once
#include "scalar.cuh"

// Number of coefficients up to a degree.
#define COUNT(max_l) (((max_l) + 1) * ((max_l) + 1))

// Degree of a flat index.
DEVICE constexpr int degree_of(int lm) {
    int l = 0;
    while ((l + 1) * (l + 1) <= lm) l++;
    return l;
}

// (2l - 1)!!
DEVICE constexpr double double_factorial_odd(int l) {
    double out = 1.0;
    for (int k = 1; k <= l; k++) out *= 2 * k - 1;
    return out;
}

template <int L, class T> DEVICE void solid_harmonics(T x, T y, T z, T *out) {
    out[0] = constant<T>(1.0);
    if (L == 0) return;
    out[1] = y;
    out[2] = z;
    out[3] = x;
    if (L == 1) return;
    T r2 = x * x + y * y + z * z;
#pragma unroll
    for (int l = 1; l < L; l++) {
        T top = out[l * l + 2 * l], bottom = out[l * l];
        int next = (l + 1) * (l + 1) + l + 1;
        double factor = sqrt((2 * l + 1) / (double)(2 * l + 2));
        out[next + l + 1] = (x * top - y * bottom) * factor;
        out[next - l - 1] = (y * top + x * bottom) * factor;
#pragma unroll
        for (int m = -l; m <= l; m++) {
            double a = l + m, b = l - m;
            T value = z * out[l * l + l + m] * (double)(2 * l + 1);
            if (m > -l && m < l) value -= r2 * out[(l - 1) * (l - 1) + l - 1 + m] * sqrt(a * b);
            out[next + m] = value * (1.0 / sqrt((a + 1.0) * (b + 1.0)));
        }
    }
}
