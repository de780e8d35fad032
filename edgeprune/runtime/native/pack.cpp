// From the rows of a GGUF tensor to tiles and back. layout.h has the target, ggml-common.h the source.
#include <algorithm>
#include <vector>

#include "kernels.h"
#include "threads.h"

namespace edgeprune {
namespace {

constexpr int64_t kChunks = 8;  // of a block, in 8- and 4-bit types
constexpr int64_t kChunkCodes = 64;
constexpr int64_t kBlockCodes = kChunks * kChunkCodes;

uint8_t zero_code(int32_t type) { return type == EP_Q8_0 ? 128 : 8; }

int64_t source_block_bytes(int32_t type) {
    return type == EP_Q8_0 ? 34 : type == EP_Q4_0 ? 18 : 2 * kBlock;
}

bool is_zero16(uint16_t value) { return (value & 0x7FFF) == 0; }

// Where a row's block stands in the tensor.
const uint8_t *source(const Matrix &m, const void *data, int64_t row, int64_t block) {
    return static_cast<const uint8_t *>(data) +
           (row * m.blocks() + block) * source_block_bytes(m.type);
}

// What a tile keeps: of 4-bit types by stream, of others all in the first.
struct Kept {
    int64_t even = 0, odd = 0;
};

Kept count_tile(const Matrix &m, const void *data, int64_t tile) {
    Kept kept;
    const int64_t last = std::min((tile + 1) * kTileRows, m.rows);
    for (int64_t row = tile * kTileRows; row < last; row++) {
        for (int64_t block = 0; block < m.blocks(); block++) {
            const uint8_t *from = source(m, data, row, block);
            int even = 0, odd = 0;
            if (m.wide()) {
                uint16_t values[kBlock];
                std::memcpy(values, from, sizeof values);
                for (const uint16_t value : values) even += !is_zero16(value);
            } else if (m.type == EP_Q8_0) {
                for (int i = 2; i < 34; i++) even += from[i] != 0;
            } else {
                for (int i = 0; i < 16; i++) {
                    const int both = ((from[2 + i] & 15) != 8) + (from[2 + i] >> 4 != 8);
                    (i / 4 % 2 ? odd : even) += both;
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
        return m.cols * kTileRows * (m.wide() ? 4 : m.type == EP_Q8_0 ? 2 : 1) / 2;
    return m.wide() ? 2 * kept.even : std::max(kept.even, kept.odd);
}

// Where each tile's values begin, and behind the last where they end.
std::vector<uint64_t> offsets(const Matrix &m, const void *data, int threads) {
    std::vector<uint64_t> ends(m.tiles() + 1);
    in_parallel(threads, [&](int part) {
        const int64_t from = m.tiles() * part / threads, to = m.tiles() * (part + 1) / threads;
        for (int64_t t = from; t < to; t++) {
            const Kept kept = m.layout == EP_DENSE ? Kept{} : count_tile(m, data, t);
            ends[t + 1] = value_bytes(m, kept);
        }
    });
    for (size_t t = 1; t < ends.size(); t++) ends[t] += ends[t - 1];
    return ends;
}

// The codes of a tile's block in the order of its chunks, and its scales.
void gather(const Matrix &m, const void *data, int64_t tile, int64_t block, uint8_t *codes,
            uint8_t *scales) {
    for (int64_t r = 0; r < kTileRows; r++) {
        const int64_t row = tile * kTileRows + r;
        uint32_t words[kChunks];
        if (row >= m.rows) {
            std::memset(scales + 2 * r, 0, 2);
            std::memset(words, zero_code(m.type), sizeof words);
        } else {
            const uint8_t *from = source(m, data, row, block);
            std::memcpy(scales + 2 * r, from, 2);
            if (m.type == EP_Q8_0) {
                std::memcpy(words, from + 2, sizeof words);
                for (auto &word : words) word ^= 0x80808080;
            } else {
                std::memcpy(words, from + 2, 16);
                for (int j = 0; j < 4; j++) {
                    words[j + 4] = words[j] >> 4 & 0x0F0F0F0F;
                    words[j] &= 0x0F0F0F0F;
                }
            }
        }
        for (int64_t j = 0; j < kChunks; j++)
            std::memcpy(codes + j * kChunkCodes + 4 * r, &words[j], 4);
    }
}

void scatter(const Matrix &m, void *data, int64_t tile, int64_t block, const uint8_t *codes,
             const uint8_t *scales) {
    for (int64_t r = 0; r < kTileRows && tile * kTileRows + r < m.rows; r++) {
        auto *to = const_cast<uint8_t *>(source(m, data, tile * kTileRows + r, block));
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
void gather16(const Matrix &m, const void *data, int64_t tile, int64_t block, uint16_t *values) {
    for (int64_t r = 0; r < kTileRows; r++) {
        const int64_t row = tile * kTileRows + r;
        uint16_t own[kBlock] = {};
        if (row < m.rows) std::memcpy(own, source(m, data, row, block), sizeof own);
        for (int64_t c = 0; c < kBlock; c++) values[c * kTileRows + r] = own[c];
    }
}

void scatter16(const Matrix &m, void *data, int64_t tile, int64_t block, const uint16_t *values) {
    for (int64_t r = 0; r < kTileRows && tile * kTileRows + r < m.rows; r++) {
        uint16_t own[kBlock];
        for (int64_t c = 0; c < kBlock; c++) own[c] = values[c * kTileRows + r];
        std::memcpy(const_cast<uint8_t *>(source(m, data, tile * kTileRows + r, block)), own,
                    sizeof own);
    }
}

void join_nibbles(const uint8_t *low, const uint8_t *high, int64_t count, uint8_t *out) {
    for (int64_t i = 0; i < count; i++) out[i] = low[i] | high[i] << 4;
}

struct Buffers {
    std::vector<uint8_t> even, odd;  // what a tile keeps, and room for a wide store
    explicit Buffers(const Matrix &m)
        : even(m.cols * kTileRows * 2 + kChunkCodes), odd(m.wide() ? 0 : even.size()) {}
};

void pack_codes(const Matrix &m, const void *data, int64_t tile, uint8_t *side, uint8_t *values,
                int64_t size, Buffers &buffers) {
    const Compress compress = kernels().compress;
    const bool nibbles = m.type == EP_Q4_0, sparse = m.layout == EP_SPARSE;
    uint8_t *streams[2] = {buffers.even.data(), buffers.odd.data()};
    alignas(64) uint8_t codes[kBlockCodes];
    for (int64_t block = 0; block < m.blocks(); block++, side += m.side_bytes()) {
        gather(m, data, tile, block, codes, side);
        for (int64_t j = 0; j < kChunks; j++) {
            uint8_t *&stream = streams[nibbles ? j % 2 : 0];
            const uint8_t *chunk = codes + j * kChunkCodes;
            if (sparse) {
                const uint64_t mask = compress(chunk, zero_code(m.type), stream);
                std::memcpy(side + 2 * kTileRows + 8 * j, &mask, 8);
                stream += __builtin_popcountll(mask);
            } else {
                std::memcpy(stream, chunk, kChunkCodes);
                stream += kChunkCodes;
            }
        }
    }
    if (!nibbles) {
        std::memcpy(values, buffers.even.data(), size);
        return;
    }
    for (int i = 0; i < 2; i++) {  // the shorter stream ends in zeros
        auto &whole = i ? buffers.odd : buffers.even;
        std::fill(streams[i], std::max(streams[i], whole.data() + size), uint8_t{0});
    }
    join_nibbles(buffers.even.data(), buffers.odd.data(), size, values);
}

void pack_halves(const Matrix &m, const void *data, int64_t tile, uint8_t *side, uint8_t *values) {
    uint16_t all[kBlockCodes];
    for (int64_t block = 0; block < m.blocks(); block++, side += m.side_bytes()) {
        gather16(m, data, tile, block, all);
        if (m.layout == EP_DENSE) {
            std::memcpy(values, all, sizeof all);
            values += sizeof all;
            continue;
        }
        uint16_t kept[kBlockCodes + 1];
        int64_t count = 0;
        for (int64_t j = 0; j < 16; j++) {
            uint32_t mask = 0;
            for (int i = 0; i < 32; i++) {
                const bool keep = !is_zero16(all[32 * j + i]);
                kept[count] = all[32 * j + i];
                count += keep;
                mask |= static_cast<uint32_t>(keep) << i;
            }
            std::memcpy(side + 4 * j, &mask, 4);
        }
        std::memcpy(values, kept, 2 * count);
        values += 2 * count;
    }
}

void unpack_codes(const Matrix &m, int64_t tile, void *data) {
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
        scatter(m, data, tile, block, codes, side);
    }
}

void unpack_halves(const Matrix &m, int64_t tile, void *data) {
    const uint8_t *side = m.sides(tile), *values = m.values(tile);
    for (int64_t block = 0; block < m.blocks(); block++, side += m.side_bytes()) {
        uint16_t all[kBlockCodes] = {};
        for (int64_t i = 0; i < kBlockCodes; i++) {
            if (m.layout == EP_SPARSE && !(side[i / 8] >> i % 8 & 1)) continue;
            std::memcpy(&all[i], values, 2);
            values += 2;
        }
        scatter16(m, data, tile, block, all);
    }
}

template <class Work>
void over_tiles(const Matrix &m, int threads, const Work &work) {
    in_parallel(threads, [&](int part) {
        const int64_t from = m.tiles() * part / threads, to = m.tiles() * (part + 1) / threads;
        if (from < to) work(from, to);
    });
}

}  // namespace
}  // namespace edgeprune

using namespace edgeprune;

int ep_packable(const ep_shape *shape) {
    const bool type = shape->type == EP_F16 || shape->type == EP_BF16 || shape->type == EP_Q8_0 ||
                      shape->type == EP_Q4_0;
    const bool layout = shape->layout == EP_SPARSE || shape->layout == EP_DENSE;
    return type && layout && shape->rows > 0 && shape->cols > 0 && shape->cols % kBlock == 0;
}

int64_t ep_count(const ep_shape *shape, const void *data, int threads) {
    const Matrix m(*shape, nullptr);
    std::vector<int64_t> counts(threads);
    in_parallel(threads, [&](int part) {
        const int64_t from = m.tiles() * part / threads, to = m.tiles() * (part + 1) / threads;
        for (int64_t t = from; t < to; t++) {
            const Kept kept = count_tile(m, data, t);
            counts[part] += kept.even + kept.odd;
        }
    });
    int64_t all = 0;
    for (const int64_t count : counts) all += count;
    return all;
}

size_t ep_packed_size(const ep_shape *shape, const void *data, int threads) {
    if (!ep_packable(shape)) return 0;
    const Matrix m(*shape, nullptr);
    return m.values_start() + offsets(m, data, threads).back() + kPadding;
}

int ep_pack(const ep_shape *shape, const void *data, void *packed, size_t size, int threads) {
    const Matrix m(*shape, packed);
    const std::vector<uint64_t> ends = offsets(m, data, threads);
    const size_t used = m.values_start() + ends.back();
    if (!ep_packable(shape) || used + kPadding > size) return -1;
    auto *out = static_cast<uint8_t *>(packed);
    std::memcpy(out, ends.data(), ends.size() * 8);
    std::memset(out + used, 0, kPadding);
    over_tiles(m, threads, [&](int64_t from, int64_t to) {
        Buffers buffers(m);
        for (int64_t tile = from; tile < to; tile++) {
            auto *side = const_cast<uint8_t *>(m.sides(tile));
            uint8_t *values = out + m.values_start() + ends[tile];
            if (m.wide())
                pack_halves(m, data, tile, side, values);
            else
                pack_codes(m, data, tile, side, values, ends[tile + 1] - ends[tile], buffers);
        }
    });
    return 0;
}

void ep_unpack(const ep_shape *shape, const void *packed, void *data, int threads) {
    const Matrix m(*shape, packed);
    over_tiles(m, threads, [&](int64_t from, int64_t to) {
        for (int64_t tile = from; tile < to; tile++) {
            if (m.wide())
                unpack_halves(m, tile, data);
            else
                unpack_codes(m, tile, data);
        }
    });
}
