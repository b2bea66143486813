// The arrays of a batch, as every kernel sees them. Mirrored by structures of the same layout in `src/cuda/batch.rs`.
//
// SCALAR (double or Dual) is defined by the module: what arrays of a batch hold. So is WORK, where long sums are done in
// a precision of their own: the same, or Single or SingleDual. What positions, cells and results are is SCALAR always.
#pragma once
#include "scalar.cuh"

#ifndef WORK
#define WORK SCALAR
#endif

typedef SCALAR T;
typedef WORK W;
typedef Real<W>::type R;

// Cell of one system that the k-vectors live in: periodic vectors, completed along open axes by vectors of a fixed
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
    const W *rounded;       // the same as long sums take them
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
