// Greedy NMS: the best box drops those of its class that overlap it too much. One block for a picture and a class. The
// candidates come in groups of as many as there are threads: each is compared with all boxes kept before its group, then
// the group is settled one by one.
#include "overlap.cuh"
#include "work.cuh"

#define GREEDY_THREADS 128

extern "C" __global__ void __launch_bounds__(GREEDY_THREADS) greedy_nms(Work w) {
    __shared__ Corners box;  // of the candidate whose turn it is
    __shared__ u32 is_kept;
    u32 label = blockIdx.x, picture = blockIdx.y;
    const Request &request = w.requests[picture];
    if (request.method != GREEDY || (request.agnostic && label > 0u)) return;
    const u64 *order = w.order + (u64)picture * w.most;
    u32 count = count_of(w, picture);
    u32 start = start_of(order, count, label), end = start_of(order, count, label + 1u);
    if (end - start > request.top_k) end = start + request.top_k;
    const Corners *boxes = w.boxes + (u64)picture * w.most;
    Corners *kept_boxes = w.kept_boxes + (u64)picture * w.most + start;
    float threshold = request.iou_threshold;
    u32 kept = 0;
    // No class can give more to the answer than the answer holds.
    for (u32 group = start; group < end && kept < request.most; group += blockDim.x) {
        u32 members = least(blockDim.x, end - group);
        Corners own = Corners{0.0f, 0.0f, 0.0f, 0.0f};
        u32 rank = 0;
        float own_area = 0.0f, largest = 0.0f;
        if (threadIdx.x < members) {
            rank = index_of(order[group + threadIdx.x]);
            own = boxes[rank];
            own_area = area(own, 0.0f);
            for (u32 k = 0; k < kept; k++)
                largest = maximum(largest, overlap(kept_boxes[k], area(kept_boxes[k], 0.0f), own, own_area, 0.0f));
        }
        for (u32 turn = 0; turn < members && kept < request.most; turn++) {
            if (threadIdx.x == turn) {
                is_kept = !(largest > threshold);
                box = own;
                if (is_kept) {
                    kept_boxes[kept] = own;
                    keep(w, picture, w.keys[(u64)picture * w.capacity + rank]);
                }
            }
            __syncthreads();
            if (is_kept) {
                if (threadIdx.x > turn && threadIdx.x < members)
                    largest = maximum(largest, overlap(box, area(box, 0.0f), own, own_area, 0.0f));
                kept++;
                if (request.eta < 1.0f && threshold > 0.5f) threshold *= request.eta;
            }
            __syncthreads();
        }
    }
}
