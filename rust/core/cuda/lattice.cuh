// Cell of the k-vectors: the user's periodic vectors, completed along open axes by vectors normal to them, and the
// derivative back to the user's cell. The functions are those of src/lattice.rs.
#pragma once
#include "batch.cuh"

// Plan of a system's lattice: axes and length along open ones.
struct LatticePlan {
    double open_length;  // length of the vectors along open axes, Å
    int pbc[3];          // axes summed periodically
    int padding;
};

DEVICE void scale3(const T *v, T factor, T *out) {
    for (int i = 0; i < 3; i++) out[i] = v[i] * factor;
}

DEVICE void add_scaled3(T *receiver, const T *v, T factor) {
    for (int i = 0; i < 3; i++) receiver[i] += v[i] * factor;
}

DEVICE T absolute(T x) { return value_of(x) < 0.0 ? -x : x; }

DEVICE void unit3(const T *v, T *out) { scale3(v, reciprocal_of(root_of(dot3(v, v))), out); }

// Pulls a derivative back through unit3.
DEVICE void pull_unit3(const T *v, const T *derivative, T *out) {
    T length = reciprocal_of(root_of(dot3(v, v)));
    T direction[3];
    scale3(v, length, direction);
    T along = dot3(direction, derivative);
    for (int i = 0; i < 3; i++) out[i] = (derivative[i] - direction[i] * along) * length;
}

// The open axis of a slab.
DEVICE int slab_normal(const int *pbc) { return !pbc[0] ? 0 : !pbc[1] ? 1 : 2; }

// The periodic axis of a wire.
DEVICE int wire_axis(const int *pbc) { return pbc[0] ? 0 : pbc[1] ? 1 : 2; }

// The Cartesian axis most normal to a wire.
DEVICE void reference_axis(const T *h, T *out) {
    int axis = 0;
    for (int other = 1; other < 3; other++)
        if (fabs(value_of(h[other])) < fabs(value_of(h[axis]))) axis = other;
    for (int i = 0; i < 3; i++) out[i] = constant<T>(i == axis ? 1.0 : 0.0);
}

// Two directions normal to a wire and to each other, not normalised.
DEVICE void wire_frame(const T *h, T *first, T *second) {
    T reference[3], direction[3];
    reference_axis(h, reference);
    cross3(h, reference, first);
    unit3(first, direction);
    cross3(direction, h, second);
}

// Completes the periodic vectors already in `lattice.vectors` and fills in all the rest.
DEVICE void complete_lattice(LatticePlan plan, Lattice &lattice) {
    T(*h)[3] = lattice.vectors;
    T length = constant<T>(plan.open_length);
    int dimensions = plan.pbc[0] + plan.pbc[1] + plan.pbc[2];
    if (dimensions == 2) {
        int c = slab_normal(plan.pbc);
        T normal[3], direction[3];
        cross3(h[(c + 1) % 3], h[(c + 2) % 3], normal);
        unit3(normal, direction);
        scale3(direction, length, h[c]);
    } else if (dimensions == 1) {
        int a = wire_axis(plan.pbc);
        T first[3], second[3], direction[3];
        wire_frame(h[a], first, second);
        unit3(first, direction);
        scale3(direction, length, h[(a + 1) % 3]);
        unit3(second, direction);
        scale3(direction, length, h[(a + 2) % 3]);
    } else if (dimensions == 0) {
        for (int i = 0; i < 3; i++)
            for (int j = 0; j < 3; j++) h[i][j] = i == j ? length : zero<T>();
    }
    T normals[3][3];
    for (int i = 0; i < 3; i++) cross3(h[(i + 1) % 3], h[(i + 2) % 3], normals[i]);
    T determinant = dot3(h[0], normals[0]);
    T factor = reciprocal_of(determinant) * (2.0 * PI);
    for (int i = 0; i < 3; i++) scale3(normals[i], factor, lattice.reciprocal[i]);
    lattice.volume = absolute(determinant);
    lattice.open_length = plan.open_length;
    for (int i = 0; i < 3; i++) lattice.pbc[i] = plan.pbc[i];
    lattice.padding = 0;
}

// Moves derivatives in the completed vectors onto the periodic ones.
DEVICE void release_open_axes(const Lattice &lattice, T (*derivative)[3]) {
    const T(*h)[3] = lattice.vectors;
    T length = constant<T>(lattice.open_length), one = constant<T>(1.0), product[3];
    int dimensions = lattice.pbc[0] + lattice.pbc[1] + lattice.pbc[2];
    if (dimensions == 2) {
        int c = slab_normal(lattice.pbc), a = (c + 1) % 3, b = (c + 2) % 3;
        T normal[3], outer[3], inner[3];
        scale3(derivative[c], length, outer);
        cross3(h[a], h[b], normal);
        pull_unit3(normal, outer, inner);
        cross3(h[b], inner, product);
        add_scaled3(derivative[a], product, one);
        cross3(inner, h[a], product);
        add_scaled3(derivative[b], product, one);
    } else if (dimensions == 1) {
        int a = wire_axis(lattice.pbc), b = (a + 1) % 3, c = (a + 2) % 3;
        T reference[3], first[3], second[3], direction[3], outer[3], d_second[3], d_direction[3], d_first[3];
        reference_axis(h[a], reference);
        wire_frame(h[a], first, second);
        // first = h × e, second = unit(first) × h
        unit3(first, direction);
        scale3(derivative[c], length, outer);
        pull_unit3(second, outer, d_second);
        scale3(derivative[b], length, d_direction);
        cross3(h[a], d_second, product);
        add_scaled3(d_direction, product, one);
        pull_unit3(first, d_direction, d_first);
        cross3(d_second, direction, product);
        add_scaled3(derivative[a], product, one);
        cross3(reference, d_first, product);
        add_scaled3(derivative[a], product, one);
    }
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++)
            if (!lattice.pbc[i]) derivative[i][j] = zero<T>();
}

// Derivative in the user's cell, from derivatives in the reciprocal vectors and in the volume.
DEVICE void pull_back_lattice(const Lattice &lattice, const T (*reciprocal)[3], T volume, T (*out)[3]) {
    // b = 2π h^{-T}: dU/dh = -(1/2π) b (dU/db)^T b, and dV/dh = V h^{-T} = V b / 2π.
    const T(*b)[3] = lattice.reciprocal;
    double inverse = 0.5 / PI;
    for (int i = 0; i < 3; i++) {
        scale3(b[i], volume * lattice.volume * inverse, out[i]);
        for (int j = 0; j < 3; j++) add_scaled3(out[i], b[j], dot3(b[i], reciprocal[j]) * -inverse);
    }
    release_open_axes(lattice, out);
}
