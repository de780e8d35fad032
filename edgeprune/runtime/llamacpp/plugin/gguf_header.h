// What the header of a GGUF file says of its tensors and of their zeros. The file may be anyone's, and
// is read in other people's programs: whatever it holds, nothing outside of it is read, and memory
// stays in proportion to its size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace edgeprune {

struct GgufTensor {
    std::string name;
    int64_t rows, cols;  // 1 and the length of a vector; of tensors of more dimensions 0
    int32_t type;        // ggml's number
    uint64_t offset;     // from where the data start
};

struct GgufHeader {
    std::vector<GgufTensor> tensors;
    std::map<std::string, int64_t> nonzeros;       // of pruned tensors, as edgeprune.sparsity says
    std::map<std::string, std::string> alphabets;  // of tensors in few codes, as edgeprune.storage says
    uint64_t data_start = 0;
};

enum class Reading { kDone, kNeedsMore, kNotOurs };

// Read a header from the first `size` bytes of a file. kNeedsMore: it does not end there; kNotOurs: it
// is no GGUF file, or none that edgeprune wrote in a version that is known here.
Reading read_gguf_header(const uint8_t *data, size_t size, GgufHeader *header);

}  // namespace edgeprune
