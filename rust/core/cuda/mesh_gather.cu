// Mesh to sites: a warp interpolates the derivatives of the potentials at one site, along the mesh, for all of its
// channels.
//
// ORDER of the splines, the receivers' DEGREE, GRADIENTS (0 or 1), WARPS_OF_BLOCK and BLOCKS_AT_ONCE are defined by the
// module.
#include "mesh.cuh"
#include "reduce.cuh"

// One term of a gradient: ∂_axis C_of ∋ coefficient · C_lower, over (2l-1) for the l of C_of.
struct GradientTerm {
    Both coefficient;
    int of;
    int axis;
};

struct GatherArguments {
    const R *fields;
    const Lattice *lattices;
    T *site_gradients;               // [place][3]: of this term alone, if derivatives in the cell are wanted
    T *site_bases;                   // [place][3][3]: dU/dB through the multipoles' expansions
    const int *first_term;           // [lm + 1] by lower
    const GradientTerm *terms;
    MeshGrid grid;
    MeshSide side;
};

const int L = DEGREE;
const int TOTAL = L + GRADIENTS;
// Charges and dipoles need few registers, so that a block takes more sites.
const bool SMALL = L <= 1;
const int WARPS = WARPS_OF_BLOCK;
// Lanes along z, and planes that the lanes of a warp read together.
const int LANES = ORDER > 8 ? 16 : 8;
const int PLANES = 32 / LANES;
// Pairs of derivatives along x and y.
const int PAIRS = (TOTAL + 1) * (TOTAL + 2) / 2;
// Length of the values of an axis of a site, padded so that neighbouring sites write to different banks of shared
// memory.
const int VALUES = (((TOTAL + 1) * ORDER + 1) / 2 | 1) * 2;
// Rows in flight.
const int AHEAD = SMALL ? ORDER : 4;

// Fixes the order of additions to the address; the compiler's own takes more instructions.
DEVICE const R *as_it_is(const R *p) {
#ifndef ELECTRET_HOST
    asm("" : "+l"(p));
#endif
    return p;
}

// Sum over the lanes before COUNT(L), where all others have zero; every thread of the BLOCK must call it.
DEVICE W sum_of_harmonics(W value) {
#ifndef ELECTRET_HOST
    if (SMALL) {
        if (L == 1) {
            value += shuffle_down(value, 2);
            value += shuffle_down(value, 1);
        }
        return value;
    }
#endif
    return warp_sum(value);
}

// The place of C_lm's derivative monomial raised along each axis, for the monomial (a, b) of total l.
DEVICE int raised(int l, int a, int b, int axis) {
    int base = (l + 1) * (l + 2) * (l + 3) / 6;
    if (axis == 0) a++;
    if (axis == 1) b++;
    return base + a * (l + 2) - a * (a - 1) / 2 + b;
}

BOUNDED_KERNEL(gather, GatherArguments, 32 * WARPS, BLOCKS_AT_ONCE) {
    alignas(16) SHARED W weights[WARPS][3][VALUES];      // [derivative][point]
    alignas(16) SHARED int offsets[WARPS][3][4 * ((ORDER + 3) / 4)];  // of wrapped points; along y, of their rows
    SHARED W columns[WARPS][SMALL ? PAIRS : 1][33];
    SHARED W derivatives[WARPS][MONOMIALS(TOTAL)];
    const MeshGrid &grid = args.grid;
    const MeshSide &side = args.side;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int index = blockIdx.x * WARPS + warp;
    bool here = index < side.n_sites;
    // Sites of a brick go together, as their points do.
    int number = here && side.order ? side.order[index] : index;
    if (threadIdx.x < 3 * WARPS) {
        int slot = threadIdx.x / 3, axis = threadIdx.x % 3;
        int other = blockIdx.x * WARPS + slot;
        if (other < side.n_sites) {
            const Place &place = side.places[side.order ? side.order[other] : other];
            W values[TOTAL + 1][ORDER];
            spline<TOTAL + 1>(place.rest[axis], values);
            int points = grid.points[axis], point = place.start[axis];
#pragma unroll
            for (int j = 0; j < ORDER; j++) {
#pragma unroll
                for (int derivative = 0; derivative <= TOTAL; derivative++)
                    weights[slot][axis][derivative * ORDER + j] = values[derivative][j];
                if (point == points) point = 0;
                offsets[slot][axis][j] = axis == 1 ? point * (int)row_stride(grid) : point;
                point++;
            }
        }
    }
    __syncthreads();
    MeshSite site = side.sites[here ? number : 0];
    long long stride = field_stride(grid), plane = row_stride(grid) * grid.points[1];
    const W *expansion = side.expansion + (long long)site.local * EXPANSION(L);
    int jz = lane % LANES;
    bool inside = here && jz < ORDER;
    if (!inside) jz = 0;
    W along[3], bases[3][3];
    for (int a = 0; a < 3; a++) {
        along[a] = zero<W>();
        for (int i = 0; i < 3; i++) bases[a][i] = zero<W>();
    }
    for (int channel = 0; channel < side.n_channels; channel++) {
        long long receiver = (long long)site.site * side.n_channels + channel;
        W sums[PAIRS];  // Σ_xy X^(a) Y^(b) φ
#pragma unroll
        for (int i = 0; i < PAIRS; i++) sums[i] = zero<W>();
        if (inside) {
            const R *field = args.fields + side.field_of[receiver] * Parts<W>::N * stride + offsets[warp][2][jz];
#pragma unroll 1
            for (int jx = lane / LANES; jx < ORDER; jx += PLANES) {
                const R *rows = as_it_is(field + offsets[warp][0][jx] * plane);
                W partial[TOTAL + 1];  // Σ_y Y^(b) φ
#pragma unroll
                for (int b = 0; b <= TOTAL; b++) partial[b] = zero<W>();
#pragma unroll 1
                for (int first = 0; first < ORDER; first += AHEAD) {
                    W values[AHEAD];
#pragma unroll
                    for (int j = 0; j < AHEAD; j++)
                        values[j] = AHEAD == ORDER || first + j < ORDER
                                        ? Parts<W>::fetch(rows + offsets[warp][1][first + j], stride)
                                        : zero<W>();
#pragma unroll
                    for (int b = 0; b <= TOTAL; b++)
#pragma unroll
                        for (int j = 0; j < AHEAD; j++)
                            if (AHEAD == ORDER || first + j < ORDER)
                                partial[b] += weights[warp][1][b * ORDER + first + j] * values[j];
                }
                int i = 0;
#pragma unroll
                for (int a = 0; a <= TOTAL; a++) {
                    W w = weights[warp][0][a * ORDER + jx];
#pragma unroll
                    for (int b = 0; b <= TOTAL - a; b++) sums[i++] += w * partial[b];
                }
            }
        }
        if (SMALL) {
#pragma unroll
            for (int i = 0; i < PAIRS; i++) columns[warp][i][lane] = sums[i];
            WARP_BARRIER();
            // A lane for each derivative: of degree `total`, then by a, then by b.
            if (lane < MONOMIALS(TOTAL)) {
                int total = lane == 0 ? 0 : (lane < 4 ? 1 : 2), k = lane - MONOMIALS(total - 1), a = 0;
                while (k > total - a) k -= total - a++ + 1;
                const W *column = columns[warp][a * (TOTAL + 1) - a * (a - 1) / 2 + k];
                const W *along_z = weights[warp][2] + (total - a - k) * ORDER;
                W parts[2] = {zero<W>(), zero<W>()};
#pragma unroll
                for (int j = 0; j < ORDER; j++)
#pragma unroll
                    for (int i = 0; i < PLANES; i++) parts[i % 2] += column[i * LANES + j] * along_z[j];
                derivatives[warp][lane] = parts[0] + parts[1];
            }
        } else {
            int i = 0;
#pragma unroll
            for (int a = 0; a <= TOTAL; a++)
#pragma unroll
                for (int b = 0; b <= TOTAL - a; b++) {
#pragma unroll
                    for (int c = 0; c <= TOTAL - a - b; c++) {
                        W sum = inside ? sums[i] * weights[warp][2][c * ORDER + jz] : zero<W>();
                        sum = warp_sum(sum);
                        if (lane == 0) derivatives[warp][monomial(a, b, c)] = sum;
                    }
                    i++;
                }
        }
        WARP_BARRIER();
        const W *p = side.coefficients + receiver * COUNT(L);
        for (int lm = lane; here && lm < COUNT(L); lm += 32) {
            int l = L == 0 ? 0 : (L == 1 ? lm > 0 : degree_of(lm)), n = (l + 1) * (l + 2) / 2;
            const W *coefficients = expansion + expansion_place(l) + (lm - l * l) * n;
            W potential = zero<W>(), slopes[3] = {zero<W>(), zero<W>(), zero<W>()};
            int k = 0;
            for (int a = 0; a <= l; a++)
                for (int b = 0; b <= l - a; b++, k++) {
                    potential += coefficients[k] * derivatives[warp][MONOMIALS(l) - n + k];
                    if (GRADIENTS)
                        for (int axis = 0; axis < 3; axis++)
                            slopes[axis] += coefficients[k] * derivatives[warp][raised(l, a, b, axis)];
                }
            side.potentials[receiver * COUNT(L) + lm] += convert<T>(potential);
            if (!GRADIENTS) continue;
            for (int a = 0; a < 3; a++) along[a] += p[lm] * slopes[a];
            if (L == 0 || !args.site_bases) continue;
            for (int term = args.first_term[lm]; term < args.first_term[lm + 1]; term++) {
                GradientTerm t = args.terms[term];
                W factor = p[t.of] * real(t.coefficient);
                for (int a = 0; a < 3; a++)
#pragma unroll
                    for (int i = 0; i < 3; i++)
                        if (i == t.axis) bases[a][i] += factor * slopes[a];
            }
        }
        WARP_BARRIER();
    }
    if (!GRADIENTS) return;
    for (int a = 0; a < 3; a++) along[a] = sum_of_harmonics(along[a]);
    if (L > 0 && args.site_bases)
        for (int a = 0; a < 3; a++)
            for (int i = 0; i < 3; i++) bases[a][i] = sum_of_harmonics(bases[a][i]);
    if (!here || lane != 0) return;
    const Lattice &lattice = args.lattices[site.system];
    for (int i = 0; i < 3; i++) {
        T gradient = zero<T>();
        for (int a = 0; a < 3; a++)
            gradient += convert<T>(along[a]) * lattice.reciprocal[a][i] * (grid.points[a] * (0.5 / PI));
        side.gradients[3LL * site.site + i] += gradient;
        if (args.site_gradients) args.site_gradients[3LL * number + i] = gradient;
        if (L > 0 && args.site_bases)
            for (int a = 0; a < 3; a++) args.site_bases[9LL * number + 3 * a + i] = convert<T>(bases[a][i]);
    }
}
