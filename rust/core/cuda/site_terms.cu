// Kernels of the terms of single sites and systems: a site's interaction with itself, the background of a split sum and
// boundary corrections; and the value of a form.
#include "background.cuh"
#include "corrections.cuh"
#include "own.cuh"
#include "reduce.cuh"

struct MomentArguments {
    Side side;
    const SystemTerms *systems;
    const Tile *tiles;
    T *partials;  // [tile][moment]
    int n_lm;
    int padding;
};

// A block per tile, a thread per site.
KERNEL(moments, MomentArguments) {
    Tile tile = args.tiles[blockIdx.x];
    SystemTerms system = args.systems[tile.system];
    T sums[N_MOMENTS];
    for (int k = 0; k < N_MOMENTS; k++) sums[k] = zero<T>();
    bool full = system.correction != 0;
    for (int site = tile.first + threadIdx.x; site < tile.first + tile.count; site += blockDim.x) {
        const T *r = args.side.positions + 3 * (size_t)site;
        for (int channel = 0; channel < args.side.n_channels; channel++) {
            int place = site * args.side.n_channels + channel;
            const T *p = args.side.coefficients + (size_t)place * args.n_lm;
            sums[0] += p[0];
            if (system.background) sums[1] += p[0] * raised_by(args.side.widths[place], system.floor);
            if (!full) continue;
            add_moments(p, args.n_lm, args.side.widths[place], r, sums);
        }
    }
    block_sum<N_MOMENTS>(sums);
    if (threadIdx.x == 0)
        for (int k = 0; k < N_MOMENTS; k++) args.partials[(size_t)blockIdx.x * N_MOMENTS + k] = sums[k];
}

struct SiteArguments {
    Side receivers;
    Side sources;
    const SystemTerms *systems;
    const Lattice *lattices;
    const Moments *moments;  // [system], of the sources
    int receiver_lm;
    int source_lm;
    int same_sites;
    int gradients;
};

// Adds to every receiver its interaction with itself, with the background and with the boundary's correction.
KERNEL(sites, SiteArguments) {
    int site = blockIdx.x * blockDim.x + threadIdx.x;
    const Side &receivers = args.receivers;
    if (site >= receivers.n_sites) return;
    int number = receivers.system[site], n_lm = args.receiver_lm;
    SystemTerms system = args.systems[number];
    if (args.same_sites && (system.own != 0.0 || system.own_raised != 0.0))
        add_own(system, receivers, n_lm, args.sources, args.source_lm, site);
    const Lattice &lattice = args.lattices[number];
    if (system.background) add_background(system, lattice, args.moments[number], receivers, n_lm, site);
    if (system.correction)
        add_correction(system, lattice, args.moments[number], receivers, n_lm, site, args.gradients != 0);
}

struct CellArguments {
    const SystemTerms *systems;
    const Lattice *lattices;
    const Moments *receivers;
    const Moments *sources;
    T *cell;  // [system][3][3], added to
    double once;
    int n_systems;
    int padding;
};

// Derivatives of the background and of corrections in the cell.
KERNEL(cell_terms, CellArguments) {
    int number = blockIdx.x * blockDim.x + threadIdx.x;
    if (number >= args.n_systems) return;
    SystemTerms system = args.systems[number];
    if (!system.background && !system.correction) return;
    const Lattice &lattice = args.lattices[number];
    const Moments &t = args.receivers[number], &p = args.sources[number];
    T *cell = args.cell + 9 * (size_t)number;
    T by_volume = zero<T>();  // V dU/dV
    if (system.background) by_volume += background_by_volume(lattice, t, p);
    if (system.correction) by_volume += correction_in_cell(system, lattice, t, p, args.once, cell);
    // dV/dh = V h^-T, and h^-T = b / 2π
    T factor = by_volume * (args.once / (2.0 * PI));
    for (int row = 0; row < 3; row++)
        for (int axis = 0; axis < 3; axis++) cell[3 * row + axis] += lattice.reciprocal[row][axis] * factor;
}

struct ProductArguments {
    Side side;
    const Tile *tiles;
    T *partials;  // [tile]
    double factor;
    int n_row;
    int padding;
};

// Σ coefficient × potential of each tile, a block each.
KERNEL(products, ProductArguments) {
    Tile tile = args.tiles[blockIdx.x];
    size_t first = (size_t)tile.first * args.n_row, n = (size_t)tile.count * args.n_row;
    T sum = zero<T>();
    for (size_t k = first + threadIdx.x; k < first + n; k += blockDim.x)
        sum += args.side.coefficients[k] * args.side.potentials[k];
    block_sum<1>(&sum);
    if (threadIdx.x == 0) args.partials[blockIdx.x] = sum * args.factor;
}
