// A buffer type for llama.cpp's CPU backend whose weights stand as layout.h says, without their zeros.
#include "llama_adapter.h"

#include <cstring>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "functions.h"
#include "layout.h"
#include "load.h"
#include "pages.h"
#include "threads.h"
#include "weight.h"
#include "weight_question.h"

namespace {

using namespace edgeprune;

constexpr int32_t kFloat32 = 0, kInt32 = 26;  // of ggml_type
constexpr int kSuccess = 0, kNoMemory = -2;  // of ggml_status
constexpr int kOperations = 64;  // where its number is looked for
constexpr uintptr_t kAlign = 64;

llama::Functions &functions() {
    static llama::Functions all;
    return all;
}

void (*&before_answer())() {
    static void (*found_out)() = nullptr;
    return found_out;
}

// The CPU's own buffer, with other ways to set tensors. `context` stays the memory's address, which
// the CPU's functions expect; what is ours hangs on the buffer's address.
struct Ours {
    void (*free_buffer)(llama::Buffer *) = nullptr;  // the CPU's
    std::vector<std::unique_ptr<Weight>> weights;
};

struct Buffers {
    std::mutex mutex;
    std::unordered_map<llama::Buffer *, Ours> all;
};

Buffers &buffers() {
    static auto *all = new Buffers;  // llama.cpp may free buffers when the process ends
    return *all;
}

void free_buffer(llama::Buffer *buffer) {
    Ours ours;
    {
        const std::lock_guard lock(buffers().mutex);
        const auto found = buffers().all.find(buffer);
        ours = std::move(found->second);
        buffers().all.erase(found);
    }
    ours.free_buffer(buffer);
}

int init_tensor(llama::Buffer *buffer, llama::Tensor *t) {
    return or_failed(kNoMemory, [&] {
        const Claim claim = claim_of(t);
        if (claim.packed_size == 0) return kSuccess;  // it has no room, and must not be set
        auto weight = std::make_unique<Weight>(claim, t->data, this_load());
        const std::lock_guard lock(buffers().mutex);
        auto &all = buffers().all[buffer].weights;
        all.push_back(std::move(weight));
        t->extra = all.back().get();
        return kSuccess;
    });
}

void set_tensor(llama::Buffer *, llama::Tensor *t, const void *data, size_t offset, size_t size) {
    if (!t->extra) stop("nobody claimed this weight, and its values would be lost", t);
    static_cast<Weight *>(t->extra)->set(t, data, offset, size);
}

void get_tensor(llama::Buffer *, const llama::Tensor *t, void *data, size_t offset, size_t size) {
    if (!t->extra) stop("nobody claimed this weight, and it has no values", t);
    if (!static_cast<const Weight *>(t->extra)->get(data, offset, size))
        stop("out of memory to unpack this weight", t);
}

const char *get_name(llama::BufferType *) { return "EDGEPRUNE"; }

llama::Buffer *alloc_buffer(llama::BufferType *type, size_t size) {
    const llama::Functions &f = functions();
    llama::Buffer *buffer = f.alloc_buffer(f.cpu_buffer_type(), size);
    if (!buffer) return nullptr;
    if (size > 0) use_large_pages(buffer->iface.get_base(buffer), size);
    const auto free_of_cpu = buffer->iface.free_buffer;
    const bool known = or_failed(false, [&] {
        const std::lock_guard lock(buffers().mutex);
        buffers().all[buffer] = {free_of_cpu, {}};
        return true;
    });
    if (!known) {
        if (free_of_cpu) free_of_cpu(buffer);
        return nullptr;
    }
    buffer->buft = type;
    if (free_of_cpu) buffer->iface.free_buffer = free_buffer;
    buffer->iface.init_tensor = init_tensor;
    buffer->iface.memset_tensor = nullptr;
    buffer->iface.set_tensor = set_tensor;
    buffer->iface.get_tensor = get_tensor;
    buffer->iface.set_tensor_2d = nullptr;
    buffer->iface.get_tensor_2d = nullptr;
    buffer->iface.cpy_tensor = nullptr;
    return buffer;
}

size_t get_alignment(llama::BufferType *) { return kAlign; }

size_t get_alloc_size(llama::BufferType *, const llama::Tensor *t) {
    const Claim claim = claim_of(t);
    return claim.packed_size ? claim.packed_size : kAlign;
}

class Placement : public llama::ExtraBufferType {
  public:
    // Asked while weights are placed (a claim decides), and of every operation of a graph.
    bool supports_op(llama::Device *, const llama::Tensor *op) override {
        const llama::Tensor *weight = op->src[0], *x = op->src[1];
        if (!weight || !x) return false;
        const bool product = op->op == operations().product && x->type == kFloat32;
        const bool lookup = op->op == operations().lookup && x->type == kInt32;
        if (!lookup && !(product && x->nb[0] == sizeof(float))) return false;
        if (weight->extra) return true;
        if (before_answer() && weight->buffer && weight->buffer->size == 0) before_answer()();
        const Claim claim = claim_of(weight);
        if (claim.packed_size == 0) return false;
        // Where zeros are left out, a row begins nowhere.
        return product || Matrix(claim.shape, nullptr).keeps_zeros();
    }

    llama::TensorTraits *get_tensor_traits(const llama::Tensor *op) override {
        const llama::Tensor *weight = op->src[0];
        if (op->op != operations().product && op->op != operations().lookup) return nullptr;
        if (!weight || !weight->buffer) return nullptr;
        if (weight->buffer->iface.set_tensor != set_tensor) return nullptr;
        return static_cast<Weight *>(weight->extra);
    }
};

// llama.cpp lists its buffer types for weights once, when the first model is loaded.
bool is_listed(const llama::BufferType *type) {
    const llama::Functions &f = functions();
    using List = llama::BufferType **(*)(llama::Device *);
    void *const cpu = f.cpu_reg();
    const auto list =
        reinterpret_cast<List>(f.reg_get_proc_address(cpu, "ggml_backend_dev_get_extra_bufts"));
    if (!list) return true;  // what can't be asked shows when a model is loaded
    for (llama::BufferType **one = list(f.reg_dev_get(cpu, 0)); one && *one; one++)
        if (*one == type) return true;
    return false;
}

int attach(void *const *found) {
    llama::Functions f;
    std::memcpy(&f, found, sizeof f);
    Operations known;
    known.barrier = f.barrier;
    for (int op = 0; op < kOperations && (known.product < 0 || known.lookup < 0); op++) {
        const char *name = f.op_name(op);
        if (!name) break;
        if (std::strcmp(name, "MUL_MAT") == 0) known.product = op;
        if (std::strcmp(name, "GET_ROWS") == 0) known.lookup = op;
    }
    if (known.product < 0 || known.lookup < 0) return EP_OTHER_LLAMA;
    functions() = f;
    operations() = known;
    static llama::BufferType type{
        {get_name, alloc_buffer, get_alignment, nullptr, get_alloc_size, nullptr},
        f.reg_dev_get(f.cpu_reg(), 0),
        new Placement};  // never gone: llama.cpp may still ask when the process ends
    auto &types = *static_cast<std::vector<llama::BufferType *> *>(f.extra_buffer_types());
    types.insert(types.begin(), &type);
    return is_listed(&type) ? 0 : EP_TOO_LATE;
}

}  // namespace

void edgeprune::on_weight_question(void (*found_out)()) { before_answer() = found_out; }

int ep_llama_attach(void *const *found) {
    static std::mutex mutex;
    static int result = EP_NO_MEMORY;  // once it is another, it stays
    const std::lock_guard lock(mutex);
    if (result == EP_NO_MEMORY) result = or_failed<int>(EP_NO_MEMORY, [&] { return attach(found); });
    return result;
}
