// Loops over k-vectors: their weights and Gaussians, the sites' phases, fields, and derivatives in the cell.
#include "coulomb_kernel.cuh"
#include "reciprocal.cuh"
#include "reduce.cuh"

struct PrepareArguments {
    ModeArrays modes;
    SiteArrays first;
    SiteArrays second;
    const int *first_sites;  // those of systems with modes
    const int *second_sites;
    const Lattice *lattices;
    int n_first;
    int mode_blocks;
};

// The part of k along periodic axes, and the square of the rest.
DEVICE double split_mode(const Lattice &lattice, Mode mode, T *parallel) {
    double open2 = 0.0;
    for (int x = 0; x < 3; x++) parallel[x] = zero<T>();
    for (int axis = 0; axis < 3; axis++) {
        double n = mode.n[axis];
        if (lattice.pbc[axis]) {
            for (int x = 0; x < 3; x++) parallel[x] += lattice.reciprocal[axis][x] * n;
        } else {
            double k = 2.0 * PI * n / lattice.open_length;
            open2 += k * k;
        }
    }
    return open2;
}

DEVICE void prepare_mode(const PrepareArguments &args, int number) {
    const ModeArrays &modes = args.modes;
    Mode mode = modes.modes[number];
    const Lattice &lattice = args.lattices[mode.system];
    T k[3], parallel[3];
    for (int x = 0; x < 3; x++) {
        k[x] = lattice.reciprocal[0][x] * (double)mode.n[0] + lattice.reciprocal[1][x] * (double)mode.n[1] +
               lattice.reciprocal[2][x] * (double)mode.n[2];
        modes.k[(long long)x * modes.n_modes + number] = convert<W>(k[x]);
    }
    double open2 = split_mode(lattice, mode, parallel);
    CoulombKernel kernel = coulomb_kernel(lattice.pbc, lattice.open_length);
    T factor = reciprocal_of(lattice.volume) * COULOMB_CONSTANT;
    T value, slope = zero<T>();
    if (mode.n[0] == 0 && mode.n[1] == 0 && mode.n[2] == 0) {
        value = constant<T>(kernel_at_zero<double>(kernel));
    } else {
        combine(kernel, parallel_part(kernel, dot3(parallel, parallel)), open_part(kernel, open2), &value, &slope);
        factor = factor * 2.0;
    }
    modes.weights[number] = factor * value;
    modes.slopes[number] = factor * slope;
    const ModeSystem &system = modes.systems[mode.system];
    T k2 = dot3(k, k);
    W *gaussians = modes.gaussians + system.first_gaussian + (number - system.first_mode);
    for (int kind = 0; kind < system.n_widths; kind++) {
        double width = modes.widths[system.first_width + kind];
        gaussians[(long long)kind * system.n_modes] = convert<W>(exp_of(k2 * (-0.5 * width * width)));
    }
}

// Sine and cosine of n times an angle.
template <class S> DEVICE void phase_of(S angle, int n, S *s, S *c) { sin_cos_of(angle * (double)n, s, c); }
template <class S, class To> DEVICE void phase_of(S angle, int n, To *s, To *c) {
    sin_cos_of_turns(angle * (0.5 / PI) * (double)n, s, c);
}

// The phases of one site, by one block.
DEVICE void prepare_site(const PrepareArguments &args, const SiteArrays &sites, int site) {
    int number = sites.side.system[site];
    const ModeSystem &system = args.modes.systems[number];
    Complex *table = (Complex *)phases_of(sites, system, number, site);
    const T *position = sites.side.positions + 3 * site;
    for (int entry = threadIdx.x; entry < n_phases_of(system); entry += blockDim.x) {
        int axis = 0, n = entry;
        while (n >= system.n_phases[axis]) n -= system.n_phases[axis++];
        T angle = dot3(args.lattices[number].reciprocal[axis], position);
        Complex out;
        phase_of(angle, n, &out.im, &out.re);
        table[entry] = out;
    }
}

KERNEL(prepare_modes, PrepareArguments) {
    int block = blockIdx.x;
    if (block < args.mode_blocks) {
        int number = block * blockDim.x + threadIdx.x;
        if (number < args.modes.n_modes) prepare_mode(args, number);
        return;
    }
    block -= args.mode_blocks;
    if (block < args.n_first)
        prepare_site(args, args.first, args.first_sites[block]);
    else
        prepare_site(args, args.second, args.second_sites[block - args.n_first]);
}

// Derivatives in the reciprocal vectors, [axis][x], and in the volume.
#define N_COLUMNS 10

struct FieldArguments {
    ModeArrays modes;
    SiteArrays sources;
    SiteArrays receivers;
    const Tile *blocks;  // of modes
    const Lattice *lattices;
    T *reciprocal_partials;  // [block][9]: derivatives in the cell through factors of both sides
    T *volume_partials;      // [block]
    double once;
    int n_components;  // 2, or 4 with structure factors by width
    int contract;      // whether to write partials
};

// Structure factor, and with N = 4 the one weighted by widths squared, of all chunks.
template <int N> DEVICE void sum_chunks(const SiteArrays &sites, const ModeSystem &system, int number, int m, T *out) {
    const SideSystem &place = sites.systems[number];
    const W *partials = sites.partials + place.first_partial * N + m;
#pragma unroll
    for (int component = 0; component < N; component++) out[component] = zero<T>();
    // Unrolled for many loads in flight, since there are few threads.
#pragma unroll 8
    for (int row = 0; row < place.n_chunks * N; row += N)
#pragma unroll
        for (int component = 0; component < N; component++)
            out[component] += convert<T>(partials[(long long)(row + component) * system.n_modes]);
}

KERNEL(mode_fields, FieldArguments) {
    Tile block = args.blocks[blockIdx.x];
    const ModeArrays &modes = args.modes;
    const ModeSystem &system = modes.systems[block.system];
    T columns[N_COLUMNS];
    for (int column = 0; column < N_COLUMNS; column++) columns[column] = zero<T>();
    if (threadIdx.x < block.count) {
        int number = block.first + threadIdx.x;
        int m = number - system.first_mode;
        T a[4], b[4], weight = modes.weights[number];
        if (args.n_components == 4)
            sum_chunks<4>(args.sources, system, block.system, m, a);
        else
            sum_chunks<2>(args.sources, system, block.system, m, a);
        modes.field[number] = {convert<W>(a[0] * weight), convert<W>(a[1] * weight)};
        if (args.contract) {
            sum_chunks<4>(args.receivers, system, block.system, m, b);
            const Lattice &lattice = args.lattices[block.system];
            Mode mode = modes.modes[number];
            T product = a[0] * b[0] + a[1] * b[1];
            T by_width = a[2] * b[0] + a[3] * b[1] + a[0] * b[2] + a[1] * b[3];
            T along = -(weight * by_width), along_parallel = modes.slopes[number] * product * 2.0, parallel[3];
            split_mode(lattice, mode, parallel);
            for (int axis = 0; axis < 3; axis++)
                for (int x = 0; x < 3; x++) {
                    T sum = along * convert<T>(modes.k[(long long)x * modes.n_modes + number]);
                    if (lattice.pbc[axis]) sum += along_parallel * parallel[x];
                    columns[3 * axis + x] = sum * (double)mode.n[axis];
                }
            columns[9] = -(weight * product) * reciprocal_of(lattice.volume);
        }
    }
    if (!args.contract) return;
    block_sum<N_COLUMNS>(columns);
    if (threadIdx.x != 0) return;
    for (int column = 0; column < 9; column++)
        args.reciprocal_partials[(long long)blockIdx.x * 9 + column] = columns[column] * args.once;
    args.volume_partials[blockIdx.x] = columns[9] * args.once;
}
