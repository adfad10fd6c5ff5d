// One pixel of one view, as a model takes it: the arithmetic of the graph `front`, on a GPU, and on a CPU for tests.
//
// The order of operations is the graph's, and no product and sum are contracted to one operation: so pixels of exact
// views without colour equal those made on the CPU to the bit.
#pragma once

#ifdef __CUDACC__
#define ON_BOTH __host__ __device__ __forceinline__
#else
#include <cmath>
#include <cstdint>
#define ON_BOTH inline
#endif

// Columns of a row of the table, as `rows.Column` has them: floats.
enum Column { IMAGE = 0, MATRIX = 1, CANVAS = 7, FRAME = 9, BORDER = 13, EXACT = 14, COLORED = 15, COLOR = 16, WIDTH = 28 };
// Codes of borders, as `rows.BORDER_CODES` has them.
enum Border { REFLECT101 = 0, REFLECT = 1, REPLICATE = 2, CONSTANT = 3 };

// Canvases (images, channels, height, width) of bytes; what is beyond a row's canvas is not read.
struct Slab {
    const uint8_t* bytes;
    int images, height, width;
};

// The model's input: its size, (x / scale - mean) / std by channel, and the normalised value of letterbox bars.
struct Model {
    float scale, mean[3], std[3], bar[3];
    int has_bars, channels_last, height, width;
};

// A pixel that a sample reads, as an offset in a plane; beyond the canvas the weight is 0, and the offset too.
struct Tap {
    long long offset;
    float weight;
};

ON_BOTH float fold_reflect101(float x, float length) {
    float last = length - 1.f;
    if (x >= 0.f && x <= last) return x;
    float period = fmaxf(last * 2.f, 1.f);
    float within = x - period * floorf(x / period);
    return last - fabsf(within - last);
}

ON_BOTH float fold_reflect(float x, float length) {
    float period = length * 2.f, place = x + .5f;
    float within = place - period * floorf(place / period);
    return length - fabsf(within - length) - .5f;
}

// A position on an axis by a row's border; those of `constant` end just beyond the canvas. Not a number becomes 0 or -2.
ON_BOTH float fold(float x, float length, int border) {
    if (border == CONSTANT) return fminf(fmaxf(x, -2.f), length + 1.f);
    float last = length - 1.f;
    if (x >= 0.f && x <= last) return x;
    if (border == REFLECT101) x = fold_reflect101(x, length);
    if (border == REFLECT) x = fold_reflect(x, length);
    return fminf(fmaxf(x, 0.f), last);
}

ON_BOTH Tap tap(const Slab& slab, const float* canvas, float x, float y, float weight) {
    bool inside = x >= 0.f && y >= 0.f && x < fminf(canvas[0], (float)slab.width) && y < fminf(canvas[1], (float)slab.height);
    if (!inside) return {0, 0.f};
    return {(long long)(int)y * slab.width + (int)x, weight};  // a GPU converts floats to 32 bits faster
}

// Values in [0, 255] at a position of a canvas, which is whole at a pixel's centre; 0 beyond the canvas.
template <int DEPTH>
ON_BOTH void sample(const Slab& slab, const float* row, float x, float y, float* value) {
    long long plane = (long long)slab.height * slab.width;
    const uint8_t* planes = slab.bytes + (long long)row[IMAGE] * DEPTH * plane;
    const float* canvas = row + CANVAS;
    if (row[EXACT] != 0.f) {
        Tap only = tap(slab, canvas, x, y, 1.f);
        for (int c = 0; c < DEPTH; c++) value[c] = only.weight * planes[c * plane + only.offset];
        return;
    }
    float left = floorf(x), top = floorf(y), right_part = x - left, lower_part = y - top;
    float left_part = 1.f - right_part, upper_part = 1.f - lower_part;
    Tap a = tap(slab, canvas, left, top, left_part * upper_part);
    Tap b = tap(slab, canvas, left + 1.f, top, right_part * upper_part);
    Tap d = tap(slab, canvas, left, top + 1.f, left_part * lower_part);
    Tap e = tap(slab, canvas, left + 1.f, top + 1.f, right_part * lower_part);
    for (int c = 0; c < DEPTH; c++) {
        const uint8_t* q = planes + c * plane;
        value[c] = a.weight * q[a.offset] + b.weight * q[b.offset] + d.weight * q[d.offset] + e.weight * q[e.offset];
    }
}

// The row's colour map: for each channel a factor for each channel, and an offset; then clipped to [0, 255].
template <int DEPTH>
ON_BOTH void apply_color(const float* row, float* value) {
    float mapped[DEPTH];
    for (int c = 0; c < DEPTH; c++) {
        const float* factors = row + COLOR + 4 * c;
        mapped[c] = factors[3];
        for (int k = 0; k < DEPTH; k++) mapped[c] = mapped[c] + factors[k] * value[k];
    }
    for (int c = 0; c < DEPTH; c++) value[c] = fminf(fmaxf(mapped[c], 0.f), 255.f);
}

// False for a row without a canvas, whose input is 0.
ON_BOTH bool has_canvas(const Slab& slab, const float* row) { return row[IMAGE] >= 0.f && row[IMAGE] < (float)slab.images; }

// The pixel in line i and column j of a row's input, normalised.
template <int DEPTH>
ON_BOTH void view_pixel(const Slab& slab, const Model& model, const float* row, int i, int j, float* value) {
    const float *frame = row + FRAME, *m = row + MATRIX;
    float u = (float)j - frame[0], v = (float)i - frame[1], width = frame[2], height = frame[3];
    if (model.has_bars && !(u >= 0.f && u < width && v >= 0.f && v < height)) {
        for (int c = 0; c < DEPTH; c++) value[c] = model.bar[c];
        return;
    }
    float column = fold_reflect101(u, width) + .5f, line = fold_reflect101(v, height) + .5f;  // padding reflects
    float x = m[0] * column + m[1] * line + m[2] - .5f, y = m[3] * column + m[4] * line + m[5] - .5f;
    if (row[EXACT] != 0.f) x = rintf(x), y = rintf(y);
    int border = (int)row[BORDER];
    sample<DEPTH>(slab, row, fold(x, row[CANVAS], border), fold(y, row[CANVAS + 1], border), value);
    if (row[COLORED] != 0.f) apply_color<DEPTH>(row, value);
    for (int c = 0; c < DEPTH; c++) value[c] = (value[c] / model.scale - model.mean[c]) / model.std[c];
}

template <typename T>
ON_BOTH T stored(float value);
template <>
ON_BOTH float stored<float>(float value) { return value; }
template <>
ON_BOTH uint8_t stored<uint8_t>(float value) { return (uint8_t)(int)rintf(value); }
