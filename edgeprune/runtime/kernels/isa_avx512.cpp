// AVX-512 with VBMI (look-ups of bytes), VBMI2 (expansion of bytes and words) and VNNI (dot products of
// bytes): Intel from Ice Lake servers on, AMD from Zen 4 on.
#if defined(__x86_64__)
#include <immintrin.h>

#include "tiles.h"

namespace edgeprune {
namespace {

// What two bits of a byte stand for, by its low six bits.
struct Table {
    alignas(64) uint8_t at[64];

    constexpr Table(int stream, const uint8_t (&codes)[4]) : at() {
        for (int i = 0; i < 64; i++) at[i] = codes[i >> 2 * stream & 3];
    }
};

constexpr uint8_t kCodes[] = {0, 1, 2, 3}, kAroundTwo[] = {0, 1, 3, 4};
constexpr Table kTwo[] = {{0, kCodes}, {1, kCodes}, {2, kCodes}};
constexpr Table kTwoMasked[] = {{0, kAroundTwo}, {1, kAroundTwo}, {2, kAroundTwo}};

struct Avx512 {
    using Chunk = __m512i;
    using Sums = __m512i;
    using Half = __m512i;
    using Row = __m512;
    struct Pair {
        __m512 first, second;
    };
    static constexpr int kTokens = 8;
    template <int Coding>
    static constexpr bool kUnsigned = true;

    static EP_INLINE Chunk load(const uint8_t *p) { return _mm512_loadu_si512(p); }
    static EP_INLINE Chunk expand(const uint8_t *&p, uint64_t mask, int fill) {
        Chunk next = load(p);
        // Compilers would expand from memory, which takes twice as long where `fill` is zero.
        asm("" : "+v"(next));
        p += __builtin_popcountll(mask);
        return _mm512_mask_expand_epi8(_mm512_set1_epi8(static_cast<char>(fill)), mask, next);
    }
    static EP_INLINE Chunk low(Chunk c) { return _mm512_and_si512(c, _mm512_set1_epi8(15)); }
    static EP_INLINE Chunk high(Chunk c) { return low(_mm512_srli_epi16(c, 4)); }
    static EP_INLINE Chunk raised(Chunk c) {
        return _mm512_and_si512(c, _mm512_set1_epi8(static_cast<char>(0xF0)));
    }
    // Bits of the fourth stream are moved down to the third's.
    template <int K>
    static EP_INLINE Chunk index(Chunk c) {
        return K == 3 ? _mm512_srli_epi16(c, 2) : c;
    }
    template <int K>
    static EP_INLINE Chunk two(Chunk c) {
        return _mm512_permutexvar_epi8(index<K>(c), load(kTwo[K == 3 ? 2 : K].at));
    }
    static EP_INLINE Chunk four_where(Chunk c, uint64_t mask) {
        return _mm512_mask_add_epi8(c, mask, c, _mm512_set1_epi8(4));
    }
    template <int K>
    static EP_INLINE Chunk around_two(Chunk c, uint64_t mask) {
        const Chunk codes = load(kTwoMasked[K == 3 ? 2 : K].at);
        return _mm512_mask_permutexvar_epi8(_mm512_set1_epi8(2), mask, index<K>(c), codes);
    }
    template <int K>
    static EP_INLINE Chunk around_one(Chunk c, uint64_t mask) {
        const uint64_t up = _mm512_test_epi8_mask(c, _mm512_set1_epi8(static_cast<char>(1 << K)));
        const Chunk zeros = _mm512_maskz_mov_epi8(~mask, _mm512_set1_epi8(1));
        return _mm512_mask_mov_epi8(zeros, up, _mm512_set1_epi8(2));
    }
    static EP_INLINE void store(Chunk c, uint8_t *p) { _mm512_storeu_si512(p, c); }

    static EP_INLINE Sums start(int32_t value) { return _mm512_set1_epi32(value); }
    static EP_INLINE Sums lowered(Sums s) { return _mm512_srai_epi32(s, 4); }
    static EP_INLINE Sums add(Sums a, Sums b) { return _mm512_add_epi32(a, b); }
    template <int Coding>
    static EP_INLINE void dot(Sums &sums, Chunk codes, const int8_t *activations) {
        int32_t four;
        std::memcpy(&four, activations, 4);
        sums = _mm512_dpbusd_epi32(sums, codes, _mm512_set1_epi32(four));
    }

    static EP_INLINE Row zero() { return _mm512_setzero_ps(); }
    static EP_INLINE Row add(Row a, Row b) { return _mm512_add_ps(a, b); }
    static EP_INLINE void accumulate(Row &row, Sums sums, const uint8_t *scales, float scale) {
        const __m512 both = _mm512_mul_ps(
            _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(scales))),
            _mm512_set1_ps(scale));
        row = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), both, row);
    }
    static EP_INLINE void store(Row row, float *y) { _mm512_storeu_ps(y, row); }

    static EP_INLINE Half load16(const uint8_t *p) { return _mm512_loadu_si512(p); }
    static EP_INLINE Half expand16(const uint8_t *&p, uint32_t mask) {
        const Half next = load16(p);
        p += 2 * __builtin_popcount(mask);
        return _mm512_maskz_expand_epi16(mask, next);
    }
    static EP_INLINE void store16(Half h, uint8_t *p) { _mm512_storeu_si512(p, h); }
    template <int Type>
    static EP_INLINE __m512 widen_column(__m256i column) {
        if constexpr (Type == EP_F16) return _mm512_cvtph_ps(column);
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(column), 16));
    }
    template <int Type>
    static EP_INLINE Pair widen(Half half) {
        return {widen_column<Type>(_mm512_castsi512_si256(half)),
                widen_column<Type>(_mm512_extracti64x4_epi64(half, 1))};
    }
    // Expanding 32-bit lanes after widening them takes less than half the time of 16-bit ones.
    template <int Type>
    static EP_INLINE __m512 expand_column(const uint8_t *&p, uint32_t mask) {
        const auto next = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p));
        p += 2 * __builtin_popcount(mask);
        return _mm512_maskz_expand_ps(static_cast<__mmask16>(mask), widen_column<Type>(next));
    }
    template <int Type>
    static EP_INLINE Pair expand_wide(const uint8_t *&p, uint32_t mask) {
        const __m512 first = expand_column<Type>(p, mask & 0xFFFF);
        return {first, expand_column<Type>(p, mask >> 16)};
    }
    static EP_INLINE Pair load_floats(const uint8_t *p) {
        return {_mm512_loadu_ps(p), _mm512_loadu_ps(p + 64)};
    }
    static EP_INLINE void store_floats(Pair pair, uint8_t *p) {
        _mm512_storeu_ps(p, pair.first);
        _mm512_storeu_ps(p + 64, pair.second);
    }
    static EP_INLINE __m512 expand_floats_column(const uint8_t *&p, uint32_t mask) {
        const __m512 next = _mm512_loadu_ps(p);
        p += 4 * __builtin_popcount(mask);
        return _mm512_maskz_expand_ps(static_cast<__mmask16>(mask), next);
    }
    static EP_INLINE Pair expand_floats(const uint8_t *&p, uint32_t mask) {
        const __m512 first = expand_floats_column(p, mask & 0xFFFF);
        return {first, expand_floats_column(p, mask >> 16)};
    }
    static EP_INLINE void fma(Row &row, Row &other, Pair pair, float a, float b) {
        row = _mm512_fmadd_ps(pair.first, _mm512_set1_ps(a), row);
        other = _mm512_fmadd_ps(pair.second, _mm512_set1_ps(b), other);
    }
};

bool runs_here() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") &&
           __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2");
}

uint8_t *compress(const uint8_t *codes, uint8_t zero, uint8_t *bits, uint8_t *out) {
    const __m512i all = _mm512_loadu_si512(codes);
    const uint64_t mask = _mm512_cmpneq_epi8_mask(all, _mm512_set1_epi8(static_cast<char>(zero)));
    _mm512_storeu_si512(out, _mm512_maskz_compress_epi8(mask, all));
    std::memcpy(bits, &mask, sizeof mask);
    return out + __builtin_popcountll(mask);
}

uint8_t *compress16(const uint16_t *values, uint8_t *bits, uint8_t *out) {
    const __m512i all = _mm512_loadu_si512(values);
    const uint32_t mask = _mm512_test_epi16_mask(all, _mm512_set1_epi16(0x7FFF));
    _mm512_storeu_si512(out, _mm512_maskz_compress_epi16(mask, all));
    std::memcpy(bits, &mask, sizeof mask);
    return out + 2 * __builtin_popcount(mask);
}

}  // namespace

const Kernels kAvx512 = table<Avx512>("avx512", runs_here,
                                      {0.9F, 0.75F, 0.85F, 0.9F, 0.85F, {true, true, true}},
                                      compress, compress16);

}  // namespace edgeprune
#endif
