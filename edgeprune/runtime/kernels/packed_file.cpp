// Tensors of `.packed.gguf` files, in the form that edgeprune/formats/packing.py describes: scales,
// then a mask of one bit a weight in the order of the tensor, then the codes that are kept: whole
// bytes, or one plane after another of their bits.
#include <memory>
#include <vector>

#include "rows.h"

namespace edgeprune {
namespace {

class Container {
  public:
    Container(const Matrix &m, const void *data, size_t size, int threads)
        : m_(m), data_(static_cast<const uint8_t *>(data)) {
        // As large as the file says at most; of a hostile one, products may not fit 64 bits.
        const __int128 weights = static_cast<__int128>(m.rows) * m.cols;
        const __int128 scales = m.wide() ? 0 : weights / 16;
        if (scales + weights / 8 > static_cast<__int128>(size)) return;
        const uint8_t *mask = data_ + scales;
        mask_.assign(mask, mask + weights / 8);  // a copy: what is counted is what is used
        kept_ = mask + weights / 8;
        starts_.resize(m.tiles() + 1);
        over_tiles(m, threads, [&](int64_t from, int64_t to) {
            for (int64_t tile = from; tile < to; tile++) {
                uint64_t count = 0;
                for (int64_t word = 0; word < rows_in(m, tile) * m.blocks(); word++)
                    count += __builtin_popcount(mask32(tile * kTileRows * m.blocks() + word));
                starts_[tile + 1] = count;
            }
        });
        for (size_t tile = 1; tile < starts_.size(); tile++) starts_[tile] += starts_[tile - 1];
        const uint64_t all = starts_.back();
        plane_ = (all + 7) / 8;
        const uint64_t codes = m.wide() ? m.float_bytes() * all : m.type == EP_Q8_0 ? all : 4 * plane_;
        whole_ = size == static_cast<uint64_t>(kept_ - data_) + codes;
    }

    // Whether its parts have the sizes that they need.
    bool whole() const { return whole_; }

    const uint8_t *rows(int64_t tile, uint8_t *scratch) const {
        uint64_t next = starts_[tile];
        const int64_t first = tile * kTileRows * m_.blocks();
        uint8_t *to = scratch;
        for (int64_t i = first; i < first + rows_in(m_, tile) * m_.blocks(); i++) {
            const uint32_t mask = mask32(i);
            if (m_.wide())
                floats(mask, next, to);
            else if (m_.type == EP_Q8_0)
                bytes(mask, next, data_ + 2 * i, to);
            else
                nibbles(mask, next, data_ + 2 * i, to);
            next += __builtin_popcount(mask);
            to += source_block_bytes(m_.type);
        }
        return scratch;
    }

  private:
    uint32_t mask32(int64_t i) const {
        uint32_t mask;
        std::memcpy(&mask, mask_.data() + 4 * i, 4);
        return mask;
    }

    void floats(uint32_t mask, uint64_t next, uint8_t *to) const {
        const int64_t size = m_.float_bytes();
        std::memset(to, 0, size * kBlock);
        for (; mask; mask &= mask - 1)
            std::memcpy(to + size * __builtin_ctz(mask), kept_ + size * next++, size);
    }

    void bytes(uint32_t mask, uint64_t next, const uint8_t *scale, uint8_t *to) const {
        std::memcpy(to, scale, 2);
        std::memset(to + 2, 0, kBlock);
        for (; mask; mask &= mask - 1) to[2 + __builtin_ctz(mask)] = kept_[next++];
    }

    void nibbles(uint32_t mask, uint64_t next, const uint8_t *scale, uint8_t *to) const {
        std::memcpy(to, scale, 2);
        std::memset(to + 2, 0x88, kBlock / 2);
        for (; mask; mask &= mask - 1, next++) {
            const int at = __builtin_ctz(mask);
            uint8_t code = 0;
            for (int bit = 0; bit < 4; bit++)
                code |= (kept_[bit * plane_ + next / 8] >> next % 8 & 1) << bit;
            uint8_t &both = to[2 + at % 16];
            both = at < 16 ? (both & 0xF0) | code : (both & 0x0F) | code << 4;
        }
    }

    const Matrix m_;
    const uint8_t *const data_;
    const uint8_t *kept_ = nullptr;
    std::vector<uint8_t> mask_;
    std::vector<uint64_t> starts_;  // how many weights are kept before each tile
    uint64_t plane_ = 0;
    bool whole_ = false;
};

}  // namespace

TileRows rows_of_file(const Matrix &m, const void *data, size_t size, int threads) {
    const auto container = std::make_shared<const Container>(m, data, size, threads);
    if (!container->whole()) return {};
    return [=](int64_t tile, uint8_t *scratch) { return container->rows(tile, scratch); };
}

}  // namespace edgeprune
