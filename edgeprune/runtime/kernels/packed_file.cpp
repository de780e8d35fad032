// Tensors of `.packed.gguf` files, in the forms that edgeprune/formats/forms.py describes: scales, one
// for a group of blocks; perhaps a mask in the order of the tensor, of one bit a weight or of two in four;
// then the codes that are kept: whole bytes, or one plane after another of their bits.
#include <memory>
#include <vector>

#include "rows.h"

namespace edgeprune {
namespace {

constexpr int kTwoOfFour = 2;  // of ep_form

int own_bits(const Matrix &m) {
    return m.wide() ? static_cast<int>(8 * m.float_bytes()) : m.type == EP_Q8_0 ? 8 : 4;
}

class Container {
  public:
    Container(const Matrix &m, const ep_form &form, const void *data, size_t size, int threads)
        : m_(m), form_(form), data_(static_cast<const uint8_t *>(data)) {
        if (!known()) return;
        // As large as the file says at most; of a hostile one, products may not fit 64 bits.
        const __int128 weights = static_cast<__int128>(m.rows) * m.cols;
        const __int128 scales = m.wide() ? 0 : weights / 16 / form.group;
        const __int128 masks = !form.masked               ? 0
                               : form.masked == kTwoOfFour ? (weights / 4 + 2) / 3
                                                           : weights / 8;
        if (scales + masks > static_cast<__int128>(size)) return;
        const uint8_t *mask = data_ + static_cast<int64_t>(scales);
        kept_ = mask + static_cast<int64_t>(masks);
        starts_.resize(m.tiles() + 1);
        if (form.masked) {
            mask_.assign(mask, kept_);  // a copy: what is counted is what is used
            if (form.masked == kTwoOfFour && !to_bits(static_cast<int64_t>(weights))) return;
            over_tiles(m, threads, [&](int64_t from, int64_t to) {
                for (int64_t tile = from; tile < to; tile++) starts_[tile + 1] = kept_in(tile);
            });
        } else {
            if (weights / 8 * form.bits > static_cast<__int128>(size)) return;
            for (int64_t tile = 0; tile < m.tiles(); tile++)
                starts_[tile + 1] = rows_in(m, tile) * m.cols;
        }
        for (size_t tile = 1; tile < starts_.size(); tile++) starts_[tile] += starts_[tile - 1];
        const uint64_t all = starts_.back();
        plane_ = (all + 7) / 8;
        const uint64_t codes = form.bits % 8 == 0 ? form.bits / 8 * all : form.bits * plane_;
        whole_ = size == static_cast<uint64_t>(kept_ - data_) + codes;
    }

    // Whether its parts have the sizes that they need.
    bool whole() const { return whole_; }

    const uint8_t *rows(int64_t tile, uint8_t *scratch) const {
        uint64_t next = starts_[tile];
        const int64_t first = tile * kTileRows * m_.blocks();
        uint8_t *to = scratch;
        for (int64_t i = first; i < first + rows_in(m_, tile) * m_.blocks(); i++) {
            const uint32_t mask = form_.masked ? mask32(i) : ~uint32_t{0};
            if (m_.wide()) {
                floats(mask, next, to);
            } else {
                std::memcpy(to, data_ + 2 * (i / form_.group), 2);
                m_.type == EP_Q8_0 ? bytes(mask, next, to + 2) : nibbles(mask, next, to + 2);
            }
            next += __builtin_popcount(mask);
            to += source_block_bytes(m_.type);
        }
        return scratch;
    }

  private:
    bool known() const {
        const int own = own_bits(m_);
        if (form_.bits == own) return form_.masked && form_.group == 1;
        const bool grouped = form_.group == 1 || form_.group == 2 || form_.group == 4;
        return !m_.wide() && form_.bits >= 1 && form_.bits < own && grouped &&
               m_.blocks() % form_.group == 0;
    }

    // Put a mask of one bit a weight in the place of one of two in four; false if it is none.
    bool to_bits(int64_t weights) {
        constexpr uint8_t kKept[] = {0b0011, 0b0101, 0b0110, 0b1001, 0b1010, 0b1100};
        std::vector<uint8_t> bits(weights / 8);
        for (int64_t four = 0; four < weights / 4; four++) {
            const uint8_t byte = mask_[four / 3];
            if (byte >= 216) return false;
            const int way = four % 3 == 0 ? byte % 6 : four % 3 == 1 ? byte / 6 % 6 : byte / 36;
            bits[four / 2] |= kKept[way] << 4 * (four % 2);
        }
        mask_ = std::move(bits);
        return true;
    }

    uint64_t kept_in(int64_t tile) const {
        uint64_t count = 0;
        for (int64_t word = 0; word < rows_in(m_, tile) * m_.blocks(); word++)
            count += __builtin_popcount(mask32(tile * kTileRows * m_.blocks() + word));
        return count;
    }

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

    void bytes(uint32_t mask, uint64_t next, uint8_t *to) const {
        std::memset(to, 0, kBlock);
        for (; mask; mask &= mask - 1) to[__builtin_ctz(mask)] = code(next++);
    }

    void nibbles(uint32_t mask, uint64_t next, uint8_t *to) const {
        std::memset(to, 0x88, kBlock / 2);
        for (; mask; mask &= mask - 1, next++) {
            const int at = __builtin_ctz(mask);
            uint8_t &both = to[at % 16];
            both = at < 16 ? (both & 0xF0) | code(next) : (both & 0x0F) | code(next) << 4;
        }
    }

    // A kept weight's code as the type has it.
    uint8_t code(uint64_t place) const {
        if (form_.bits == 8) return kept_[place];
        int number = 0;
        for (int bit = 0; bit < form_.bits; bit++)
            number |= (kept_[bit * plane_ + place / 8] >> place % 8 & 1) << bit;
        if (form_.bits == own_bits(m_)) return static_cast<uint8_t>(number);
        const int low = number - (1 << (form_.bits - 1));
        const int signed_code = form_.masked && low >= 0 ? low + 1 : low;
        return static_cast<uint8_t>(signed_code + (m_.type == EP_Q4_0 ? 8 : 0));
    }

    const Matrix m_;
    const ep_form form_;
    const uint8_t *const data_;
    const uint8_t *kept_ = nullptr;
    std::vector<uint8_t> mask_;
    std::vector<uint64_t> starts_;  // how many weights are kept before each tile
    uint64_t plane_ = 0;
    bool whole_ = false;
};

}  // namespace

TileRows rows_of_file(const Matrix &m, const ep_form &form, const void *data, size_t size,
                      int threads) {
    const auto container = std::make_shared<const Container>(m, form, data, size, threads);
    if (!container->whole()) return {};
    return [=](int64_t tile, uint8_t *scratch) { return container->rows(tile, scratch); };
}

}  // namespace edgeprune
