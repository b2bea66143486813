// Platform of the kernels: the CUDA compiler, or an emulation by the host's C++ compiler with which tests run every
// kernel without a GPU.
//
// A kernel takes one structure by value:
//
//     KERNEL(scale, ScaleArguments) { ... args.n ... }
//
// In the emulation the threads of a block are fibers that alternate at barriers: the threads of a warp at barriers of
// the warp, warps at those of the block. A barrier that only some threads reach stops the program with a message.
// Blocks run one after the other. Blocks, warps of a block and threads of a warp run in the given order (forward,
// backward, shuffled): results that miss a barrier differ between two orders. Shared memory is NaN (or -1) when a block
// begins.
#pragma once

#ifndef ELECTRET_HOST

#define DEVICE __device__ __forceinline__
#define SHARED __shared__
#define KERNEL(name, Arguments) extern "C" __global__ void name(const __grid_constant__ Arguments args)
// Kernel with the given number of threads in a block, and registers for the given number of blocks on a multiprocessor.
#define BOUNDED_KERNEL(name, Arguments, threads, blocks) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Arguments args)
// A barrier of the threads of a warp, which every one of them must reach.
#define WARP_BARRIER() __syncwarp()

typedef unsigned long long uint64;

#else

#include <csetjmp>
#include <math.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>

#define DEVICE inline
#define __restrict__ __restrict
#define __launch_bounds__(...)

typedef unsigned long long uint64;

struct Dim3 {
    unsigned x, y, z;
};
static Dim3 blockIdx, threadIdx, blockDim, gridDim;

// Section of the linker for SHARED variables, which may be empty. Formats of libraries other than ELF have no names for
// the ends of a section; there shared memory keeps the values of the block before.
#ifdef __ELF__
#define SHARED static __attribute__((section("shared_memory")))
extern "C" char __start_shared_memory[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_shared_memory[] __attribute__((weak, visibility("hidden")));
static void clear_shared_memory() {
    if (__start_shared_memory) memset(__start_shared_memory, 0xFF, __stop_shared_memory - __start_shared_memory);
}
#else
#define SHARED static
static void clear_shared_memory() {}
#endif

namespace emulation {

enum Barrier { NONE, WARP, BLOCK };

struct Fiber {
    ucontext_t context;
    jmp_buf place;
    char *stack;
    bool started;
    Barrier at;  // none: at its end
};

const size_t STACK = 1 << 20;
const unsigned MAX_THREADS = 1024, WARP_SIZE = 32;
static Fiber fibers[MAX_THREADS];
static ucontext_t entry;
static jmp_buf scheduler;
static unsigned current;
static void (*body)(const void *);
static const void *arguments;

// Stops a thread until all threads of the barrier have reached it.
static void barrier(Barrier reached) {
    fibers[current].at = reached;
    if (_setjmp(fibers[current].place) == 0) _longjmp(scheduler, 1);
}

static void fiber_main() {
    for (;;) {
        body(arguments);
        barrier(NONE);
    }
}

static void resume(unsigned thread) {
    current = thread;
    threadIdx = {thread, 0, 0};
    Fiber &fiber = fibers[thread];
    if (_setjmp(scheduler) != 0) return;
    if (fiber.started) _longjmp(fiber.place, 1);
    if (!fiber.stack) fiber.stack = (char *)malloc(STACK);
    fiber.started = true;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
    swapcontext(&entry, &fiber.context);
}

// The numbers below n in the given order: 0 forward, 1 backward, others seeds of permutations.
struct Order {
    uint64 n, step, shift;
    Order(uint64 n, unsigned order) : n(n), step(1), shift(0) {
        if (order == 0 || n < 2) return;
        step = n - 1;
        shift = n - 1;
        if (order == 1) return;
        uint64 seed = (order * 0x9E3779B97F4A7C15ull) >> 20;
        shift = seed % n;
        for (step = seed / 7 % n; divisor(step, n) != 1; step++) {}
    }
    static uint64 divisor(uint64 a, uint64 b) { return b == 0 ? a : divisor(b, a % b); }
    unsigned operator[](uint64 k) const { return (unsigned)((k * step + shift) % n); }
};

static void stop(const char *name, const char *group, unsigned reached, unsigned threads) {
    fprintf(stderr, "electret emulation: kernel %s, block %u %u %u: %u of %u threads of a %s reached a barrier\n", name,
            blockIdx.x, blockIdx.y, blockIdx.z, reached, threads, group);
    abort();
}

// Runs a warp to a barrier of the block, or to its end.
static Barrier run_warp(const char *name, unsigned first, const Order &threads) {
    for (;;) {
        unsigned at[3] = {0, 0, 0};
        for (unsigned k = 0; k < threads.n; k++) {
            unsigned thread = first + threads[k];
            resume(thread);
            at[fibers[thread].at]++;
        }
        if (at[NONE] == threads.n) return NONE;
        if (at[BLOCK] == threads.n) return BLOCK;
        if (at[WARP] != threads.n) stop(name, "warp", at[WARP] + at[BLOCK], threads.n);
    }
}

static void launch(const char *name, void (*kernel)(const void *), const void *args, const unsigned *grid, unsigned threads,
                   unsigned order) {
    body = kernel;
    arguments = args;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {threads, 1, 1};
    const unsigned n_warps = (threads + WARP_SIZE - 1) / WARP_SIZE;
    const Order blocks((uint64)grid[0] * grid[1] * grid[2], order), warps(n_warps, order), full(WARP_SIZE, order),
        last(threads - (n_warps - 1) * WARP_SIZE, order);
    for (uint64 k = 0; k < blocks.n; k++) {
        const uint64 number = blocks[k];
        blockIdx = {(unsigned)(number % grid[0]), (unsigned)(number / grid[0] % grid[1]),
                    (unsigned)(number / grid[0] / grid[1])};
        clear_shared_memory();
        for (bool running = true; running;) {
            unsigned waiting = 0;
            for (unsigned w = 0; w < n_warps; w++) {
                unsigned warp = warps[w];
                waiting += run_warp(name, warp * WARP_SIZE, warp == n_warps - 1 ? last : full) == BLOCK;
            }
            if (waiting != 0 && waiting != n_warps) stop(name, "block", waiting * WARP_SIZE, threads);
            running = waiting != 0;
        }
    }
}

}  // namespace emulation

static void __syncthreads() { emulation::barrier(emulation::BLOCK); }
#define WARP_BARRIER() emulation::barrier(emulation::WARP)

#define KERNEL(name, Arguments)                                                                              \
    static void name##_body(const Arguments &args);                                                          \
    static void name##_run(const void *args) { name##_body(*(const Arguments *)args); }                      \
    extern "C" __attribute__((visibility("default"))) void name(const void *args, const unsigned *grid,      \
                                                                unsigned threads, unsigned order) {          \
        emulation::launch(#name, name##_run, args, grid, threads, order);                                    \
    }                                                                                                        \
    static void name##_body(const Arguments &args)

#define BOUNDED_KERNEL(name, Arguments, threads, blocks) KERNEL(name, Arguments)

static double atomicAdd(double *target, double value) {
    double before = *target;
    *target += value;
    return before;
}
static int atomicAdd(int *target, int value) {
    int before = *target;
    *target += value;
    return before;
}
template <class V> static V __ldg(const V *p) { return *p; }
static void sincos(double x, double *s, double *c, int) {
    *s = std::sin(x);
    *c = std::cos(x);
}

#endif
