// Parameters and moments from which the terms of single sites and systems are computed.
#pragma once
#include "batch.cuh"

// Parameters of one system.
struct SystemTerms {
    double floor;       // width that narrower ones are raised to, 0 without a split
    double own;         // factor on the whole interaction of a site with itself
    double own_raised;  // factor on that of raised widths
    int background;     // 1 if the mean of a short-range part is to be subtracted
    int correction;     // 0 none, 1 slab dipole, 2 molecule in box
    int open;           // open axis of a slab
    int padding;
};

// Moments of one side of one system.
struct Moments {
    T charge;
    T excess;  // Σ q (increase of the squared width by raising it)
    T dipole[3];
    T second[6];  // ∫ρ r rᵀ: xx, yy, zz, yz, xz, xy
};
