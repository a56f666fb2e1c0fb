// Matrix NMS: every score decays by its overlap with better boxes of its class, one thread for one box. With the boxes in
// order of class and rank, a block takes as many of them as it has threads, of whatever classes: a class of many boxes is
// spread over many blocks, and small ones share one. `largest` of all boxes comes first, so there are two kernels.
#include "overlap.cuh"
#include "work.cuh"

#define MATRIX_THREADS 256

struct Better {
    Corners box;
    float area;
    float compensation; // what it contributes to the decay of those after it
};

struct Row {
    const u64 *order;
    const Corners *boxes;
    float *largest;
    u32 count;    // of all in the picture
    u32 position; // this thread's box, in order of class
    u32 start;    // of its class
    bool takes_part;
    Corners box;
    float area;
};

__device__ inline bool is_matrix(const Request &request) {
    return request.method == MATRIX_LINEAR || request.method == MATRIX_GAUSSIAN;
}

__device__ inline Row row_of(const Work &w, const Request &request) {
    u64 first = (u64)blockIdx.y * w.most;
    Row row;
    row.order = w.order + first;
    row.boxes = w.boxes + first;
    row.largest = w.largest + first;
    row.count = count_of(w, blockIdx.y);
    row.position = blockIdx.x * blockDim.x + threadIdx.x;
    row.takes_part = row.position < row.count;
    if (row.takes_part) {
        u64 own = row.order[row.position];
        row.start = start_of(row.order, row.count, (u32)(own >> 32));
        row.takes_part = row.position - row.start < request.top_k;
        row.box = row.boxes[index_of(own)];
        row.area = area(row.box, request.offset);
    }
    return row;
}

__device__ inline float compensation_of(const Request &request, float largest) {
    return request.method == MATRIX_LINEAR ? 1.0f / (1.0f - largest) : largest * largest;
}

// Shows each better box of its class to `see`, in tiles that the block loads together.
template <typename See>
__device__ inline void each_better(const Row &row, const Request &request, bool compensated, See see) {
    __shared__ Better tile[MATRIX_THREADS];
    u32 first = blockIdx.x * blockDim.x, end = least(first + blockDim.x, row.count);
    u32 begin = start_of(row.order, row.count, (u32)(row.order[first] >> 32));
    for (u32 base = begin; base < end; base += blockDim.x) {
        u32 filled = least(blockDim.x, end - base), at = base + threadIdx.x;
        if (threadIdx.x < filled) {
            Better better;
            better.box = row.boxes[index_of(row.order[at])];
            better.area = area(better.box, request.offset);
            better.compensation = compensated ? compensation_of(request, row.largest[at]) : 0.0f;
            tile[threadIdx.x] = better;
        }
        __syncthreads();
        if (row.takes_part && row.position > base && row.start < base + filled) {
            u32 from = row.start > base ? row.start - base : 0u;
            u32 to = least(filled, row.position - base);
            for (u32 k = from; k < to; k++) see(tile[k]);
        }
        __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(MATRIX_THREADS) matrix_overlap(Work w) {
    const Request &request = w.requests[blockIdx.y];
    if (!is_matrix(request) || blockIdx.x * blockDim.x >= count_of(w, blockIdx.y)) return;
    Row row = row_of(w, request);
    float largest = 0.0f;
    each_better(row, request, false, [&](const Better &better) {
        largest = maximum(largest, overlap(better.box, better.area, row.box, row.area, request.offset));
    });
    if (row.position < row.count) row.largest[row.position] = largest;
}

extern "C" __global__ void __launch_bounds__(MATRIX_THREADS) matrix_decay(Work w) {
    const Request &request = w.requests[blockIdx.y];
    if (!is_matrix(request) || blockIdx.x * blockDim.x >= count_of(w, blockIdx.y)) return;
    Row row = row_of(w, request);
    bool linear = request.method == MATRIX_LINEAR;
    float least_value = linear ? 1.0f : 0.0f;
    each_better(row, request, true, [&](const Better &better) {
        float v = overlap(better.box, better.area, row.box, row.area, request.offset);
        float value = linear ? (1.0f - v) * better.compensation : better.compensation - v * v;
        least_value = minimum(least_value, value);
    });
    if (!row.takes_part) return;
    u64 key = w.keys[(u64)blockIdx.y * w.capacity + index_of(row.order[row.position])];
    float decayed = score_of(key) * (linear ? least_value : expf(request.sigma * least_value));
    if (!(decayed > request.post_threshold)) return;
    // Equal scores come in order of class, then of row.
    u32 classes = w.head->classes, index = index_of(key);
    if (!request.agnostic) index = index % classes * w.head->rows + index / classes;
    keep(w, blockIdx.y, key_of(decayed, index));
}
