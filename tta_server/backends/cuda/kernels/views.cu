// Kernels that make the inputs of a model for a table of views. `make ptx` compiles them to views.ptx.
//
// A block makes a tile of TILE_WIDTH x TILE_HEIGHT pixels of one row, a thread one pixel in all channels, a warp one
// line. Grid: tiles along x, tiles along y, rows of the table.
#include <cstdint>

#include <cuda_fp16.h>

#include "views.cuh"

constexpr int TILE_WIDTH = 32, TILE_HEIGHT = 8;

template <>
ON_BOTH __half stored<__half>(float value) { return __float2half_rn(value); }

template <typename T, int DEPTH>
__device__ __forceinline__ void make_views(const Slab& slab, const Model& model, const float* table, T* out) {
    __shared__ float row[WIDTH];
    __shared__ T lines[TILE_HEIGHT][TILE_WIDTH * DEPTH];
    int lane = threadIdx.x, number = threadIdx.y * TILE_WIDTH + lane;
    if (number < WIDTH) row[number] = table[(long long)blockIdx.z * WIDTH + number];
    __syncthreads();

    int left = blockIdx.x * TILE_WIDTH, i = blockIdx.y * TILE_HEIGHT + threadIdx.y, j = left + lane;
    if (i >= model.height) return;  // the whole warp
    float value[DEPTH] = {};
    bool is_made = j < model.width && has_canvas(slab, row);
    if (is_made) view_pixel<DEPTH>(slab, model, row, i, j, value);

    long long plane = (long long)model.height * model.width, start = (long long)blockIdx.z * DEPTH * plane;
    if (!model.channels_last) {
        if (j >= model.width) return;
        for (int c = 0; c < DEPTH; c++) out[start + c * plane + (long long)i * model.width + j] = stored<T>(value[c]);
        return;
    }
    T* line = lines[threadIdx.y];  // neighbours in memory are written by neighbouring threads
    for (int c = 0; c < DEPTH; c++) line[lane * DEPTH + c] = stored<T>(value[c]);
    __syncwarp();
    T* target = out + start + ((long long)i * model.width + left) * DEPTH;
    int count = min(TILE_WIDTH, model.width - left) * DEPTH;
    for (int k = lane; k < count; k += TILE_WIDTH) target[k] = line[k];
}

#define VIEWS(NAME, T, DEPTH)                                                                                 \
    extern "C" __global__ void __launch_bounds__(TILE_WIDTH* TILE_HEIGHT)                                     \
        NAME(const Slab slab, const Model model, const float* __restrict__ table, T* __restrict__ out) {      \
        make_views<T, DEPTH>(slab, model, table, out);                                                        \
    }

VIEWS(views_float32_1, float, 1)
VIEWS(views_float32_3, float, 3)
VIEWS(views_float16_1, __half, 1)
VIEWS(views_float16_3, __half, 3)
VIEWS(views_uint8_1, uint8_t, 1)
VIEWS(views_uint8_3, uint8_t, 3)
