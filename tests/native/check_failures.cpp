// What the library does where memory or threads run out, and with what llama.cpp must never ask for:
// linked to the library itself by tests/integration/test_native.py, one check a run. Ends with 1 and
// a line on a mistake.
#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "edgeprune_kernels.h"
#include "functions.h"
#include "llama_adapter.h"
#include "llama_internals.h"

namespace {

std::atomic<int64_t> before_failure{-1};  // allocations that still succeed; negative: all do
std::atomic<bool> no_threads{false};

void *allocate(size_t size, size_t align) {
    if (before_failure >= 0 && before_failure-- == 0) throw std::bad_alloc();
    void *found = std::aligned_alloc(align, (size + align - 1) / align * align);
    if (!found) throw std::bad_alloc();
    return found;
}

}  // namespace

// The library uses this program's.
void *operator new(size_t size) { return allocate(size, alignof(std::max_align_t)); }
void *operator new(size_t size, std::align_val_t align) {
    return allocate(size, static_cast<size_t>(align));
}
void operator delete(void *memory) noexcept { std::free(memory); }
void operator delete(void *memory, size_t) noexcept { std::free(memory); }
void operator delete(void *memory, std::align_val_t) noexcept { std::free(memory); }

extern "C" int pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                              void *(*work)(void *), void *argument) noexcept {
    if (no_threads) return EAGAIN;
    static const auto real =
        reinterpret_cast<decltype(&pthread_create)>(dlsym(RTLD_NEXT, "pthread_create"));
    return real(thread, attributes, work, argument);
}

namespace {

constexpr int kThreads = 3;
const ep_shape kShape{EP_Q8_0, EP_SPARSE, 0, 1, 64, 64};
const ep_form kForm{8, 1, 1};
constexpr int64_t kBlocks = 64 * 64 / 32, kTokens = 5;

#define REQUIRE(condition)                                           \
    if (!(condition)) {                                              \
        std::printf("line %d: not so: %s\n", __LINE__, #condition); \
        std::exit(1);                                                \
    }

std::vector<uint8_t> weights() {
    std::vector<uint8_t> data(kBlocks * 34);
    for (size_t i = 0; i < data.size(); i++) data[i] = i % 34 < 2 ? 0x20 : i * 7 % 5;
    return data;
}

// As `.packed.gguf` files hold it: scales, mask, kept codes.
std::vector<uint8_t> in_a_file(const std::vector<uint8_t> &data) {
    std::vector<uint8_t> file, mask(kBlocks * 4), codes;
    for (int64_t block = 0; block < kBlocks; block++) {
        const uint8_t *from = data.data() + block * 34;
        file.insert(file.end(), from, from + 2);
        for (int i = 0; i < 32; i++) {
            if (from[2 + i] == 0) continue;
            mask[block * 4 + i / 8] |= 1 << i % 8;
            codes.push_back(from[2 + i]);
        }
    }
    file.insert(file.end(), mask.begin(), mask.end());
    file.insert(file.end(), codes.begin(), codes.end());
    return file;
}

// Everything that the library does with a matrix, in the order of use; false: memory ran out.
struct Steps {
    const std::vector<uint8_t> data = weights(), file = in_a_file(data);
    std::vector<uint8_t> packed, again = std::vector<uint8_t>(data.size());
    std::vector<float> x = std::vector<float>(kTokens * 64, 0.5F), y = std::vector<float>(kTokens * 64);
    size_t size = 0;

    bool sized(size_t found) {
        if (found == EP_NO_SIZE) return false;
        REQUIRE(found > 0 && (size == 0 || found == size));
        size = found;
        return true;
    }
    static bool done(int code) {
        REQUIRE(code == 0 || code == EP_NO_MEMORY);
        return code == 0;
    }
    std::vector<std::function<bool()>> all() {
        return {
            [&] { return sized(ep_packed_size(&kShape, data.data(), kThreads)); },
            [&] {
                return sized(ep_packed_size_of_file(&kShape, &kForm, file.data(), file.size(),
                                                    kThreads));
            },
            [&] { return done(ep_pack(&kShape, data.data(), packed.data(), size, kThreads)); },
            [&] {
                return done(ep_pack_file(&kShape, &kForm, file.data(), file.size(), packed.data(), size,
                                         kThreads));
            },
            [&] { return done(ep_unpack(&kShape, packed.data(), again.data(), kThreads)); },
            [&] {
                return done(ep_matmul(&kShape, packed.data(), x.data(), 64, y.data(), 64, kTokens,
                                      kThreads));
            },
        };
    }
    void run(const std::function<void(const std::function<bool()> &)> &step) {
        for (const auto &one : all()) {
            if (packed.size() < size) packed.resize(size);
            step(one);
        }
        REQUIRE(again == data);
    }
};

void memory() {
    Steps steps;
    int failed = 0;
    steps.run([&](const auto &step) {
        for (int64_t first = 0;; first++) {  // each of its allocations fails once
            before_failure = first;
            const bool done = step();
            const bool ran_out = before_failure < 0;
            before_failure = -1;
            failed += !done;
            if (!ran_out) {
                REQUIRE(done);
                return;
            }
        }
    });
    REQUIRE(failed >= 5);
}

void threads() {
    Steps with, without;
    with.run([](const auto &step) { REQUIRE(step()); });
    no_threads = true;
    without.run([](const auto &step) { REQUIRE(step()); });
    REQUIRE(with.packed == without.packed);
    REQUIRE(with.y == without.y && with.y[0] != 0);
}

// A llama.cpp of one buffer at a time, whose buffers are freed in two ways.
std::vector<llama::BufferType *> types;
int freed[2];
bool second = false;

void free_buffer(llama::Buffer *buffer, int way) {
    freed[way]++;
    std::free(buffer->context);
}

llama::Buffer *alloc_buffer(llama::BufferType *, size_t size) {
    auto *buffer = new llama::Buffer{};
    buffer->context = std::aligned_alloc(64, (size + 63) / 64 * 64);
    buffer->size = size;
    buffer->iface.get_base = [](llama::Buffer *own) { return own->context; };
    buffer->iface.free_buffer = second ? [](llama::Buffer *own) { free_buffer(own, 1); }
                                       : [](llama::Buffer *own) { free_buffer(own, 0); };
    return buffer;
}

const char *op_name(int op) { return op == 7 ? "MUL_MAT" : op == 8 ? "GET_ROWS" : "OTHER"; }

int attach_to(const char *(*name_of)(int)) {
    llama::Functions f{};
    f.extra_buffer_types = [] { return static_cast<void *>(&types); };
    f.cpu_buffer_type = [] { return static_cast<llama::BufferType *>(nullptr); };
    f.alloc_buffer = alloc_buffer;
    f.cpu_reg = [] { return static_cast<void *>(nullptr); };
    f.reg_dev_get = [](void *, size_t) { return static_cast<llama::Device *>(nullptr); };
    f.reg_get_proc_address = [](void *, const char *) { return static_cast<void *>(nullptr); };
    f.barrier = [](void *) {};
    f.op_name = name_of;
    return ep_llama_attach(reinterpret_cast<void *const *>(&f));
}

llama::BufferType *attach() {
    for (int time = 0; time < 2; time++) {  // the second time there is nothing to do
        REQUIRE(attach_to(op_name) == 0);
        REQUIRE(types.size() == 1);
    }
    return types[0];
}

void other_operations() {
    REQUIRE(attach_to([](int op) { return op < 3 ? "OTHER" : nullptr; }) == EP_OTHER_LLAMA);
    REQUIRE(types.empty());
}

llama::Tensor tensor(const char *name) {
    llama::Tensor t{};
    t.type = EP_Q8_0;
    t.ne[0] = t.ne[1] = 64;
    t.ne[2] = t.ne[3] = 1;
    std::strncpy(t.name, name, sizeof t.name - 1);
    return t;
}

void claim(size_t size, const ep_shape &shape = kShape) {
    const ep_llama_tensor claimed{"blk.0.ffn_gate.weight", shape, size, nullptr, 0, kForm};
    REQUIRE(ep_llama_claim(&claimed, 1, kThreads) == 0);
}

// Metadata that promise less than there is, in bytes or in codes, are no danger.
void lies() {
    llama::BufferType *type = attach();
    std::vector<uint8_t> q4(kBlocks * 18);
    for (size_t i = 0; i < q4.size(); i++) q4[i] = i % 18 < 2 ? 0x20 : i * 37;
    const ep_shape narrow{EP_Q4_0, EP_NARROW, 2, 1, 64, 64}, masked{EP_Q4_0, EP_MASKED, 1, 1, 64, 64};
    const auto q8 = weights();
    const size_t size = ep_packed_size(&kShape, q8.data(), 1);
    const struct {
        ep_shape shape;
        size_t size;
        const std::vector<uint8_t> &data;
    } cases[] = {{kShape, size - 64, q8},
                 {narrow, ep_packed_size_of_count(&narrow, 0), q4},
                 {masked, ep_packed_size(&masked, q4.data(), 1), q4}};
    for (const auto &one : cases) {
        claim(one.size, one.shape);
        llama::Tensor t = tensor("blk.0.ffn_gate.weight");
        t.type = one.shape.type;
        llama::Buffer *buffer = type->iface.alloc_buffer(type, one.size);
        t.data = buffer->context;
        REQUIRE(buffer->iface.init_tensor(buffer, &t) == 0);
        buffer->iface.set_tensor(buffer, &t, one.data.data(), 0, one.data.size());
        const ep_llama_report report = ep_llama_reported();
        REQUIRE(report.tensors == 1 && report.failures == 0 && report.exhausted == 0);
        std::vector<uint8_t> again(one.data.size());
        buffer->iface.get_tensor(buffer, &t, again.data(), 0, again.size());
        REQUIRE(again == one.data);
        buffer->iface.free_buffer(buffer);
    }
}

// What one thread claims is nothing to another.
void other_thread() {
    llama::BufferType *type = attach();
    const auto data = weights();
    const size_t size = ep_packed_size(&kShape, data.data(), 1);
    claim(size);
    const llama::Tensor t = tensor("blk.0.ffn_gate.weight");
    REQUIRE(type->iface.get_alloc_size(type, &t) == size);
    std::thread([&] {
        REQUIRE(type->iface.get_alloc_size(type, &t) < size);
        claim(size + 64);
        REQUIRE(type->iface.get_alloc_size(type, &t) == size + 64);
    }).join();
    REQUIRE(type->iface.get_alloc_size(type, &t) == size);
}

void set_or_get_unclaimed(bool set) {
    const auto data = weights();
    llama::BufferType *type = attach();
    llama::Tensor t = tensor("blk.0.attn_q.weight");
    llama::Buffer *buffer = type->iface.alloc_buffer(type, data.size());
    t.data = buffer->context;
    REQUIRE(buffer->iface.init_tensor(buffer, &t) == 0);
    std::vector<uint8_t> target(data.size());
    if (set)
        buffer->iface.set_tensor(buffer, &t, data.data(), 0, data.size());
    else
        buffer->iface.get_tensor(buffer, &t, target.data(), 0, target.size());
}

void buffers() {
    llama::BufferType *type = attach();
    llama::Buffer *one = type->iface.alloc_buffer(type, 64);
    second = true;
    llama::Buffer *two = type->iface.alloc_buffer(type, 64);
    one->iface.free_buffer(one);
    REQUIRE(freed[0] == 1 && freed[1] == 0);
    two->iface.free_buffer(two);
    REQUIRE(freed[0] == 1 && freed[1] == 1);
}

// Each allocation of a load fails once: the load fails, or the report says that memory ran out.
void loading() {
    const auto data = weights();
    const size_t size = ep_packed_size(&kShape, data.data(), 1);
    llama::BufferType *type = attach();
    llama::Tensor t = tensor("blk.0.ffn_gate.weight");
    int exhausted = 0, refused = 0;
    for (int64_t first = 0;; first++) {
        claim(size);
        t.extra = nullptr;
        before_failure = first;
        llama::Buffer *buffer = nullptr;
        try {
            buffer = type->iface.alloc_buffer(type, size);
        } catch (const std::bad_alloc &) {  // this program's own llama.cpp
        }
        bool loaded = false;
        if (buffer) {
            t.data = buffer->context;
            loaded = buffer->iface.init_tensor(buffer, &t) == 0;
            if (loaded) buffer->iface.set_tensor(buffer, &t, data.data(), 0, data.size());
        }
        const bool ran_out = before_failure < 0;
        before_failure = -1;
        const ep_llama_report report = ep_llama_reported();
        REQUIRE(report.failures == 0);
        REQUIRE(report.tensors + report.exhausted == (loaded ? 1 : 0));
        exhausted += report.exhausted != 0;
        refused += !loaded;
        if (buffer) buffer->iface.free_buffer(buffer);
        if (!ran_out) {
            REQUIRE(report.tensors == 1);
            break;
        }
    }
    REQUIRE(exhausted > 0 && refused > 1);
    const ep_llama_tensor claimed{"a tensor with a long name", kShape, size, nullptr, 0, kForm};
    before_failure = 0;
    REQUIRE(ep_llama_claim(&claimed, 1, 1) == EP_NO_MEMORY);
}

}  // namespace

int main(int, char **arguments) {
    const std::string what = arguments[1];
    if (what == "memory") memory();
    if (what == "threads") threads();
    if (what == "buffers") buffers();
    if (what == "loading") loading();
    if (what == "lies") lies();
    if (what == "other thread") other_thread();
    if (what == "other operations") other_operations();
    if (what == "set") set_or_get_unclaimed(true);
    if (what == "get") set_or_get_unclaimed(false);
    std::printf("done: %s\n", what.c_str());
}
