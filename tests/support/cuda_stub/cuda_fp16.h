// Half precision on the CPU, as far as the kernels need it.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

struct __half {
    uint16_t bits;
};

// Rounded to the nearest, halves to even.
inline __half __float2half_rn(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    uint16_t sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits >= 0x47800000) return {(uint16_t)(sign | (bits > 0x7f800000 ? 0x7e00 : 0x7c00))};
    if (bits < 0x38800000) return {(uint16_t)(sign | (uint16_t)rintf(fabsf(value) * 16777216.f))};
    bits += 0x0fff + (bits >> 13 & 1);
    return {(uint16_t)(sign | (bits - 0x38000000) >> 13)};
}
