// Numbers of 16 bits, without the toolkit's headers, which the run-time compiler does not bring along.
#pragma once
#include "common.cuh"

enum Number { FLOAT32 = 0, FLOAT16 = 1, BFLOAT16 = 2 };

// IEEE half precision, rounded to the nearest, ties to even.
__device__ inline u16 to_half(float value) {
    u32 bits = __float_as_uint(value);
    u32 sign = bits >> 16 & 0x8000u;
    u32 magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (u16)(sign | 0x7e00u); // not a number
    if (magnitude >= 0x477ff000u) return (u16)(sign | 0x7c00u); // rounds beyond the largest
    u32 kept, rest, half;
    if (magnitude < 0x38800000u) { // below the smallest normal number
        u32 shift = 126u - (magnitude >> 23);
        if (shift > 24u) return (u16)sign;
        u32 mantissa = (magnitude & 0x7fffffu) | 0x800000u;
        kept = mantissa >> shift;
        rest = mantissa & ((1u << shift) - 1u);
        half = 1u << (shift - 1u);
    } else {
        kept = (magnitude - 0x38000000u) >> 13;
        rest = magnitude & 0x1fffu;
        half = 0x1000u;
    }
    if (rest > half || (rest == half && (kept & 1u))) kept++;
    return (u16)(sign | kept);
}

__device__ inline float from_half(u16 value) {
    u32 sign = (u32)(value & 0x8000u) << 16;
    u32 exponent = value >> 10 & 31u, mantissa = value & 0x3ffu;
    if (exponent == 31u) return __uint_as_float(sign | 0x7f800000u | mantissa << 13);
    if (exponent) return __uint_as_float(sign | (exponent + 112u) << 23 | mantissa << 13);
    float tiny = (float)mantissa * 5.9604644775390625e-8f; // exact: units of 2^-24
    return sign ? -tiny : tiny;
}

__device__ inline u16 to_bfloat(float value) {
    u32 bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (u16)(bits >> 16 | 0x40u);
    return (u16)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

__device__ inline float from_bfloat(u16 value) { return __uint_as_float((u32)value << 16); }

__device__ inline float load(const void *numbers, u32 kind, u64 at) {
    if (kind == FLOAT16) return from_half(((const u16 *)numbers)[at]);
    if (kind == BFLOAT16) return from_bfloat(((const u16 *)numbers)[at]);
    return ((const float *)numbers)[at];
}

__device__ inline void store(void *numbers, u32 kind, u64 at, float value) {
    if (kind == FLOAT16) ((u16 *)numbers)[at] = to_half(value);
    else if (kind == BFLOAT16) ((u16 *)numbers)[at] = to_bfloat(value);
    else ((float *)numbers)[at] = value;
}
