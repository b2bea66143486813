// Sums over pairs in real space: all pairs of an open system, or the short-range part of an Ewald sum over the
// neighbours within its cutoff. One warp per receiver collects the sources within the cutoff, 32 at a time, and then
// adds their fields, a source per thread.
//
// RECEIVER_L and SOURCE_L are the degrees; with GRADIENTS the kernel adds dU/dr of the receivers, with CELL it collects
// the derivative in the cell.
#include "harmonics.cuh"
#if RECEIVER_L <= 1 && SOURCE_L <= 1
#include "charges_dipoles.cuh"
#else
#include "multipoles.cuh"
#endif
#include "real_sources.cuh"

// Registers for 16 warps of real numbers on a multiprocessor: a sixth faster on an H200 than without the bound.
BOUNDED_KERNEL(pair_sums, PairArguments, THREADS, (sizeof(W) <= 8 ? 16 : 8)) {
    typedef SourceWalk<R> Found;
    const int N_RECEIVER = COUNT(RECEIVER_L), N_SOURCE = COUNT(SOURCE_L);
    SHARED Found::Hit hits[64];
    SHARED Found::Shared shared;
    Found found;
    Tile tile = args.tiles[blockIdx.x];
    PairSystem system = args.systems[tile.system];
    const Lattice &lattice = args.lattices[tile.system];
    R floor = (R)system.floor, narrowest = (R)system.narrowest;
    bool split = floor > 0;
    int lane = threadIdx.x;
    found.enter(args, tile.system, split, &shared);
#if CELL
    Sum<W> cell[9];
#pragma unroll
    for (int k = 0; k < 9; k++) cell[k].clear();
#endif
    for (int receiver = tile.first; receiver < tile.first + tile.count; receiver++) {
        found.approach(args, receiver, split, &shared);
#if GRADIENTS
        Sum<W> gradient[3];
#pragma unroll
        for (int k = 0; k < 3; k++) gradient[k].clear();
#endif
        for (int channel = 0; channel < args.receivers.n_channels; channel++) {
            int row = receiver * args.receivers.n_channels + channel;
            R width = (R)args.receivers.widths[row];
            // The reciprocal sum contains the whole interaction.
            if (split && width >= floor && narrowest >= floor) continue;
            R s2 = width * width;
            W q[N_RECEIVER];
            Sums<N_RECEIVER, W> potential;
#pragma unroll
            for (int k = 0; k < N_RECEIVER; k++) q[k] = args.receivers.rounded[row * N_RECEIVER + k];
            potential.clear();
            found.begin(args, tile.system, split, shared);
            int waiting = 0;
            for (bool more = true; more || waiting > 0;) {
                int slot;
                while (waiting < 32 && (more = found.walk.next(&slot))) {
                    Found::Hit hit;
                    bool counts = found.look(args, slot, split, shared, &hit);
                    if (args.same_sites && hit.site == receiver && !(hit.shift[0] | hit.shift[1] | hit.shift[2])) counts = false;
                    int n_new, rank = warp_rank(counts, &n_new);
                    if (counts) hits[waiting + rank] = hit;
                    waiting += n_new;
                }
                __syncthreads();
                if (lane < waiting) {
                    Found::Hit hit = hits[lane];
                    W d[3];
                    found.separate(args, lattice, hit, shared, d);
#if GRADIENTS
                    W slope[3] = {zero<W>(), zero<W>(), zero<W>()};
#else
                    W *slope = nullptr;
#endif
                    W *fields = potential.open();
                    for (int c = 0; c < args.sources.n_channels; c++) {
                        int source = hit.site * args.sources.n_channels + c;
                        R sigma = args.source_widths[source];
                        if (split && fmin(width, sigma) >= floor) continue;
                        W p[N_SOURCE];
#pragma unroll
                        for (int k = 0; k < N_SOURCE; k++) p[k] = args.sources.rounded[source * N_SOURCE + k];
                        interact(d, widths_of(sigma * sigma, s2, floor), args.boys, p, q, fields, slope);
                    }
                    potential.close();
#if GRADIENTS
#pragma unroll
                    for (int k = 0; k < 3; k++) gradient[k].add(slope[k]);
#endif
#if CELL
#pragma unroll
                    for (int k = 0; k < 9; k++) cell[k].add(-(slope[k % 3] * (R)hit.shift[k / 3]));
#endif
                }
                __syncthreads();
                waiting -= 32;
                if (lane < waiting) hits[lane] = hits[32 + lane];
                if (waiting < 0) waiting = 0;
                __syncthreads();
            }
#pragma unroll
            for (int k = 0; k < N_RECEIVER; k++) {
                W sum = warp_sum(potential.value(k));
                if (lane == 0) args.receivers.potentials[row * N_RECEIVER + k] += convert<T>(sum);
            }
        }
#if GRADIENTS
#pragma unroll
        for (int k = 0; k < 3; k++) {
            W sum = warp_sum(gradient[k].value());
            if (lane == 0) args.receivers.gradients[3 * receiver + k] += convert<T>(sum);
        }
#endif
        __syncthreads();
    }
#if CELL
#pragma unroll
    for (int k = 0; k < 9; k++) {
        W sum = warp_sum(cell[k].value());
        if (lane == 0) args.cells[9 * blockIdx.x + k] = convert<T>(sum) * args.once;
    }
#endif
}
