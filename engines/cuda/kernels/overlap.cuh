// Intersection over union. `offset` is 0 for continuous coordinates, 1 where they count pixels. Boxes that touch meet;
// two boxes without area give what is no number.
#pragma once
#include "head.cuh"

__device__ inline float area(const Corners &box, float offset) {
    if (box.x2 < box.x1 || box.y2 < box.y1) return 0.0f;
    return (box.x2 - box.x1 + offset) * (box.y2 - box.y1 + offset);
}

__device__ inline float overlap(const Corners &a, float area_a, const Corners &b, float area_b, float offset) {
    if (a.x1 > b.x2 || a.x2 < b.x1 || a.y1 > b.y2 || a.y2 < b.y1) return 0.0f;
    float width = minimum(a.x2, b.x2) - maximum(a.x1, b.x1) + offset;
    float height = minimum(a.y2, b.y2) - maximum(a.y1, b.y1) + offset;
    float intersection = width * height;
    return intersection / (area_a + area_b - intersection);
}
