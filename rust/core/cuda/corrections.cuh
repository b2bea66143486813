// Boundary corrections of plane-wave codes, bilinear forms of moments; as in src/ewald/corrections.rs.
#pragma once
#include "site_terms.cuh"

const double ROOT_THIRD = 0.57735026918962576451;

// Adds the components of a bᵀ to those of a symmetric tensor.
DEVICE void add_product(const T *a, const T *b, T *m) {
    m[0] += a[0] * b[0];
    m[1] += a[1] * b[1];
    m[2] += a[2] * b[2];
    m[3] += a[1] * b[2];
    m[4] += a[0] * b[2];
    m[5] += a[0] * b[1];
}
// Product of a symmetric tensor and a vector.
DEVICE void apply(const T *m, const T *v, T *out) {
    out[0] = m[0] * v[0] + m[5] * v[1] + m[4] * v[2];
    out[1] = m[5] * v[0] + m[1] * v[1] + m[3] * v[2];
    out[2] = m[4] * v[0] + m[3] * v[1] + m[2] * v[2];
}
DEVICE T trace(const T *m) { return m[0] + m[1] + m[2]; }

// Adds dipole and second moment of one channel of a site at r, with `n_lm` multipoles p, to the moments of its side.
DEVICE void add_moments(const T *p, int n_lm, double width, const T *r, T *sums) {
    T moment[3] = {p[0] * r[0], p[0] * r[1], p[0] * r[2]}, *second = sums + 5;
    double square = width * width;
    for (int axis = 0; axis < 3; axis++) {
        sums[2 + axis] += moment[axis];
        second[axis] += p[0] * square;
    }
    add_product(moment, r, second);
    if (n_lm == 1) return;
    T local[3] = {p[3], p[1], p[2]};
    for (int axis = 0; axis < 3; axis++) sums[2 + axis] += local[axis];
    add_product(local, r, second);
    add_product(r, local, second);
    if (n_lm == 4) return;
    // l = 2 is stored as xy, yz, 3z² - r², xz, x² - y²
    T along = p[6] * (1.0 / 3.0), across = p[8] * ROOT_THIRD;
    second[0] += across - along;
    second[1] -= across + along;
    second[2] += along * 2.0;
    second[3] += p[5] * ROOT_THIRD;
    second[4] += p[7] * ROOT_THIRD;
    second[5] += p[4] * ROOT_THIRD;
}

const double CUBIC_MADELUNG = 2.837297479480619;

DEVICE void slab_axes(int open, int *a, int *b) {
    *a = (open + 1) % 3;
    *b = (open + 2) % 3;
}

// Unit normal of a slab and the length of the product of its vectors.
DEVICE void slab_normal(const Lattice &lattice, int open, T *normal, T *length) {
    int a, b;
    slab_axes(open, &a, &b);
    T area[3];
    cross3(lattice.vectors[a], lattice.vectors[b], area);
    *length = root_of(dot3(area, area));
    T inverse = reciprocal_of(*length);
    for (int axis = 0; axis < 3; axis++) normal[axis] = area[axis] * inverse;
}

// The cube root of the volume, by its logarithm's derivative.
DEVICE T box_length(T volume) {
    double root = cbrt(value_of(volume));
    return chain(volume, root, root / (3.0 * value_of(volume)));
}

// The moments that act on a side, from those of its source.
DEVICE void response(const SystemTerms &system, const Lattice &lattice, const Moments &m, T *charge, T *dipole, T *second) {
    *charge = zero<T>();
    for (int axis = 0; axis < 3; axis++) dipole[axis] = zero<T>();
    for (int k = 0; k < 6; k++) second[k] = zero<T>();
    T inverse = reciprocal_of(lattice.volume);
    if (system.correction == 1) {
        T normal[3], length;
        slab_normal(lattice, system.open, normal, &length);
        T strength = inverse * (4.0 * PI * COULOMB_CONSTANT), height = lattice.volume * reciprocal_of(length);
        T along = strength * dot3(m.dipole, normal), product[3];
        for (int axis = 0; axis < 3; axis++) dipole[axis] = normal[axis] * along;
        apply(m.second, normal, product);
        *charge = -(strength * (dot3(product, normal) * 0.5 + height * height * m.charge * (1.0 / 12.0)));
        T of_charge = -(strength * m.charge * 0.5);
        T weighted[3] = {of_charge * normal[0], of_charge * normal[1], of_charge * normal[2]};
        add_product(weighted, normal, second);
    } else if (system.correction == 2) {
        T image = reciprocal_of(box_length(lattice.volume)) * (CUBIC_MADELUNG * COULOMB_CONSTANT);
        T dipolar = inverse * (4.0 * PI / 3.0 * COULOMB_CONSTANT);
        *charge = image * m.charge - dipolar * trace(m.second) * 0.5;
        for (int axis = 0; axis < 3; axis++) dipole[axis] = m.dipole[axis] * dipolar;
        for (int k = 0; k < 3; k++) second[k] = -(dipolar * m.charge * 0.5);
    }
}

// Adds potentials and gradients of the correction at the receivers of a site.
DEVICE void add_correction(
    const SystemTerms &system, const Lattice &lattice, const Moments &sources, const Side &receivers, int n_lm, int site,
    bool gradients
) {
    T charge, dipole[3], second[6];
    response(system, lattice, sources, &charge, dipole, second);
    const T *r = receivers.positions + 3 * (size_t)site;
    T slope[3], field[3];
    apply(second, r, slope);
    for (int axis = 0; axis < 3; axis++) field[axis] = dipole[axis] + slope[axis] * 2.0;
    T potential = charge + dot3(dipole, r) + dot3(slope, r);
    T gradient[3] = {zero<T>(), zero<T>(), zero<T>()};
    for (int b = 0; b < receivers.n_channels; b++) {
        int place = site * receivers.n_channels + b;
        size_t to = (size_t)place * n_lm;
        T *out = receivers.potentials + to;
        const T *q = receivers.coefficients + to;
        out[0] += potential + trace(second) * (receivers.widths[place] * receivers.widths[place]);
        if (n_lm > 1) {
            out[3] += field[0];
            out[1] += field[1];
            out[2] += field[2];
        }
        if (n_lm > 4) {
            out[4] += second[5] * (2.0 * ROOT_THIRD);
            out[5] += second[3] * (2.0 * ROOT_THIRD);
            out[6] += second[2] * (2.0 / 3.0) - (second[0] + second[1]) * (1.0 / 3.0);
            out[7] += second[4] * (2.0 * ROOT_THIRD);
            out[8] += (second[0] - second[1]) * ROOT_THIRD;
        }
        if (!gradients) continue;
        for (int axis = 0; axis < 3; axis++) gradient[axis] += field[axis] * q[0];
        if (n_lm > 1) {
            T local[3] = {q[3], q[1], q[2]}, product[3];
            apply(second, local, product);
            for (int axis = 0; axis < 3; axis++) gradient[axis] += product[axis] * 2.0;
        }
    }
    if (gradients)
        for (int axis = 0; axis < 3; axis++) receivers.gradients[3 * (size_t)site + axis] += gradient[axis];
}

// V dU/dV of the correction, from the moments of receivers t and sources p; other derivatives in the cell are added to
// `cell`, times `once`.
DEVICE T correction_in_cell(
    const SystemTerms &system, const Lattice &lattice, const Moments &t, const Moments &p, double once, T *cell
) {
    T inverse = reciprocal_of(lattice.volume);
    T by_volume = zero<T>();
    if (system.correction == 1) {
        int a, b;
        slab_axes(system.open, &a, &b);
        T normal[3], length;
        slab_normal(lattice, system.open, normal, &length);
        T strength = inverse * (4.0 * PI * COULOMB_CONSTANT);
        T d1 = dot3(p.dipole, normal), d2 = dot3(t.dipole, normal), s1[3], s2[3];
        apply(p.second, normal, s1);
        apply(t.second, normal, s2);
        T height = lattice.volume * reciprocal_of(length);
        T charges = strength * height * height * (1.0 / 12.0) * p.charge * t.charge;  // proportional to V/|A|²
        T rest = strength * (d1 * d2 - (p.charge * dot3(s2, normal) + t.charge * dot3(s1, normal)) * 0.5);
        by_volume = -(rest + charges);
        // U depends on the normal n = A/|A|: dU/dA = (1 - n n·) dU/dn / |A|, and on |A|
        T d_normal[3], d_area[3];
        for (int axis = 0; axis < 3; axis++)
            d_normal[axis] =
                strength * (p.dipole[axis] * d2 + t.dipole[axis] * d1 - s2[axis] * p.charge - s1[axis] * t.charge);
        T along = dot3(normal, d_normal) - charges * 2.0, scale = reciprocal_of(length) * once;
        for (int axis = 0; axis < 3; axis++) d_area[axis] = (d_normal[axis] - normal[axis] * along) * scale;
        T first[3], second[3];
        cross3(lattice.vectors[b], d_area, first);
        cross3(d_area, lattice.vectors[a], second);
        for (int axis = 0; axis < 3; axis++) {
            cell[3 * a + axis] += first[axis];
            cell[3 * b + axis] += second[axis];
        }
    } else if (system.correction == 2) {
        T image = reciprocal_of(box_length(lattice.volume)) * (CUBIC_MADELUNG * COULOMB_CONSTANT);
        T dipolar = inverse * (4.0 * PI / 3.0 * COULOMB_CONSTANT);
        T charges = image * p.charge * t.charge;
        T rest = dipolar * (dot3(p.dipole, t.dipole) - (p.charge * trace(t.second) + trace(p.second) * t.charge) * 0.5);
        by_volume = -(charges * (1.0 / 3.0) + rest);
    }
    return by_volume;
}
