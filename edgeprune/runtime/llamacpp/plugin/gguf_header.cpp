#include "gguf_header.h"

#include <cstring>

namespace edgeprune {
namespace {

constexpr uint32_t kOldest = 2, kNewest = 3;  // versions of GGUF
constexpr uint32_t kSchema = 1;               // of edgeprune/formats/metadata.py
constexpr uint32_t kUint32 = 4, kString = 8, kArray = 9;
constexpr size_t kSizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};  // of types of values; 0: its own
constexpr uint32_t kTypes = sizeof kSizes / sizeof *kSizes, kMostDimensions = 4, kAlignment = 32;
constexpr int64_t kMostWeights = int64_t{1} << 40;  // of a tensor

// Takes bytes one after another. Once there are too few, it takes nothing more.
class Reader {
  public:
    Reader(const uint8_t *data, size_t size) : at_(data), end_(data + size), begin_(data) {}

    const uint8_t *take(uint64_t count) {
        if (!ok_ || count > static_cast<uint64_t>(end_ - at_)) {
            ok_ = false;
            return nullptr;
        }
        const uint8_t *found = at_;
        at_ += count;
        return found;
    }
    template <typename Number>
    Number number() {
        Number found{};
        if (const uint8_t *from = take(sizeof found)) std::memcpy(&found, from, sizeof found);
        return found;
    }
    std::string text() {
        const auto length = number<uint64_t>();
        const uint8_t *from = take(length);
        return from ? std::string(reinterpret_cast<const char *>(from), length) : std::string();
    }
    bool ok() const { return ok_; }
    uint64_t position() const { return static_cast<uint64_t>(at_ - begin_); }

  private:
    const uint8_t *at_, *end_, *begin_;
    bool ok_ = true;
};

// False: a type that GGUF has not.
bool skip(Reader &from, uint32_t type) {
    if (type == kString) {
        from.take(from.number<uint64_t>());
    } else if (type == kArray) {
        const auto of = from.number<uint32_t>();
        const auto count = from.number<uint64_t>();
        if (of == kString) {
            for (uint64_t i = 0; i < count && from.ok(); i++) from.take(from.number<uint64_t>());
        } else {
            if (of >= kTypes || of == kArray) return false;
            from.take(count > UINT64_MAX / kSizes[of] ? UINT64_MAX : count * kSizes[of]);
        }
    } else {
        if (type >= kTypes) return false;
        from.take(kSizes[type]);
    }
    return true;
}

bool texts(Reader &from, uint32_t type, std::vector<std::string> *found) {
    if (type != kArray || from.number<uint32_t>() != kString) return false;
    const auto count = from.number<uint64_t>();
    for (uint64_t i = 0; i < count && from.ok(); i++) found->push_back(from.text());
    return true;
}

bool counts(Reader &from, uint32_t type, std::vector<int64_t> *found) {
    if (type != kArray) return false;
    const auto of = from.number<uint32_t>();
    if (of >= kTypes || (kSizes[of] != 4 && kSizes[of] != 8)) return false;
    const auto count = from.number<uint64_t>();
    for (uint64_t i = 0; i < count && from.ok(); i++)
        found->push_back(kSizes[of] == 8 ? from.number<int64_t>() : from.number<uint32_t>());
    return true;
}

struct Metadata {
    uint32_t schema = 0, alignment = kAlignment;
    std::vector<std::string> pruned, stored, codes;
    std::vector<int64_t> nonzeros;

    // False: the value is not of the type that the key has.
    bool read(Reader &from, const std::string &key, uint32_t type) {
        if (key == "edgeprune.sparsity.tensors") return texts(from, type, &pruned);
        if (key == "edgeprune.sparsity.nonzeros") return counts(from, type, &nonzeros);
        if (key == "edgeprune.storage.tensors") return texts(from, type, &stored);
        if (key == "edgeprune.storage.codes") return texts(from, type, &codes);
        if (type != kUint32) return skip(from, type);
        const auto number = from.number<uint32_t>();
        if (key == "edgeprune.schema") schema = number;
        if (key == "general.alignment") alignment = number;
        return true;
    }
    bool is_ours() const {
        const bool whole = pruned.size() == nonzeros.size() && stored.size() == codes.size();
        const bool known = schema == kSchema || (schema == 0 && pruned.empty());
        return whole && known && !(pruned.empty() && stored.empty()) && alignment != 0;
    }
};

// False: it has a form that no tensor has.
bool read_tensor(Reader &from, GgufTensor *tensor) {
    tensor->name = from.text();
    const auto dimensions = from.number<uint32_t>();
    if (dimensions > kMostDimensions) return false;
    uint64_t sizes[kMostDimensions] = {1, 1, 1, 1};
    for (uint32_t i = 0; i < dimensions; i++) sizes[i] = from.number<uint64_t>();
    const bool flat = sizes[2] == 1 && sizes[3] == 1 && sizes[0] > 0 && sizes[0] <= kMostWeights &&
                      sizes[1] <= kMostWeights / sizes[0];
    tensor->cols = flat ? static_cast<int64_t>(sizes[0]) : 0;
    tensor->rows = flat ? static_cast<int64_t>(sizes[1]) : 0;
    tensor->type = from.number<int32_t>();
    tensor->offset = from.number<uint64_t>();
    return true;
}

}  // namespace

Reading read_gguf_header(const uint8_t *data, size_t size, GgufHeader *header) {
    Reader from(data, size);
    const uint8_t *magic = from.take(4);
    if (!magic) return Reading::kNeedsMore;
    if (std::memcmp(magic, "GGUF", 4) != 0) return Reading::kNotOurs;
    const auto version = from.number<uint32_t>();
    const auto tensors = from.number<uint64_t>(), keys = from.number<uint64_t>();
    if (from.ok() && (version < kOldest || version > kNewest)) return Reading::kNotOurs;
    Metadata metadata;
    for (uint64_t i = 0; i < keys && from.ok(); i++) {
        const std::string key = from.text();
        const auto type = from.number<uint32_t>();
        if (from.ok() && !metadata.read(from, key, type)) return Reading::kNotOurs;
    }
    if (!from.ok()) return Reading::kNeedsMore;
    if (!metadata.is_ours()) return Reading::kNotOurs;
    *header = {};
    for (uint64_t i = 0; i < tensors && from.ok(); i++) {
        GgufTensor tensor;
        if (!read_tensor(from, &tensor)) return Reading::kNotOurs;
        if (from.ok()) header->tensors.push_back(std::move(tensor));
    }
    if (!from.ok()) return Reading::kNeedsMore;
    for (size_t i = 0; i < metadata.pruned.size(); i++)
        header->nonzeros[metadata.pruned[i]] = metadata.nonzeros[i];
    for (size_t i = 0; i < metadata.stored.size(); i++)
        header->alphabets[metadata.stored[i]] = metadata.codes[i];
    const uint64_t end = from.position(), step = metadata.alignment;
    header->data_start = (end + step - 1) / step * step;
    return Reading::kDone;
}

}  // namespace edgeprune
