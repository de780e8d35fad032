// AVX2 with F16C and FMA: x86 processors since 2013. Eight lanes are expanded at once by a table.
#if defined(__x86_64__)
#include <immintrin.h>

#include "expand_table.h"
#include "tiles.h"

namespace edgeprune {
namespace {

struct Avx2 {
    struct Chunk {
        __m256i a, b;  // rows 0 to 7, 8 to 15
    };
    using Sums = Chunk;
    using Half = Chunk;  // first column, second column
    struct Row {
        __m256 a, b;
    };
    struct Pair {
        Row first, second;
    };
    static constexpr int kTokens = 2;
    // maddubs adds up pairs in 16 bits: codes of 8 bits have to be small and signed for it.
    template <int Coding>
    static constexpr bool kUnsigned = kZeros[Coding] <= 8;

    static EP_INLINE __m256i load32(const uint8_t *p) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p));
    }
    static EP_INLINE void store32(__m256i v, void *p) {
        _mm256_storeu_si256(static_cast<__m256i *>(p), v);
    }
    static EP_INLINE Chunk load(const uint8_t *p) { return {load32(p), load32(p + 32)}; }
    static EP_INLINE __m128i eight(const uint8_t *&p, uint64_t mask, __m128i fill) {
        const auto load8 = [](const uint8_t *q) {
            return _mm_loadl_epi64(reinterpret_cast<const __m128i *>(q));
        };
        const __m128i from = load8(kExpand.bytes[mask & 255]);
        const __m128i found = _mm_shuffle_epi8(load8(p), from);
        p += _mm_popcnt_u32(static_cast<uint32_t>(mask & 255));
        return _mm_or_si128(found, _mm_and_si128(from, fill));
    }
    static EP_INLINE Chunk expand(const uint8_t *&p, uint64_t mask, int fill) {
        const __m128i filled = _mm_set1_epi8(static_cast<char>(fill));
        __m128i part[4];
        for (auto &sixteen : part) {
            const __m128i first = eight(p, mask, filled), second = eight(p, mask >> 8, filled);
            sixteen = _mm_unpacklo_epi64(first, second);
            mask >>= 16;
        }
        return {_mm256_set_m128i(part[1], part[0]), _mm256_set_m128i(part[3], part[2])};
    }
    static EP_INLINE Chunk low(Chunk c) {
        const __m256i four = _mm256_set1_epi8(15);
        return {_mm256_and_si256(c.a, four), _mm256_and_si256(c.b, four)};
    }
    static EP_INLINE Chunk raised(Chunk c) { return high(c); }
    static EP_INLINE Chunk high(Chunk c) {
        return low({_mm256_srli_epi16(c.a, 4), _mm256_srli_epi16(c.b, 4)});
    }
    template <int K>
    static EP_INLINE Chunk two(Chunk c) {
        const __m256i both = _mm256_set1_epi8(3);
        return {_mm256_and_si256(_mm256_srli_epi16(c.a, 2 * K), both),
                _mm256_and_si256(_mm256_srli_epi16(c.b, 2 * K), both)};
    }
    // 0xFF in the lanes of 32 bits that are set.
    static EP_INLINE __m256i lanes(uint32_t bits) {
        const __m256i byte_of = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202,
                                                   0x0303030303030303);
        const __m256i bit = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
        const __m256i all = _mm256_set1_epi32(static_cast<int32_t>(bits));
        return _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(all, byte_of), bit), bit);
    }
    template <class Each>
    static EP_INLINE Chunk where(Chunk c, uint64_t mask, const Each &each) {
        return {each(c.a, lanes(static_cast<uint32_t>(mask))),
                each(c.b, lanes(static_cast<uint32_t>(mask >> 32)))};
    }
    static EP_INLINE Chunk four_where(Chunk c, uint64_t mask) {
        return where(c, mask, [](__m256i v, __m256i set) __attribute__((always_inline)) {
            return _mm256_or_si256(v, _mm256_and_si256(set, _mm256_set1_epi8(4)));
        });
    }
    template <int K>
    static EP_INLINE Chunk around_two(Chunk c, uint64_t mask) {
        return where(two<K>(c), mask, [](__m256i v, __m256i set) __attribute__((always_inline)) {
            const __m256i codes = _mm256_shuffle_epi8(_mm256_set1_epi32(0x04030100), v);
            return _mm256_blendv_epi8(_mm256_set1_epi8(2), codes, set);
        });
    }
    template <int K>
    static EP_INLINE Chunk around_one(Chunk c, uint64_t mask) {
        return where(c, mask, [](__m256i v, __m256i set) __attribute__((always_inline)) {
            const __m256i bit = _mm256_set1_epi8(static_cast<char>(1 << K));
            const __m256i up = _mm256_cmpeq_epi8(_mm256_and_si256(v, bit), bit);
            const __m256i codes = _mm256_and_si256(up, _mm256_set1_epi8(2));
            return _mm256_blendv_epi8(_mm256_set1_epi8(1), codes, set);
        });
    }
    static EP_INLINE void store(Chunk c, uint8_t *p) {
        store32(c.a, p);
        store32(c.b, p + 32);
    }

    static EP_INLINE Sums start(int32_t value) {
        return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)};
    }
    static EP_INLINE Sums lowered(const Sums &s) { return s; }
    static EP_INLINE Sums add(Sums x, Sums y) {
        return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
    }
    template <int Coding>
    static EP_INLINE __m256i dot32(__m256i sums, __m256i codes, __m256i four) {
        __m256i pairs;
        if constexpr (!kUnsigned<Coding>) {
            const __m256i weights = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
            pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(four, weights));
        } else {
            pairs = _mm256_maddubs_epi16(codes, four);
        }
        return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    template <int Coding>
    static EP_INLINE void dot(Sums &sums, Chunk codes, const int8_t *activations) {
        int32_t word;
        std::memcpy(&word, activations, 4);
        const __m256i four = _mm256_set1_epi32(word);
        sums = {dot32<Coding>(sums.a, codes.a, four), dot32<Coding>(sums.b, codes.b, four)};
    }

    static EP_INLINE __m256 from_f16(const void *p) {
        return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i *>(p)));
    }
    static EP_INLINE Row zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
    static EP_INLINE Row add(Row x, Row y) {
        return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
    }
    static EP_INLINE void accumulate(Row &row, Sums sums, const uint8_t *scales, float scale) {
        const __m256 s = _mm256_set1_ps(scale);
        row = {_mm256_fmadd_ps(_mm256_cvtepi32_ps(sums.a), _mm256_mul_ps(from_f16(scales), s), row.a),
               _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums.b), _mm256_mul_ps(from_f16(scales + 16), s),
                               row.b)};
    }
    static EP_INLINE void store(Row row, float *y) {
        _mm256_storeu_ps(y, row.a);
        _mm256_storeu_ps(y + 8, row.b);
    }

    static EP_INLINE Half load16(const uint8_t *p) { return load(p); }
    static EP_INLINE __m128i eight16(const uint8_t *&p, uint32_t mask) {
        const auto load16 = [](const void *q) {
            return _mm_loadu_si128(static_cast<const __m128i *>(q));
        };
        const __m128i found = _mm_shuffle_epi8(load16(p), load16(kExpand.words[mask & 255]));
        p += 2 * _mm_popcnt_u32(mask & 255);
        return found;
    }
    static EP_INLINE Half expand16(const uint8_t *&p, uint32_t mask) {
        __m128i part[4];
        for (auto &lanes : part) {
            lanes = eight16(p, mask);
            mask >>= 8;
        }
        return {_mm256_set_m128i(part[1], part[0]), _mm256_set_m128i(part[3], part[2])};
    }
    static EP_INLINE void store16(Half h, uint8_t *p) { store(h, p); }
    template <int Type>
    static EP_INLINE Row widen_column(__m256i column) {
        const __m128i first = _mm256_castsi256_si128(column);
        const __m128i second = _mm256_extracti128_si256(column, 1);
        if constexpr (Type == EP_F16) return {_mm256_cvtph_ps(first), _mm256_cvtph_ps(second)};
        const auto from_bf16 = [](__m128i v) {
            return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
        };
        return {from_bf16(first), from_bf16(second)};
    }
    template <int Type>
    static EP_INLINE Pair widen(Half half) {
        return {widen_column<Type>(half.a), widen_column<Type>(half.b)};
    }
    static EP_INLINE void fma_column(Row &row, Row column, float a) {
        const __m256 all = _mm256_set1_ps(a);
        row = {_mm256_fmadd_ps(column.a, all, row.a), _mm256_fmadd_ps(column.b, all, row.b)};
    }
    template <int Type>
    static EP_INLINE Pair expand_wide(const uint8_t *&p, uint32_t mask) {
        return widen<Type>(expand16(p, mask));
    }
    static EP_INLINE Row load_row(const uint8_t *p) {
        const auto *floats = reinterpret_cast<const float *>(p);
        return {_mm256_loadu_ps(floats), _mm256_loadu_ps(floats + 8)};
    }
    static EP_INLINE Pair load_floats(const uint8_t *p) { return {load_row(p), load_row(p + 64)}; }
    static EP_INLINE void store_floats(const Pair &pair, uint8_t *p) {
        store(pair.first, reinterpret_cast<float *>(p));
        store(pair.second, reinterpret_cast<float *>(p + 64));
    }
    // The table's places, widened; where a bit is not set they are negative, and zero is taken.
    static EP_INLINE __m256 eight_floats(const uint8_t *&p, uint32_t mask) {
        const __m256i from = _mm256_cvtepi8_epi32(
            _mm_loadl_epi64(reinterpret_cast<const __m128i *>(kExpand.bytes[mask & 255])));
        const __m256 next = _mm256_loadu_ps(reinterpret_cast<const float *>(p));
        const __m256 found = _mm256_permutevar8x32_ps(next, from);
        p += 4 * _mm_popcnt_u32(mask & 255);
        return _mm256_blendv_ps(found, _mm256_setzero_ps(), _mm256_castsi256_ps(from));
    }
    static EP_INLINE Pair expand_floats(const uint8_t *&p, uint32_t mask) {
        const __m256 first = eight_floats(p, mask), second = eight_floats(p, mask >> 8);
        const __m256 third = eight_floats(p, mask >> 16);
        return {{first, second}, {third, eight_floats(p, mask >> 24)}};
    }
    static EP_INLINE void fma(Row &row, Row &other, Pair pair, float a, float b) {
        fma_column(row, pair.first, a);
        fma_column(other, pair.second, b);
    }
};

bool runs_here() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c") && __builtin_cpu_supports("popcnt");
}

}  // namespace

// 4-bit weights take this kernel twice as long as stock llama.cpp; the rest is measured, too, beside
// a llama.cpp that was compiled for AVX-512.
const Kernels kAvx2 = table<Avx2>("avx2", runs_here, {0.8F, 0, 0.6F, 0.7F, 0.6F, {false, true, true}});

}  // namespace edgeprune
#endif
