// Derivatives in the reciprocal vectors that come through the receivers alone: through their phases and through the
// expansions of their multipoles.
#include "mesh.cuh"
#include "reduce.cuh"

struct CellsArguments {
    const T *site_gradients;  // [place][3]
    const T *site_bases;      // [place][3][3], or none
    const Lattice *lattices;
    const Tile *tiles;  // of places
    T *partials;        // [tile][3][3]
    MeshGrid grid;
    MeshSide side;
};

// One block for each tile.
KERNEL(cells, CellsArguments) {
    Tile tile = args.tiles[blockIdx.x];
    const Lattice &lattice = args.lattices[tile.system];
    T sums[9];
    for (int i = 0; i < 9; i++) sums[i] = zero<T>();
    for (int number = tile.first + threadIdx.x; number < tile.first + tile.count; number += blockDim.x) {
        const T *position = args.side.positions + 3LL * args.side.sites[number].site;
        const T *gradient = args.site_gradients + 3LL * number;
        // b·r = 2π (fraction): ∂U/∂b_j ∋ r (h_j · ∂U/∂r) / 2π
        for (int a = 0; a < 3; a++) {
            T along = dot3(lattice.vectors[a], gradient) * (0.5 / PI);
            for (int i = 0; i < 3; i++) {
                sums[3 * a + i] += position[i] * along;
                if (args.site_bases)
                    sums[3 * a + i] += args.site_bases[9LL * number + 3 * a + i] * (args.grid.points[a] * (0.5 / PI));
            }
        }
    }
    block_sum<9>(sums);
    if (threadIdx.x == 0)
        for (int i = 0; i < 9; i++) args.partials[9LL * blockIdx.x + i] = sums[i];
}
