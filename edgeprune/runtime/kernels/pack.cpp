// From the rows of a GGUF tensor to tiles and back. layout.h has the target, ggml-common.h the source.
#include <algorithm>
#include <atomic>
#include <vector>

#include "kernels.h"
#include "rows.h"

namespace edgeprune {
namespace {

constexpr int64_t kChunks = 8;  // of a block, in 8- and 4-bit types
constexpr int64_t kChunkCodes = 64;
constexpr int64_t kBlockCodes = kChunks * kChunkCodes;

uint8_t zero_code(int32_t type) { return type == EP_Q8_0 ? 128 : 8; }

// Of either sign; `value` is the bits of a float.
template <typename Bits>
bool is_zero(Bits value) {
    return static_cast<Bits>(value << 1) == 0;
}

template <typename Bits>
int64_t count_floats(const uint8_t *from) {
    Bits values[kBlock];
    std::memcpy(values, from, sizeof values);
    return std::count_if(values, values + kBlock, [](Bits value) { return !is_zero(value); });
}

TileRows rows_of_tensor(const Matrix &m, const void *data) {
    const auto *first = static_cast<const uint8_t *>(data);
    const int64_t step = kTileRows * row_bytes(m);
    return [=](int64_t tile, uint8_t *) { return first + tile * step; };
}

// What a tile keeps: of 4-bit types by stream, of others all in the first.
struct Kept {
    int64_t even = 0, odd = 0;
};

// In each byte, how many of its two 4-bit codes are not 8.
uint64_t nonzero_bytes(uint64_t codes) {
    constexpr uint64_t kOnes = 0x0101010101010101;
    uint64_t bits = codes ^ 0x8888888888888888;
    bits |= bits >> 2;
    bits |= bits >> 1;
    return (bits & kOnes) + (bits >> 4 & kOnes);
}

int sum_of_bytes(uint64_t bytes) { return bytes * 0x0101010101010101 >> 56; }

Kept count_rows(const Matrix &m, const uint8_t *from, int64_t rows) {
    Kept kept;
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t block = 0; block < m.blocks(); block++, from += source_block_bytes(m.type)) {
            int64_t even = 0, odd = 0;
            if (m.type == EP_F32) {
                even = count_floats<uint32_t>(from);
            } else if (m.wide()) {
                even = count_floats<uint16_t>(from);
            } else if (m.type == EP_Q8_0) {
                for (int i = 2; i < 34; i++) even += from[i] != 0;
            } else {
                uint64_t codes[2];
                std::memcpy(codes, from + 2, 16);
                for (const uint64_t eight : codes) {  // 4 bytes of even chunks, 4 of odd ones
                    const uint64_t kept = nonzero_bytes(eight);
                    even += sum_of_bytes(kept & 0xFFFFFFFF);
                    odd += sum_of_bytes(kept >> 32);
                }
            }
            kept.even += even;
            kept.odd += odd;
        }
    }
    return kept;
}

int64_t value_bytes(const Matrix &m, Kept kept) {
    if (m.layout == EP_DENSE)
        return m.cols * kTileRows *
               (m.wide() ? 2 * m.float_bytes() : m.type == EP_Q8_0 ? 2 : 1) / 2;
    return m.wide() ? m.float_bytes() * kept.even : std::max(kept.even, kept.odd);
}

// Where each tile's values begin, and behind the last where they end.
std::vector<uint64_t> offsets(const Matrix &m, const TileRows &rows, int threads) {
    std::vector<uint64_t> ends(m.tiles() + 1);
    over_tiles(m, threads, [&](int64_t from, int64_t to) {
        std::vector<uint8_t> scratch(kTileRows * row_bytes(m));
        for (int64_t t = from; t < to; t++) {
            Kept kept;
            if (m.layout == EP_SPARSE)
                kept = count_rows(m, rows(t, scratch.data()), rows_in(m, t));
            ends[t + 1] = value_bytes(m, kept);
        }
    });
    for (size_t t = 1; t < ends.size(); t++) ends[t] += ends[t - 1];
    return ends;
}

uint32_t word_at(const uint8_t *from) {
    uint32_t word;
    std::memcpy(&word, from, sizeof word);
    return word;
}

// The codes of a tile's block in the order of its chunks, and its scales.
void gather(const Matrix &m, const uint8_t *rows, int64_t present, int64_t block, uint8_t *codes,
            uint8_t *scales) {
    for (int64_t r = 0; r < kTileRows; r++) {
        uint32_t words[kChunks];
        if (r >= present) {
            std::memset(scales + 2 * r, 0, 2);
            std::memset(words, zero_code(m.type), sizeof words);
        } else {
            const uint8_t *from = rows + r * row_bytes(m) + block * source_block_bytes(m.type);
            std::memcpy(scales + 2 * r, from, 2);
            if (m.type == EP_Q8_0) {
                for (int j = 0; j < 8; j++) words[j] = word_at(from + 2 + 4 * j) ^ 0x80808080;
            } else {
                for (int j = 0; j < 4; j++) {
                    const uint32_t both = word_at(from + 2 + 4 * j);
                    words[j] = both & 0x0F0F0F0F;
                    words[j + 4] = both >> 4 & 0x0F0F0F0F;
                }
            }
        }
        for (int64_t j = 0; j < kChunks; j++)
            std::memcpy(codes + j * kChunkCodes + 4 * r, &words[j], 4);
    }
}

void scatter(const Matrix &m, uint8_t *rows, int64_t present, int64_t block, const uint8_t *codes,
             const uint8_t *scales) {
    for (int64_t r = 0; r < present; r++) {
        uint8_t *to = rows + r * row_bytes(m) + block * source_block_bytes(m.type);
        std::memcpy(to, scales + 2 * r, 2);
        uint32_t words[kChunks];
        for (int64_t j = 0; j < kChunks; j++)
            std::memcpy(&words[j], codes + j * kChunkCodes + 4 * r, 4);
        if (m.type == EP_Q8_0) {
            for (auto &word : words) word ^= 0x80808080;
            std::memcpy(to + 2, words, sizeof words);
        } else {
            for (int j = 0; j < 4; j++) words[j] |= words[j + 4] << 4;
            std::memcpy(to + 2, words, 16);
        }
    }
}

// The values of a tile's block in the order of its chunks: 2 columns x 16 rows.
void gather_floats(const Matrix &m, const uint8_t *rows, int64_t present, int64_t block,
                   uint16_t *values) {
    uint32_t pairs[kBlock / 2][kTileRows];  // of two columns, one row after another
    for (int64_t r = 0; r < kTileRows; r++) {
        const uint8_t *from = rows + (r * m.blocks() + block) * kBlock * 2;
        for (int64_t j = 0; j < kBlock / 2; j++)
            pairs[j][r] = r < present ? word_at(from + 4 * j) : 0;
    }
    for (const auto &pair : pairs) {
        for (int64_t r = 0; r < kTileRows; r++) values[r] = static_cast<uint16_t>(pair[r]);
        for (int64_t r = 0; r < kTileRows; r++) values[kTileRows + r] = pair[r] >> 16;
        values += 2 * kTileRows;
    }
}

void gather_floats(const Matrix &m, const uint8_t *rows, int64_t present, int64_t block,
                   uint32_t *values) {
    for (int64_t r = 0; r < kTileRows; r++) {
        const uint8_t *from = rows + (r * m.blocks() + block) * kBlock * 4;
        for (int64_t c = 0; c < kBlock; c++)
            values[c * kTileRows + r] = r < present ? word_at(from + 4 * c) : 0;
    }
}

template <typename Bits>
void scatter_floats(const Matrix &m, uint8_t *rows, int64_t present, int64_t block,
                    const Bits *values) {
    for (int64_t r = 0; r < present; r++) {
        Bits own[kBlock];
        for (int64_t c = 0; c < kBlock; c++) own[c] = values[c * kTileRows + r];
        std::memcpy(rows + (r * m.blocks() + block) * sizeof own, own, sizeof own);
    }
}

uint8_t *compress_floats(const uint16_t *values, uint8_t *mask, uint8_t *out) {
    return kernels().compress16(values, mask, out);
}

uint8_t *compress_floats(const uint32_t *values, uint8_t *mask, uint8_t *out) {
    uint32_t bits = 0;
    for (int i = 0; i < 32; i++) {
        const bool keep = !is_zero(values[i]);
        std::memcpy(out, values + i, 4);
        out += 4 * keep;
        bits |= static_cast<uint32_t>(keep) << i;
    }
    std::memcpy(mask, &bits, sizeof bits);
    return out;
}

void join_nibbles(const uint8_t *low, const uint8_t *high, int64_t count, uint8_t *out) {
    for (int64_t i = 0; i < count; i++) out[i] = low[i] | high[i] << 4;
}

// What one thread packs with.
struct Buffers {
    std::vector<uint8_t> rows, even, odd;  // the latter: what a tile keeps, and room for a wide store
    explicit Buffers(const Matrix &m)
        : rows(kTileRows * row_bytes(m)),
          even(m.cols * kTileRows * (m.wide() ? m.float_bytes() : 1) + kChunkCodes),
          odd(even.size()) {}
};

// Pack one tile; false if its values don't take `size` bytes, as data that change may not.
bool pack_codes(const Matrix &m, const uint8_t *rows, int64_t present, uint8_t *side,
                uint8_t *values, int64_t size, Buffers &buffers) {
    const Compress compress = kernels().compress;
    const bool nibbles = m.type == EP_Q4_0, sparse = m.layout == EP_SPARSE;
    uint8_t *streams[2] = {buffers.even.data(), buffers.odd.data()};
    alignas(64) uint8_t codes[kBlockCodes];
    for (int64_t block = 0; block < m.blocks(); block++, side += m.side_bytes()) {
        gather(m, rows, present, block, codes, side);
        for (int64_t j = 0; j < kChunks; j++) {
            uint8_t *&stream = streams[nibbles ? j % 2 : 0];
            const uint8_t *chunk = codes + j * kChunkCodes;
            if (sparse) {
                uint8_t *mask = side + 2 * kTileRows + 8 * j;
                stream = compress(chunk, zero_code(m.type), mask, stream);
            } else {
                std::memcpy(stream, chunk, kChunkCodes);
                stream += kChunkCodes;
            }
        }
    }
    const int64_t longest = std::max(streams[0] - buffers.even.data(), streams[1] - buffers.odd.data());
    if (longest != size) return false;
    if (!nibbles) {
        std::memcpy(values, buffers.even.data(), size);
        return true;
    }
    for (int i = 0; i < 2; i++) {  // the shorter stream ends in zeros
        auto &whole = i ? buffers.odd : buffers.even;
        std::fill(streams[i], std::max(streams[i], whole.data() + size), uint8_t{0});
    }
    join_nibbles(buffers.even.data(), buffers.odd.data(), size, values);
    return true;
}

template <typename Bits>
bool pack_floats(const Matrix &m, const uint8_t *rows, int64_t present, uint8_t *side,
                 uint8_t *values, int64_t size, Buffers &buffers) {
    alignas(64) Bits all[kBlockCodes];
    uint8_t *next = buffers.even.data();
    for (int64_t block = 0; block < m.blocks(); block++, side += m.side_bytes()) {
        gather_floats(m, rows, present, block, all);
        if (m.layout == EP_DENSE) {
            std::memcpy(next, all, sizeof all);
            next += sizeof all;
            continue;
        }
        for (int64_t j = 0; j < 16; j++) next = compress_floats(all + 32 * j, side + 4 * j, next);
    }
    if (next - buffers.even.data() != size) return false;
    std::memcpy(values, buffers.even.data(), size);
    return true;
}

void unpack_codes(const Matrix &m, int64_t tile, uint8_t *rows) {
    const uint8_t *side = m.sides(tile), *values = m.values(tile);
    const bool nibbles = m.type == EP_Q4_0;
    int64_t next[2] = {0, 0};  // of the even and the odd stream
    for (int64_t block = 0; block < m.blocks(); block++, side += m.side_bytes()) {
        uint8_t codes[kBlockCodes];
        for (int64_t j = 0; j < kChunks; j++) {
            uint64_t mask = ~uint64_t{0};
            if (m.layout == EP_SPARSE) std::memcpy(&mask, side + 2 * kTileRows + 8 * j, 8);
            const int high = nibbles && j % 2;
            for (int i = 0; i < kChunkCodes; i++) {
                uint8_t &code = codes[j * kChunkCodes + i] = zero_code(m.type);
                if (!(mask >> i & 1)) continue;
                const uint8_t stored = values[next[high]++];
                code = !nibbles ? stored : high ? stored >> 4 : stored & 15;
            }
        }
        scatter(m, rows, rows_in(m, tile), block, codes, side);
    }
}

template <typename Bits>
void unpack_floats(const Matrix &m, int64_t tile, uint8_t *rows) {
    const uint8_t *side = m.sides(tile), *values = m.values(tile);
    for (int64_t block = 0; block < m.blocks(); block++, side += m.side_bytes()) {
        Bits all[kBlockCodes] = {};
        for (int64_t i = 0; i < kBlockCodes; i++) {
            if (m.layout == EP_SPARSE && !(side[i / 8] >> i % 8 & 1)) continue;
            std::memcpy(&all[i], values, sizeof(Bits));
            values += sizeof(Bits);
        }
        scatter_floats(m, rows, rows_in(m, tile), block, all);
    }
}

size_t packed_size(const Matrix &m, const TileRows &rows, int threads) {
    return m.values_start() + offsets(m, rows, threads).back() + kPadding;
}

int pack(const Matrix &m, const TileRows &rows, uint8_t *out, size_t size, int threads) {
    const std::vector<uint64_t> ends = offsets(m, rows, threads);
    const size_t used = m.values_start() + ends.back();
    if (used + kPadding > size) return -1;
    std::memcpy(out, ends.data(), ends.size() * 8);
    std::memset(out + used, 0, kPadding);
    std::atomic<bool> same = true;
    over_tiles(m, threads, [&](int64_t from, int64_t to) {
        Buffers buffers(m);
        for (int64_t tile = from; tile < to && same; tile++) {
            const uint8_t *own = rows(tile, buffers.rows.data());
            auto *side = const_cast<uint8_t *>(m.sides(tile));
            uint8_t *values = out + m.values_start() + ends[tile];
            const int64_t length = ends[tile + 1] - ends[tile];
            const auto pack_tile = m.type == EP_F32 ? pack_floats<uint32_t>
                                   : m.wide()       ? pack_floats<uint16_t>
                                                    : pack_codes;
            if (!pack_tile(m, own, rows_in(m, tile), side, values, length, buffers)) same = false;
        }
    });
    return same ? 0 : -1;
}

}  // namespace
}  // namespace edgeprune

using namespace edgeprune;

int ep_packable(const ep_shape *shape) {
    const bool type = shape->type == EP_F16 || shape->type == EP_BF16 || shape->type == EP_F32 ||
                      shape->type == EP_Q8_0 || shape->type == EP_Q4_0;
    const bool layout = shape->layout == EP_SPARSE || shape->layout == EP_DENSE;
    return type && layout && shape->rows > 0 && shape->cols > 0 && shape->cols % kBlock == 0;
}

size_t ep_packed_size(const ep_shape *shape, const void *data, int threads) {
    if (!ep_packable(shape)) return 0;
    return or_failed(EP_NO_SIZE, [&] {
        const Matrix m(*shape, nullptr);
        return packed_size(m, rows_of_tensor(m, data), threads);
    });
}

int ep_pack(const ep_shape *shape, const void *data, void *packed, size_t size, int threads) {
    if (!ep_packable(shape)) return -1;
    return or_failed<int>(EP_NO_MEMORY, [&] {
        const Matrix m(*shape, packed);
        return pack(m, rows_of_tensor(m, data), static_cast<uint8_t *>(packed), size, threads);
    });
}

size_t ep_packed_size_of_count(const ep_shape *shape, int64_t nonzeros) {
    const bool known = ep_packable(shape) && shape->layout == EP_SPARSE && shape->type != EP_Q4_0 &&
                       nonzeros >= 0 && nonzeros <= shape->rows * shape->cols;
    const Matrix m(*shape, nullptr);
    return known ? m.values_start() + value_bytes(m, {nonzeros, 0}) + kPadding : 0;
}

size_t ep_packed_size_of_file(const ep_shape *shape, const void *data, size_t data_size,
                              int threads) {
    if (!ep_packable(shape)) return 0;
    return or_failed(EP_NO_SIZE, [&] {
        const Matrix m(*shape, nullptr);
        const TileRows rows = rows_of_file(m, data, data_size, threads);
        return rows ? packed_size(m, rows, threads) : 0;
    });
}

int ep_pack_file(const ep_shape *shape, const void *data, size_t data_size, void *packed,
                 size_t size, int threads) {
    if (!ep_packable(shape)) return -1;
    return or_failed<int>(EP_NO_MEMORY, [&] {
        const Matrix m(*shape, packed);
        const TileRows rows = rows_of_file(m, data, data_size, threads);
        return rows ? pack(m, rows, static_cast<uint8_t *>(packed), size, threads) : -1;
    });
}

int ep_unpack(const ep_shape *shape, const void *packed, void *data, int threads) {
    const Matrix m(*shape, packed);
    const auto unpack = [&](int64_t from, int64_t to) {
        for (int64_t tile = from; tile < to; tile++) {
            auto *rows = static_cast<uint8_t *>(data) + tile * kTileRows * row_bytes(m);
            if (m.type == EP_F32)
                unpack_floats<uint32_t>(m, tile, rows);
            else if (m.wide())
                unpack_floats<uint16_t>(m, tile, rows);
            else
                unpack_codes(m, tile, rows);
        }
    };
    return or_failed<int>(EP_NO_MEMORY, [&] {
        over_tiles(m, threads, unpack);
        return 0;
    });
}
