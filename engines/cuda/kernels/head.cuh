// A head's numbers, and the formulas from them to corners and scores; one description for every layout.
#pragma once
#include "numbers.cuh"

#define MOST_LEVELS 8
#define MOST_ANCHORS 16

enum BoxForm { CORNERS = 0, CENTRE = 1, YOLOV5_BOX = 2, YOLOX_BOX = 3, YOLO_BOX = 4 };
enum Objectness { NO_OBJECTNESS = 0, PROBABILITY = 1, LOGIT = 2, IOU_AWARE = 3 };

// Element `e` of cell `c` and anchor `a` lies at `a * anchor + c * cell + e * element` from the picture's beginning.
struct Numbers {
    const void *data;
    u64 picture;
    u32 anchor, cell, element;
    u32 first; // the first element of interest
};

struct Level {
    Numbers box, objectness, iou, classes;
    u32 first_row, across, cells;
    float stride;
    float anchors[MOST_ANCHORS][2];
};

struct Head {
    Level levels[MOST_LEVELS];
    u32 level_count, rows, classes, kind;
    u32 box_form, objectness_form, class_logits, keeps_equal;
    float scale_x_y, least_confidence, iou_factor;
    u32 clips;
};

static_assert(sizeof(Numbers) == 32 && sizeof(Level) == 272 && sizeof(Head) == 2224, "as in layout.rs");

struct Corners {
    float x1, y1, x2, y2;
};

// Where a row's numbers are.
struct Place {
    const Level *level;
    u32 picture, anchor, cell;
};

__device__ inline Place place_of(const Head &head, u32 picture, u32 row) {
    u32 at = 0;
    while (at + 1 < head.level_count && row >= head.levels[at + 1].first_row) at++;
    const Level &level = head.levels[at];
    u32 within = row - level.first_row;
    return Place{&level, picture, within / level.cells, within % level.cells};
}

__device__ inline float number(const Head &head, const Numbers &numbers, const Place &place, u32 element) {
    u64 at = place.picture * numbers.picture + (u64)place.anchor * numbers.anchor + (u64)place.cell * numbers.cell;
    return load(numbers.data, head.kind, at + (u64)(numbers.first + element) * numbers.element);
}

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// The probability that there is something; 1 where the head does not say.
__device__ inline float objectness_of(const Head &head, const Place &place) {
    if (head.objectness_form == NO_OBJECTNESS) return 1.0f;
    float raw = number(head, place.level->objectness, place, 0);
    if (head.objectness_form == PROBABILITY) return raw;
    float confidence = sigmoid(raw);
    if (head.objectness_form == IOU_AWARE) {
        float iou = sigmoid(number(head, place.level->iou, place, 0));
        confidence = powf(confidence, 1.0f - head.iou_factor) * powf(iou, head.iou_factor);
    }
    return confidence < head.least_confidence ? 0.0f : confidence;
}

__device__ inline float class_of(const Head &head, const Place &place, u32 index) {
    float raw = number(head, place.level->classes, place, index);
    return head.class_logits ? sigmoid(raw) : raw;
}

__device__ inline Corners around(float x, float y, float width, float height) {
    float across = width * 0.5f, down = height * 0.5f;
    return Corners{x - across, y - down, x + across, y + down};
}

// Paddle's yolo_box. `picture` is the size that the boxes are measured in.
__device__ inline Corners yolo_box(const Head &head, const Place &place, const float t[4], const u32 picture[2]) {
    const Level &level = *place.level;
    float shift = (head.scale_x_y - 1.0f) * 0.5f;
    u32 grid[2] = {level.across, level.cells / level.across};
    u32 cell[2] = {place.cell % level.across, place.cell / level.across};
    float centre[2], size[2];
    for (u32 axis = 0; axis < 2; axis++) {
        float length = (float)picture[axis];
        centre[axis] = ((float)cell[axis] + head.scale_x_y * sigmoid(t[axis]) - shift) * length / (float)grid[axis];
        float input = level.stride * (float)grid[axis];
        size[axis] = expf(t[2 + axis]) * level.anchors[place.anchor][axis] * length / input;
    }
    Corners box = around(centre[0], centre[1], size[0], size[1]);
    if (head.clips) {
        float right = (float)picture[0] - 1.0f, bottom = (float)picture[1] - 1.0f;
        box.x1 = box.x1 > 0.0f ? box.x1 : 0.0f;
        box.y1 = box.y1 > 0.0f ? box.y1 : 0.0f;
        box.x2 = box.x2 > right ? right : box.x2;
        box.y2 = box.y2 > bottom ? bottom : box.y2;
    }
    return box;
}

__device__ inline Corners corners_of(const Head &head, const Place &place, const u32 picture[2]) {
    const Level &level = *place.level;
    float t[4];
    for (u32 element = 0; element < 4; element++) t[element] = number(head, level.box, place, element);
    float column = (float)(place.cell % level.across), row = (float)(place.cell / level.across);
    switch (head.box_form) {
    case CORNERS:
        return Corners{t[0], t[1], t[2], t[3]};
    case YOLOV5_BOX: {
        float width = 2.0f * sigmoid(t[2]), height = 2.0f * sigmoid(t[3]);
        return around((2.0f * sigmoid(t[0]) - 0.5f + column) * level.stride,
                      (2.0f * sigmoid(t[1]) - 0.5f + row) * level.stride,
                      level.anchors[place.anchor][0] * (width * width),
                      level.anchors[place.anchor][1] * (height * height));
    }
    case YOLOX_BOX:
        return around((t[0] + column) * level.stride, (t[1] + row) * level.stride, expf(t[2]) * level.stride,
                      expf(t[3]) * level.stride);
    case YOLO_BOX:
        return yolo_box(head, place, t, picture);
    default:
        return around(t[0], t[1], t[2], t[3]);
    }
}

// Finite and not inverted.
__device__ inline bool usable(const Corners &box) {
    return is_finite(box.x1) && is_finite(box.y1) && is_finite(box.x2) && is_finite(box.y2) && box.x1 <= box.x2 &&
           box.y1 <= box.y2;
}
