// From structure factors on the mesh to potentials on it: φ_t(k) = w(k) g_t(k) Σ_p g_p(k) S_p(k), with Gaussians g and
// w the Coulomb kernel over the splines' own transform; and derivatives in the cell through the factors that both sides
// share.
#include "coulomb_kernel.cuh"
#include "mesh.cuh"
#include "reduce.cuh"

struct ConvolveArguments {
    const R *sources;
    R *receivers;  // may be the sources
    const MeshField *source_fields;
    const MeshField *receiver_fields;
    const int *first_source;  // [local system + 1]
    const int *first_receiver;
    const Lattice *lattices;
    const int *systems;         // [local system]
    const R *moduli[3];         // of the splines along each axis
    const ParallelOf<W> *parallel;  // [local system][parallel_stride]
    const OpenOf<R> *open;          // [local system][open_stride]
    T *reciprocal;              // [local system][block][3][3]: partial sums, if wanted
    T *volume;                  // [local system][block]
    double once;
    int parallel_stride;
    int open_stride;
    MeshGrid grid;
};


// A complex number of scalars.
struct Complex {
    W re, im;
};

DEVICE Complex load(const R *field, long long place, long long stride) {
    const R *p = field + 2 * place;
    return {Parts<W>::load(p, stride), Parts<W>::load(p + 1, stride)};
}

DEVICE R wave(int i, int n) { return 2 * i > n ? i - n : i; }

// -w²/2 of a field.
DEVICE R exponent_of(const MeshField &field) {
    R width = real(field.width);
    return (R)-0.5 * width * width;
}

// Σ g S over fields, and the same weighted by -w²/2.
DEVICE void add_fields(const ConvolveArguments &args, const R *fields, const MeshField *list, int first, int end,
                       long long mode, W square, bool weighted, Complex *sum, Complex *by_width) {
    long long stride = field_stride(args.grid);
    *sum = *by_width = {zero<W>(), zero<W>()};
    for (int f = first; f < end; f++) {
        R exponent = exponent_of(list[f]);
        W g = exp_of(square * exponent);
        Complex s = load(fields + f * Parts<W>::N * stride, mode, stride);
        s.re = s.re * g;
        s.im = s.im * g;
        sum->re += s.re;
        sum->im += s.im;
        if (!weighted) continue;
        by_width->re += s.re * exponent;
        by_width->im += s.im * exponent;
    }
}

// The kernel and its derivative in the square of k's periodic part.
DEVICE void kernel_of(const ConvolveArguments &args, const Lattice &lattice, const int *modes, const R *n, W square,
                      W *value, W *slope) {
    CoulombKernel kernel = coulomb_kernel(lattice.pbc, lattice.open_length);
    *slope = zero<W>();
    if (modes[0] == 0 && modes[1] == 0 && modes[2] == 0) {
        *value = constant<W>(kernel_at_zero<R>(kernel));
        return;
    }
    if (kernel.dimensions == 3) {
        W inverse = reciprocal_of(square);
        *value = inverse * (4.0 * PI);
        *slope = -(*value * inverse);
        return;
    }
    if (kernel.dimensions == 0) {
        R step = 2.0 * PI / lattice.open_length;
        OpenOf<R> open = {step * step * (n[0] * n[0] + n[1] * n[1] + n[2] * n[2])};
        open.x = sqrt(open.square) * (R)kernel.radius;
        open.functions[0] = cos(open.x);
        combine(kernel, ParallelOf<W>{}, open, value, slope);
        return;
    }
    int place[2] = {0, 0};
    for (int axis = 2; axis >= 0; axis--) {
        int kind = lattice.pbc[axis] ? 0 : 1;
        place[kind] = place[kind] * args.grid.points[axis] + modes[axis];
    }
    combine(kernel, args.parallel[(long long)blockIdx.y * args.parallel_stride + place[0]],
            args.open[(long long)blockIdx.y * args.open_stride + place[1]], value, slope);
}

// Blocks along x share the modes of one system, blocks along y are systems.
KERNEL(convolve, ConvolveArguments) {
    const MeshGrid &grid = args.grid;
    const Lattice &lattice = args.lattices[args.systems[blockIdx.y]];
    long long stride = field_stride(grid), n_modes = stride / 2;
    SHARED W reciprocal[3][3];
    if (threadIdx.x == 0)
        for (int i = 0; i < 9; i++) reciprocal[i / 3][i % 3] = convert<W>(lattice.reciprocal[i / 3][i % 3]);
    __syncthreads();
    W scale = convert<W>(reciprocal_of(lattice.volume) * COULOMB_CONSTANT);
    int first_source = args.first_source[blockIdx.y], end_source = args.first_source[blockIdx.y + 1];
    int first_receiver = args.first_receiver[blockIdx.y], end_receiver = args.first_receiver[blockIdx.y + 1];
    bool with_sums = args.reciprocal != 0;
    // The value and its derivatives in the metric b_i·b_j: 00, 11, 22, 01, 02, 12.
    W sums[7];
    for (int i = 0; i < 7; i++) sums[i] = zero<W>();
    for (long long mode = (long long)blockIdx.x * THREADS + threadIdx.x; mode < n_modes;
         mode += (long long)gridDim.x * THREADS) {
        int row = (int)(mode / grid.half);
        int modes[3] = {row / grid.points[1], row % grid.points[1], (int)(mode - (long long)row * grid.half)};
        R n[3], spline = 1;
        for (int axis = 0; axis < 3; axis++) {
            n[axis] = wave(modes[axis], grid.points[axis]);
            spline *= args.moduli[axis][modes[axis]];
        }
        W k[3];
        for (int i = 0; i < 3; i++)
            k[i] = reciprocal[0][i] * n[0] + reciprocal[1][i] * n[1] + reciprocal[2][i] * n[2];
        W square = dot3(k, k), weight = zero<W>(), slope = zero<W>();
        if (spline != 0) {
            kernel_of(args, lattice, modes, n, square, &weight, &slope);
            weight = weight * scale * (spline * spline);
            slope = slope * scale * (spline * spline);
        }
        Complex s, by_width;
        add_fields(args, args.sources, args.source_fields, first_source, end_source, mode, square, with_sums, &s,
                   &by_width);
        if (with_sums) {
            Complex own = s, own_by_width = by_width;
            if (args.receivers != args.sources)
                add_fields(args, args.receivers, args.receiver_fields, first_receiver, end_receiver, mode, square, true, &own,
                           &own_by_width);
            // Modes of the other half of the spectrum count too.
            R count = modes[2] == 0 || 2 * modes[2] == grid.points[2] ? 1 : 2;
            W product = (s.re * own.re + s.im * own.im) * count;
            W widths = (by_width.re * own.re + by_width.im * own.im + s.re * own_by_width.re + s.im * own_by_width.im) *
                       count;
            sums[0] += weight * product;
            W gaussians = weight * widths, kernel = slope * product;
#pragma unroll
            for (int i = 0; i < 3; i++) {
                int j = i == 2 ? 1 : 0, l = i == 0 ? 1 : 2;
                sums[1 + i] += (lattice.pbc[i] ? gaussians + kernel : gaussians) * (n[i] * n[i]);
                sums[4 + i] += (lattice.pbc[j] && lattice.pbc[l] ? gaussians + kernel : gaussians) * (n[j] * n[l]);
            }
        }
        for (int f = first_receiver; f < end_receiver; f++) {
            W factor = weight * exp_of(square * exponent_of(args.receiver_fields[f]));
            R *out = args.receivers + f * Parts<W>::N * stride + 2 * mode;
            Parts<W>::store(out, stride, factor * s.re);
            Parts<W>::store(out + 1, stride, factor * s.im);
        }
    }
    if (!with_sums) return;
    block_sum<7>(sums);
    if (threadIdx.x != 0) return;
    int place = blockIdx.y * gridDim.x + blockIdx.x;
    T totals[7];
    for (int i = 0; i < 7; i++) totals[i] = convert<T>(sums[i]);
    T metric[3][3] = {
        {totals[1], totals[4], totals[5]}, {totals[4], totals[2], totals[6]}, {totals[5], totals[6], totals[3]}};
    for (int i = 0; i < 3; i++)
        for (int axis = 0; axis < 3; axis++) {
            T sum = zero<T>();
            for (int j = 0; j < 3; j++) sum += metric[i][j] * lattice.reciprocal[j][axis];
            args.reciprocal[9 * place + 3 * i + axis] = sum * (2.0 * args.once);
        }
    args.volume[place] = totals[0] * reciprocal_of(lattice.volume) * -args.once;
}
