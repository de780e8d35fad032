// ARM's Advanced SIMD with dot products of bytes (ARMv8.2 dotprod): phones since about 2018, Apple's
// processors, servers since Neoverse N1. Eight lanes are expanded at once by a table.
#if defined(__aarch64__)
#include <arm_neon.h>
#if defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "expand_table.h"
#include "tiles.h"

namespace edgeprune {
namespace {

struct Neon {
    struct Chunk {
        uint8x16_t at[4];  // four rows each
    };
    struct Sums {
        int32x4_t at[4];
    };
    struct Half {
        uint16x8_t at[4];  // first column's rows 0 to 7, 8 to 15, then the second's
    };
    struct Row {
        float32x4_t at[4];
    };
    struct Pair {
        Row first, second;
    };
    static constexpr int kTokens = 4;
    template <int Coding>
    static constexpr bool kUnsigned = kZeros[Coding] <= 8;  // codes up to 15 are the same signed

    static EP_INLINE Chunk load(const uint8_t *p) {
        return {vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)};
    }
    static EP_INLINE uint8x8_t eight(const uint8_t *&p, uint64_t mask, uint8x8_t fill) {
        const uint8x8_t from = vld1_u8(kExpand.bytes[mask & 255]);
        const uint8x8_t found = vtbl1_u8(vld1_u8(p), from);
        p += kExpand.count[mask & 255];
        return vorr_u8(found, vand_u8(from, fill));
    }
    static EP_INLINE Chunk expand(const uint8_t *&p, uint64_t mask, int fill) {
        const uint8x8_t filled = vdup_n_u8(static_cast<uint8_t>(fill));
        Chunk chunk;
        for (auto &part : chunk.at) {
            const uint8x8_t first = eight(p, mask, filled), second = eight(p, mask >> 8, filled);
            part = vcombine_u8(first, second);
            mask >>= 16;
        }
        return chunk;
    }
    static EP_INLINE Chunk low(Chunk c) {
        for (auto &part : c.at) part = vandq_u8(part, vdupq_n_u8(15));
        return c;
    }
    static EP_INLINE Chunk raised(Chunk c) { return high(c); }
    static EP_INLINE Chunk high(Chunk c) {
        for (auto &part : c.at) part = vshrq_n_u8(part, 4);
        return c;
    }
    template <int K>
    static EP_INLINE Chunk two(Chunk c) {
        for (auto &part : c.at) {
            if constexpr (K > 0) part = vshrq_n_u8(part, 2 * K);
            part = vandq_u8(part, vdupq_n_u8(3));
        }
        return c;
    }
    // 0xFF in the lanes of 16 bits that are set.
    static EP_INLINE uint8x16_t lanes(uint64_t bits) {
        const uint8x16_t both = vcombine_u8(vdup_n_u8(static_cast<uint8_t>(bits)),
                                            vdup_n_u8(static_cast<uint8_t>(bits >> 8)));
        return vtstq_u8(both, vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201)));
    }
    static EP_INLINE Chunk four_where(Chunk c, uint64_t mask) {
        for (auto &part : c.at) {
            part = vorrq_u8(part, vandq_u8(lanes(mask), vdupq_n_u8(4)));
            mask >>= 16;
        }
        return c;
    }
    template <int K>
    static EP_INLINE Chunk around_two(Chunk c, uint64_t mask) {
        c = two<K>(c);
        for (auto &part : c.at) {
            const uint8x16_t up = vandq_u8(vcgtq_u8(part, vdupq_n_u8(1)), vdupq_n_u8(1));
            part = vbslq_u8(lanes(mask), vaddq_u8(part, up), vdupq_n_u8(2));
            mask >>= 16;
        }
        return c;
    }
    template <int K>
    static EP_INLINE Chunk around_one(Chunk c, uint64_t mask) {
        for (auto &part : c.at) {
            const uint8x16_t up = vtstq_u8(part, vdupq_n_u8(1 << K));
            part = vbslq_u8(lanes(mask), vandq_u8(up, vdupq_n_u8(2)), vdupq_n_u8(1));
            mask >>= 16;
        }
        return c;
    }
    static EP_INLINE void store(const Chunk &c, uint8_t *p) {
        for (int i = 0; i < 4; i++) vst1q_u8(p + 16 * i, c.at[i]);
    }

    static EP_INLINE Sums start(int32_t value) {
        const int32x4_t all = vdupq_n_s32(value);
        return {all, all, all, all};
    }
    static EP_INLINE Sums lowered(const Sums &s) { return s; }
    static EP_INLINE Sums add(Sums x, const Sums &y) {
        for (int i = 0; i < 4; i++) x.at[i] = vaddq_s32(x.at[i], y.at[i]);
        return x;
    }
    template <int Coding>
    static EP_INLINE void dot(Sums &sums, const Chunk &codes, const int8_t *activations) {
        int32_t word;
        std::memcpy(&word, activations, 4);
        const int8x16_t four = vreinterpretq_s8_s32(vdupq_n_s32(word));
        for (int i = 0; i < 4; i++) {
            const uint8x16_t c =
                kUnsigned<Coding> ? codes.at[i] : veorq_u8(codes.at[i], vdupq_n_u8(0x80));
            sums.at[i] = vdotq_s32(sums.at[i], vreinterpretq_s8_u8(c), four);
        }
    }

    static EP_INLINE float32x4_t from_f16(uint16x4_t v) {
        return vcvt_f32_f16(vreinterpret_f16_u16(v));
    }
    static EP_INLINE Row zero() {
        const float32x4_t none = vdupq_n_f32(0);
        return {none, none, none, none};
    }
    static EP_INLINE Row add(Row x, const Row &y) {
        for (int i = 0; i < 4; i++) x.at[i] = vaddq_f32(x.at[i], y.at[i]);
        return x;
    }
    static EP_INLINE void accumulate(Row &row, const Sums &sums, const uint8_t *scales, float scale) {
        for (int i = 0; i < 4; i++) {
            uint16_t bits[4];
            std::memcpy(bits, scales + 8 * i, 8);
            const float32x4_t both = vmulq_n_f32(from_f16(vld1_u16(bits)), scale);
            row.at[i] = vfmaq_f32(row.at[i], vcvtq_f32_s32(sums.at[i]), both);
        }
    }
    static EP_INLINE void store(const Row &row, float *y) {
        for (int i = 0; i < 4; i++) vst1q_f32(y + 4 * i, row.at[i]);
    }

    static EP_INLINE Half load16(const uint8_t *p) {
        Half half;
        for (int i = 0; i < 4; i++) half.at[i] = vreinterpretq_u16_u8(vld1q_u8(p + 16 * i));
        return half;
    }
    static EP_INLINE Half expand16(const uint8_t *&p, uint32_t mask) {
        Half half;
        for (auto &part : half.at) {
            const uint8x16_t from = vld1q_u8(kExpand.words[mask & 255]);
            part = vreinterpretq_u16_u8(vqtbl1q_u8(vld1q_u8(p), from));
            p += 2 * kExpand.count[mask & 255];
            mask >>= 8;
        }
        return half;
    }
    static EP_INLINE void store16(const Half &half, uint8_t *p) {
        for (int i = 0; i < 4; i++) vst1q_u8(p + 16 * i, vreinterpretq_u8_u16(half.at[i]));
    }
    template <int Type>
    static EP_INLINE float32x4_t widen4(uint16x4_t v) {
        if constexpr (Type == EP_F16) return from_f16(v);
        return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(v), 16));
    }
    template <int Type>
    static EP_INLINE Row widen_column(uint16x8_t first, uint16x8_t second) {
        return {widen4<Type>(vget_low_u16(first)), widen4<Type>(vget_high_u16(first)),
                widen4<Type>(vget_low_u16(second)), widen4<Type>(vget_high_u16(second))};
    }
    template <int Type>
    static EP_INLINE Pair widen(const Half &half) {
        return {widen_column<Type>(half.at[0], half.at[1]),
                widen_column<Type>(half.at[2], half.at[3])};
    }
    template <int Type>
    static EP_INLINE Pair expand_wide(const uint8_t *&p, uint32_t mask) {
        return widen<Type>(expand16(p, mask));
    }
    static EP_INLINE Row load_row(const uint8_t *p) {
        Row row;
        for (int i = 0; i < 4; i++) row.at[i] = vreinterpretq_f32_u8(vld1q_u8(p + 16 * i));
        return row;
    }
    static EP_INLINE Pair load_floats(const uint8_t *p) { return {load_row(p), load_row(p + 64)}; }
    static EP_INLINE void store_floats(const Pair &pair, uint8_t *p) {
        for (int i = 0; i < 4; i++) {
            vst1q_u8(p + 16 * i, vreinterpretq_u8_f32(pair.first.at[i]));
            vst1q_u8(p + 64 + 16 * i, vreinterpretq_u8_f32(pair.second.at[i]));
        }
    }
    static EP_INLINE Pair expand_floats(const uint8_t *&p, uint32_t mask) {
        return expand_floats_plainly<Neon>(p, mask);
    }
    static EP_INLINE void fma(Row &row, Row &other, const Pair &pair, float a, float b) {
        for (int i = 0; i < 4; i++) row.at[i] = vfmaq_n_f32(row.at[i], pair.first.at[i], a);
        for (int i = 0; i < 4; i++) other.at[i] = vfmaq_n_f32(other.at[i], pair.second.at[i], b);
    }
};

bool runs_here() {
#if defined(__linux__)
    return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#else
    return true;  // Apple's processors all have it
#endif
}

}  // namespace

// Not measured on an ARM processor yet: as cautious as AVX2's.
const Kernels kNeon = table<Neon>("neon", runs_here, {0.6F, 0, 0.6F, 0.6F, 0});

}  // namespace edgeprune
#endif
