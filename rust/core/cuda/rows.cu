// Arrays of the caller, packed into scalars in the order of systems, and back.
#include "batch.cuh"

struct PackArguments {
    const double *values;    // [row][column]; null for zeros
    const double *tangents;  // null for zeros
    const int *order;        // row of each place in the order of systems; null for the order as it is
    const double *factors;   // [column]; null for ones
    T *out;                  // [place][column]
    int n_rows;
    int n_columns;
};

KERNEL(pack, PackArguments) {
    size_t number = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (number >= (size_t)args.n_rows * args.n_columns) return;
    int row = (int)(number / args.n_columns), column = (int)(number % args.n_columns);
    size_t from = (size_t)(args.order ? args.order[row] : row) * args.n_columns + column;
    double factor = args.factors ? args.factors[column] : 1.0;
    double value = args.values ? args.values[from] * factor : 0.0;
    double tangent = args.tangents ? args.tangents[from] * factor : 0.0;
    args.out[number] = Maker<T>::make(value, tangent);
}

struct UnpackArguments {
    const T *values;        // [place][column]
    const int *order;       // as for packing
    const double *factors;  // as for packing
    double *out;            // [row][column]
    int n_rows;
    int n_columns;
    int tangents;  // 1 for tangents
    int padding;
};

KERNEL(unpack, UnpackArguments) {
    size_t number = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (number >= (size_t)args.n_rows * args.n_columns) return;
    int row = (int)(number / args.n_columns), column = (int)(number % args.n_columns);
    size_t to = (size_t)(args.order ? args.order[row] : row) * args.n_columns + column;
    double factor = args.factors ? args.factors[column] : 1.0;
    T x = args.values[number];
    args.out[to] = (args.tangents ? tangent_of(x) : value_of(x)) * factor;
}
