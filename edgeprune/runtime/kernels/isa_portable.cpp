// Plain C++ for any processor; the reference that others are read beside.
#include "halves.h"
#include "tiles.h"

namespace edgeprune {
namespace {

struct Portable {
    struct Chunk {
        uint8_t at[64];
    };
    struct Sums {
        int32_t at[16];
    };
    struct Half {
        uint16_t at[32];
    };
    struct Row {
        float at[16];
    };
    struct Pair {
        Row first, second;
    };
    static constexpr int kTokens = 4;
    template <int Coding>
    static constexpr bool kUnsigned = true;

    static EP_INLINE Chunk load(const uint8_t *p) {
        Chunk chunk;
        std::memcpy(&chunk, p, 64);
        return chunk;
    }
    static EP_INLINE Chunk expand(const uint8_t *&p, uint64_t mask, int fill) {
        Chunk chunk;
        std::memset(&chunk, fill, 64);
        for (; mask; mask &= mask - 1) chunk.at[__builtin_ctzll(mask)] = *p++;
        return chunk;
    }
    static EP_INLINE Chunk low(Chunk c) {
        for (auto &code : c.at) code &= 15;
        return c;
    }
    static EP_INLINE Chunk raised(Chunk c) { return high(c); }
    static EP_INLINE Chunk high(Chunk c) {
        for (auto &code : c.at) code >>= 4;
        return c;
    }
    template <int K>
    static EP_INLINE Chunk two(Chunk c) {
        for (auto &code : c.at) code = code >> 2 * K & 3;
        return c;
    }
    static EP_INLINE Chunk four_where(Chunk c, uint64_t mask) {
        for (int i = 0; i < 64; i++) c.at[i] += (mask >> i & 1) << 2;
        return c;
    }
    template <int K>
    static EP_INLINE Chunk around_two(Chunk c, uint64_t mask) {
        c = two<K>(c);
        for (int i = 0; i < 64; i++) c.at[i] = mask >> i & 1 ? c.at[i] + (c.at[i] > 1) : 2;
        return c;
    }
    template <int K>
    static EP_INLINE Chunk around_one(Chunk c, uint64_t mask) {
        for (int i = 0; i < 64; i++) c.at[i] = mask >> i & 1 ? (c.at[i] >> K & 1) * 2 : 1;
        return c;
    }
    static EP_INLINE void store(const Chunk &c, uint8_t *p) { std::memcpy(p, &c, 64); }

    static EP_INLINE Sums start(int32_t value) {
        Sums sums;
        for (auto &sum : sums.at) sum = value;
        return sums;
    }
    static EP_INLINE Sums lowered(const Sums &s) { return s; }
    static EP_INLINE Sums add(Sums a, const Sums &b) {
        for (int i = 0; i < 16; i++) a.at[i] += b.at[i];
        return a;
    }
    template <int Coding>
    static EP_INLINE void dot(Sums &sums, const Chunk &codes, const int8_t *a) {
        for (int i = 0; i < 64; i++) sums.at[i / 4] += codes.at[i] * a[i % 4];
    }

    static EP_INLINE Row zero() { return Row{}; }
    static EP_INLINE Row add(Row a, const Row &b) {
        for (int i = 0; i < 16; i++) a.at[i] += b.at[i];
        return a;
    }
    static EP_INLINE void accumulate(Row &row, const Sums &sums, const uint8_t *scales, float scale) {
        for (int i = 0; i < 16; i++) {
            uint16_t bits;
            std::memcpy(&bits, scales + 2 * i, 2);
            row.at[i] += static_cast<float>(sums.at[i]) * (from_f16(bits) * scale);
        }
    }
    static EP_INLINE void store(const Row &row, float *y) { std::memcpy(y, &row, 64); }

    static EP_INLINE Half load16(const uint8_t *p) {
        Half half;
        std::memcpy(&half, p, 64);
        return half;
    }
    static EP_INLINE Half expand16(const uint8_t *&p, uint32_t mask) {
        Half half{};
        for (; mask; mask &= mask - 1, p += 2) std::memcpy(&half.at[__builtin_ctz(mask)], p, 2);
        return half;
    }
    static EP_INLINE void store16(const Half &half, uint8_t *p) { std::memcpy(p, &half, 64); }
    template <int Type>
    static EP_INLINE Pair widen(const Half &half) {
        Pair pair;
        for (int i = 0; i < 16; i++) {
            pair.first.at[i] = Type == EP_F16 ? from_f16(half.at[i]) : from_bf16(half.at[i]);
            pair.second.at[i] =
                Type == EP_F16 ? from_f16(half.at[16 + i]) : from_bf16(half.at[16 + i]);
        }
        return pair;
    }
    template <int Type>
    static EP_INLINE Pair expand_wide(const uint8_t *&p, uint32_t mask) {
        return widen<Type>(expand16(p, mask));
    }
    static EP_INLINE Pair load_floats(const uint8_t *p) {
        Pair pair;
        std::memcpy(&pair, p, sizeof pair);
        return pair;
    }
    static EP_INLINE void store_floats(const Pair &pair, uint8_t *p) {
        std::memcpy(p, &pair, sizeof pair);
    }
    static EP_INLINE Pair expand_floats(const uint8_t *&p, uint32_t mask) {
        return expand_floats_plainly<Portable>(p, mask);
    }
    static EP_INLINE void fma(Row &row, Row &other, const Pair &pair, float a, float b) {
        for (int i = 0; i < 16; i++) row.at[i] += pair.first.at[i] * a;
        for (int i = 0; i < 16; i++) other.at[i] += pair.second.at[i] * b;
    }
};

bool runs_here() { return true; }

}  // namespace

const Kernels kPortable = table<Portable>("portable", runs_here, {});

}  // namespace edgeprune
