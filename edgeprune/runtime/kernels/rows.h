// Where the rows that are packed come from: a GGUF tensor, or a tensor of a `.packed.gguf` file.
#pragma once

#include <algorithm>
#include <functional>

#include "layout.h"
#include "threads.h"

namespace edgeprune {

inline int64_t source_block_bytes(int32_t type) {
    return type == EP_Q8_0 ? 34 : type == EP_Q4_0 ? 18 : (type == EP_F32 ? 4 : 2) * kBlock;
}

inline int64_t row_bytes(const Matrix &m) { return m.blocks() * source_block_bytes(m.type); }

inline int64_t rows_in(const Matrix &m, int64_t tile) {
    return std::min(kTileRows, m.rows - tile * kTileRows);
}

// The rows of a tile as they stand in a GGUF tensor; `scratch` has room for a tile of them.
using TileRows = std::function<const uint8_t *(int64_t tile, uint8_t *scratch)>;

// Of a tensor of a `.packed.gguf` file; none if its `size` bytes are not as many as they say.
TileRows rows_of_file(const Matrix &m, const ep_form &form, const void *data, size_t size,
                      int threads);

// Cut the tiles of a matrix into equal parts, one for each thread.
template <class Work>
void over_tiles(const Matrix &m, int threads, const Work &work) {
    in_parallel(threads, [&](int part) {
        const int64_t from = m.tiles() * part / threads, to = m.tiles() * (part + 1) / threads;
        if (from < to) work(from, to);
    });
}

}  // namespace edgeprune
