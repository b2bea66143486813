// Sums over pairs in real space: all pairs of an open system, or the short-range part of an Ewald sum over the
// neighbours within its cutoff. One warp per target, which collects the partners that count, 32 at a time, and then
// adds their fields, a partner per thread.
//
// TARGET_L and PARTNER_L are the degrees; GRADIENTS says whether to add dU/dr of the targets, CELL whether to collect
// the derivative in the cell.
#include "bins.cuh"
#include "harmonics.cuh"
#if TARGET_L <= 1 && PARTNER_L <= 1
#include "charges_dipoles.cuh"
#else
#include "multipoles.cuh"
#endif

// How one system is summed.
struct PairSystem {
    double floor;     // width that the reciprocal sum raises narrower ones to; 0 for a sum over all pairs
    double narrowest; // width among the partners
    int first;        // partners
    int last;
};

struct PairArguments {
    Side targets;
    Side partners;
    const Lattice *lattices;
    const PairSystem *systems;
    const Tile *tiles;
    const Grid *grids;
    const int *start;      // [bin], and the end
    const Binned *sorted;  // [slot]
    const BoysRow *boys;
    T *cells;  // [tile][3][3]
    double once;
    int same_sites;
    int padding;
};

// A partner, and the cell shift of its image.
struct Hit {
    int site;
    int shift[3];
};

// Registers for 16 warps of real numbers on a multiprocessor: a sixth faster on an H200 than without the bound.
BOUNDED_KERNEL(pair_sums, PairArguments, 32, (sizeof(T) == 8 ? 16 : 8)) {
    const int N_TARGET = COUNT(TARGET_L), N_PARTNER = COUNT(PARTNER_L);
    SHARED Hit hits[64];
    SHARED Frame frame;
    SHARED Binned own;
    SHARED double coordinates[3];
    Tile tile = args.tiles[blockIdx.x];
    PairSystem system = args.systems[tile.system];
    const Lattice &lattice = args.lattices[tile.system];
    bool split = system.floor > 0.0;
    int lane = threadIdx.x;
    if (split && lane == 0) frame = frame_of(lattice);
#if CELL
    T cell[9];
#pragma unroll
    for (int k = 0; k < 9; k++) cell[k] = zero<T>();
#endif
    for (int target = tile.first; target < tile.first + tile.count; target++) {
        T position[3];
#pragma unroll
        for (int k = 0; k < 3; k++) position[k] = args.targets.positions[3 * target + k];
        if (split && lane == 0) {
            double values[3] = {value_of(position[0]), value_of(position[1]), value_of(position[2])};
            wrap(frame, values, &own, coordinates);
        }
        double limit = split ? args.grids[tile.system].limit : 0.0;
        __syncthreads();
#if GRADIENTS
        T gradient[3] = {zero<T>(), zero<T>(), zero<T>()};
#endif
        for (int channel = 0; channel < args.targets.n_channels; channel++) {
            int row = target * args.targets.n_channels + channel;
            double width = args.targets.widths[row];
            // The reciprocal sum has all of it.
            if (split && width >= system.floor && system.narrowest >= system.floor) continue;
            double s2 = width * width;
            T q[N_TARGET], potential[N_TARGET];
#pragma unroll
            for (int k = 0; k < N_TARGET; k++) {
                q[k] = args.targets.coefficients[row * N_TARGET + k];
                potential[k] = zero<T>();
            }
            Walk walk;
            if (split)
                walk.around(args.grids[tile.system], frame, args.start, coordinates);
            else
                walk.all(system.first, system.last);
            int waiting = 0;
            for (bool more = true; more || waiting > 0;) {
                int slot;
                while (waiting < 32 && (more = walk.next(&slot))) {
                    Hit hit = {slot, {0, 0, 0}};
                    bool counts = slot >= 0;
                    if (split && counts) {
                        Binned other = args.sorted[slot];
                        double shift[3], d[3];
                        shift_vector(frame, walk.image, shift);
                        separation(own, other, shift, d);
                        counts = dot3(d, d) < limit;
                        hit.site = other.site;
#pragma unroll
                        for (int a = 0; a < 3; a++) hit.shift[a] = walk.image[a] - other.wraps[a] + own.wraps[a];
                    }
                    if (args.same_sites && hit.site == target && !(hit.shift[0] | hit.shift[1] | hit.shift[2])) counts = false;
                    int n_new, rank = warp_rank(counts, &n_new);
                    if (counts) hits[waiting + rank] = hit;
                    waiting += n_new;
                }
                __syncthreads();
                if (lane < waiting) {
                    Hit hit = hits[lane];
                    T d[3];
#pragma unroll
                    for (int k = 0; k < 3; k++) d[k] = position[k] - args.partners.positions[3 * hit.site + k];
                    if (hit.shift[0] | hit.shift[1] | hit.shift[2]) {
#pragma unroll
                        for (int k = 0; k < 3; k++)
#pragma unroll
                            for (int a = 0; a < 3; a++) d[k] -= lattice.vectors[a][k] * (double)hit.shift[a];
                    }
#if GRADIENTS
                    T slope[3] = {zero<T>(), zero<T>(), zero<T>()};
#else
                    T *slope = nullptr;
#endif
                    for (int c = 0; c < args.partners.n_channels; c++) {
                        int partner = hit.site * args.partners.n_channels + c;
                        double sigma = args.partners.widths[partner];
                        if (split && fmin(width, sigma) >= system.floor) continue;
                        T p[N_PARTNER];
#pragma unroll
                        for (int k = 0; k < N_PARTNER; k++) p[k] = args.partners.coefficients[partner * N_PARTNER + k];
                        interact(d, widths_of(sigma * sigma, s2, system.floor), args.boys, p, q, potential, slope);
                    }
#if GRADIENTS
#pragma unroll
                    for (int k = 0; k < 3; k++) gradient[k] += slope[k];
#endif
#if CELL
#pragma unroll
                    for (int k = 0; k < 9; k++) cell[k] -= slope[k % 3] * (double)hit.shift[k / 3];
#endif
                }
                __syncthreads();
                waiting -= 32;
                if (lane < waiting) hits[lane] = hits[32 + lane];
                if (waiting < 0) waiting = 0;
                __syncthreads();
            }
#pragma unroll
            for (int k = 0; k < N_TARGET; k++) {
                T sum = warp_sum(potential[k]);
                if (lane == 0) args.targets.potentials[row * N_TARGET + k] += sum;
            }
        }
#if GRADIENTS
#pragma unroll
        for (int k = 0; k < 3; k++) {
            T sum = warp_sum(gradient[k]);
            if (lane == 0) args.targets.gradients[3 * target + k] += sum;
        }
#endif
        __syncthreads();
    }
#if CELL
#pragma unroll
    for (int k = 0; k < 9; k++) {
        T sum = warp_sum(cell[k]);
        if (lane == 0) args.cells[9 * blockIdx.x + k] = sum * args.once;
    }
#endif
}
