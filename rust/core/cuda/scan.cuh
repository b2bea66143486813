// Running sums.
#pragma once
#include "host.cuh"

// Nameless: see reduce.cuh.
namespace {

// first[k] = base + the sum of the counts before k, for k ≤ n, by one block of at most 1024 threads.
template <class Sum> DEVICE void scan_block(const int *counts, Sum *first, int n, Sum base) {
    SHARED Sum sums[1024];
    int thread = threadIdx.x, n_threads = blockDim.x;
    int chunk = (n + n_threads - 1) / n_threads;
    int begin = thread * chunk < n ? thread * chunk : n;
    int end = begin + chunk < n ? begin + chunk : n;
    Sum own = 0;
    for (int k = begin; k < end; k++) own += counts[k];
    sums[thread] = own;
    __syncthreads();
    for (int by = 1; by < n_threads; by *= 2) {
        Sum before = thread >= by ? sums[thread - by] : 0;
        __syncthreads();
        sums[thread] += before;
        __syncthreads();
    }
    Sum sum = base + sums[thread] - own;
    for (int k = begin; k < end; k++) {
        first[k] = sum;
        sum += counts[k];
    }
    if (thread == n_threads - 1) first[n] = base + sums[thread];
    __syncthreads();
}

}  // namespace
