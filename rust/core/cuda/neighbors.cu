// Neighbour lists: the pairs that src/neighbors lists, in the same order and with the same numbers. One warp per atom.
#include "bins.cuh"
#include "scan.cuh"

// A neighbour, in an image of the cell, of wrapped atoms.
struct Found {
    int site;
    int image[3];
};

struct ListArguments {
    const Frame *frames;   // [system]
    const Grid *grids;     // [system]
    const int *system;     // [atom]
    const int *start;      // [bin], and the end
    const Binned *sorted;  // [slot]
    const Binned *placed;  // [atom]
    int *counts;           // [atom]
    long long *first;      // [atom], and the end
    Found *found;          // [pair], by atom
    // Pairs by atom, neighbour and shift; arrays not to be written are null.
    long long *i, *j;   // [pair]
    long long *shifts;  // [pair][3]
    double *distances;  // [pair]
    double *vectors;    // [pair][3]
    int n_atoms;
    int padding;
};

// Visits the neighbours of an atom; every thread calls `each` with its neighbour and the place in the row.
template <class F> DEVICE int for_neighbors(const ListArguments &args, int atom, F each) {
    int system = args.system[atom];
    const Frame frame = args.frames[system];
    const Grid grid = args.grids[system];
    Binned own = args.placed[atom];
    double coordinates[3];
#pragma unroll
    for (int a = 0; a < 3; a++) coordinates[a] = exact_dot(frame.dual[a], own.position);
    Walk walk;
    walk.around(grid, frame, args.start, coordinates);
    int count = 0, slot;
    while (walk.next(&slot)) {
        double shift[3], d[3];
        shift_vector(frame, walk.image, shift);
        Found found = {-1, {walk.image[0], walk.image[1], walk.image[2]}};
        bool near = false;
        if (slot >= 0) {
            Binned other = args.sorted[slot];
            separation(own, other, shift, d);
            found.site = other.site;
            bool itself = other.site == atom && !(found.image[0] | found.image[1] | found.image[2]);
            near = !itself && exact_dot(d, d) < grid.limit;
        }
        int n_new, rank = warp_rank(near, &n_new);
        if (near) each(count + rank, found);
        count += n_new;
    }
    return count;
}

KERNEL(count_pairs, ListArguments) {
    int count = for_neighbors(args, blockIdx.x, [](int, const Found &) {});
    if (threadIdx.x == 0) args.counts[blockIdx.x] = count;
}

KERNEL(scan_counts, ListArguments) { scan_block(args.counts, args.first, args.n_atoms, 0LL); }

KERNEL(fill_pairs, ListArguments) {
    Found *row = args.found + args.first[blockIdx.x];
    for_neighbors(args, blockIdx.x, [row](int place, const Found &found) { row[place] = found; });
}

DEVICE bool before(const Found &a, const Found &b) {
    if (a.site != b.site) return a.site < b.site;
    if (a.image[0] != b.image[0]) return a.image[0] < b.image[0];
    if (a.image[1] != b.image[1]) return a.image[1] < b.image[1];
    return a.image[2] < b.image[2];
}

// Puts each pair in its place in the row of its atom, and writes all of it.
KERNEL(write_pairs, ListArguments) {
    int atom = blockIdx.x;
    long long first = args.first[atom];
    int n = (int)(args.first[atom + 1] - first);
    const Found *row = args.found + first;
    Binned own = args.placed[atom];
    const Frame &frame = args.frames[args.system[atom]];
    for (int k = threadIdx.x; k < n; k += 32) {
        Found found = row[k];
        int rank = 0;
        for (int other = 0; other < n; other++) rank += before(row[other], found);
        Binned neighbor = args.placed[found.site];
        double shift[3], d[3];
        shift_vector(frame, found.image, shift);
        separation(own, neighbor, shift, d);
        long long pair = first + rank;
        if (args.i) args.i[pair] = atom;
        if (args.j) args.j[pair] = found.site;
        if (args.distances) args.distances[pair] = sqrt(exact_dot(d, d));
#pragma unroll
        for (int a = 0; a < 3; a++) {
            if (args.shifts) args.shifts[3 * pair + a] = found.image[a] - neighbor.wraps[a] + own.wraps[a];
            if (args.vectors) args.vectors[3 * pair + a] = d[a];
        }
    }
}
