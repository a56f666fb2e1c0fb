// From decoded pictures to a network's input: resized, placed, normalised, in planes or interleaved. The weights are the
// fixed-point ones of the CPU's resizing, and every intermediate value is rounded to a byte as there.
#include "numbers.cuh"

// How one column or row comes of up to four of the picture's.
struct Tap {
    u32 first;
    short weight[4];
};

struct Source {
    const u8 *pixels; // rows of RGB triples
    u32 width, height;
    u32 columns, rows; // of the resized picture
    u32 left, top;     // its place in the input
    u32 across, down;  // its first taps
    u32 across_bits, down_bits; // bits behind the point of the weights
};

struct LetterboxArguments {
    const Source *sources;
    const Tap *taps;
    void *input;
    u64 picture, plane, row, column; // steps of the input, in numbers
    u32 width, height, kind;
    u32 from[3]; // which byte of a pixel goes to each plane
    float factor[3], bias[3], padding[3];
};

static_assert(sizeof(Tap) == 12 && sizeof(Source) == 48 && sizeof(LetterboxArguments) == 120, "as in layout.rs");

__device__ inline int clip(int sum, u32 bits) {
    int value = sum >> bits;
    return value < 0 ? 0 : value > 255 ? 255 : value;
}

extern "C" __global__ void letterbox(LetterboxArguments a) {
    u32 place = blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= a.width * a.height) return;
    const Source &source = a.sources[blockIdx.y];
    u32 x = place % a.width, y = place / a.width;
    u64 target = blockIdx.y * a.picture + y * a.row + x * a.column;
    // A place before the picture wraps around and is beyond it.
    u32 column = x - source.left, row = y - source.top;
    if (column >= source.columns || row >= source.rows) {
        for (u32 c = 0; c < 3; c++) store(a.input, a.kind, target + c * a.plane, a.padding[c]);
        return;
    }
    const Tap &across = a.taps[source.across + column], &down = a.taps[source.down + row];
    int sum[3];
    for (u32 c = 0; c < 3; c++) sum[c] = 1 << (source.across_bits - 1u);
    for (u32 i = 0; i < 4; i++) {
        if (across.weight[i] == 0) continue;
        int vertical[3];
        for (u32 c = 0; c < 3; c++) vertical[c] = 1 << (source.down_bits - 1u);
        for (u32 j = 0; j < 4; j++) {
            if (down.weight[j] == 0) continue;
            const u8 *pixel = source.pixels + ((u64)(down.first + j) * source.width + across.first + i) * 3u;
            for (u32 c = 0; c < 3; c++) vertical[c] += pixel[c] * down.weight[j];
        }
        for (u32 c = 0; c < 3; c++) sum[c] += clip(vertical[c], source.down_bits) * across.weight[i];
    }
    for (u32 c = 0; c < 3; c++) {
        float value = (float)clip(sum[a.from[c]], source.across_bits) * a.factor[c] + a.bias[c];
        store(a.input, a.kind, target + c * a.plane, value);
    }
}
