// Arrays of the caller, packed into scalars in the order of systems, and back.
#include "batch.cuh"

struct Rows {
    const int *order;       // row of each place in the order of systems; null for the order as it is
    const double *factors;  // [column]; null for ones
    int n_rows;
    int n_columns;
};

// Place and factor in the caller's array of an entry of the scalars, which are [place][column].
struct Entry {
    size_t at;
    double factor;
};

DEVICE Entry entry_of(const Rows &rows, size_t number) {
    int row = (int)(number / rows.n_columns), column = (int)(number % rows.n_columns);
    size_t at = (size_t)(rows.order ? rows.order[row] : row) * rows.n_columns + column;
    return {at, rows.factors ? rows.factors[column] : 1.0};
}

struct PackArguments {
    Rows rows;
    const double *values;    // [row][column]; null for zeros
    const double *tangents;  // null for zeros
    T *out;
};

KERNEL(pack, PackArguments) {
    size_t number = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (number >= (size_t)args.rows.n_rows * args.rows.n_columns) return;
    Entry entry = entry_of(args.rows, number);
    double value = args.values ? args.values[entry.at] * entry.factor : 0.0;
    double tangent = args.tangents ? args.tangents[entry.at] * entry.factor : 0.0;
    args.out[number] = Maker<T>::make(value, tangent);
}

struct UnpackArguments {
    Rows rows;
    const T *values;
    double *out;   // [row][column]
    int tangents;  // 1 for tangents
    int padding;
};

KERNEL(unpack, UnpackArguments) {
    size_t number = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (number >= (size_t)args.rows.n_rows * args.rows.n_columns) return;
    Entry entry = entry_of(args.rows, number);
    T x = args.values[number];
    args.out[entry.at] = (args.tangents ? tangent_of(x) : value_of(x)) * entry.factor;
}
