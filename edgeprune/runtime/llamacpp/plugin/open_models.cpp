#include "open_models.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "../load.h"
#include "gguf_header.h"
#include "rows.h"
#include "threads.h"

namespace edgeprune {
namespace {

constexpr size_t kFirstRead = 1 << 20, kMostHeader = 1 << 27;
constexpr const char *kDescriptors = "/proc/self/fd";

// An open file: the same descriptor may be another's later.
struct Open {
    int descriptor;
    dev_t device;
    ino_t inode;
    off_t size;

    bool operator==(const Open &other) const {
        return descriptor == other.descriptor && device == other.device && inode == other.inode &&
               size == other.size;
    }
};

bool look(int descriptor, Open *found) {
    struct stat about;
    if (fstat(descriptor, &about) != 0 || !S_ISREG(about.st_mode)) return false;
    *found = {descriptor, about.st_dev, about.st_ino, about.st_size};
    return true;
}

// Where the program reads in a file does not change: pread has a place of its own.
bool read_at(int descriptor, uint64_t offset, void *to, size_t size) {
    auto *next = static_cast<uint8_t *>(to);
    while (size > 0) {
        const ssize_t done = pread(descriptor, next, size, static_cast<off_t>(offset));
        if (done <= 0) return false;
        next += done;
        offset += done;
        size -= done;
    }
    return true;
}

std::vector<Open> open_models() {
    std::vector<Open> found;
    const std::unique_ptr<DIR, int (*)(DIR *)> folder(opendir(kDescriptors), closedir);
    while (const dirent *entry = folder ? readdir(folder.get()) : nullptr) {
        Open one;
        char magic[4];
        if (entry->d_name[0] == '.' || !look(std::atoi(entry->d_name), &one)) continue;
        if (read_at(one.descriptor, 0, magic, sizeof magic) && std::memcmp(magic, "GGUF", 4) == 0)
            found.push_back(one);
    }
    return found;
}

bool read_header(const Open &file, GgufHeader *header) {
    std::vector<uint8_t> bytes;
    const auto whole = static_cast<size_t>(file.size);
    for (size_t size = kFirstRead;; size *= 4) {
        bytes.resize(std::min(size, whole));
        if (!read_at(file.descriptor, 0, bytes.data(), bytes.size())) return false;
        const Reading reading = read_gguf_header(bytes.data(), bytes.size(), header);
        if (reading != Reading::kNeedsMore) return reading == Reading::kDone;
        if (bytes.size() == whole || size >= kMostHeader) return false;
    }
}

// Place a tensor, whose bytes are read where its size does not follow from the metadata.
bool place(const Open &file, const GgufHeader &header, const GgufTensor &t, bool tied, int threads,
           ep_llama_tensor *claim) {
    const auto kept = header.nonzeros.find(t.name);
    const auto alphabet = header.alphabets.find(t.name);
    ep_llama_offer offer{};
    offer.name = t.name.c_str();
    offer.type = t.type;
    offer.rows = t.rows;
    offer.cols = t.cols;
    offer.nonzeros = kept == header.nonzeros.end() ? -1 : kept->second;
    offer.alphabet = alphabet == header.alphabets.end() ? nullptr : alphabet->second.c_str();
    const int result = ep_llama_place(&offer, tied, threads, claim);
    if (result != EP_NEEDS_DATA) return result == 1;
    const Matrix m(claim->shape, nullptr);
    const auto size = static_cast<uint64_t>(m.rows * row_bytes(m)), end = static_cast<uint64_t>(file.size);
    if (header.data_start > end || t.offset > end - header.data_start) return false;
    if (size > end - header.data_start - t.offset) return false;
    std::vector<uint8_t> data(size);
    if (!read_at(file.descriptor, header.data_start + t.offset, data.data(), size)) return false;
    offer.data = data.data();
    offer.data_size = size;
    return ep_llama_place(&offer, tied, threads, claim) == 1;
}

std::string name_of(const Open &file) {
    char path[4096];
    const std::string link = std::string(kDescriptors) + "/" + std::to_string(file.descriptor);
    const ssize_t length = readlink(link.c_str(), path, sizeof path);
    if (length <= 0) return "a model";
    const std::string whole(path, length);
    return whole.substr(whole.rfind('/') + 1);
}

// Of a model in several files, those tensors that stand beside its metadata, in the first.
std::shared_ptr<Load> load_of(const std::vector<Open> &files) {
    const int threads = std::max(1U, std::thread::hardware_concurrency());
    std::vector<std::unique_ptr<GgufHeader>> headers;  // the claims' names stand there
    std::vector<ep_llama_tensor> claims;
    std::string name;
    for (const Open &file : files) {
        auto header = std::make_unique<GgufHeader>();
        if (!read_header(file, header.get())) continue;
        const auto &all = header->tensors;
        const bool tied = std::none_of(all.begin(), all.end(), [](const GgufTensor &t) {
            return t.name == "output.weight";
        });
        for (const GgufTensor &t : all) {
            ep_llama_tensor claim;
            if (t.rows > 1 && place(file, *header, t, tied, threads, &claim)) claims.push_back(claim);
        }
        if (name.empty()) name = name_of(file);
        headers.push_back(std::move(header));
    }
    if (name.empty()) return no_load();
    return std::make_shared<Load>(claims.data(), claims.size(), threads, name);
}

}  // namespace

void claim_of_open_models() {
    thread_local std::vector<Open> known;
    const auto still_open = [](const Open &file) {
        Open now;
        return look(file.descriptor, &now) && now == file;
    };
    if (!known.empty() && std::all_of(known.begin(), known.end(), still_open)) return;
    or_failed(false, [&] {
        std::vector<Open> files = open_models();
        if (files.empty()) return true;
        this_load() = no_load();
        this_load() = load_of(files);
        known = std::move(files);
        return true;
    });
}

}  // namespace edgeprune
