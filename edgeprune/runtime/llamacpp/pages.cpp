#include "pages.h"

#if defined(__linux__)
#include <sys/mman.h>

#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <memory>

namespace edgeprune {
namespace {

constexpr uintptr_t kPage = 1 << 12, kLargePage = 1 << 21;

void advise(const void *data, size_t size, uintptr_t page, int advice) {
    const auto begin = reinterpret_cast<uintptr_t>(data), end = begin + size;
    const uintptr_t first = (begin + page - 1) / page * page, last = end / page * page;
    if (first < last) madvise(reinterpret_cast<void *>(first), last - first, advice);
}

// Whether all of it is one shared mapping of a file that nobody may write to.
bool is_mapped_file(const void *data, size_t size) {
    const std::unique_ptr<std::FILE, int (*)(std::FILE *)> maps(std::fopen("/proc/self/maps", "re"),
                                                                std::fclose);
    const auto at = reinterpret_cast<uintptr_t>(data);
    char line[4352];  // a path at most, and what stands before it
    while (maps && std::fgets(line, sizeof line, maps.get())) {
        uintptr_t begin, end;
        uint64_t inode;
        char rights[5];
        if (std::sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s %*s %*s %" SCNu64, &begin, &end, rights,
                        &inode) != 4)
            continue;
        if (begin <= at && at < end)
            return at + size <= end && inode != 0 && rights[1] == '-' && rights[3] == 's';
    }
    return false;
}

}  // namespace

void use_large_pages(const void *data, size_t size) { advise(data, size, kLargePage, MADV_HUGEPAGE); }

void drop_mapped_pages(const void *data, size_t size) {
    if (is_mapped_file(data, size)) advise(data, size, kPage, MADV_DONTNEED);
}

}  // namespace edgeprune
#else
namespace edgeprune {

void use_large_pages(const void *, size_t) {}
void drop_mapped_pages(const void *, size_t) {}

}  // namespace edgeprune
#endif
