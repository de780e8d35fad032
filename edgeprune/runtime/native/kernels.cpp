// Which kernels run, and how a product is cut into parts.
#include "kernels.h"

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>
#include <string>

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

// Threads that wait for each other; llama.cpp brings its own.
class Barrier {
  public:
    explicit Barrier(int threads) : threads_(threads) {}
    void wait() {
        std::unique_lock lock(mutex_);
        const int64_t round = round_;
        if (++waiting_ == threads_) {
            waiting_ = 0;
            round_++;
            all_here_.notify_all();
        } else {
            all_here_.wait(lock, [&] { return round_ != round; });
        }
    }

  private:
    std::mutex mutex_;
    std::condition_variable all_here_;
    const int threads_;
    int waiting_ = 0;
    int64_t round_ = 0;
};

}  // namespace

const Kernels &kernels() { return *in_use().load(std::memory_order_relaxed); }

const Kernels::OfType &Kernels::of(int32_t type) const {
    switch (type) {
        case EP_F16: return f16;
        case EP_Q4_0: return q4_0;
        case EP_BF16: return bf16;
        case EP_F32: return f32;
        default: return q8_0;
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
    const Products &by = kernels().of(m.type).by_layout[m.layout];
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

void ep_matmul(const ep_shape *shape, const void *packed, const float *x, int64_t x_stride,
               float *y, int64_t y_stride, int64_t tokens, int threads) {
    const Product product{Matrix(*shape, packed), x, x_stride, y, y_stride, tokens};
    const auto align = std::align_val_t(64);
    const size_t size = ep_work_size(shape, tokens, threads) + 64;
    auto *work = static_cast<uint8_t *>(::operator new(size, align));
    Barrier barrier(threads);
    const Meeting meeting{[](void *all) { static_cast<Barrier *>(all)->wait(); }, &barrier};
    in_parallel(threads, [&](int part) { multiply_part(product, part, threads, work, meeting); });
    ::operator delete(work, align);
}

const char *ep_kernels() {
    static const std::string names = [] {
        std::string all;
        for (const Kernels *one : kBestFirst)
            if (one->runs_here()) all += (all.empty() ? "" : " ") + std::string(one->name);
        return all;
    }();
    return names.c_str();
}

int ep_use(const char *name) {
    const Kernels *found = find(name);
    if (found) in_use() = found;
    return found ? 0 : -1;
}

const char *ep_in_use() { return kernels().name; }

float ep_break_even(int type) { return kernels().of(type).break_even; }
