// Which kernels run, and how a product is cut into parts.
#include "kernels.h"

#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "threads.h"

namespace edgeprune {
namespace {

const Kernels *const kBestFirst[] = {
#if defined(__x86_64__)
    &kAvx512, &kAvx2,
#elif defined(__aarch64__)
    &kNeon,
#endif
    &kPortable,
};

const Kernels *find(const char *name) {
    for (const Kernels *one : kBestFirst)
        if (one->runs_here() && (!name || !*name || std::strcmp(one->name, name) == 0)) return one;
    return nullptr;
}

const Kernels *first_choice() {
    const Kernels *asked = find(std::getenv("EDGEPRUNE_KERNEL"));
    return asked ? asked : find(nullptr);
}

std::atomic<const Kernels *> &in_use() {
    static std::atomic<const Kernels *> kernels{first_choice()};
    return kernels;
}

int64_t scratch_bytes(const Matrix &m) {
    return round_up(kTileRows * m.cols * (m.wide() ? m.float_bytes() : 1), 64);
}

}  // namespace

const Kernels &kernels() { return *in_use().load(std::memory_order_relaxed); }

const Products &Kernels::of(const Matrix &m) const {
    switch (m.type) {
        case EP_F16: return f16.by_layout[m.layout];
        case EP_BF16: return bf16.by_layout[m.layout];
        case EP_F32: return f32.by_layout[m.layout];
        default: return by_coding[m.coding()];
    }
}

void round_part(const Product &p, int part, int parts, uint8_t *work) {
    const Matrix &m = p.matrix;
    const int64_t token_bytes = Token::bytes(m.cols);
    uint8_t *codes = work + parts * scratch_bytes(m);
    for (int64_t t = part; t < p.tokens; t += parts)
        kernels().quantize(p.x + t * p.x_stride, m.cols, Token(codes + t * token_bytes, m.cols));
}

void multiply_rounded_part(const Product &p, int part, int parts, uint8_t *work) {
    const Matrix &m = p.matrix;
    const Products &by = kernels().of(m);
    const int64_t from = m.tiles() * part / parts, to = m.tiles() * (part + 1) / parts;
    const int64_t token_bytes = Token::bytes(m.cols);
    if (p.tokens == 1) {
        const void *x = p.x;
        if (!m.wide()) {  // for one token, each thread rounds all of it: cheaper than to wait
            uint8_t *mine = work + part * token_bytes;
            kernels().quantize(p.x, m.cols, Token(mine, m.cols));
            x = mine;
        }
        by.matvec(m, from, to, x, p.y);
        return;
    }
    uint8_t *scratch = work + part * scratch_bytes(m);
    const void *x = work + parts * scratch_bytes(m);
    int64_t x_stride = token_bytes;
    if (m.wide()) x = p.x, x_stride = p.x_stride * 4;
    by.matmul(m, from, to, x, x_stride, p.y, p.y_stride, p.tokens, scratch);
}

void multiply_part(const Product &p, int part, int parts, uint8_t *work, Meeting meeting) {
    if (p.tokens > 1 && !p.matrix.wide()) {
        round_part(p, part, parts, work);
        meeting.meet(meeting.with);
    }
    multiply_rounded_part(p, part, parts, work);
}

}  // namespace edgeprune

using namespace edgeprune;

size_t ep_work_size(const ep_shape *shape, int64_t tokens, int threads) {
    const Matrix m(*shape, nullptr);
    if (tokens == 1) return m.wide() ? 0 : threads * Token::bytes(m.cols);
    return threads * scratch_bytes(m) + (m.wide() ? 0 : tokens * Token::bytes(m.cols));
}

int ep_matmul(const ep_shape *shape, const void *packed, const float *x, int64_t x_stride, float *y,
              int64_t y_stride, int64_t tokens, int threads) {
    return or_failed<int>(EP_NO_MEMORY, [&] {
        const Product product{Matrix(*shape, packed), x, x_stride, y, y_stride, tokens};
        const auto align = std::align_val_t(64);
        const auto release = [align](void *memory) { ::operator delete(memory, align); };
        const std::unique_ptr<void, decltype(release)> memory(
            ::operator new(ep_work_size(shape, tokens, threads) + 64, align), release);
        auto *work = static_cast<uint8_t *>(memory.get());
        if (tokens > 1 && !product.matrix.wide())
            in_parallel(threads, [&](int part) { round_part(product, part, threads, work); });
        in_parallel(threads, [&](int part) { multiply_rounded_part(product, part, threads, work); });
        return 0;
    });
}

const char *ep_kernels() {
    static const auto names = [] {
        std::array<char, 64> all{};  // never full, and no memory to run out of
        for (const Kernels *one : kBestFirst) {
            if (!one->runs_here()) continue;
            if (all[0]) std::strncat(all.data(), " ", all.size() - std::strlen(all.data()) - 1);
            std::strncat(all.data(), one->name, all.size() - std::strlen(all.data()) - 1);
        }
        return all;
    }();
    return names.data();
}

int ep_use(const char *name) {
    const Kernels *found = find(name);
    if (found) in_use() = found;
    return found ? 0 : -1;
}

const char *ep_in_use() { return kernels().name; }

float ep_break_even(int type) {
    const auto &of = kernels().break_even;
    switch (type) {
        case EP_F16: return of.f16;
        case EP_Q4_0: return of.q4_0;
        case EP_BF16: return of.bf16;
        case EP_F32: return of.f32;
        default: return of.q8_0;
    }
}

int ep_dense_gains(int type) {
    const auto &of = kernels().dense;
    return (type == EP_F16 && of.f16) || (type == EP_Q4_0 && of.q4_0) || (type == EP_Q8_0 && of.q8_0);
}
