// Sources of a receiver: those within the cutoff in every image, or all of an open system.
#pragma once
#include "rounded.cuh"

// How one system is summed.
struct PairSystem {
    double floor;     // width that the reciprocal sum raises narrower ones to; 0 for a sum over all pairs
    double narrowest; // width among the sources
    int first;        // sources
    int last;
};

struct PairArguments {
    Side receivers;
    Side sources;
    const R *source_widths;  // [site][channel], Å
    const Lattice *lattices;
    const PairSystem *systems;
    const Tile *tiles;
    const Grid *grids;
    const int *start;      // [bin], and the end
    const Binned *sorted;  // [slot]
    // For single precision.
    const RoundedReceiver *rounded_receivers;  // [site]
    const RoundedSite *binned_sources;    // [slot]
    const RoundedSite *source_sites;      // [site]
    const R *source_tangents;             // [site][3], or null
    const BoysRowOf<R> *boys;
    T *cells;  // [tile][3][3]
    double once;
    int same_sites;
    int padding;
};

// One warp's way through the sources of its receivers, with real numbers R.
template <class R> struct SourceWalk;

template <> struct SourceWalk<double> {
    // Shared by the threads.
    struct Shared {
        Frame frame;
        Binned own;
        double coordinates[3];
    };
    // A source, and the cell shift of its image.
    struct Hit {
        int site;
        int shift[3];
    };
    Walk walk;
    T position[3];
    double limit;

    DEVICE void enter(const PairArguments &args, int system, bool split, Shared *shared) {
        if (!split) return;
        limit = args.grids[system].limit;
        if (threadIdx.x == 0) shared->frame = frame_of(args.lattices[system]);
    }

    DEVICE void approach(const PairArguments &args, int receiver, bool split, Shared *shared) {
#pragma unroll
        for (int k = 0; k < 3; k++) position[k] = args.receivers.positions[3 * receiver + k];
        if (split && threadIdx.x == 0) {
            double values[3] = {value_of(position[0]), value_of(position[1]), value_of(position[2])};
            wrap(shared->frame, values, &shared->own, shared->coordinates);
        }
        __syncthreads();
    }

    DEVICE void begin(const PairArguments &args, int system, bool split, const Shared &shared) {
        if (split)
            walk.around(args.grids[system], shared.frame, args.start, shared.coordinates);
        else
            walk.all(args.systems[system].first, args.systems[system].last);
    }

    // True if the site in a slot is within the cutoff.
    DEVICE bool look(const PairArguments &args, int slot, bool split, const Shared &shared, Hit *hit) {
        *hit = {slot, {0, 0, 0}};
        if (slot < 0 || !split) return slot >= 0;
        Binned other = args.sorted[slot];
        double shift[3], d[3];
        shift_vector(shared.frame, walk.image, shift);
        separation(shared.own, other, shift, d);
        hit->site = other.site;
#pragma unroll
        for (int a = 0; a < 3; a++) hit->shift[a] = walk.image[a] - other.wraps[a] + shared.own.wraps[a];
        return dot3(d, d) < limit;
    }

    // The vector from a source to the receiver.
    DEVICE void separate(const PairArguments &args, const Lattice &lattice, const Hit &hit, const Shared &, T *d) {
#pragma unroll
        for (int k = 0; k < 3; k++) d[k] = position[k] - args.sources.positions[3 * hit.site + k];
        if (hit.shift[0] | hit.shift[1] | hit.shift[2]) {
#pragma unroll
            for (int k = 0; k < 3; k++)
#pragma unroll
                for (int a = 0; a < 3; a++) d[k] -= lattice.vectors[a][k] * (double)hit.shift[a];
        }
    }
};

template <> struct SourceWalk<float> {
    struct Shared {
        Fine vectors[3][3];
        float tangents[3][3];
        float reach[3];
        float limit;
        int pbc[3];
    };
    struct Hit {
        int site;
        int shift[3];
        float d[3];
    };
    Walk walk;
    RoundedSite own;
    float part[3], tangent[3];
    // The receiver in the current image.
    Fine near[3];
    int image[3];

    DEVICE void enter(const PairArguments &args, int system, bool split, Shared *shared) {
        if (threadIdx.x > 0) return;
        if (!split) {
            // The shift is zero, and so are its tangents.
            for (int a = 0; a < 3; a++)
                for (int k = 0; k < 3; k++) shared->tangents[a][k] = 0.0f;
            return;
        }
        shared->limit = (float)args.grids[system].limit;
        const Lattice &lattice = args.lattices[system];
        double reach[3];
        reach_of(args.grids[system], frame_of(lattice), reach);
        for (int a = 0; a < 3; a++) {
            // The margin is far above the rounding of the part of a period.
            shared->reach[a] = (float)(reach[a] + 1e-6 * args.grids[system].bins[a]);
            shared->pbc[a] = lattice.pbc[a];
            for (int k = 0; k < 3; k++) {
                shared->vectors[a][k] = fine(value_of(lattice.vectors[a][k]));
                shared->tangents[a][k] = (float)tangent_of(lattice.vectors[a][k]);
            }
        }
    }

    DEVICE void approach(const PairArguments &args, int receiver, bool, Shared *) {
        own = args.rounded_receivers[receiver].site;
#pragma unroll
        for (int k = 0; k < 3; k++) {
            part[k] = args.rounded_receivers[receiver].part[k];
            if (Tangents<W>::n) tangent[k] = (float)tangent_of(args.receivers.positions[3 * receiver + k]);
        }
        __syncthreads();
    }

    DEVICE void begin(const PairArguments &args, int system, bool split, const Shared &shared) {
        if (split)
            walk.around(args.grids[system], args.start, shared.pbc, part, shared.reach);
        else
            walk.all(args.systems[system].first, args.systems[system].last);
#pragma unroll
        for (int a = 0; a < 3; a++) {
            image[a] = 0;
            near[a] = own.position[a];
        }
    }

    DEVICE bool look(const PairArguments &args, int slot, bool split, const Shared &shared, Hit *hit) {
        if (walk.image[0] != image[0] || walk.image[1] != image[1] || walk.image[2] != image[2]) {
#pragma unroll
            for (int a = 0; a < 3; a++) image[a] = walk.image[a];
#pragma unroll
            for (int k = 0; k < 3; k++) {
                near[k] = own.position[k];
#pragma unroll
                for (int a = 0; a < 3; a++) near[k] = near[k] + -image[a] * shared.vectors[a][k];
            }
        }
        *hit = {slot, {0, 0, 0}, {0.0f, 0.0f, 0.0f}};
        if (slot < 0) return false;
        RoundedSite other = (split ? args.binned_sources : args.source_sites)[slot];
        hit->site = other.site;
#pragma unroll
        for (int a = 0; a < 3; a++) {
            hit->shift[a] = split ? image[a] - other.wraps[a] + own.wraps[a] : 0;
            hit->d[a] = difference(near[a], other.position[a]);
        }
        return !split || dot3(hit->d, hit->d) < shared.limit;
    }

    DEVICE void separate(const PairArguments &args, const Lattice &, const Hit &hit, const Shared &shared, W *d) {
#pragma unroll
        for (int k = 0; k < 3; k++) {
            float change = 0.0f;
            if (Tangents<W>::n) {
                change = tangent[k] - args.source_tangents[3LL * hit.site + k];
#pragma unroll
                for (int a = 0; a < 3; a++) change -= shared.tangents[a][k] * hit.shift[a];
            }
            d[k] = Maker<W>::make(hit.d[k], change);
        }
    }
};
