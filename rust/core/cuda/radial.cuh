// Radial functions of the interaction of two Gaussians, F_an = (1/r d/dr)^a (∇²)^n f with f(r) = erf(r / (√2 γ)) / r,
// as in src/special/radial.rs.
#pragma once
#include "boys.cuh"

// A width γ, and a factor on its functions.
template <class R> struct PartOf {
    R inverse;    // 1/γ²
    R prefactor;  // the factor times √(2/π)/γ
};

template <class R> DEVICE PartOf<R> part_of(R gamma2, R factor) {
    R inverse = 1 / gamma2;
    return {inverse, factor * sqrt((R)(2.0 / PI) * inverse)};
}

// γ² of a pair, and γ² of its widths raised to a floor, whose interaction is subtracted; 0 for none.
template <class R> struct WidthsOf {
    R gamma2, raised2;
};

template <class R> DEVICE WidthsOf<R> widths_of(R sigma2, R s2, R floor) {
    R floor2 = floor * floor;
    return {sigma2 + s2, floor > 0 ? fmax(sigma2, floor2) + fmax(s2, floor2) : 0};
}

template <class R> DEVICE PartOf<R> part_of(WidthsOf<R> widths, int k) {
    return k == 0 ? part_of(widths.gamma2, (R)1) : part_of(widths.raised2, (R)-1);
}

template <class R> DEVICE int count_of(WidthsOf<R> widths) { return widths.raised2 > 0 ? 2 : 1; }

// Orders that tangents need in addition.
template <class T> struct Tangents {
    static const int n = 0;
};
template <class R> struct Tangents<DualOf<R>> {
    static const int n = 1;
};

// Adds (1/r d/dr)^a f for a ≤ TOP; `table` is that of order TOP and the tangents, at least one.
template <int TOP, class T, class R> DEVICE void add_radial(T *out, T r2, PartOf<R> part, const BoysRowOf<R> *table) {
    const int ORDER = TOP + Tangents<T>::n < 1 ? 1 : TOP + Tangents<T>::n;
    R values[ORDER + 1];
    boys<ORDER>(value_of(r2) * part.inverse * (R)0.5, table, values);
    R prefactor = part.prefactor;
#pragma unroll
    for (int a = 0; a <= TOP; a++) {
        R value = prefactor * values[a];
        prefactor *= -part.inverse;
        // d/d(r²) of D^a f is half of D^(a+1) f
        R slope = Tangents<T>::n ? (R)0.5 * prefactor * values[a + Tangents<T>::n] : 0;
        out[a] += chain(r2, value, slope);
    }
}

// Adds the functions with 1 ≤ n ≤ POWERS, for a + 2n ≤ TOP, to rows of TOP + 1: ∇² f = -4π g, and
// D^a ∇² h = (3 + 2a) D^(a+1) h + r² D^(a+2) h with D = 1/r d/dr.
template <int TOP, int POWERS, class T, class R>
DEVICE void add_laplacians(T (*out)[TOP + 1], T r2, PartOf<R> part) {
    if (TOP < 2 || POWERS < 1) return;
    R value = -part.prefactor * part.inverse * exp((R)-0.5 * value_of(r2) * part.inverse);
    T row[TOP + 1];
#pragma unroll
    for (int a = 0; a <= TOP - 2; a++) {
        R next = -value * part.inverse;
        row[a] = chain(r2, value, (R)0.5 * next);
        out[1][a] += row[a];
        value = next;
    }
#pragma unroll
    for (int n = 2; n <= POWERS; n++) {
#pragma unroll
        for (int a = 0; a <= TOP - 2 * n; a++) {
            row[a] = r2 * row[a + 2] + row[a + 1] * (double)(3 + 2 * a);
            out[n][a] += row[a];
        }
    }
}
