// Single-precision copies of the arrays of a sum.
#include "rounded.cuh"

struct CoefficientArguments {
    const T *values;
    W *out;
    long long n;
};

// One thread for each number.
KERNEL(round_coefficients, CoefficientArguments) {
    long long k = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (k < args.n) args.out[k] = convert<W>(args.values[k]);
}

struct RoundingArguments {
    Side receivers;
    Side sources;
    const Lattice *lattices;
    const Grid *grids;
    const Binned *sorted;            // [slot]: sources of systems that are binned
    RoundedReceiver *rounded_receivers;  // [site]
    RoundedSite *binned_sources;    // [slot]
    RoundedSite *source_sites;      // [site]: in double precision
    R *source_tangents;             // [site][3], or null
    int n_slots;
    int padding;
};

DEVICE RoundedSite as_it_is(const Side &side, int site) {
    Binned binned = {{0.0, 0.0, 0.0}, {0, 0, 0}, site};
    for (int k = 0; k < 3; k++) binned.position[k] = value_of(side.positions[3LL * site + k]);
    return rounded(binned);
}

DEVICE RoundedReceiver rounded_receiver(const RoundingArguments &args, int site) {
    int system = args.receivers.system[site];
    const Grid &grid = args.grids[system];
    RoundedReceiver out = {as_it_is(args.receivers, site), {0.0f, 0.0f, 0.0f}, 0};
    if (grid.n_bins == 0) return out;
    double position[3], coordinates[3];
    for (int k = 0; k < 3; k++) position[k] = value_of(args.receivers.positions[3LL * site + k]);
    Binned binned;
    binned.site = site;
    wrap(frame_of(args.lattices[system]), position, &binned, coordinates);
    out.site = rounded(binned);
    for (int a = 0; a < 3; a++) {
        double whole = coordinates[a] / grid.period[a];
        out.part[a] = (float)(whole - floor(whole));
    }
    return out;
}

// One thread for each receiver, source and slot of a source.
KERNEL(round_sites, RoundingArguments) {
    int number = blockIdx.x * blockDim.x + threadIdx.x;
    if (number < args.receivers.n_sites) args.rounded_receivers[number] = rounded_receiver(args, number);
    if (number < args.n_slots) args.binned_sources[number] = rounded(args.sorted[number]);
    if (number >= args.sources.n_sites) return;
    args.source_sites[number] = as_it_is(args.sources, number);
    if (args.source_tangents)
        for (int k = 0; k < 3; k++)
            args.source_tangents[3LL * number + k] = (R)tangent_of(args.sources.positions[3LL * number + k]);
}
