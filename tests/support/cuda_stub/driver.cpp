// A CUDA driver without a device, for tests: memory is the host's, and the kernels run on the CPU, by the same source.
//
// CUDA_STUB_DEVICES is the number of devices (1), CUDA_STUB_FAIL a function that fails, and its code: "cuInit 100".
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

struct Index {
    int x, y, z;
};
thread_local Index threadIdx, blockIdx;
using std::min;

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(threads)
#define __syncthreads()
#define __syncwarp()
#include "views.cu"

using Handle = void*;

namespace {

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

// A kernel on the host, without its barriers: each block runs until its shared memory holds what it should at both.
template <typename T>
void run(void (*kernel)(Slab, Model, const float*, T*), Index grid, Index block, void** arguments) {
    const Slab& slab = *(Slab*)arguments[0];
    const Model& model = *(Model*)arguments[1];
    for (int b = 0; b < grid.x * grid.y * grid.z; b++) {
        blockIdx = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
        for (int pass = 0; pass < 3; pass++)
            for (int t = 0; t < block.x * block.y; t++) {
                threadIdx = {t % block.x, t / block.x, 0};
                kernel(slab, model, *(const float**)arguments[2], *(T**)arguments[3]);
            }
    }
}

}  // namespace

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
    if (size > 8ull << 30) return 2;
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
STUB(cuLaunchKernel, Handle function, int gx, int gy, int gz, int bx, int by, int bz, unsigned, Handle, void** arguments,
     void**)
    const std::string& name = *(std::string*)function;
    Index grid{gx, gy, gz}, block{bx, by, bz};
    if (name == "views_float32_1") run(views_float32_1, grid, block, arguments);
    else if (name == "views_float32_3") run(views_float32_3, grid, block, arguments);
    else if (name == "views_float16_1") run(views_float16_1, grid, block, arguments);
    else if (name == "views_float16_3") run(views_float16_3, grid, block, arguments);
    else if (name == "views_uint8_1") run(views_uint8_1, grid, block, arguments);
    else if (name == "views_uint8_3") run(views_uint8_3, grid, block, arguments);
    else return 500;
END
