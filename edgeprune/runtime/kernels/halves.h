// Numbers of 16 bits as floats, where no instruction does it.
#pragma once

#include "layout.h"

namespace edgeprune {

EP_INLINE float from_f16(uint16_t bits) {
    const uint32_t sign = (bits & 0x8000U) << 16, exponent = bits >> 10 & 31, digits = bits & 1023;
    uint32_t word = sign | (exponent + 112) << 23 | digits << 13;
    if (exponent == 31) word = sign | 0x7F800000 | digits << 13;
    float value;
    if (exponent == 0) {  // zero and subnormal numbers
        value = static_cast<float>(digits) * 0x1p-24F;
        return sign ? -value : value;
    }
    std::memcpy(&value, &word, 4);
    return value;
}

EP_INLINE float from_bf16(uint16_t bits) {
    const uint32_t word = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &word, 4);
    return value;
}

}  // namespace edgeprune
