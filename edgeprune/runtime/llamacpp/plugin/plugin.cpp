// Edgeprune as a library that any llama.cpp on Linux loads from GGML_BACKEND_PATH: it has no devices,
// and puts its buffer type beside those of the CPU backend that is loaded already.
#include <dlfcn.h>
#include <link.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "../llama_adapter.h"
#include "../weight_question.h"
#include "open_models.h"

namespace {

constexpr int kApiVersion = 2;  // of ggml_backend_reg, since 2025

struct Registration {  // ggml_backend_reg
    int api_version;
    const char *(*get_name)(Registration *);
    size_t (*get_device_count)(Registration *);
    void *(*get_device)(Registration *, size_t);
    void *(*get_proc_address)(Registration *, const char *);
    void *context;
};

void say(const char *what, const char *more = "") {
    std::fprintf(stderr, "edgeprune: %s%s\n", what, more);
}

// The program itself, and each library of llama.cpp: its CPU backend is loaded so that its names are
// not seen from elsewhere.
std::vector<void *> libraries() {
    std::vector<std::string> paths;
    dl_iterate_phdr(
        [](dl_phdr_info *info, size_t, void *to) {
            const std::string path = info->dlpi_name ? info->dlpi_name : "";
            const std::string name = path.substr(path.rfind('/') + 1);
            if (name.find("ggml") != std::string::npos || name.find("llama") != std::string::npos)
                static_cast<std::vector<std::string> *>(to)->push_back(path);
            return 0;
        },
        &paths);
    std::vector<void *> found;
    if (void *program = dlopen(nullptr, RTLD_NOW)) found.push_back(program);
    for (const std::string &path : paths)
        if (void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_NOLOAD)) found.push_back(library);
    return found;
}

// Empty, and said why, if this is no llama.cpp that is known.
std::vector<void *> functions() {
    const std::vector<void *> where = libraries();
    std::vector<void *> found;
    for (int i = 0; const char *name = ep_llama_needs(i); i++) {
        void *function = nullptr;
        for (void *library : where)
            if (!function) function = dlsym(library, name);
        if (!function) {
            say("off, since this program does not export ", name);
            return {};
        }
        found.push_back(function);
    }
    if (const char *fault = ep_llama_fault(found.data())) {
        say("off, since this llama.cpp differs inside from those tested: ", fault);
        return {};
    }
    return found;
}

bool is_off() {
    const char *asked = std::getenv("EDGEPRUNE_SPARSE");
    return asked && std::strcmp(asked, "0") == 0;
}

}  // namespace

// 0: llama.cpp goes on without us.
extern "C" EP_API int ggml_backend_score(void) {
    if (is_off()) return 0;
    try {
        return !functions().empty();
    } catch (...) {
        return 0;
    }
}

// May be called again, also of the same library under another path: what stands in llama.cpp's list is
// the first.
extern "C" EP_API Registration *ggml_backend_init(void) {
    static Registration registration{
        kApiVersion,
        [](Registration *) { return "edgeprune"; },
        [](Registration *) -> size_t { return 0; },
        [](Registration *, size_t) -> void * { return nullptr; },
        [](Registration *, const char *) -> void * { return nullptr; },
        nullptr};
    if (is_off()) return nullptr;
    try {
        const std::vector<void *> found = functions();
        if (found.empty()) return nullptr;
        edgeprune::on_weight_question(edgeprune::claim_of_open_models);
        switch (ep_llama_attach(found.data())) {
            case 0: return &registration;
            case EP_TOO_LATE: say("off, since a model was loaded before this library"); break;
            default: say("off, since this llama.cpp has other operations than those tested");
        }
    } catch (...) {
        say("off, since memory ran out");
    }
    return nullptr;
}
