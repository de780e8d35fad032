#include "load.h"

#include <cstdio>
#include <string_view>

#include "threads.h"

namespace edgeprune {

Load::Load(const ep_llama_tensor *tensors, size_t count, int threads, std::string model)
    : threads(threads), model_(std::move(model)) {
    for (const ep_llama_tensor *t = tensors; t < tensors + count; t++)
        claims_[t->name] = {t->shape, t->packed_size, t->source, t->source_size, t->form};
}

Claim Load::claim_of(const llama::Tensor *t) const {
    const auto found = claims_.find(std::string_view(t->name));
    if (found == claims_.end()) return {};
    const ep_shape &shape = found->second.shape;
    const bool same = t->type == shape.type && t->ne[0] == shape.cols && t->ne[1] == shape.rows &&
                      t->ne[2] == 1 && t->ne[3] == 1;
    return same ? found->second : Claim{};
}

void Load::packed(size_t packed_bytes, size_t dense_bytes) {
    const std::lock_guard lock(mutex_);
    report_.tensors++;
    report_.packed_bytes += packed_bytes;
    report_.dense_bytes += dense_bytes;
}

void Load::failed(int failure) {
    const std::lock_guard lock(mutex_);
    (failure == EP_NO_MEMORY ? report_.exhausted : report_.failures)++;
}

void Load::say_once() {
    std::call_once(said_, [this] {
        constexpr double kMegabyte = 1e6;
        const ep_llama_report all = report();
        std::fprintf(stderr, "edgeprune: %s: %lld tensors run packed, %.1f MB in place of %.1f, %s kernels\n",
                     model_.c_str(), static_cast<long long>(all.tensors), all.packed_bytes / kMegabyte,
                     all.dense_bytes / kMegabyte, ep_in_use());
    });
}

ep_llama_report Load::report() const {
    const std::lock_guard lock(mutex_);
    return report_;
}

const std::shared_ptr<Load> &no_load() {
    static auto *none = new std::shared_ptr<Load>(std::make_shared<Load>(nullptr, 0, 1));
    return *none;
}

std::shared_ptr<Load> &this_load() {
    thread_local std::shared_ptr<Load> own = no_load();
    return own;
}

}  // namespace edgeprune

int ep_llama_claim(const ep_llama_tensor *tensors, size_t count, int threads) {
    using namespace edgeprune;
    return or_failed<int>(EP_NO_MEMORY, [&] {
        this_load() = no_load();
        this_load() = std::make_shared<Load>(tensors, count, threads);
        return 0;
    });
}

ep_llama_report ep_llama_reported() { return edgeprune::this_load()->report(); }
