// A buffer type for llama.cpp's CPU backend whose weights stand as layout.h says, without their zeros.
#include "llama_adapter.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "kernels.h"
#include "llama_internals.h"
#include "rows.h"

namespace {

constexpr int32_t kFloat32 = 0, kInt32 = 26;  // of ggml_type
constexpr int kSuccess = 0, kNoMemory = -2;  // of ggml_status
constexpr int kOperations = 64;  // where its number is looked for
constexpr uintptr_t kAlign = 64;

struct Claim {  // as in ep_llama_tensor
    ep_shape shape;
    size_t packed_size;  // 0: nothing is claimed
    const void *source;
    size_t source_size;
    ep_form form;

    int pack(const void *data, void *packed, int threads) const {
        return source ? ep_pack_file(&shape, &form, source, source_size, packed, packed_size, threads)
                      : ep_pack(&shape, data, packed, packed_size, threads);
    }
};

// What this process has: llama.cpp's buffer types and functions are global, too.
struct State {
    ep_llama_functions functions{};
    int32_t product = -1, lookup = -1;  // llama.cpp's numbers of operations
    std::mutex mutex;                   // of what follows
    std::map<std::string, Claim, std::less<>> claims;  // looked up without memory of its own
    int threads = 1;
    ep_llama_report report{};
};

State &state() {
    static auto *all = new State;  // llama.cpp may free buffers when the process ends
    return *all;
}

// Where llama.cpp takes no error, and going on would mean wrong weights without a word.
[[noreturn]] void stop(const char *why, const llama::Tensor *t) {
    std::fprintf(stderr, "edgeprune: %s: %s\n", t->name, why);
    std::abort();
}

size_t dense_bytes(const ep_shape &shape) {
    return shape.rows * shape.cols / edgeprune::kBlock * edgeprune::source_block_bytes(shape.type);
}

Claim claim_of(const llama::Tensor *t) {
    const std::lock_guard lock(state().mutex);
    const auto found = state().claims.find(std::string_view(t->name));
    if (found == state().claims.end()) return {};
    const ep_shape &shape = found->second.shape;
    const bool same = t->type == shape.type && t->ne[0] == shape.cols && t->ne[1] == shape.rows &&
                      t->ne[2] == 1 && t->ne[3] == 1;
    return same ? found->second : Claim{};
}

#if defined(__linux__)
void advise(const void *data, size_t size, uintptr_t page, int advice) {
    const auto begin = reinterpret_cast<uintptr_t>(data), end = begin + size;
    const uintptr_t first = (begin + page - 1) / page * page, last = end / page * page;
    if (first < last) madvise(reinterpret_cast<void *>(first), last - first, advice);
}
// Weights are read from end to end: few and large pages save look-ups.
void large_pages(const void *data, size_t size) { advise(data, size, 1 << 21, MADV_HUGEPAGE); }
// Pages of a mapped file that is not read again.
void drop_pages(const void *data, size_t size) { advise(data, size, 1 << 12, MADV_DONTNEED); }
#else
void large_pages(const void *, size_t) {}
void drop_pages(const void *, size_t) {}
#endif

// A packed weight; llama.cpp keeps it as the tensor's `extra`, and calls it for its products and, of an
// embedding, for its rows.
class Weight : public llama::TensorTraits {
  public:
    Weight(const Claim &claim, void *data) : claim_(claim), data_(data) {}

    bool work_size(int threads, const llama::Tensor *op, size_t &size) override {
        size = 0;
        if (op->op == state().lookup) return true;
        const llama::Tensor *x = op->src[1];
        const int64_t tokens = x->ne[1] * x->ne[2] * x->ne[3];
        size = ep_work_size(&claim_.shape, tokens, threads) + kAlign;
        // A batch of single tokens is worked on token by token.
        size = std::max(size, ep_work_size(&claim_.shape, 1, threads) + kAlign);
        return true;
    }

    bool compute_forward(llama::ComputeParams *params, llama::Tensor *op) override {
        if (op->op == state().lookup)
            look_up(params, op);
        else
            multiply(params, op);
        return true;
    }

    void set(const void *data, size_t offset, size_t size) {
        const std::lock_guard lock(state().mutex);
        ep_llama_report &report = state().report;
        const bool whole = offset == 0 && size == dense_bytes(claim_.shape);
        const int failure = whole ? claim_.pack(data, data_, state().threads) : -1;
        if (failure != 0) {
            (failure == EP_NO_MEMORY ? report.exhausted : report.failures)++;
            std::memset(data_, 0, claim_.packed_size);  // no values, and safe to read
            return;
        }
        if (claim_.source) drop_pages(claim_.source, claim_.source_size);
        report.tensors++;
        report.packed_bytes += claim_.packed_size;
        report.dense_bytes += size;
    }

    // False if there is no memory to unpack it.
    bool get(void *target, size_t offset, size_t size) const {
        return edgeprune::or_failed(false, [&] {
            std::vector<uint8_t> whole(dense_bytes(claim_.shape));
            if (ep_unpack(&claim_.shape, data_, whole.data(), 1) != 0) return false;
            std::memcpy(target, whole.data() + offset, size);
            return true;
        });
    }

  private:
    void multiply(llama::ComputeParams *params, llama::Tensor *op) const {
        const llama::Tensor *x = op->src[1];
        const auto begin = reinterpret_cast<uintptr_t>(params->wdata);
        auto *work = reinterpret_cast<uint8_t *>((begin + kAlign - 1) / kAlign * kAlign);
        const edgeprune::Meeting meeting{state().functions.barrier, params->threadpool};
        // Rows at equal distances are one product, others one for each slice.
        const bool even = x->nb[2] == x->nb[1] * x->ne[1] && x->nb[3] == x->nb[2] * x->ne[2];
        const int64_t slices = even ? 1 : x->ne[2] * x->ne[3];
        const int64_t tokens = x->ne[1] * x->ne[2] * x->ne[3] / slices;
        for (int64_t i = 0; i < slices; i++) {
            if (i > 0) meeting.meet(meeting.with);  // all are done with the work space
            const size_t offset = i % x->ne[2] * x->nb[2] + i / x->ne[2] * x->nb[3];
            const auto *from = static_cast<const uint8_t *>(x->data) + (even ? 0 : offset);
            const edgeprune::Product product{
                edgeprune::Matrix(claim_.shape, data_),
                reinterpret_cast<const float *>(from),
                static_cast<int64_t>(x->nb[1] / sizeof(float)),
                static_cast<float *>(op->data) + i * tokens * claim_.shape.rows,
                claim_.shape.rows,
                tokens};
            edgeprune::multiply_part(product, params->ith, params->nth, work, meeting);
        }
    }

    void look_up(const llama::ComputeParams *params, llama::Tensor *op) const {
        const edgeprune::Matrix m(claim_.shape, data_);
        const llama::Tensor *rows = op->src[1];
        const auto *from = static_cast<const uint8_t *>(rows->data);
        auto *to = static_cast<uint8_t *>(op->data);
        const int64_t count = rows->ne[0] * rows->ne[1] * rows->ne[2];
        for (int64_t i = params->ith; i < count; i += params->nth) {
            const int64_t a = i % rows->ne[0], b = i / rows->ne[0] % rows->ne[1],
                          c = i / rows->ne[0] / rows->ne[1];
            int32_t row;
            std::memcpy(&row, from + a * rows->nb[0] + b * rows->nb[1] + c * rows->nb[2], sizeof row);
            if (row < 0 || row >= m.rows) stop("there is no such row", op->src[0]);
            const size_t offset = a * op->nb[1] + b * op->nb[2] + c * op->nb[3];
            edgeprune::read_row(m, row, reinterpret_cast<float *>(to + offset));
        }
    }

    const Claim claim_;
    void *const data_;
};

// The CPU's own buffer, with other ways to set tensors. `context` stays the memory's address, which
// the CPU's functions expect; what is ours hangs on the buffer's address.
struct Ours {
    void (*free_buffer)(llama::Buffer *) = nullptr;  // the CPU's
    std::vector<std::unique_ptr<Weight>> weights;
};

std::unordered_map<llama::Buffer *, Ours> &buffers() {
    static auto *all = new std::unordered_map<llama::Buffer *, Ours>;
    return *all;
}

void free_buffer(llama::Buffer *buffer) {
    Ours ours;
    {
        const std::lock_guard lock(state().mutex);
        const auto found = buffers().find(buffer);
        ours = std::move(found->second);
        buffers().erase(found);
    }
    ours.free_buffer(buffer);
}

int init_tensor(llama::Buffer *buffer, llama::Tensor *t) {
    return edgeprune::or_failed(kNoMemory, [&] {
        const Claim claim = claim_of(t);
        if (claim.packed_size == 0) return kSuccess;  // it has no room, and must not be set
        auto weight = std::make_unique<Weight>(claim, t->data);
        const std::lock_guard lock(state().mutex);
        auto &all = buffers()[buffer].weights;
        all.push_back(std::move(weight));
        t->extra = all.back().get();
        return kSuccess;
    });
}

void set_tensor(llama::Buffer *, llama::Tensor *t, const void *data, size_t offset, size_t size) {
    if (!t->extra) stop("nobody claimed this weight, and its values would be lost", t);
    static_cast<Weight *>(t->extra)->set(data, offset, size);
}

void get_tensor(llama::Buffer *, const llama::Tensor *t, void *data, size_t offset, size_t size) {
    if (!t->extra) stop("nobody claimed this weight, and it has no values", t);
    if (!static_cast<const Weight *>(t->extra)->get(data, offset, size))
        stop("out of memory to unpack this weight", t);
}

const char *get_name(llama::BufferType *) { return "EDGEPRUNE"; }

llama::Buffer *alloc_buffer(llama::BufferType *type, size_t size) {
    const ep_llama_functions &f = state().functions;
    auto *buffer = static_cast<llama::Buffer *>(f.alloc_buffer(f.cpu_buffer_type(), size));
    if (!buffer) return nullptr;
    if (size > 0) large_pages(buffer->iface.get_base(buffer), size);
    const auto free_of_cpu = buffer->iface.free_buffer;
    const bool known = edgeprune::or_failed(false, [&] {
        const std::lock_guard lock(state().mutex);
        buffers()[buffer] = {free_of_cpu, {}};
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
        const bool product = op->op == state().product && x->type == kFloat32;
        const bool lookup = op->op == state().lookup && x->type == kInt32;
        if (!lookup && !(product && x->nb[0] == sizeof(float))) return false;
        if (weight->extra) return true;
        const Claim claim = claim_of(weight);
        if (claim.packed_size == 0) return false;
        // Where zeros are left out, a row begins nowhere.
        return product || edgeprune::Matrix(claim.shape, nullptr).keeps_zeros();
    }

    llama::TensorTraits *get_tensor_traits(const llama::Tensor *op) override {
        const llama::Tensor *weight = op->src[0];
        if (op->op != state().product && op->op != state().lookup) return nullptr;
        if (!weight || !weight->buffer) return nullptr;
        if (weight->buffer->iface.set_tensor != set_tensor) return nullptr;
        return static_cast<Weight *>(weight->extra);
    }
};

}  // namespace

int ep_llama_attach(const ep_llama_functions *functions) {
    return edgeprune::or_failed<int>(EP_NO_MEMORY, [&] {
        State &all = state();
        if (all.product >= 0) return 0;  // attached already
        int product = -1, lookup = -1;
        for (int op = 0; op < kOperations && (product < 0 || lookup < 0); op++) {
            const char *name = functions->op_name(op);
            if (!name) break;
            if (std::strcmp(name, "MUL_MAT") == 0) product = op;
            if (std::strcmp(name, "GET_ROWS") == 0) lookup = op;
        }
        if (product < 0 || lookup < 0) return -1;
        all.functions = *functions;
        static Placement placement;
        static llama::BufferType type{
            {get_name, alloc_buffer, get_alignment, nullptr, get_alloc_size, nullptr},
            static_cast<llama::Device *>(functions->reg_dev_get(functions->cpu_reg(), 0)),
            &placement};
        using Types = std::vector<llama::BufferType *>;
        auto &types = *static_cast<Types *>(functions->extra_buffer_types());
        types.insert(types.begin(), &type);
        all.product = product;
        all.lookup = lookup;
        return 0;
    });
}

int ep_llama_claim(const ep_llama_tensor *tensors, size_t count, int threads) {
    const std::lock_guard lock(state().mutex);
    state().claims.clear();
    state().threads = threads;
    state().report = {};
    const int failure = edgeprune::or_failed<int>(EP_NO_MEMORY, [&] {
        for (const ep_llama_tensor *t = tensors; t < tensors + count; t++)
            state().claims[t->name] = {t->shape, t->packed_size, t->source, t->source_size, t->form};
        return 0;
    });
    if (failure) state().claims.clear();
    return failure;
}

ep_llama_report ep_llama_reported() {
    const std::lock_guard lock(state().mutex);
    return state().report;
}
