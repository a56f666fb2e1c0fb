// Sorts the keys of each picture, one block for one picture: a bitonic network whose comparators all put the smaller key
// first, so that a number of keys that is no power of two needs no filling up. Runs of a tile are sorted in shared memory.
#include "common.cuh"

#define TILE 4096u

struct SortArguments {
    u64 *keys;
    const u32 *counts;
    u32 stride; // keys of a picture
    u32 most;   // sorted of each
};

static_assert(sizeof(SortArguments) == 24, "as in layout.rs");

__device__ inline void exchange(u64 *keys, u32 low, u32 high, u32 count) {
    if (high >= count) return;
    u64 first = keys[low], second = keys[high];
    if (second < first) {
        keys[low] = second;
        keys[high] = first;
    }
}

// Compares each key of the first half of a run of `size` with its mirror image.
__device__ inline void flip(u64 *keys, u32 pair, u32 size, u32 count) {
    u32 half = size / 2u, run = pair / half * size, within = pair % half;
    exchange(keys, run + within, run + size - 1u - within, count);
}

// Compares keys that are `distance` apart.
__device__ inline void compare(u64 *keys, u32 pair, u32 distance, u32 count) {
    u32 low = pair / distance * 2u * distance + pair % distance;
    exchange(keys, low, low + distance, count);
}

// As many pairs as in whole runs of `size`; beyond the count nothing is touched.
__device__ inline u32 pairs_of(u32 count, u32 size) { return (count + size - 1u) / size * (size / 2u); }

__device__ inline void compare_down(u64 *keys, u32 from, u32 pairs, u32 count) {
    for (u32 distance = from; distance > 0u; distance /= 2u) {
        for (u32 pair = threadIdx.x; pair < pairs; pair += blockDim.x) compare(keys, pair, distance, count);
        __syncthreads();
    }
}

__device__ inline void copy(u64 *to, const u64 *from, u32 count) {
    for (u32 at = threadIdx.x; at < count; at += blockDim.x) to[at] = from[at];
    __syncthreads();
}

extern "C" __global__ void __launch_bounds__(1024) sort(SortArguments a) {
    __shared__ u64 tile[TILE];
    u64 *keys = a.keys + (u64)blockIdx.y * a.stride;
    u32 count = least(a.counts[blockIdx.y], a.most);
    if (count < 2u) return;
    for (u32 start = 0; start < count; start += TILE) {
        u32 filled = least(TILE, count - start);
        copy(tile, keys + start, filled);
        for (u32 size = 2u; size / 2u < filled; size *= 2u) {
            u32 pairs = pairs_of(filled, size);
            for (u32 pair = threadIdx.x; pair < pairs; pair += blockDim.x) flip(tile, pair, size, filled);
            __syncthreads();
            compare_down(tile, size / 4u, pairs, filled);
        }
        copy(keys + start, tile, filled);
    }
    for (u32 size = 2u * TILE; size / 2u < count; size *= 2u) {
        u32 pairs = pairs_of(count, size);
        for (u32 pair = threadIdx.x; pair < pairs; pair += blockDim.x) flip(keys, pair, size, count);
        __syncthreads();
        for (u32 distance = size / 4u; distance >= TILE; distance /= 2u) {
            for (u32 pair = threadIdx.x; pair < pairs; pair += blockDim.x) compare(keys, pair, distance, count);
            __syncthreads();
        }
        for (u32 start = 0; start < count; start += TILE) {
            u32 filled = least(TILE, count - start);
            copy(tile, keys + start, filled);
            compare_down(tile, TILE / 2u, TILE / 2u, filled);
            copy(keys + start, tile, filled);
        }
    }
}
