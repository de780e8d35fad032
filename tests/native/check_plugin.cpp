// Damaged files where the plug-in finds its models: whatever their headers say, nothing outside of them
// is read. Built with sanitizers by tests/slow/test_native.py: `check_plugin FILE COUNT`.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

#include "load.h"
#include "plugin/gguf_header.h"
#include "plugin/open_models.h"

namespace {

using Bytes = std::vector<uint8_t>;

#define REQUIRE(condition)                                           \
    if (!(condition)) {                                              \
        std::printf("line %d: not so: %s\n", __LINE__, #condition); \
        std::exit(1);                                                \
    }

// How many of the tensors of `names` are claimed while a file with these bytes is open.
int claimed(const Bytes &file, const std::vector<edgeprune::GgufTensor> &tensors) {
    const int descriptor = memfd_create("model", MFD_CLOEXEC);
    REQUIRE(descriptor >= 0);
    REQUIRE(write(descriptor, file.data(), file.size()) == static_cast<ssize_t>(file.size()));
    edgeprune::claim_of_open_models();
    int found = 0;
    for (const auto &one : tensors) {
        llama::Tensor t{};
        t.type = one.type;
        t.ne[0] = one.cols;
        t.ne[1] = one.rows;
        t.ne[2] = t.ne[3] = 1;
        std::strncpy(t.name, one.name.c_str(), sizeof t.name - 1);
        found += edgeprune::claim_of(&t).packed_size > 0;
    }
    close(descriptor);
    return found;
}

Bytes damaged(Bytes file, size_t header, std::mt19937_64 &chance) {
    constexpr uint64_t kExtremes[] = {0, 1, 0x7fffffff, 0xffffffff, uint64_t{1} << 62, UINT64_MAX};
    if (chance() % 8 == 0) file.resize(chance() % file.size());
    for (uint64_t i = 0, count = 1 + chance() % 4; i < count && file.size() > 8; i++) {
        const size_t at = 4 + chance() % (std::min(header, file.size()) - 4);
        if (chance() % 2)
            file[at] = static_cast<uint8_t>(chance());
        else
            std::memcpy(&file[at], &kExtremes[chance() % 6], std::min<size_t>(8, file.size() - at));
    }
    return file;
}

}  // namespace

int main(int, char **arguments) {
    std::ifstream in(arguments[1], std::ios::binary);
    const Bytes file{std::istreambuf_iterator<char>(in), {}};
    edgeprune::GgufHeader header;
    REQUIRE(edgeprune::read_gguf_header(file.data(), file.size(), &header) == edgeprune::Reading::kDone);
    const int all = claimed(file, header.tensors);
    REQUIRE(all > 0);
    std::mt19937_64 chance(1);
    int less = 0;
    for (int i = 0; i < std::atoi(arguments[2]); i++)
        less += claimed(damaged(file, header.data_start, chance), header.tensors) < all;
    REQUIRE(less > 0);
    REQUIRE(claimed(file, header.tensors) == all);
    std::printf("%d tensors, fewer in %d damaged files\n", all, less);
}
