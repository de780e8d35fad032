// How a packed matrix stands in memory.
//
// Rows are cut into tiles of 16, columns into blocks of 32, blocks into chunks that one vector
// operation takes at once. A chunk of an 8- or 4-bit type is 16 rows x 4 columns, row by row: the
// order of a dot product of bytes. A chunk of a type of floats is 2 columns x 16 rows, column by column.
//
//   offsets   tiles + 1 numbers of 64 bits: where the values of each tile begin
//   sides     for each tile and group of blocks: 16 scales (8- and 4-bit types), then, if the matrix has
//             masks, 512 bits for each block, one chunk after another, the first weight of a chunk in
//             the lowest bit
//   values    for each tile, what is kept:
//     Q8_0        one byte each, 128 added, so that codes are unsigned
//     Q4_0        codes of chunks 0, 2, 4, ... in low nibbles, those of 1, 3, 5, ... in high ones:
//                 two streams that advance by themselves and share bytes
//     narrow      codes counted from the lowest, their two low bits in four streams as above, chunk
//                 j in bits 2 (j % 4) and 2 (j % 4) + 1; the third bit is the mask's
//     masked      codes counted from the lowest, without zero: of two bits in four streams, of one
//                 bit in eight
//     F16, BF16   two bytes each
//     F32         four bytes each
//   padding   so that a wide load at the last value stays inside
//
// A dense matrix has all of its values and no masks. Rows that fill up the last tile are zero.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "edgeprune_kernels.h"

// Files are compiled for different processors: what they share must not become a function of its
// own, of which the linker would keep the one that only the newest processor can run.
#define EP_INLINE inline __attribute__((always_inline))

namespace edgeprune {

constexpr int64_t kTileRows = 16;
constexpr int64_t kBlock = 32;
constexpr int64_t kPadding = 128;
constexpr int64_t kChunks = 8;  // of a block, in 8- and 4-bit types
constexpr int64_t kChunkCodes = 64;

// What the kernels of an 8- or 4-bit type differ by.
enum Coding {
    kQ8Sparse, kQ8Dense, kQ4Sparse, kQ4Dense, kThreeBits, kTwoBits, kMaskedTwo, kMaskedOne, kCodings
};

// Chunks of a block that share a byte, each in some of its bits, and the code of zero as `dot` sees it.
constexpr int kStreams[kCodings] = {1, 1, 2, 2, 4, 4, 4, 8};
constexpr int kZeros[kCodings] = {128, 128, 8, 8, 4, 2, 2, 1};

EP_INLINE int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct Matrix : ep_shape {
    const uint8_t *data;

    EP_INLINE Matrix(const ep_shape &shape, const void *packed)
        : ep_shape(shape), data(static_cast<const uint8_t *>(packed)) {}

    EP_INLINE bool wide() const { return type == EP_F16 || type == EP_BF16 || type == EP_F32; }  // floats
    EP_INLINE int64_t float_bytes() const { return type == EP_F32 ? 4 : 2; }
    EP_INLINE int64_t tiles() const { return round_up(rows, kTileRows) / kTileRows; }
    EP_INLINE int64_t blocks() const { return cols / kBlock; }
    EP_INLINE int64_t groups() const { return blocks() / group; }
    EP_INLINE bool keeps_zeros() const { return layout == EP_DENSE || layout == EP_NARROW; }
    EP_INLINE bool has_masks() const { return !keeps_zeros() || (layout == EP_NARROW && bits == 3); }
    EP_INLINE Coding coding() const {
        if (layout == EP_NARROW) return bits == 3 ? kThreeBits : kTwoBits;
        if (layout == EP_MASKED) return bits == 2 ? kMaskedTwo : kMaskedOne;
        if (type == EP_Q8_0) return layout == EP_SPARSE ? kQ8Sparse : kQ8Dense;
        return layout == EP_SPARSE ? kQ4Sparse : kQ4Dense;
    }
    EP_INLINE int64_t scale_bytes() const { return wide() ? 0 : kTileRows * 2; }
    EP_INLINE int64_t mask_bytes() const { return has_masks() ? kChunks * kChunkCodes / 8 : 0; }
    EP_INLINE int64_t side_bytes() const { return scale_bytes() + group * mask_bytes(); }
    EP_INLINE int64_t sides_start() const { return round_up((tiles() + 1) * 8, 64); }
    EP_INLINE int64_t values_start() const {
        return sides_start() + tiles() * groups() * side_bytes();
    }
    EP_INLINE uint64_t offset(int64_t tile) const {
        uint64_t found;
        std::memcpy(&found, data + tile * 8, 8);
        return found;
    }
    EP_INLINE const uint8_t *sides(int64_t tile) const {
        return data + sides_start() + tile * groups() * side_bytes();
    }
    EP_INLINE const uint8_t *values(int64_t tile) const {
        return data + values_start() + offset(tile);
    }
};

// One token's activations: 8-bit codes, and of each block of 32 its scale and the sum of its codes.
struct Token {
    int8_t *codes;
    float *scales;
    int32_t *sums;

    static EP_INLINE int64_t bytes(int64_t cols) { return round_up(cols + cols / kBlock * 8, 64); }
    EP_INLINE Token(void *memory, int64_t cols)
        : codes(static_cast<int8_t *>(memory)),
          scales(reinterpret_cast<float *>(codes + cols)),
          sums(reinterpret_cast<int32_t *>(scales + cols / kBlock)) {}
};

}  // namespace edgeprune
