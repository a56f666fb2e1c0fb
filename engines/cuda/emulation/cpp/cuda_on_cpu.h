// What the kernels use of CUDA's language, on the CPU.
//
// The threads of a block are fibers: each runs until it reaches a barrier or its end, then the next one does, in an order
// that differs from barrier to barrier. What a kernel reads or writes without a barrier in between is so seen in other
// orders than the one that was thought of.
#pragma once
#include <cmath>
#include <cstring>

struct Index {
    unsigned x, y, z;
};
extern Index threadIdx, blockIdx, blockDim, gridDim;

#define __device__
#define __global__
#define __launch_bounds__(threads)
// All in one place, so that it can be filled with garbage before each block.
#define __shared__ static __attribute__((section("block_shared")))
#define __syncthreads() emulator_barrier(__FILE__, __LINE__)

void emulator_barrier(const char *file, int line);

inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Fibers do not run at the same time.
inline unsigned atomicAdd(unsigned *address, unsigned value) {
    unsigned old = *address;
    *address = old + value;
    return old;
}
