// Types, and the small functions of several kernels.
//
// Every floating-point operation is written as on the CPU, in its order, and compiled without fused operations: what is
// computed from sums, products and quotients alone is equal to the CPU's result in every bit.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define NO_SCORE __uint_as_float(0xff800000u) // below every score

__device__ inline bool is_finite(float value) { return (__float_as_uint(value) >> 23 & 255u) != 255u; }

__device__ inline u32 least(u32 a, u32 b) { return b < a ? b : a; }

// The smaller and the larger; where `b` is no number, `a`.
__device__ inline float minimum(float a, float b) { return b < a ? b : a; }
__device__ inline float maximum(float a, float b) { return b > a ? b : a; }

// A key sorts scores in falling order, and equal scores by index; +0 and -0 are equal.
__device__ inline u64 key_of(float score, u32 index) {
    u32 bits = __float_as_uint(score + 0.0f);
    u32 rank = bits >> 31 ? bits : ~bits & 0x7fffffffu;
    return (u64)rank << 32 | index;
}

__device__ inline float score_of(u64 key) {
    u32 rank = (u32)(key >> 32);
    return __uint_as_float(rank >> 31 ? rank : ~rank & 0x7fffffffu);
}

__device__ inline u32 index_of(u64 key) { return (u32)key; }
