// Mean of the short-range part in three dimensions; as in src/ewald/background.rs.
#pragma once
#include "site_terms.cuh"

// Increase of a squared width that is raised to the floor.
DEVICE double raised_by(double width, double floor) { return width < floor ? floor * floor - width * width : 0.0; }

// Factor on charges and increases, -2πK/V.
DEVICE T background_factor(const Lattice &lattice) {
    return reciprocal_of(lattice.volume) * (-2.0 * PI * COULOMB_CONSTANT);
}

// Adds the potential of the sources' background to the receivers of a site.
DEVICE void add_background(
    const SystemTerms &system, const Lattice &lattice, const Moments &sources, const Side &receivers, int n_lm, int site
) {
    T factor = background_factor(lattice);
    for (int b = 0; b < receivers.n_channels; b++) {
        int to = site * receivers.n_channels + b;
        T sum = sources.excess + sources.charge * raised_by(receivers.widths[to], system.floor);
        receivers.potentials[(size_t)to * n_lm] += factor * sum;
    }
}

// V dU/dV, from the moments of receivers t and sources p.
DEVICE T background_by_volume(const Lattice &lattice, const Moments &t, const Moments &p) {
    return -(background_factor(lattice) * (p.excess * t.charge + p.charge * t.excess));
}
