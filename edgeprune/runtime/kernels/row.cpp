// One row of a packed matrix as floats: what a model looks up in its embedding.
#include "halves.h"
#include "kernels.h"

namespace edgeprune {
namespace {

template <typename Number>
Number read(const uint8_t *from) {
    Number number;
    std::memcpy(&number, from, sizeof number);
    return number;
}

// `row` counts within the tile.
void codes_row(const Matrix &m, int64_t tile, int64_t row, float *out) {
    const int streams = kStreams[m.coding()], width = 8 / streams, zero = kZeros[m.coding()];
    const uint8_t *side = m.sides(tile), *values = m.values(tile) + 4 * row;
    for (int64_t g = 0; g < m.groups(); g++, side += m.side_bytes()) {
        const float scale = from_f16(read<uint16_t>(side + 2 * row));
        const uint8_t *masks = side + m.scale_bytes();
        for (int64_t j = 0; j < m.group * kChunks; j++, masks += m.mask_bytes() / kChunks) {
            const uint8_t *own = values + j / streams * kChunkCodes;
            for (int c = 0; c < 4; c++) {
                int code = own[c] >> j % streams * width & ((1 << width) - 1);
                if (m.has_masks()) code |= (masks[row / 2] >> (4 * (row % 2) + c) & 1) << 2;
                *out++ = static_cast<float>(code - zero) * scale;
            }
        }
        values += m.group * kChunks / streams * kChunkCodes;
    }
}

void floats_row(const Matrix &m, int64_t tile, int64_t row, float *out) {
    const uint8_t *values = m.values(tile) + row * m.float_bytes();
    for (int64_t c = 0; c < m.cols; c++, values += kTileRows * m.float_bytes())
        out[c] = m.type == EP_F32    ? read<float>(values)
                 : m.type == EP_BF16 ? from_bf16(read<uint16_t>(values))
                                     : from_f16(read<uint16_t>(values));
}

}  // namespace

void read_row(const Matrix &m, int64_t row, float *out) {
    const auto of = m.wide() ? floats_row : codes_row;
    of(m, row / kTileRows, row % kTileRows, out);
}

}  // namespace edgeprune

int ep_row(const ep_shape *shape, const void *packed, int64_t row, float *out) {
    const edgeprune::Matrix m(*shape, packed);
    if (!m.keeps_zeros() || row < 0 || row >= m.rows) return -1;
    edgeprune::read_row(m, row, out);
    return 0;
}
