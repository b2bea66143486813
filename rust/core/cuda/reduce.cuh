// Sums over the threads of a block, in an order that does not depend on timing.
#pragma once
#include "scalar.cuh"

// An unnamed namespace gives every module arrays of its own: a loader may share static arrays of templates between
// modules, which the emulation runs at the same time.
namespace {

#ifdef ELECTRET_HOST
// Sum over the 32 threads of a warp, valid in its first; every thread of the warp must call it.
template <class T> DEVICE T warp_sum(T value) {
    static T lanes[1024];
    lanes[threadIdx.x] = value;
    WARP_BARRIER();
    if (threadIdx.x % 32 == 0)
        for (unsigned t = threadIdx.x + 1; t < threadIdx.x + 32 && t < blockDim.x; t++) value += lanes[t];
    WARP_BARRIER();
    return value;
}
// Number of threads before this one in its warp whose flag is set, and of all such threads of the warp in `total`; every
// thread of the warp must call it.
DEVICE int warp_rank(bool flag, int *total) {
    static bool flags[1024];
    flags[threadIdx.x] = flag;
    WARP_BARRIER();
    int rank = 0;
    *total = 0;
    unsigned start = threadIdx.x / 32 * 32;
    for (unsigned t = start; t < start + 32 && t < blockDim.x; t++) {
        *total += flags[t];
        if (t < threadIdx.x) rank += flags[t];
    }
    WARP_BARRIER();
    return rank;
}
#else
DEVICE double shuffle_down(double x, int by) { return __shfl_down_sync(0xffffffffu, x, by); }
DEVICE float shuffle_down(float x, int by) { return __shfl_down_sync(0xffffffffu, x, by); }
DEVICE Single shuffle_down(Single x, int by) { return {shuffle_down(x.value, by)}; }
template <class R> DEVICE DualOf<R> shuffle_down(DualOf<R> x, int by) {
    return {shuffle_down(x.value, by), shuffle_down(x.tangent, by)};
}
// Sum over the 32 threads of a warp, valid in its first; every thread of the warp must call it.
template <class T> DEVICE T warp_sum(T value) {
#pragma unroll
    for (int by = 16; by > 0; by /= 2) value += shuffle_down(value, by);
    return value;
}
// Number of threads before this one in its warp whose flag is set, and of all such threads of the warp in `total`; every
// thread of the warp must call it.
DEVICE int warp_rank(bool flag, int *total) {
    unsigned mask = __ballot_sync(0xffffffffu, flag);
    *total = __popc(mask);
    return __popc(mask & ((1u << (threadIdx.x % 32)) - 1u));
}
#endif

// Sums each of N values over the block; every thread must call it, the result is valid in thread 0. The block has a
// multiple of 32 threads, at most 1024.
template <int N, class T> DEVICE void block_sum(T *values) {
#ifdef ELECTRET_HOST
    static T rows[1024][N];
    for (int n = 0; n < N; n++) rows[threadIdx.x][n] = values[n];
    const bool one_warp = blockDim.x <= 32;  // which has no barrier of the block on a GPU either
    if (one_warp) WARP_BARRIER();
    else __syncthreads();
    if (threadIdx.x == 0)
        for (unsigned t = 1; t < blockDim.x; t++)
            for (int n = 0; n < N; n++) values[n] += rows[t][n];
    if (one_warp) WARP_BARRIER();
    else __syncthreads();
#else
    __shared__ T rows[32][N];
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, n_warps = blockDim.x / 32;
#pragma unroll
    for (int n = 0; n < N; n++) values[n] = warp_sum(values[n]);
    if (n_warps == 1) return;
    if (lane == 0)
#pragma unroll
        for (int n = 0; n < N; n++) rows[warp][n] = values[n];
    __syncthreads();
    if (threadIdx.x == 0)
        for (unsigned w = 1; w < n_warps; w++)
#pragma unroll
            for (int n = 0; n < N; n++) values[n] += rows[w][n];
    __syncthreads();
#endif
}

}  // namespace
