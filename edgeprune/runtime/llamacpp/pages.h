// The pages that weights stand in.
#pragma once

#include <cstddef>

namespace edgeprune {

// Weights are read from end to end: few and large pages save look-ups.
void use_large_pages(const void *data, size_t size);

// Give back the pages of a file that was mapped to be read; what is read again comes from the file
// again. Any other memory is left alone, since its content would be lost.
void drop_mapped_pages(const void *data, size_t size);

}  // namespace edgeprune
