// Sums of what the tiles of each system have collected, in their order.
#include "batch.cuh"

struct SumArguments {
    const T *partials;  // [tile][column]
    const int *first;   // [n_systems + 1]: first tile of each system
    T *out;             // [system][column], added to
    int n_columns;
    int n_systems;
};

KERNEL(sum_tiles, SumArguments) {
    int number = blockIdx.x * blockDim.x + threadIdx.x;
    if (number >= args.n_systems * args.n_columns) return;
    int system = number / args.n_columns, column = number % args.n_columns;
    T sum = zero<T>();
    for (int tile = args.first[system]; tile < args.first[system + 1]; tile++)
        sum += args.partials[tile * args.n_columns + column];
    args.out[number] += sum;
}
