// Arrays of the particle mesh, B-splines, and monomials in the derivatives along the mesh, for all its kernels.
//
// Systems with the same mesh size are processed together. Each raised width of a system has a field; the channels of
// sites with that width are the members of the field. A field is one real array for each part of the scalar, with rows
// along z long enough for their half spectrum.
#pragma once
#include "harmonics.cuh"
#include "batch.cuh"

// BRICK, mesh points along the edge of a brick, is defined by the unit.

struct MeshGrid {
    int points[3];
    int half;  // complex numbers in a row along z
    int bricks[3];
    int n_bricks;
};

// A real number in both precisions.
struct Both {
    double exact;
    float rounded;
    int padding;
};
DEVICE void pick(Both both, double *out) { *out = both.exact; }
DEVICE void pick(Both both, float *out) { *out = both.rounded; }
// The value in the precision of the sums.
DEVICE R real(Both both) {
    R out;
    pick(both, &out);
    return out;
}

struct MeshField {
    Both width;  // raised
    int system;
    int local;  // the system's number among those of this size
    int first_member;
    int n_members;
};

// A channel of a site.
struct Member {
    int place;   // of the site, among the sites of this size
    int receiver;  // site * n_channels + channel
};

struct MeshSite {
    int site;
    int system;
    int local;
};

// Position of a site on the mesh: its splines cover start ... start + ORDER - 1, wrapped.
struct Place {
    W rest[3];  // mesh coordinate less start
    int start[3];
    int local;
};

// Sources or receivers.
struct MeshSide {
    const T *positions;
    const W *coefficients;
    T *potentials;
    T *gradients;
    const MeshField *fields;
    const int *first_field;  // [local system + 1]
    const Member *members;   // by field, ascending
    const int *field_of;     // [site][channel]
    const MeshSite *sites;
    Place *places;
    W *expansion;  // [local system][EXPANSION(max_l)]
    // Members by [field][brick], if they are listed; else zero.
    int *counts;
    int *cursors;
    int *total;
    int *offsets;
    int *entries;
    // Sites by the field of their first channel and the brick where they start, in any order: counts, cursors; the
    // order. Their total follows that of the members, and so do their offsets.
    int *homes;
    int *order;
    int n_fields;
    int n_members;
    int n_sites;
    int n_channels;
    int max_l;
    int padding;
};

DEVICE long long row_stride(const MeshGrid &grid) { return 2LL * grid.half; }
DEVICE long long field_stride(const MeshGrid &grid) { return row_stride(grid) * grid.points[0] * grid.points[1]; }

// A scalar whose parts are stored in separate fields, `stride` apart.
template <class S> struct Parts {
    static const int N = 1;
    static DEVICE S load(const R *p, long long) { return constant<S>(*p); }
    // Loads from arrays that no kernel writes at the same time.
    static DEVICE S fetch(const R *p, long long) { return constant<S>(__ldg(p)); }
    static DEVICE void store(R *p, long long, S value) { *p = value_of(value); }
};
template <> struct Parts<DualOf<R>> {
    static const int N = 2;
    static DEVICE DualOf<R> load(const R *p, long long stride) { return {p[0], p[stride]}; }
    static DEVICE DualOf<R> fetch(const R *p, long long stride) { return {__ldg(p), __ldg(p + stride)}; }
    static DEVICE void store(R *p, long long stride, DualOf<R> value) {
        p[0] = value.value;
        p[stride] = value.tangent;
    }
};

// Monomials (a, b, c) up to a total degree, and the place of one: by total degree, then by a, then by b.
#define MONOMIALS(total) (((total) + 1) * ((total) + 2) * ((total) + 3) / 6)
DEVICE constexpr int monomial(int a, int b, int c) {
    int total = a + b + c;
    return total * (total + 1) * (total + 2) / 6 + a * (total + 1) - a * (a - 1) / 2 + b;
}

// Coefficients of C_lm(∇)/(2l-1)!! in the monomials of degree l, [l][m][monomial]: the place of degree l.
DEVICE constexpr int expansion_place(int l) {
    int place = 0;
    for (int k = 0; k < l; k++) place += (2 * k + 1) * (k + 1) * (k + 2) / 2;
    return place;
}
#define EXPANSION(max_l) expansion_place((max_l) + 1)

#ifdef ORDER
// Weights of the points of a spline and N - 1 derivatives, out[derivative][point], from the mesh coordinate beyond the
// first point.
template <int N> DEVICE void spline(W rest, W (*out)[ORDER]) {
    // Splines of order n, times (n - 1)!.
    W row[ORDER];
    row[0] = constant<W>(1.0);
    R factorial = 1;
#pragma unroll
    for (int n = 1; n <= ORDER; n++) {
        if (n > 1) {
            factorial *= n - 1;
#pragma unroll
            for (int j = ORDER - 1; j >= 0; j--) {
                if (j >= n) continue;
                W sum = zero<W>();
                if (j > 0) sum = (rest + constant<W>(n - 1 - j)) * row[j - 1];
                if (j + 1 < n) sum = j > 0 ? sum + (constant<W>(1 + j) - rest) * row[j] : (constant<W>(1 + j) - rest) * row[j];
                row[j] = sum;
            }
        }
        if (ORDER - n < N) {
#pragma unroll
            for (int j = 0; j < ORDER; j++)
                if (j < n) out[ORDER - n][j] = row[j] * (1 / factorial);
        }
    }
#pragma unroll
    for (int derivative = 1; derivative < N; derivative++) {
#pragma unroll
        for (int n = ORDER - derivative + 1; n <= ORDER; n++) {
#pragma unroll
            for (int j = ORDER - 1; j >= 0; j--) {
                if (j >= n) continue;
                W before = j > 0 ? out[derivative][j > 0 ? j - 1 : 0] : zero<W>();
                if (j + 1 < n) before -= out[derivative][j];
                out[derivative][j] = before;
            }
        }
    }
}

// The bricks that a spline from `start` on reaches along an axis: `count` of them from `first` on, wrapped.
struct Reach {
    int first, count;
};
DEVICE Reach reach_of(int start, int points, int bricks) {
    Reach out = {start / BRICK, bricks};
    if (ORDER >= points) return out;
    int end = start + ORDER - 1;
    int count = end < points ? end / BRICK - out.first + 1 : bricks - out.first + (end - points) / BRICK + 1;
    if (count < bricks) out.count = count;
    return out;
}
// Largest number of bricks that a spline reaches along an axis; a brick at the end may have fewer points.
DEVICE int most_reached(int points, int bricks) {
    int most = (ORDER + BRICK - 2) / BRICK + 1 + (points % BRICK != 0);
    return most < bricks ? most : bricks;
}
DEVICE bool reaches(Reach reach, int brick, int bricks) {
    int steps = brick - reach.first;
    return (steps < 0 ? steps + bricks : steps) < reach.count;
}
#endif
