// What all kernels from a head's outputs to kept boxes work on. Their block index is x, the picture is y.
#pragma once
#include "head.cuh"

enum Method { MATRIX_LINEAR = 0, MATRIX_GAUSSIAN = 1, GREEDY = 2, CANDIDATES = 3 };

// What is asked for one picture.
struct Request {
    float score_threshold;
    u32 method;
    u32 multi_label, agnostic;
    u32 most;      // boxes to give back
    u32 top_k;     // candidates of a class that take part
    float sigma, post_threshold; // of Matrix NMS
    float offset;  // 1 where coordinates count pixels, else 0
    float iou_threshold, eta; // of greedy NMS
    u32 filters;   // only the allowed classes
    u32 picture[2]; // the size that the boxes of YOLO_BOX are measured in
};

struct Kept {
    Corners box;
    float score;
    u32 label, row, unused;
};

struct Work {
    const Head *head;
    const Request *requests;
    const u32 *allowed;  // bits of the allowed classes, `words` for each picture
    u32 *found;          // candidates of each picture; may be more than `capacity`
    u32 *kept;           // how many are kept
    u64 *keys;           // `capacity` for each picture: score and index, then in order
    u64 *order;          // `most` for each picture: class and rank, then in order
    Corners *boxes;      // `most` for each picture, in order of rank
    float *largest;      // `most`, in order of class: overlap with a better box
    u64 *kept_keys;      // `most`: score and index of what is kept, then in order
    Corners *kept_boxes; // `most`, in order of class: those kept by greedy NMS
    Kept *answer;        // `most` for each picture; the host's memory
    u32 *answer_counts;  // found and kept of each picture; the host's memory
    u32 capacity, most, words, unused;
};

static_assert(sizeof(Request) == 56 && sizeof(Kept) == 32 && sizeof(Work) == 120, "as in layout.rs");

// Candidates that take part: the best.
__device__ inline u32 count_of(const Work &w, u32 picture) {
    return least(least(w.found[picture], w.capacity), w.most);
}

// The first place in the order of classes whose class is not below `label`.
__device__ inline u32 start_of(const u64 *order, u32 count, u32 label) {
    u32 low = 0, high = count;
    while (low < high) {
        u32 middle = (low + high) / 2u;
        if ((u32)(order[middle] >> 32) < label) low = middle + 1u;
        else high = middle;
    }
    return low;
}

__device__ inline void keep(const Work &w, u32 picture, u64 key) {
    w.kept_keys[(u64)picture * w.most + atomicAdd(&w.kept[picture], 1u)] = key;
}
