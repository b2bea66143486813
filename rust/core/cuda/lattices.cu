// The lattices of all systems from their cells, and derivatives back to the cells: one thread for each system.
#include "lattice.cuh"

struct FillArguments {
    const double *cells;     // [system][3][3], Å
    const double *tangents;  // their tangents, or null for none
    const LatticePlan *plans;
    Lattice *out;
    int n_systems;
    int padding;
};

KERNEL(fill_lattices, FillArguments) {
    int system = blockIdx.x * blockDim.x + threadIdx.x;
    if (system >= args.n_systems) return;
    Lattice lattice;
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) {
            int place = (system * 3 + i) * 3 + j;
            lattice.vectors[i][j] = Maker<T>::make(args.cells[place], args.tangents ? args.tangents[place] : 0.0);
        }
    complete_lattice(args.plans[system], lattice);
    args.out[system] = lattice;
}

struct PullBackArguments {
    const Lattice *lattices;
    CellGradients gradients;
    T *out;  // [system][3][3]
    int n_systems;
    int padding;
};

KERNEL(pull_back, PullBackArguments) {
    int system = blockIdx.x * blockDim.x + threadIdx.x;
    if (system >= args.n_systems) return;
    T reciprocal[3][3], out[3][3];
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) reciprocal[i][j] = args.gradients.reciprocal[(system * 3 + i) * 3 + j];
    pull_back_lattice(args.lattices[system], reciprocal, args.gradients.volume[system], out);
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) {
            int place = (system * 3 + i) * 3 + j;
            args.out[place] = args.gradients.cell[place] + out[i][j];
        }
}
