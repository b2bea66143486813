// What kernels need of the platform: the CUDA compiler's, or an emulation by the host's C++ compiler with which tests
// run every kernel without a GPU.
//
// A kernel takes one structure by value:
//
//     KERNEL(scale, ScaleArguments) { ... args.n ... }
//
// Emulated, the threads of a block are fibers that take turns at __syncthreads(); a barrier that only some threads
// reach stops the program with a message. Blocks run one after the other.
#pragma once

#ifndef ELECTRET_HOST

#define DEVICE __device__ __forceinline__
#define SHARED __shared__
#define KERNEL(name, Arguments) extern "C" __global__ void name(const __grid_constant__ Arguments args)
// A kernel of so many threads in a block, with registers for so many blocks on a multiprocessor.
#define BOUNDED_KERNEL(name, Arguments, threads, blocks) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Arguments args)
// A barrier of the threads of a warp, which every thread of the BLOCK must reach.
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
#define SHARED static
#define __restrict__ __restrict
#define __launch_bounds__(...)

typedef unsigned long long uint64;

struct Dim3 {
    unsigned x, y, z;
};
static Dim3 blockIdx, threadIdx, blockDim, gridDim;

namespace emulation {

struct Fiber {
    ucontext_t context;
    jmp_buf place;
    char *stack;
    bool started, finished;
};

const size_t STACK = 1 << 20;
const int MAX_THREADS = 1024;
static Fiber fibers[MAX_THREADS];
static ucontext_t entry;
static jmp_buf scheduler;
static int current;
static void (*body)(const void *);
static const void *arguments;

static void yield() {
    if (_setjmp(fibers[current].place) == 0) _longjmp(scheduler, 1);
}

static void fiber_main() {
    for (;;) {
        body(arguments);
        fibers[current].finished = true;
        yield();
    }
}

static void resume(int thread) {
    current = thread;
    threadIdx = {(unsigned)thread, 0, 0};
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

static void barrier() { yield(); }

static void launch(const char *name, void (*kernel)(const void *), const void *args, const unsigned *grid, unsigned threads) {
    body = kernel;
    arguments = args;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {threads, 1, 1};
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                blockIdx = {x, y, z};
                for (unsigned t = 0; t < threads; t++) fibers[t].finished = false;
                for (bool running = true; running;) {
                    unsigned waiting = 0;
                    for (unsigned t = 0; t < threads; t++) {
                        resume((int)t);
                        waiting += !fibers[t].finished;
                    }
                    if (waiting != 0 && waiting != threads) {
                        fprintf(stderr, "electret emulation: kernel %s, block %u %u %u: %u of %u threads reached a barrier\n",
                                name, x, y, z, waiting, threads);
                        abort();
                    }
                    running = waiting != 0;
                }
            }
}

}  // namespace emulation

static void __syncthreads() { emulation::barrier(); }
#define WARP_BARRIER() __syncthreads()

#define KERNEL(name, Arguments)                                                                              \
    static void name##_body(const Arguments &args);                                                          \
    static void name##_run(const void *args) { name##_body(*(const Arguments *)args); }                      \
    extern "C" __attribute__((visibility("default"))) void name(const void *args, const unsigned *grid,      \
                                                                unsigned threads) {                          \
        emulation::launch(#name, name##_run, args, grid, threads);                                           \
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
