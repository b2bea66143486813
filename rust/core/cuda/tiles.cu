// Sums of the partial results of the tiles of each system, in a fixed order.
#include "batch.cuh"
#include "reduce.cuh"

struct SumArguments {
    const T *partials;  // [tile][column]
    const int *first;   // [n_systems + 1]: first tile of each system
    T *out;             // [system][column], added to
    int n_columns;
    int n_systems;
};

KERNEL(sum_tiles, SumArguments) {
    int number = blockIdx.x;
    int system = number / args.n_columns, column = number % args.n_columns;
    T sum = zero<T>();
    for (int tile = args.first[system] + threadIdx.x; tile < args.first[system + 1]; tile += blockDim.x)
        sum += args.partials[(size_t)tile * args.n_columns + column];
    block_sum<1>(&sum);
    if (threadIdx.x == 0) args.out[number] += sum;
}
