// Arrays of a batch, as every kernel takes them. Mirrored by structures of the same layout in `src/cuda/batch.rs`.
//
// The module defines SCALAR (double or Dual), the type of positions, cells and results, and WORK, the type of long
// sums: SCALAR itself, or Single or SingleDual for sums in single precision.
#pragma once
#include "scalar.cuh"

#ifndef WORK
#define WORK SCALAR
#endif

typedef SCALAR T;
typedef WORK W;
typedef Real<W>::type R;

// Cell of one system from which its k-vectors follow: periodic vectors, completed along open axes by vectors of a fixed
// length normal to them (see src/lattice.rs).
struct Lattice {
    T vectors[3][3];
    T reciprocal[3][3];  // b_j · h_i = 2π δ_ij
    T volume;            // |det|
    double open_length;
    int pbc[3];  // axes summed periodically
    int padding;
};

// Sources or receivers of a batch, sorted by system.
struct Side {
    const T *positions;     // [site][3], Å
    const T *coefficients;  // [site][channel][lm]
    const W *rounded;       // coefficients in the type of long sums
    T *potentials;          // [site][channel][lm]: dU/d(coefficient), added to
    T *gradients;           // [site][3]: dU/d(position), added to
    const double *widths;   // [site][channel], Å
    const int *system;      // [site]
    const int *first;       // [n_systems + 1]: first site of each system
    int n_sites;
    int n_channels;
};

// Derivatives in the cells, added to.
struct CellGradients {
    T *cell;        // [system][3][3]: in the user's cell vectors
    T *reciprocal;  // [system][3][3]: in the lattice's reciprocal vectors
    T *volume;      // [system]: in the lattice's volume
};

// Some sites of one system: a unit of work.
struct Tile {
    int system;
    int first;
    int count;
};
