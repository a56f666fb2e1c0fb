// Threshold and compaction: the rows of a head that score enough, as keys of score and index, in no order. The index is
// row times classes plus class, so that equal scores are ranked by row, then by class.
#include "work.cuh"

__device__ inline bool passes(const Head &head, const Request &request, float score) {
    return score > request.score_threshold || (head.keeps_equal && score == request.score_threshold);
}

__device__ inline void offer(const Work &w, u32 picture, u32 row, u32 label, float score) {
    const Request &request = w.requests[picture];
    if (!passes(*w.head, request, score) || !is_finite(score)) return;
    if (request.filters && !(w.allowed[picture * w.words + label / 32u] >> label % 32u & 1u)) return;
    u32 at = atomicAdd(&w.found[picture], 1u);
    if (at < w.capacity) w.keys[(u64)picture * w.capacity + at] = key_of(score, row * w.head->classes + label);
}

extern "C" __global__ void score(Work w) {
    const Head &head = *w.head;
    u32 row = blockIdx.x * blockDim.x + threadIdx.x, picture = blockIdx.y;
    if (row >= head.rows) return;
    const Request &request = w.requests[picture];
    Place place = place_of(head, picture, row);
    float objectness = objectness_of(head, place);
    if (head.objectness_form != NO_OBJECTNESS && !passes(head, request, objectness)) return;
    if (request.multi_label) {
        if (!usable(corners_of(head, place, request.picture))) return;
        for (u32 label = 0; label < head.classes; label++)
            offer(w, picture, row, label, objectness * class_of(head, place, label));
        return;
    }
    // The first of equal classes. What is no number never wins.
    u32 best_label = 0;
    float best = NO_SCORE;
    for (u32 label = 0; label < head.classes; label++) {
        float value = objectness * class_of(head, place, label);
        if (value > best) {
            best = value;
            best_label = label;
        }
    }
    if (passes(head, request, best) && usable(corners_of(head, place, request.picture)))
        offer(w, picture, row, best_label, best);
}
