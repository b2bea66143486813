// Sorts sites by bin, and by index within a bin; the result does not depend on the order of threads.
#include "bins.cuh"
#include "scan.cuh"

struct BinArguments {
    const T *positions;
    const int *system;
    const Lattice *lattices;  // or null, with
    const Frame *frames;      // [system]
    const Grid *grids;        // [system]
    const int *listed;        // systems that are binned
    int *counts;              // [bin], zero
    int *bins;                // [site]
    Binned *placed;           // [site]
    int *order;               // [slot]
    int *start;               // [bin], and the end
    Binned *sorted;           // [slot]
    int *bad;                 // number of sites that could not be wrapped, added to, or null
    int n_sites;
    int n_bins;
    int n_slots;
    int padding;
};

DEVICE void bin_site(const BinArguments &args, int site) {
    int system = args.system[site];
    const Grid &grid = args.grids[system];
    if (grid.n_bins == 0) return;
    Frame frame = args.frames ? args.frames[system] : frame_of(args.lattices[system]);
    double position[3], coordinates[3];
#pragma unroll
    for (int k = 0; k < 3; k++) position[k] = value_of(args.positions[3 * site + k]);
    Binned binned;
    binned.site = site;
    if (!wrap(frame, position, &binned, coordinates) && args.bad) atomicAdd(args.bad, 1);
    args.placed[site] = binned;
    int bin = bin_of(grid, coordinates);
    args.bins[site] = bin;
    atomicAdd(args.counts + bin, 1);
}

// Writes a site into its bin; the order within the bin is arbitrary.
DEVICE void place_site(const BinArguments &args, int site) {
    if (args.grids[args.system[site]].n_bins == 0) return;
    int bin = args.bins[site];
    args.order[args.start[bin] + atomicAdd(args.counts + bin, -1) - 1] = site;
}

// Moves the content of a slot to its place in the sorted bin.
DEVICE void settle_slot(const BinArguments &args, int slot) {
    int site = args.order[slot], bin = args.bins[site];
    int first = args.start[bin], rank = 0;
    for (int other = first; other < args.start[bin + 1]; other++) rank += args.order[other] < site;
    args.sorted[first + rank] = args.placed[site];
}

// One block per system, for all steps.
KERNEL(sort_small, BinArguments) {
    const Grid &grid = args.grids[args.listed[blockIdx.x]];
    int thread = threadIdx.x, n_threads = blockDim.x;
    for (int bin = thread; bin < grid.n_bins; bin += n_threads) args.counts[grid.first_bin + bin] = 0;
    __syncthreads();
    for (int k = thread; k < grid.n_sites; k += n_threads) bin_site(args, grid.first_site + k);
    __syncthreads();
    scan_block(args.counts + grid.first_bin, args.start + grid.first_bin, grid.n_bins, grid.first_slot);
    for (int k = thread; k < grid.n_sites; k += n_threads) place_site(args, grid.first_site + k);
    __syncthreads();
    for (int k = thread; k < grid.n_sites; k += n_threads) settle_slot(args, grid.first_slot + k);
}

KERNEL(bin_sites, BinArguments) {
    int site = blockIdx.x * blockDim.x + threadIdx.x;
    if (site < args.n_sites) bin_site(args, site);
}

KERNEL(scan_bins, BinArguments) { scan_block(args.counts, args.start, args.n_bins, 0); }

KERNEL(place_sites, BinArguments) {
    int site = blockIdx.x * blockDim.x + threadIdx.x;
    if (site < args.n_sites) place_site(args, site);
}

KERNEL(settle_slots, BinArguments) {
    int slot = blockIdx.x * blockDim.x + threadIdx.x;
    if (slot < args.n_slots) settle_slot(args, slot);
}
