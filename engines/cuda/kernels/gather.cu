// The boxes of the best candidates in order of rank, and keys that sort them by class.
#include "work.cuh"

extern "C" __global__ void gather(Work w) {
    u32 rank = blockIdx.x * blockDim.x + threadIdx.x, picture = blockIdx.y;
    if (rank >= count_of(w, picture)) return;
    const Head &head = *w.head;
    const Request &request = w.requests[picture];
    u64 key = w.keys[(u64)picture * w.capacity + rank];
    u32 row = index_of(key) / head.classes, label = index_of(key) % head.classes;
    u64 at = (u64)picture * w.most + rank;
    w.boxes[at] = corners_of(head, place_of(head, picture, row), request.picture);
    w.order[at] = (u64)(request.agnostic ? 0u : label) << 32 | rank;
    if (request.method == CANDIDATES && rank < request.most) keep(w, picture, key);
}
