// From the rows of a GGUF tensor to tiles and back. layout.h has the target, ggml-common.h the source.
#include <algorithm>
#include <atomic>
#include <vector>

#include "kernels.h"
#include "rows.h"

namespace edgeprune {
namespace {

constexpr int64_t kBlockCodes = kChunks * kChunkCodes;

uint8_t zero_code(int32_t type) { return type == EP_Q8_0 ? 128 : 8; }

// Codes of Q4_0 that a layout has, as their type stores them, numbered from the lowest; zeros that a
// mask leaves out have none.
constexpr uint8_t kLeftOut = 255;

struct Numbered {
    uint8_t first, last;
    bool masked;

    // Put numbers in the place of the codes of a chunk; false if the layout has not all of them.
    bool number(uint8_t *chunk) const {
        uint8_t beyond = 0;
        for (int64_t i = 0; i < kChunkCodes; i++) {
            const uint8_t code = chunk[i];
            beyond |= code < first || code > last;
            const auto own = static_cast<uint8_t>(code - first - (masked && code > 8));
            chunk[i] = masked && code == 8 ? kLeftOut : own;
        }
        return !beyond;
    }
    uint8_t code(uint8_t number) const {
        const auto found = static_cast<uint8_t>(first + number);
        return found + (masked && found >= 8);
    }
};

constexpr Numbered kNarrow[] = {{4, 11, false}, {6, 9, false}, {6, 10, true}, {7, 9, true}};

// None if codes stand as the type has them.
const Numbered *numbered(const Matrix &m) {
    return m.layout >= EP_NARROW ? &kNarrow[m.coding() - kThreeBits] : nullptr;
}

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

// How many weights a tile keeps: of 4-bit types by chunk of their block, of others all in the first.
struct Kept {
    int64_t of[kChunks] = {};
};

// In each byte, whether its low and its high 4-bit code are not 8.
struct Nonzero {
    uint64_t low, high;

    explicit Nonzero(uint64_t codes) {
        constexpr uint64_t kOnes = 0x0101010101010101;
        uint64_t bits = codes ^ 0x8888888888888888;
        bits |= bits >> 2;
        bits |= bits >> 1;
        low = bits & kOnes, high = bits >> 4 & kOnes;
    }
};

int sum_of_bytes(uint64_t bytes) { return bytes * 0x0101010101010101 >> 56; }

Kept count_rows(const Matrix &m, const uint8_t *from, int64_t rows) {
    Kept kept;
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t block = 0; block < m.blocks(); block++, from += source_block_bytes(m.type)) {
            if (m.type == EP_F32) {
                kept.of[0] += count_floats<uint32_t>(from);
            } else if (m.wide()) {
                kept.of[0] += count_floats<uint16_t>(from);
            } else if (m.type == EP_Q8_0) {
                for (int i = 2; i < 34; i++) kept.of[0] += from[i] != 0;
            } else {
                for (int half = 0; half < 2; half++) {  // 8 bytes: 4 of a chunk, 4 of the next
                    uint64_t codes;
                    std::memcpy(&codes, from + 2 + 8 * half, 8);
                    const Nonzero found(codes);
                    kept.of[2 * half] += sum_of_bytes(found.low & 0xFFFFFFFF);
                    kept.of[2 * half + 1] += sum_of_bytes(found.low >> 32);
                    kept.of[2 * half + 4] += sum_of_bytes(found.high & 0xFFFFFFFF);
                    kept.of[2 * half + 5] += sum_of_bytes(found.high >> 32);
                }
            }
        }
    }
    return kept;
}

int64_t value_bytes(const Matrix &m, const Kept &kept) {
    if (m.wide()) {
        const int64_t values = m.layout == EP_DENSE ? m.cols * kTileRows : kept.of[0];
        return m.float_bytes() * values;
    }
    const int streams = kStreams[m.coding()];
    if (m.keeps_zeros()) return m.cols * kTileRows / streams;
    int64_t longest = 0;
    for (int stream = 0; stream < streams; stream++) {
        int64_t own = 0;
        for (int64_t j = stream; j < kChunks; j += streams) own += kept.of[j];
        longest = std::max(longest, own);
    }
    return longest;
}

// Where each tile's values begin, and behind the last where they end.
std::vector<uint64_t> offsets(const Matrix &m, const TileRows &rows, int threads) {
    std::vector<uint64_t> ends(m.tiles() + 1);
    over_tiles(m, threads, [&](int64_t from, int64_t to) {
        std::vector<uint8_t> scratch(kTileRows * row_bytes(m));
        for (int64_t t = from; t < to; t++) {
            Kept kept;
            if (!m.keeps_zeros())
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

// What one thread packs with.
struct Buffers {
    std::vector<uint8_t> rows;
    std::vector<std::vector<uint8_t>> streams;  // what a tile keeps, and room for a wide store

    explicit Buffers(const Matrix &m) : rows(kTileRows * row_bytes(m)) {
        const int count = m.wide() ? 1 : kStreams[m.coding()];
        const int64_t bytes = m.cols * kTileRows * (m.wide() ? m.float_bytes() : 1) / count;
        streams.assign(count, std::vector<uint8_t>(bytes + kChunkCodes));
    }
};

// Take the third bit of each code; they go into the mask's place.
uint64_t third_bits(uint8_t *chunk) {
    uint64_t mask = 0;
    for (int64_t i = 0; i < kChunkCodes / 8; i++) {
        uint64_t codes;
        std::memcpy(&codes, chunk + 8 * i, 8);
        const uint64_t bits = codes >> 2 & 0x0101010101010101;
        mask |= bits * 0x0102040810204080 >> 56 << 8 * i;  // one of each byte, in order
        codes &= 0x0303030303030303;
        std::memcpy(chunk + 8 * i, &codes, 8);
    }
    return mask;
}

// Pack one tile; false if its values don't take `size` bytes, as data that change may not, or if the
// layout has not what they are.
bool pack_codes(const Matrix &m, const uint8_t *rows, int64_t present, uint8_t *side,
                uint8_t *values, int64_t size, Buffers &buffers) {
    const Compress compress = kernels().compress;
    const Numbered *table = numbered(m);
    const uint8_t zero = table ? kLeftOut : zero_code(m.type);
    const int streams = kStreams[m.coding()], width = 8 / streams;
    uint8_t *next[kChunks];
    for (int s = 0; s < streams; s++) next[s] = buffers.streams[s].data();
    alignas(64) uint8_t codes[kBlockCodes];
    uint8_t scales[2 * kTileRows];
    for (int64_t block = 0; block < m.blocks(); block++) {
        const int64_t place = block % m.group;
        gather(m, rows, present, block, codes, place == 0 ? side : scales);
        if (place > 0 && std::memcmp(side, scales, sizeof scales) != 0) return false;
        uint8_t *masks = side + 2 * kTileRows + place * m.mask_bytes();
        for (int64_t j = 0; j < kChunks; j++) {
            uint8_t *chunk = codes + j * kChunkCodes;
            if (table && !table->number(chunk)) return false;
            uint8_t *&stream = next[j % streams];
            if (!m.keeps_zeros()) {
                stream = compress(chunk, zero, masks + 8 * j, stream);
                continue;
            }
            if (m.has_masks()) {
                const uint64_t third = third_bits(chunk);
                std::memcpy(masks + 8 * j, &third, 8);
            }
            std::memcpy(stream, chunk, kChunkCodes);
            stream += kChunkCodes;
        }
        if (place == m.group - 1) side += m.side_bytes();
    }
    int64_t longest = 0;
    for (int s = 0; s < streams; s++)
        longest = std::max<int64_t>(longest, next[s] - buffers.streams[s].data());
    if (longest != size) return false;
    std::memset(values, 0, size);
    for (int s = 0; s < streams; s++) {
        const uint8_t *own = buffers.streams[s].data();
        for (int64_t i = 0; i < next[s] - own; i++) values[i] |= own[i] << s * width;
    }
    return true;
}

template <typename Bits>
bool pack_floats(const Matrix &m, const uint8_t *rows, int64_t present, uint8_t *side,
                 uint8_t *values, int64_t size, Buffers &buffers) {
    alignas(64) Bits all[kBlockCodes];
    uint8_t *next = buffers.streams[0].data();
    for (int64_t block = 0; block < m.blocks(); block++, side += m.side_bytes()) {
        gather_floats(m, rows, present, block, all);
        if (m.layout == EP_DENSE) {
            std::memcpy(next, all, sizeof all);
            next += sizeof all;
            continue;
        }
        for (int64_t j = 0; j < 16; j++) next = compress_floats(all + 32 * j, side + 4 * j, next);
    }
    if (next - buffers.streams[0].data() != size) return false;
    std::memcpy(values, buffers.streams[0].data(), size);
    return true;
}

void unpack_codes(const Matrix &m, int64_t tile, uint8_t *rows) {
    const uint8_t *side = m.sides(tile), *values = m.values(tile);
    const Numbered *table = numbered(m);
    const int streams = kStreams[m.coding()], width = 8 / streams;
    int64_t next[kChunks] = {};
    for (int64_t block = 0; block < m.blocks(); block++) {
        const int64_t place = block % m.group;
        const uint8_t *masks = side + 2 * kTileRows + place * m.mask_bytes();
        uint8_t codes[kBlockCodes];
        for (int64_t j = 0; j < kChunks; j++) {
            uint64_t mask = 0;
            if (m.has_masks()) std::memcpy(&mask, masks + 8 * j, 8);
            const int64_t s = j % streams;
            for (int i = 0; i < kChunkCodes; i++) {
                uint8_t &code = codes[j * kChunkCodes + i] = zero_code(m.type);
                const bool set = mask >> i & 1;
                if (!m.keeps_zeros() && !set) continue;
                uint8_t stored = values[next[s]++] >> s * width & ((1 << width) - 1);
                if (m.keeps_zeros() && set) stored |= 4;
                code = table ? table->code(stored) : stored;
            }
        }
        scatter(m, rows, rows_in(m, tile), block, codes, side);
        if (place == m.group - 1) side += m.side_bytes();
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
    const int32_t type = shape->type, bits = shape->bits, group = shape->group;
    const bool floats = type == EP_F16 || type == EP_BF16 || type == EP_F32;
    if (!floats && type != EP_Q8_0 && type != EP_Q4_0) return false;
    bool layout = false;
    switch (shape->layout) {
        case EP_SPARSE:
        case EP_DENSE: layout = bits == 0; break;
        case EP_NARROW: layout = type == EP_Q4_0 && (bits == 2 || bits == 3); break;
        case EP_MASKED: layout = type == EP_Q4_0 && (bits == 1 || bits == 2); break;
    }
    const bool grouped = group == 1 || (!floats && (group == 2 || group == 4));
    return layout && grouped && shape->rows > 0 && shape->cols > 0 &&
           shape->cols % (kBlock * group) == 0;
}

int ep_shape_of(int32_t type, int64_t rows, int64_t cols, const ep_form *form, ep_shape *shape) {
    constexpr int32_t kLeastNarrow = 2, kMostMasked = 2;  // bits
    *shape = {type, EP_SPARSE, 0, form->group, rows, cols};
    if (type == EP_Q4_0 && !form->masked) {
        shape->layout = EP_NARROW;
        shape->bits = std::max(form->bits, kLeastNarrow);
    } else if (type == EP_Q4_0 && form->bits <= kMostMasked) {
        shape->layout = EP_MASKED;
        shape->bits = form->bits;
    } else if (!form->masked) {
        return -1;
    }
    return ep_packable(shape) ? 0 : -1;
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
    if (!ep_packable(shape) || nonzeros < 0 || nonzeros > shape->rows * shape->cols) return 0;
    const Matrix m(*shape, nullptr);
    if (m.keeps_zeros()) return m.values_start() + m.tiles() * value_bytes(m, {}) + kPadding;
    const bool one_stream = m.wide() || kStreams[m.coding()] == 1;
    return one_stream ? m.values_start() + value_bytes(m, {{nonzeros}}) + kPadding : 0;
}

size_t ep_packed_size_of_file(const ep_shape *shape, const ep_form *form, const void *data,
                              size_t data_size, int threads) {
    if (!ep_packable(shape)) return 0;
    return or_failed(EP_NO_SIZE, [&] {
        const Matrix m(*shape, nullptr);
        const TileRows rows = rows_of_file(m, *form, data, data_size, threads);
        return rows ? packed_size(m, rows, threads) : 0;
    });
}

int ep_pack_file(const ep_shape *shape, const ep_form *form, const void *data, size_t data_size,
                 void *packed, size_t size, int threads) {
    if (!ep_packable(shape)) return -1;
    return or_failed<int>(EP_NO_MEMORY, [&] {
        const Matrix m(*shape, packed);
        const TileRows rows = rows_of_file(m, *form, data, data_size, threads);
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
