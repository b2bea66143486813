// Sites to mesh. A block fills a brick of a field with the members that reach it, sorted by index whatever order they
// were listed in, so that no sum depends on timing.
//
// ORDER of the splines and the sources' DEGREE are defined by the module.
#include "mesh.cuh"
#include "reduce.cuh"

struct SpreadArguments {
    R *fields;
    MeshGrid grid;
    MeshSide side;
};

const int L = DEGREE;
// Members sorted at a time.
const int CAPACITY = 1024;
// Points along z that a member reaches or does not.
const int ALONG = 4;
// Length of the values of an axis of a member, [point][derivative]: one more point for threads outside the spline, and
// padded so that neither neighbouring members nor pairs of values fall on the same banks of shared memory.
const int N = L + 1;
const int VALUES = sizeof(W) <= 8 ? (((BRICK + 1) * N + 1) / 2 | 1) * 2 : (BRICK + 1) * N | 1;
const int PRODUCTS = (L + 1) * (L + 2) / 2;
// Bytes for one member's weights, and members that fit together: with three axes they keep all threads busy.
const int MEMBER_BYTES = (3 * VALUES + PRODUCTS * BRICK + MONOMIALS(L)) * sizeof(W) + 16;
const int STAGE = 32768 / MEMBER_BYTES > THREADS / 3 ? THREADS / 3 : 32768 / MEMBER_BYTES;
// Each warp fills the whole brick with its share of the members. A thread has columns along z at as many x.
const int COLUMNS = BRICK * BRICK / 32;
const int STEP_X = BRICK / COLUMNS;
const int GROUPS = THREADS / 32;

KERNEL(spread, SpreadArguments) {
    alignas(16) SHARED W weights[STAGE][3][VALUES];          // [point][derivative]
    alignas(16) SHARED W products[STAGE][PRODUCTS * BRICK];  // Σ_a t_abc X^(a): [b, c][point]
    SHARED W terms[STAGE][MONOMIALS(L)];
    SHARED int live[STAGE][4];  // bits of the brick's points that a member reaches along each axis
    SHARED Member list[CAPACITY];
    alignas(16) SHARED int tile[THREADS];
    const MeshGrid &grid = args.grid;
    const MeshSide &side = args.side;
    int thread = threadIdx.x, number = blockIdx.x;
    int brick[3] = {number / (grid.bricks[1] * grid.bricks[2]), number / grid.bricks[2] % grid.bricks[1],
                    number % grid.bricks[2]};
    MeshField field = side.fields[blockIdx.y];
    const W *expansion = side.expansion + (long long)field.local * EXPANSION(L);
    long long place = (long long)blockIdx.y * grid.n_bricks + number;
    int n = side.counts ? side.counts[place] : 0;
    const int *entries = n > 0 ? side.entries + side.offsets[place] : 0;
    if (!side.counts) {
        // Few members: each is tested.
        for (int start = 0; start < field.n_members; start += THREADS) {
            int member = field.first_member + start + thread;
            bool near = start + thread < field.n_members;
            if (near) {
                const Place &where = side.places[side.members[member].place];
                for (int axis = 0; axis < 3; axis++) {
                    Reach reach = reach_of(where.start[axis], grid.points[axis], grid.bricks[axis]);
                    near = near && reaches(reach, brick[axis], grid.bricks[axis]);
                }
            }
            int total, rank = warp_rank(near, &total);
            if (thread % 32 == 0) tile[thread / 32] = total;
            __syncthreads();
            rank += n;
            for (int other = 0; other < GROUPS; other++) {
                if (other < thread / 32) rank += tile[other];
                n += tile[other];
            }
            if (near) list[rank] = side.members[member];
            __syncthreads();
        }
    }
    int group = thread / 32, y = thread % BRICK, x = thread % 32 / BRICK;
    W sums[COLUMNS][BRICK];
#pragma unroll
    for (int h = 0; h < COLUMNS; h++)
#pragma unroll
        for (int i = 0; i < BRICK; i++) sums[h][i] = zero<W>();
    for (int first = 0; first < n; first += CAPACITY) {
        if (side.counts) {
            for (int start = 0; start < n; start += THREADS) {
                int member = start + thread < n ? entries[start + thread] : 0;
                int rank = -first;
                for (int other = 0; other < n; other += THREADS) {
                    __syncthreads();
                    tile[thread] = other + thread < n ? entries[other + thread] : 0x7fffffff;
                    __syncthreads();
                    int size = n - other < THREADS ? n - other : THREADS;
                    for (int i = 0; i < size; i += 4)
#pragma unroll
                        for (int k = 0; k < 4; k++) rank += tile[i + k] < member;
                }
                if (start + thread < n && rank >= 0 && rank < CAPACITY) list[rank] = side.members[member];
            }
            __syncthreads();
        }
        int end = n - first < CAPACITY ? n - first : CAPACITY;
        for (int start = 0; start < end; start += STAGE) {
            int size = end - start < STAGE ? end - start : STAGE;
            for (int task = thread; task < 3 * size; task += THREADS) {
                int slot = task / 3, axis = task % 3;
                const Place &where = side.places[list[start + slot].place];
                W values[L + 1][ORDER];
                spline<L + 1>(where.rest[axis], values);
                W *row = weights[slot][axis];
#pragma unroll
                for (int i = 0; i < N * BRICK; i++) row[i] = zero<W>();
                int points = grid.points[axis], low = BRICK * brick[axis];
                int point = where.start[axis], bits = 0;
                if (points < ORDER) {
                    // The spline wraps around onto itself.
#pragma unroll
                    for (int j = 0; j < ORDER; j++, point++) {
                        if (point == points) point = 0;
                        unsigned here = point - low;
                        bits |= here < BRICK ? 1 << here : 0;
                        W *to = row + (here < BRICK ? here : BRICK) * N;
#pragma unroll
                        for (int derivative = 0; derivative <= L; derivative++)
                            to[derivative] += values[derivative][j];
                    }
                } else {
#pragma unroll
                    for (int j = 0; j < ORDER; j++, point++) {
                        if (point == points) point = 0;
                        unsigned here = point - low;
                        bits |= here < BRICK ? 1 << here : 0;
                        W *to = row + (here < BRICK ? here : BRICK) * N;
#pragma unroll
                        for (int derivative = 0; derivative <= L; derivative++)
                            to[derivative] = values[derivative][j];
                    }
                }
                live[slot][axis] = bits;
            }
            for (int task = thread; task < MONOMIALS(L) * size; task += THREADS) {
                int slot = task / MONOMIALS(L), k = task % MONOMIALS(L), l = L == 1 ? k > 0 : 0;
                while (L > 1 && k >= MONOMIALS(l)) l++;
                const W *p = side.coefficients + (long long)list[start + slot].receiver * COUNT(L);
                int count = (l + 1) * (l + 2) / 2, column = k - (MONOMIALS(l) - count);
                W sum = zero<W>();
                for (int m = 0; m < 2 * l + 1; m++)
                    sum += p[l * l + m] * expansion[expansion_place(l) + m * count + column];
                terms[slot][k] = sum;
            }
            __syncthreads();
            for (int task = thread; task < BRICK * size; task += THREADS) {
                int slot = task / BRICK, i = task % BRICK, k = 0;
#pragma unroll
                for (int b = 0; b <= L; b++)
#pragma unroll
                    for (int c = 0; c <= L - b; c++) {
                        W sum = zero<W>();
#pragma unroll
                        for (int a = 0; a <= L - b - c; a++)
                            sum += weights[slot][0][i * N + a] * terms[slot][monomial(a, b, c)];
                        products[slot][k++ * BRICK + i] = sum;
                    }
            }
            __syncthreads();
            for (int slot = group; slot < size; slot += GROUPS) {
                int reached_x = live[slot][0], reached = live[slot][2];
                W along[COLUMNS][L + 1];
#pragma unroll
                for (int h = 0; h < COLUMNS; h++)
#pragma unroll
                    for (int c = 0; c <= L; c++) along[h][c] = zero<W>();
                int k = 0;
#pragma unroll
                for (int b = 0; b <= L; b++) {
                    W w = weights[slot][1][y * N + b];
#pragma unroll
                    for (int c = 0; c <= L - b; c++, k++)
#pragma unroll
                        for (int h = 0; h < COLUMNS; h++)
                            along[h][c] += w * products[slot][k * BRICK + STEP_X * h + x];
                }
                const W *row = weights[slot][2];
#pragma unroll
                for (int z = 0; z < BRICK; z += ALONG) {
                    if (!(reached >> z & ((1 << ALONG) - 1))) continue;
                    if (L <= 1) {
                        W values[L + 1][ALONG];
#pragma unroll
                        for (int c = 0; c <= L; c++)
#pragma unroll
                            for (int i = 0; i < ALONG; i++) values[c][i] = row[(z + i) * N + c];
#pragma unroll
                        for (int h = 0; h < COLUMNS; h++) {
                            if (!(reached_x >> STEP_X * h & ((1 << STEP_X) - 1))) continue;
#pragma unroll
                            for (int c = 0; c <= L; c++)
#pragma unroll
                                for (int i = 0; i < ALONG; i++) sums[h][z + i] += along[h][c] * values[c][i];
                        }
                    } else {
#pragma unroll
                        for (int c = 0; c <= L; c++)
#pragma unroll
                            for (int i = z; i < z + ALONG; i++) {
                                W value = row[i * N + c];
#pragma unroll
                                for (int h = 0; h < COLUMNS; h++) sums[h][i] += along[h][c] * value;
                            }
                    }
                }
            }
            __syncthreads();
        }
    }
    // The warps' sums, in order.
    const int SUMS = COLUMNS * BRICK;
    static_assert(STAGE * 3 * VALUES >= SUMS * 32, "room for the sums of a warp");
    W *others = weights[0][0];
    for (int other = 1; other < GROUPS; other++) {
        if (group == other)
#pragma unroll
            for (int i = 0; i < SUMS; i++) others[i * 32 + thread % 32] = sums[i / BRICK][i % BRICK];
        __syncthreads();
        if (group == 0)
#pragma unroll
            for (int i = 0; i < SUMS; i++) sums[i / BRICK][i % BRICK] += others[i * 32 + thread];
        __syncthreads();
    }
    if (group != 0) return;
    x += BRICK * brick[0];
    y += BRICK * brick[1];
    int z = BRICK * brick[2];
    long long stride = field_stride(grid);
#pragma unroll
    for (int h = 0; h < COLUMNS; h++, x += STEP_X) {
        if (x >= grid.points[0] || y >= grid.points[1]) continue;
        R *out = args.fields + blockIdx.y * Parts<W>::N * stride +
                      ((long long)x * grid.points[1] + y) * row_stride(grid) + z;
#pragma unroll
        for (int i = 0; i < BRICK; i++)
            if (z + i < grid.points[2]) Parts<W>::store(out + i, stride, sums[h][i]);
    }
}
