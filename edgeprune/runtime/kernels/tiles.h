// Products over tiles, written once for all processors.
//
// Each isa_*.cpp includes this file and gives a type P with the operations of its vectors:
//
//   Chunk   64 codes            load, low and high nibbles, store; expand: the next kept codes to their
//                               places, `fill` to all others; raised: high nibbles, perhaps times 16;
//                               two<K>: bits 2 K and 2 K + 1; four_where: 4 added where a mask is set;
//                               around_two<K>: 0, 1, 3, 4 for those bits where it is set, else 2;
//                               around_one<K>: 0 or 2 by bit K where it is set, else 1
//   Sums    16 whole numbers    start, dot (codes of a chunk times 4 activations, added up by row);
//                               lowered: sums of raised codes as those of the codes
//   Half    32 values, 16 bit   load16, expand16, store16; widen: to a Pair
//   Pair    two columns         expand_wide: the next kept 16-bit values to their places, as floats;
//                               expand_floats, load_floats, store_floats: the same of 32-bit ones
//   Row     16 floats           zero, accumulate (sums times scales), fma, store
//
// P::kTokens is how many tokens share one pass over a tile; P::kUnsigned<coding> says whether `dot`
// takes codes as they are stored (then the zero point is taken off by where the sums start).
//
// All of it is local to the including file: see EP_INLINE.
#pragma once

#include "kernels.h"

namespace edgeprune {
namespace {

EP_INLINE uint64_t mask64(const uint8_t *masks, int64_t i) {
    uint64_t mask;
    std::memcpy(&mask, masks + 8 * i, 8);
    return mask;
}

EP_INLINE uint32_t mask32(const uint8_t *masks, int64_t i) {
    uint32_t mask;
    std::memcpy(&mask, masks + 4 * i, 4);
    return mask;
}

// Walks the values of a tile, two chunks at a time: J and J + 1 of a block.
// Of 4-bit codes, the second is raised if asked for.
template <class P, int Coding, bool Raised>
struct Codes;

template <class P, bool Raised>
EP_INLINE typename P::Chunk upper(typename P::Chunk c) {
    if constexpr (Raised) return P::raised(c);
    return P::high(c);
}

template <class P, bool Raised>
struct Codes<P, kQ8Sparse, Raised> {
    const uint8_t *values;
    EP_INLINE explicit Codes(const uint8_t *start) : values(start) {}
    template <int J>
    EP_INLINE void pair(const uint8_t *masks, typename P::Chunk &a, typename P::Chunk &b) {
        a = P::expand(values, mask64(masks, J), 0x80);
        b = P::expand(values, mask64(masks, J + 1), 0x80);
    }
};

template <class P, bool Raised>
struct Codes<P, kQ8Dense, Raised> {
    const uint8_t *values;
    EP_INLINE explicit Codes(const uint8_t *start) : values(start) {}
    template <int J>
    EP_INLINE void pair(const uint8_t *, typename P::Chunk &a, typename P::Chunk &b) {
        a = P::load(values);
        b = P::load(values + 64);
        values += 128;
    }
};

template <class P, bool Raised>
struct Codes<P, kQ4Sparse, Raised> {
    const uint8_t *even, *odd;
    EP_INLINE explicit Codes(const uint8_t *start) : even(start), odd(start) {}
    template <int J>
    EP_INLINE void pair(const uint8_t *masks, typename P::Chunk &a, typename P::Chunk &b) {
        a = P::low(P::expand(even, mask64(masks, J), 0x88));
        b = upper<P, Raised>(P::expand(odd, mask64(masks, J + 1), 0x88));
    }
};

template <class P, bool Raised>
struct Codes<P, kQ4Dense, Raised> {
    const uint8_t *values;
    EP_INLINE explicit Codes(const uint8_t *start) : values(start) {}
    template <int J>
    EP_INLINE void pair(const uint8_t *, typename P::Chunk &a, typename P::Chunk &b) {
        const auto both = P::load(values);
        a = P::low(both);
        b = upper<P, Raised>(both);
        values += 64;
    }
};

template <class P, bool Raised>
struct Codes<P, kTwoBits, Raised> {
    const uint8_t *values;
    typename P::Chunk four;
    EP_INLINE explicit Codes(const uint8_t *start) : values(start) {}
    template <int J>
    EP_INLINE void pair(const uint8_t *, typename P::Chunk &a, typename P::Chunk &b) {
        if constexpr (J % 4 == 0) {
            four = P::load(values);
            values += 64;
        }
        a = P::template two<J % 4>(four);
        b = P::template two<J % 4 + 1>(four);
    }
};

template <class P, bool Raised>
struct Codes<P, kThreeBits, Raised> : Codes<P, kTwoBits, Raised> {
    using Codes<P, kTwoBits, Raised>::Codes;
    template <int J>
    EP_INLINE void pair(const uint8_t *masks, typename P::Chunk &a, typename P::Chunk &b) {
        Codes<P, kTwoBits, Raised>::template pair<J>(masks, a, b);
        a = P::four_where(a, mask64(masks, J));
        b = P::four_where(b, mask64(masks, J + 1));
    }
};

// Codes behind a mask, in as many streams as a byte holds of them.
template <class P, int Coding>
struct Masked {
    static constexpr int kCount = kStreams[Coding];
    const uint8_t *at[kCount];
    EP_INLINE explicit Masked(const uint8_t *start) {
        for (auto &stream : at) stream = start;
    }
    template <int J>
    EP_INLINE void pair(const uint8_t *masks, typename P::Chunk &a, typename P::Chunk &b) {
        a = one<J>(mask64(masks, J));
        b = one<J + 1>(mask64(masks, J + 1));
    }
    template <int J>
    EP_INLINE typename P::Chunk one(uint64_t mask) {
        const auto kept = P::expand(at[J % kCount], mask, 0);
        if constexpr (Coding == kMaskedOne) return P::template around_one<J>(kept, mask);
        return P::template around_two<J % 4>(kept, mask);
    }
};

template <class P, bool Raised>
struct Codes<P, kMaskedTwo, Raised> : Masked<P, kMaskedTwo> {
    using Masked<P, kMaskedTwo>::Masked;
};

template <class P, bool Raised>
struct Codes<P, kMaskedOne, Raised> : Masked<P, kMaskedOne> {
    using Masked<P, kMaskedOne>::Masked;
};

// All pairs of a block, in order.
template <class C, class Chunk, class Work>
EP_INLINE void for_pairs(C &codes, const uint8_t *masks, const Work &work) {
    Chunk a, b;
    codes.template pair<0>(masks, a, b);
    work(0, a, b);
    codes.template pair<2>(masks, a, b);
    work(2, a, b);
    codes.template pair<4>(masks, a, b);
    work(4, a, b);
    codes.template pair<6>(masks, a, b);
    work(6, a, b);
}

// Bytes of a chunk of floats: two columns of a tile.
template <int Type>
constexpr int64_t kFloatChunk = 2 * kTileRows * (Type == EP_F32 ? 4 : 2);

// A chunk of floats that stands with its zeros.
template <class P, int Type>
EP_INLINE typename P::Pair two_columns(const uint8_t *values) {
    if constexpr (Type == EP_F32)
        return P::load_floats(values);
    else
        return P::template widen<Type>(P::load16(values));
}

// Walks the floats of a tile, a chunk at a time.
template <class P, int Type, int Layout>
struct Floats {
    const uint8_t *values;
    EP_INLINE explicit Floats(const uint8_t *start) : values(start) {}
    EP_INLINE typename P::Pair pair(const uint8_t *masks, int j) {
        if constexpr (Layout == EP_DENSE) {
            const auto found = two_columns<P, Type>(values);
            values += kFloatChunk<Type>;
            return found;
        } else if constexpr (Type == EP_F32) {
            return P::expand_floats(values, mask32(masks, j));
        } else {
            return P::template expand_wide<Type>(values, mask32(masks, j));
        }
    }
    // The same chunk as it would stand in a dense matrix.
    EP_INLINE void fill(const uint8_t *masks, int j, uint8_t *out) {
        if constexpr (Layout == EP_DENSE) {
            std::memcpy(out, values, kFloatChunk<Type>);
            values += kFloatChunk<Type>;
        } else if constexpr (Type == EP_F32) {
            P::store_floats(pair(masks, j), out);
        } else {
            P::store16(P::expand16(values, mask32(masks, j)), out);
        }
    }
};

template <class P>
EP_INLINE void store(const Matrix &m, int64_t tile, const typename P::Row &row, float *y) {
    const int64_t left = m.rows - tile * kTileRows;
    if (left >= kTileRows) {
        P::store(row, y + tile * kTileRows);
        return;
    }
    float all[kTileRows];
    P::store(row, all);
    std::memcpy(y + tile * kTileRows, all, left * sizeof(float));
}

template <class P, int Coding>
EP_INLINE typename P::Sums start(const Token &token, int64_t block) {
    return P::start(P::template kUnsigned<Coding> ? -kZeros[Coding] * token.sums[block] : 0);
}

template <class P, int Coding>
void matvec(const Matrix &m, int64_t from, int64_t to, const void *x, float *y) {
    using Chunk = typename P::Chunk;
    const Token token(const_cast<void *>(x), m.cols);
    const int64_t groups = m.groups(), step = m.side_bytes(), mask_step = m.mask_bytes();
    for (int64_t tile = from; tile < to; tile++) {
        const uint8_t *side = m.sides(tile);
        Codes<P, Coding, true> codes(m.values(tile));
        auto row = P::zero();
        int64_t block = 0;
        for (int64_t g = 0; g < groups; g++, side += step) {
            const uint8_t *masks = side + 2 * kTileRows;
            for (int32_t i = 0; i < m.group; i++, block++, masks += mask_step) {
                const int8_t *a = token.codes + block * kBlock;
                auto even = start<P, Coding>(token, block);
                auto odd = P::start(0);
                const auto dot = [&](int j, const Chunk &first, const Chunk &second)
                                     __attribute__((always_inline)) {
                    P::template dot<Coding>(even, first, a + 4 * j);
                    P::template dot<Coding>(odd, second, a + 4 * j + 4);
                };
                for_pairs<decltype(codes), Chunk>(codes, masks, dot);
                if constexpr (kStreams[Coding] == 2) odd = P::lowered(odd);
                P::accumulate(row, P::add(even, odd), side, token.scales[block]);
            }
        }
        store<P>(m, tile, row, y);
    }
}

template <class P, int Coding, int Tokens>
EP_INLINE void tile_times(const Matrix &m, int64_t tile, const uint8_t *codes, const uint8_t *x,
                          int64_t x_stride, float *y, int64_t y_stride) {
    const int64_t groups = m.groups(), step = m.side_bytes();
    const uint8_t *side = m.sides(tile);
    typename P::Row rows[Tokens];
    for (int t = 0; t < Tokens; t++) rows[t] = P::zero();
    int64_t block = 0;
    for (int64_t g = 0; g < groups; g++, side += step) {
        for (int32_t i = 0; i < m.group; i++, block++) {
            typename P::Sums sums[Tokens];
            for (int t = 0; t < Tokens; t++) {
                const Token token(const_cast<uint8_t *>(x) + t * x_stride, m.cols);
                sums[t] = start<P, Coding>(token, block);
            }
            for (int j = 0; j < 8; j++, codes += 64) {
                const auto chunk = P::load(codes);
                for (int t = 0; t < Tokens; t++) {
                    const auto *a = reinterpret_cast<const int8_t *>(x + t * x_stride);
                    P::template dot<Coding>(sums[t], chunk, a + block * kBlock + 4 * j);
                }
            }
            for (int t = 0; t < Tokens; t++) {
                const Token token(const_cast<uint8_t *>(x) + t * x_stride, m.cols);
                P::accumulate(rows[t], sums[t], side, token.scales[block]);
            }
        }
    }
    for (int t = 0; t < Tokens; t++) store<P>(m, tile, rows[t], y + t * y_stride);
}

template <class P, int Coding>
void matmul(const Matrix &m, int64_t from, int64_t to, const void *x, int64_t x_stride, float *y,
            int64_t y_stride, int64_t tokens, uint8_t *scratch) {
    using Chunk = typename P::Chunk;
    const auto *bytes = static_cast<const uint8_t *>(x);
    for (int64_t tile = from; tile < to; tile++) {
        const uint8_t *side = m.sides(tile);
        Codes<P, Coding, false> codes(m.values(tile));
        uint8_t *out = scratch;
        const auto put = [&](int, const Chunk &first, const Chunk &second)
                             __attribute__((always_inline)) {
            P::store(first, out);
            P::store(second, out + 64);
            out += 128;
        };
        for (int64_t g = 0; g < m.groups(); g++, side += m.side_bytes()) {
            const uint8_t *masks = side + 2 * kTileRows;
            for (int32_t i = 0; i < m.group; i++, masks += m.mask_bytes())
                for_pairs<decltype(codes), Chunk>(codes, masks, put);
        }
        int64_t t = 0;
        for (; t + P::kTokens <= tokens; t += P::kTokens)
            tile_times<P, Coding, P::kTokens>(m, tile, scratch, bytes + t * x_stride, x_stride,
                                              y + t * y_stride, y_stride);
        for (; t + 2 <= tokens; t += 2)
            tile_times<P, Coding, 2>(m, tile, scratch, bytes + t * x_stride, x_stride,
                                     y + t * y_stride, y_stride);
        if (t < tokens)
            tile_times<P, Coding, 1>(m, tile, scratch, bytes + t * x_stride, x_stride,
                                     y + t * y_stride, y_stride);
    }
}

template <class P, int Type, int Layout>
void matvec_floats(const Matrix &m, int64_t from, int64_t to, const void *x, float *y) {
    const int64_t blocks = m.blocks(), step = m.side_bytes();
    for (int64_t tile = from; tile < to; tile++) {
        const uint8_t *side = m.sides(tile);
        const auto *a = static_cast<const float *>(x);
        Floats<P, Type, Layout> floats(m.values(tile));
        auto row = P::zero(), other = P::zero();
        for (int64_t block = 0; block < blocks; block++, side += step, a += kBlock)
            for (int j = 0; j < 16; j++)
                P::fma(row, other, floats.pair(side, j), a[2 * j], a[2 * j + 1]);
        store<P>(m, tile, P::add(row, other), y);
    }
}

template <class P, int Type, int Tokens>
EP_INLINE void tile_times_floats(const Matrix &m, int64_t tile, const uint8_t *values,
                                 const uint8_t *x, int64_t x_stride, float *y, int64_t y_stride) {
    typename P::Row rows[Tokens];
    for (int t = 0; t < Tokens; t++) rows[t] = P::zero();
    for (int64_t column = 0; column < m.cols; column += 2, values += kFloatChunk<Type>) {
        const auto pair = two_columns<P, Type>(values);
        for (int t = 0; t < Tokens; t++) {
            const auto *a = reinterpret_cast<const float *>(x + t * x_stride) + column;
            P::fma(rows[t], rows[t], pair, a[0], a[1]);
        }
    }
    for (int t = 0; t < Tokens; t++) store<P>(m, tile, rows[t], y + t * y_stride);
}

template <class P, int Type, int Layout>
void matmul_floats(const Matrix &m, int64_t from, int64_t to, const void *x, int64_t x_stride,
                   float *y, int64_t y_stride, int64_t tokens, uint8_t *scratch) {
    const auto *bytes = static_cast<const uint8_t *>(x);
    for (int64_t tile = from; tile < to; tile++) {
        const uint8_t *side = m.sides(tile);
        Floats<P, Type, Layout> floats(m.values(tile));
        uint8_t *out = scratch;
        for (int64_t block = 0; block < m.blocks(); block++, side += m.side_bytes())
            for (int j = 0; j < 16; j++, out += kFloatChunk<Type>) floats.fill(side, j, out);
        int64_t t = 0;
        for (; t + P::kTokens <= tokens; t += P::kTokens)
            tile_times_floats<P, Type, P::kTokens>(m, tile, scratch, bytes + t * x_stride, x_stride,
                                                   y + t * y_stride, y_stride);
        for (; t < tokens; t++)
            tile_times_floats<P, Type, 1>(m, tile, scratch, bytes + t * x_stride, x_stride,
                                          y + t * y_stride, y_stride);
    }
}

// A positive number rounded to half precision, the nearest and of two the even one.
EP_INLINE float to_half(float x) {
    if (x < 0x1p-14F) return (x + 0.75F) - 0.75F;  // subnormal: whole multiples of 2^-24
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    bits = (bits + 0xFFF + (bits >> 13 & 1)) & ~uint32_t{0x1FFF};
    std::memcpy(&x, &bits, 4);
    return x;
}

// Eight bits per activation, one scale per 32, to the bit as llama.cpp's Q8_0 has them, so that
// products differ from its own only by the order of sums. Written so that compilers vectorise it:
// the largest magnitude by the order of floats' bits, rounding by a large addend.
void quantize(const float *x, int64_t cols, Token token) {
    constexpr float kRound = 12582912.0F;  // 1.5 * 2^23
    for (int64_t block = 0; block < cols / kBlock; block++, x += kBlock) {
        uint32_t bits[kBlock], top = 0;
        std::memcpy(bits, x, sizeof bits);
        for (const uint32_t b : bits) top = (b & 0x7FFFFFFF) > top ? b & 0x7FFFFFFF : top;
        float largest;
        std::memcpy(&largest, &top, 4);
        const float inverse = largest > 0 ? 127 / largest : 0;
        int32_t sum = 0;
        for (int i = 0; i < kBlock; i++) {
            const float shifted = x[i] * inverse + kRound;
            int32_t code;
            std::memcpy(&code, &shifted, 4);
            code -= 0x4B400000;  // the bits of kRound
            token.codes[block * kBlock + i] = static_cast<int8_t>(code);
            sum += code;
        }
        token.scales[block] = to_half(largest / 127);
        token.sums[block] = sum;
    }
}

// Expansion of 32-bit values where no instruction does it.
template <class P>
[[maybe_unused]] EP_INLINE typename P::Pair expand_floats_plainly(const uint8_t *&p, uint32_t mask) {
    alignas(64) float all[2 * kTileRows] = {};
    for (; mask; mask &= mask - 1, p += 4) std::memcpy(&all[__builtin_ctz(mask)], p, 4);
    return P::load_floats(reinterpret_cast<const uint8_t *>(all));
}

// Compression where no instruction does it.
[[maybe_unused]] uint8_t *compress_plainly(const uint8_t *codes, uint8_t zero, uint8_t *bits,
                                           uint8_t *out) {
    uint64_t mask = 0;
    for (int i = 0; i < 64; i++) {
        *out = codes[i];
        out += codes[i] != zero;
        mask |= static_cast<uint64_t>(codes[i] != zero) << i;
    }
    std::memcpy(bits, &mask, sizeof mask);
    return out;
}

[[maybe_unused]] uint8_t *compress16_plainly(const uint16_t *values, uint8_t *bits, uint8_t *out) {
    uint32_t mask = 0;
    for (int i = 0; i < 32; i++) {
        const bool keep = (values[i] & 0x7FFF) != 0;
        std::memcpy(out, values + i, 2);
        out += 2 * keep;
        mask |= static_cast<uint32_t>(keep) << i;
    }
    std::memcpy(bits, &mask, sizeof mask);
    return out;
}

template <class P, int Type>
constexpr Kernels::OfFloats of_floats() {
    return {{{matvec_floats<P, Type, EP_SPARSE>, matmul_floats<P, Type, EP_SPARSE>},
             {matvec_floats<P, Type, EP_DENSE>, matmul_floats<P, Type, EP_DENSE>}}};
}

template <class P, int Coding>
constexpr Products of_codes() {
    return {matvec<P, Coding>, matmul<P, Coding>};
}

// Densities up to which a packed matrix is neither slower nor larger than llama.cpp's own, measured
// by benchmarks/break_even.py; 0: not at any. Whether dense layouts gain: benchmarks/sparse_speed.py.
struct BreakEven {
    float f16, q4_0, q8_0, bf16, f32;
    DenseGains dense = {};
};

template <class P>
constexpr Kernels table(const char *name, bool (*runs_here)(), BreakEven even,
                        Compress compress = compress_plainly,
                        Compress16 compress16 = compress16_plainly) {
    return {name,
            runs_here,
            quantize,
            compress,
            compress16,
            {of_codes<P, kQ8Sparse>(), of_codes<P, kQ8Dense>(), of_codes<P, kQ4Sparse>(),
             of_codes<P, kQ4Dense>(), of_codes<P, kThreeBits>(), of_codes<P, kTwoBits>(),
             of_codes<P, kMaskedTwo>(), of_codes<P, kMaskedOne>()},
            of_floats<P, EP_F16>(),
            of_floats<P, EP_BF16>(),
            of_floats<P, EP_F32>(),
            {even.f16, even.q4_0, even.q8_0, even.bf16, even.f32},
            even.dense};
}

}  // namespace
}  // namespace edgeprune
