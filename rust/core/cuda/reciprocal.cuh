// The sum over k-vectors, U = Σ_k w(k) Re[S_p(k) S_q(k)*] with w = K G(k) / V, S(k) = Σ_i F_i(k) e^{-ik·r_i} and F_i(k)
// = Σ p_lm (-i)^l C_lm(k) exp(-k² s²/2) / (2l-1)!!. Mirrored by structures in `src/cuda/reciprocal/`.
#pragma once
#include "harmonics.cuh"
#include "lattice.cuh"

struct alignas(2 * sizeof(W) < 16 ? 2 * sizeof(W) : 16) Complex {
    W re, im;
};

// k = Σ_j n_j b_j; of each pair ±k one.
struct Mode {
    int n[3];
    int system;
};

// One system's part of the arrays over modes.
struct ModeSystem {
    long long first_gaussian;
    int first_mode;
    int n_modes;
    int first_width;
    int n_widths;
    int n_phases[3];  // largest |n| + 1 along each axis
    int padding;
};

struct ModeArrays {
    const Mode *modes;
    const ModeSystem *systems;
    const double *widths;  // per system the distinct widths, Å, none below the floor
    W *k;                  // [3][mode], 1/Å
    T *weights;            // w(k); twice that where -k is left out
    T *slopes;             // its derivative in the square of k's part along periodic axes
    W *gaussians;          // per system [width][mode of the system]
    Complex *field;        // w(k) S(k) of the sources
    int n_modes;
    int padding;
};

// One system's part of the arrays over a side's sites.
struct SideSystem {
    long long first_phase;
    long long first_partial;  // of one component's, all chunks
    int n_chunks;
    int padding;
};

struct SiteArrays {
    Side side;
    const SideSystem *systems;
    const int *kinds;  // [site][channel]: index of the width among those of its system
    Complex *phases;   // per site e^{inθ}, n = 0, 1, ..., for each axis
    W *partials;       // structure factors of chunks of sites: per system [chunk][component][mode of the system]
};

DEVICE int n_phases_of(const ModeSystem &system) { return system.n_phases[0] + system.n_phases[1] + system.n_phases[2]; }

DEVICE Complex multiply(Complex a, Complex b) { return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }

DEVICE Complex power(const Complex *table, int n) {
    Complex out = table[n < 0 ? -n : n];
    if (n < 0) out.im = -out.im;
    return out;
}

// e^{ik·r} from a site's table.
DEVICE Complex phase(const Complex *table, const ModeSystem &system, Mode mode) {
    Complex first = power(table, mode.n[0]);
    Complex second = power(table + system.n_phases[0], mode.n[1]);
    Complex third = power(table + system.n_phases[0] + system.n_phases[1], mode.n[2]);
    return multiply(multiply(first, second), third);
}

// Start of a site's table of phases.
DEVICE const Complex *phases_of(const SiteArrays &sites, const ModeSystem &system, int number, int site) {
    long long row = site - sites.side.first[number];
    return sites.phases + sites.systems[number].first_phase + row * n_phases_of(system);
}

// 1 / (2l-1)!! with the sign that reduces (-i)^l to 1 or i; it also reduces Re[i^l z] to Re z or Im z.
DEVICE constexpr double degree_factor(int l) {
    return (l % 4 == 0 || l % 4 == 3 ? 1.0 : -1.0) / double_factorial_odd(l);
}
