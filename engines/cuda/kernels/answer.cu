// What is kept, best first, written into the host's memory: nothing else travels back.
#include "work.cuh"

extern "C" __global__ void answer(Work w) {
    u32 at = blockIdx.x * blockDim.x + threadIdx.x, picture = blockIdx.y;
    const Head &head = *w.head;
    const Request &request = w.requests[picture];
    u32 count = least(w.kept[picture], request.most);
    if (at == 0u) {
        w.answer_counts[2u * picture] = w.found[picture];
        w.answer_counts[2u * picture + 1u] = count;
    }
    if (at >= count) return;
    u64 key = w.kept_keys[(u64)picture * w.most + at];
    u32 index = index_of(key), row = index / head.classes, label = index % head.classes;
    if (request.method <= MATRIX_GAUSSIAN && !request.agnostic) {
        label = index / head.rows;
        row = index % head.rows;
    }
    Kept kept;
    kept.box = corners_of(head, place_of(head, picture, row), request.picture);
    kept.score = score_of(key);
    kept.label = label;
    kept.row = row;
    kept.unused = 0u;
    w.answer[(u64)picture * w.most + at] = kept;
}
