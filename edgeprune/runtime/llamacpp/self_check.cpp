// Whether llama.cpp is inside as llama_internals.h says: tensors and buffers of its own are looked at,
// and nothing is changed. What can't be seen so, the order of virtual functions and
// ggml_compute_params, has never changed in the versions tested.
#include <dlfcn.h>

#include <cstring>
#include <vector>

#include "functions.h"
#include "llama_adapter.h"

namespace {

using namespace llama;

constexpr size_t kObject = 32;  // GGML_OBJECT_SIZE, which stands before each tensor
constexpr size_t kContext = 1 << 16, kBufferSize = 12345, kMostAlignment = 64;
constexpr int64_t kCols = 96, kRows = 40, kTokens = 3;

const uint8_t *bytes(const void *memory) { return static_cast<const uint8_t *>(memory); }

// Whether a table holds nothing but functions of what is loaded.
template <typename Table>
bool has_functions(const Table &table) {
    const void *all[sizeof table / sizeof(void *)];
    std::memcpy(all, &table, sizeof table);
    Dl_info info;
    for (const void *one : all)
        if (one && !dladdr(one, &info)) return false;
    return true;
}

bool tensors_fit(const Functions &f, void *context) {
    Tensor *w = f.new_tensor_2d(context, 0, kCols, kRows), *x = f.new_tensor_2d(context, 0, kCols, kTokens);
    f.set_name(w, "edgeprune");
    const size_t row = kCols * sizeof(float);
    const bool plain = w->type == 0 && w->ne[0] == kCols && w->ne[1] == kRows && w->ne[2] == 1 &&
                       w->ne[3] == 1 && w->nb[0] == sizeof(float) && w->nb[1] == row &&
                       w->nb[2] == row * kRows && w->nb[3] == row * kRows &&
                       std::strcmp(w->name, "edgeprune") == 0 && !w->extra && !w->buffer &&
                       !w->view_src && bytes(w->data) == bytes(w) + sizeof(Tensor);
    if (!plain) return false;
    const Tensor *y = f.mul_mat(context, w, x);
    if (std::strcmp(f.op_name(y->op), "MUL_MAT") != 0 || y->src[0] != w || y->src[1] != x || y->src[2])
        return false;
    const Tensor *view = f.view_1d(context, w, 8, 128);
    return view->view_src == w && view->view_offs == 128 && bytes(view->data) == bytes(w->data) + 128;
}

// The CPU's own buffer type has no device and no context, but those for weights have: an object with a
// table of virtual functions.
bool types_fit(const Functions &f) {
    Dl_info info;
    for (BufferType *type : *static_cast<std::vector<BufferType *> *>(f.extra_buffer_types())) {
        if (!type->device || type->device != f.buft_get_device(type) || !type->context) return false;
        if (!dladdr(*static_cast<void **>(type->context), &info)) return false;
    }
    return true;
}

bool buffers_fit(const Functions &f, const BufferType *type, Buffer *buffer) {
    if (buffer->buft != type || buffer->size != f.buffer_get_size(buffer)) return false;
    if (buffer->usage != f.buffer_get_usage(buffer)) return false;
    const BufferInterface &own = buffer->iface;
    if (!has_functions(own) || !has_functions(type->iface)) return false;
    if (!own.free_buffer || !own.get_base || !own.set_tensor || !own.get_tensor || !own.clear) return false;
    if (type->device != f.buft_get_device(const_cast<BufferType *>(type))) return false;
    f.buffer_set_usage(buffer, 1);
    if (buffer->usage != 1) return false;
    // A CPU buffer's context is its memory, and its base the first aligned address there.
    const auto before = bytes(f.buffer_get_base(buffer)) - bytes(buffer->context);
    return buffer->context && before >= 0 && before < static_cast<ptrdiff_t>(kMostAlignment);
}

}  // namespace

const char *ep_llama_needs(int index) {
#define EP_NAME(result, name, arguments, symbol) symbol,
    static const char *const kNames[] = {LLAMA_FUNCTIONS(EP_NAME) nullptr};
#undef EP_NAME
    static_assert(sizeof kNames == sizeof(Functions) + sizeof(void *));
    return kNames[index];
}

const char *ep_llama_fault(void *const *found) {
    Functions f;
    std::memcpy(&f, found, sizeof f);
    if (f.tensor_overhead() != kObject + sizeof(Tensor)) return "the size of a tensor";
    void *const context = f.init({kContext, nullptr, false});
    if (!context) return "memory for a tensor";
    const bool fit = tensors_fit(f, context);
    f.free(context);
    if (!fit) return "the fields of a tensor";
    BufferType *const type = f.cpu_buffer_type();
    Buffer *const buffer = f.alloc_buffer(type, kBufferSize);
    if (!buffer) return "memory for a buffer";
    const bool same = buffers_fit(f, type, buffer);
    f.buffer_free(buffer);
    if (!same) return "the fields of a buffer";
    return types_fit(f) ? nullptr : "the fields of a buffer type";
}
