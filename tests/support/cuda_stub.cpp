// A CUDA driver without a device, for tests: memory is the host's, and the kernels run on the CPU, by the same source.
//
// CUDA_STUB_DEVICES is the number of devices (1), CUDA_STUB_FAIL a function that fails, and its code: "cuInit 100".
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "views.cuh"

using Handle = void*;

namespace {

struct Half {
    uint16_t bits;
};

thread_local Handle current = nullptr, below = nullptr;
long long live = 0;

int code_of(const char* function) {
    const char* wanted = std::getenv("CUDA_STUB_FAIL");
    size_t length = std::strlen(function);
    if (!wanted || std::strncmp(wanted, function, length) || wanted[length] != ' ') return 0;
    return std::atoi(wanted + length);
}

int devices() {
    const char* found = std::getenv("CUDA_STUB_DEVICES");
    return found ? std::atoi(found) : 1;
}

template <typename T, int DEPTH>
void make_views(const Slab& slab, const Model& model, const float* table, T* out, unsigned rows) {
    for (unsigned b = 0; b < rows; b++)
        for (int i = 0; i < model.height; i++)
            for (int j = 0; j < model.width; j++) {
                float value[DEPTH] = {};
                const float* row = table + b * WIDTH;
                if (has_canvas(slab, row)) view_pixel<DEPTH>(slab, model, row, i, j, value);
                for (int c = 0; c < DEPTH; c++) {
                    int lines = b * (model.channels_last ? 1 : DEPTH) + (model.channels_last ? 0 : c);
                    int64_t pixel = ((int64_t)lines * model.height + i) * model.width + j;
                    out[model.channels_last ? pixel * DEPTH + c : pixel] = stored<T>(value[c]);
                }
            }
}

}  // namespace

template <>
inline Half stored<Half>(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    uint16_t sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits >= 0x47800000) return {(uint16_t)(sign | (bits > 0x7f800000 ? 0x7e00 : 0x7c00))};
    if (bits < 0x38800000) return {(uint16_t)(sign | (uint16_t)rintf(fabsf(value) * 16777216.f))};
    bits += 0x0fff + (bits >> 13 & 1);
    return {(uint16_t)(sign | (bits - 0x38000000) >> 13)};
}

#define STUB(NAME, ...)                \
    extern "C" int NAME(__VA_ARGS__) { \
        if (int code = code_of(#NAME)) return code;
#define END   \
    return 0; \
    }

STUB(cuInit, unsigned) END
STUB(cuGetErrorName, int code, const char** out) *out = code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_STUB"; END
STUB(cuGetErrorString, int code, const char** out) *out = code == 2 ? "out of memory" : "as the test wants"; END
STUB(cuDeviceGetCount, int* out) *out = devices(); END
STUB(cuDeviceGet, int* out, int index) *out = index; END
STUB(cuDeviceGetName, char* out, int size, int device) std::snprintf(out, size, "Stub %d", device); END
STUB(cuDeviceTotalMem_v2, size_t* out, int) *out = 8ull << 30; END
STUB(cuDeviceGetAttribute, int* out, int attribute, int) *out = attribute == 75 ? 9 : 0; END
STUB(cuDevicePrimaryCtxRetain, Handle* out, int device) *out = (Handle)(intptr_t)(device + 1); END
STUB(cuCtxGetCurrent, Handle* out) *out = current; END
STUB(cuCtxSetCurrent, Handle context) current = context; END
STUB(cuCtxPushCurrent_v2, Handle context) below = current; current = context; END
STUB(cuCtxPopCurrent_v2, Handle* out) *out = current; current = below; END
STUB(cuMemGetInfo_v2, size_t* free, size_t* total) *total = 8ull << 30; *free = *total - live; END
STUB(cuMemAlloc_v2, uint64_t* out, size_t size)
    if (!current) return 201;
    size_t* made = (size_t*)std::malloc(size + 64);
    *made = size, live += size, *out = (uint64_t)(made + 8);
END
STUB(cuMemFree_v2, uint64_t address)
    size_t* made = (size_t*)address - 8;
    live -= *made;
    std::free(made);
END
STUB(cuMemHostAlloc, void** out, size_t size, unsigned) *out = std::malloc(size); END
STUB(cuMemFreeHost, void* address) std::free(address); END
STUB(cuMemcpyHtoDAsync_v2, uint64_t to, const void* from, size_t size, Handle) std::memcpy((void*)to, from, size); END
STUB(cuMemcpyDtoHAsync_v2, void* to, uint64_t from, size_t size, Handle) std::memcpy(to, (void*)from, size); END
STUB(cuMemsetD8Async, uint64_t to, unsigned char value, size_t size, Handle) std::memset((void*)to, value, size); END
STUB(cuStreamCreate, Handle* out, unsigned) *out = std::malloc(1); END
STUB(cuStreamSynchronize, Handle) END
STUB(cuStreamDestroy_v2, Handle stream) std::free(stream); END
STUB(cuModuleLoadDataEx, Handle* out, const char* image, unsigned, void*, void*) *out = (Handle)image; END
STUB(cuModuleGetFunction, Handle* out, Handle, const char* name)
    if (std::strncmp(name, "views_", 6)) return 500;
    *out = new std::string(name);
END
STUB(cuModuleUnload, Handle) END
STUB(cuLaunchKernel, Handle function, unsigned, unsigned, unsigned rows, unsigned, unsigned, unsigned, unsigned, Handle,
     void** arguments, void**)
    const std::string& name = *(std::string*)function;
    const Slab& slab = *(Slab*)arguments[0];
    const Model& model = *(Model*)arguments[1];
    const float* table = *(const float**)arguments[2];
    void* out = *(void**)arguments[3];
    if (name == "views_float32_1") make_views<float, 1>(slab, model, table, (float*)out, rows);
    else if (name == "views_float32_3") make_views<float, 3>(slab, model, table, (float*)out, rows);
    else if (name == "views_float16_1") make_views<Half, 1>(slab, model, table, (Half*)out, rows);
    else if (name == "views_float16_3") make_views<Half, 3>(slab, model, table, (Half*)out, rows);
    else if (name == "views_uint8_1") make_views<uint8_t, 1>(slab, model, table, (uint8_t*)out, rows);
    else if (name == "views_uint8_3") make_views<uint8_t, 3>(slab, model, table, (uint8_t*)out, rows);
    else return 500;
END
