// Coulomb kernels in reciprocal space: the transform of 1/r, exactly truncated along open axes (Rozzi et al., Phys.
// Rev. B 73, 205119). The functions are those of src/ewald/kernel.rs and src/special/bessel.rs.
//
// Along open axes the completed lattice has fixed length, so k depends on the cell only through its part in the
// periodic directions: the kernel gives its value and its derivative in that part's square.
#pragma once
#include "batch.cuh"

// The kernel of one boundary.
struct CoulombKernel {
    int dimensions;  // number of periodic axes
    double radius;   // of truncation: half the length along open axes, Å
};

// Functions of the part of k along periodic axes: e^{-kR} of a slab, K0 and K1 of kR of a wire.
template <class S> struct ParallelOf {
    S square, length, functions[2];
};
typedef ParallelOf<T> Parallel;

// Functions of the part of k along open axes: a cosine, or J0 and J1 of x = kR.
template <class R> struct OpenOf {
    R square, x, functions[2];
};
typedef OpenOf<double> Open;

DEVICE CoulombKernel coulomb_kernel(const int *pbc, double open_length) {
    return {pbc[0] + pbc[1] + pbc[2], 0.5 * open_length};
}

// K_0(x) and K_1(x) for x > 0, from K_ν(x) = ∫₀^∞ exp(-x cosh t) cosh(νt) dt by the trapezoidal rule, which converges
// geometrically for this integrand.
DEVICE void bessel_k01(double x, double *k0, double *k1) {
    const double STEP = 0.1;
    // The factor e^-x is applied last (the exponent has cosh t - 1 ≥ 0), so that nothing underflows before it.
    *k0 = 0.5;
    *k1 = 0.5;
    for (int n = 1;; n++) {
        double growth = cosh(STEP * n);
        double term = exp(-x * (growth - 1.0));
        *k0 += term;
        *k1 += term * growth;
        if (!(term * growth >= 1e-18 * *k1)) break;
    }
    double factor = STEP * exp(-x);
    *k0 *= factor;
    *k1 *= factor;
}

// Value at k = 0: zero with a neutralising background in 3-D, the finite limit elsewhere.
template <class R> DEVICE R kernel_at_zero(CoulombKernel kernel) {
    R radius = kernel.radius, turn = 2.0 * PI, r2 = radius * radius;
    switch (kernel.dimensions) {
        case 3: return 0;
        case 2: return -turn * r2;
        case 1: return (R)PI * r2 - turn * r2 * log(radius);
        default: return turn * r2;
    }
}

// Factors of the kernel that depend on the part of k along the periodic axes, from its square.
DEVICE Parallel parallel_part(CoulombKernel kernel, T square) {
    Parallel out = {square, zero<T>(), {zero<T>(), zero<T>()}};
    if (value_of(square) == 0.0 || (kernel.dimensions != 1 && kernel.dimensions != 2)) return out;
    out.length = root_of(square);
    T y = out.length * kernel.radius;
    if (kernel.dimensions == 2) {
        out.functions[0] = exp_of(-y);
    } else {
        double k0, k1;
        bessel_k01(value_of(y), &k0, &k1);
        out.functions[0] = chain(y, k0, -k1);
        out.functions[1] = chain(y, k1, -k0 - k1 / value_of(y));
    }
    return out;
}

// Factors of the truncated kernel that depend on k⊥ only: cos(k⊥R) for slabs, J0 and J1 of k⊥R for wires, from its
// square.
DEVICE Open open_part(CoulombKernel kernel, double square) {
    double x = sqrt(square) * kernel.radius;
    Open out = {square, x, {0.0, 0.0}};
    if (kernel.dimensions == 1) {
        out.functions[0] = j0(x);
        out.functions[1] = j1(x);
    } else if (kernel.dimensions != 3) {
        // Along a slab's normal kR is a multiple of π, so only the cosine is left.
        out.functions[0] = cos(x);
    }
    return out;
}

// The kernel G and dG/d(square of k's periodic part) at k ≠ 0.
template <class S, class R>
DEVICE void combine(CoulombKernel kernel, ParallelOf<S> parallel, OpenOf<R> open, S *value, S *slope) {
    const R factor = (R)(4.0 * PI);
    R radius = kernel.radius;
    *slope = zero<S>();
    if (kernel.dimensions == 0) {
        *value = constant<S>(factor / open.square * (1 - open.functions[0]));
        return;
    }
    if (value_of(parallel.square) == 0.0 && kernel.dimensions < 3) {
        R bracket = 1 - open.functions[0];
        // the transform of -2 ln(ρ/Å), truncated at R
        if (kernel.dimensions == 1) bracket -= open.x * log(radius) * open.functions[1];
        *value = constant<S>(factor / open.square * bracket);
        return;
    }
    S inverse = reciprocal_of(parallel.square + constant<S>(open.square));
    // Factor of 4π/k², and its derivative in the square.
    S bracket = constant<S>(1), derivative = zero<S>();
    if (kernel.dimensions == 2) {
        S decay = parallel.functions[0] * open.functions[0];
        derivative = decay * reciprocal_of(parallel.length) * ((R)0.5 * radius);
        bracket -= decay;
    } else if (kernel.dimensions == 1) {
        S k0 = parallel.functions[0], k1 = parallel.functions[1];
        S y = parallel.length * radius;
        R first = open.functions[0], second = open.x * open.functions[1];
        // d/dy: K0' = -K1 and (y K1)' = -y K0
        derivative = (y * k0 * first - k1 * second) * reciprocal_of(parallel.length) * ((R)0.5 * radius);
        bracket += k0 * second - y * k1 * first;
    }
    *value = bracket * inverse * factor;
    *slope = (derivative * factor - *value) * inverse;
}
