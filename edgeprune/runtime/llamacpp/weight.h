// A packed weight, as llama.cpp keeps it: its tensor's `extra`.
#pragma once

#include <cstdlib>
#include <memory>

#include "load.h"

namespace edgeprune {

// Where llama.cpp takes no error, and going on would mean wrong weights without a word.
[[noreturn]] void stop(const char *why, const llama::Tensor *t);

// llama.cpp's numbers of the operations that a packed weight has a part in, and its barrier.
struct Operations {
    int32_t product = -1, lookup = -1;  // MUL_MAT and GET_ROWS
    void (*barrier)(void *) = nullptr;
};

Operations &operations();

// llama.cpp calls it for its products and, of an embedding, for its rows.
class Weight : public llama::TensorTraits {
  public:
    // `data` has room for what is claimed.
    Weight(const Claim &claim, void *data, std::shared_ptr<Load> load)
        : claim_(claim), shape_(claim.shape), data_(data), load_(std::move(load)) {}

    bool work_size(int threads, const llama::Tensor *op, size_t &size) override;
    bool compute_forward(llama::ComputeParams *params, llama::Tensor *op) override;

    // Pack what llama.cpp has read from its file.
    void set(const llama::Tensor *t, const void *data, size_t offset, size_t size);
    // False if there is no memory to unpack it.
    bool get(void *target, size_t offset, size_t size) const;

  private:
    int pack_in_own_memory(const void *data);
    void multiply(llama::ComputeParams *params, llama::Tensor *op) const;
    void look_up(const llama::ComputeParams *params, llama::Tensor *op) const;

    const Claim claim_;
    ep_shape shape_;  // another layout than the claim's where the data did not fit that
    void *data_;
    std::unique_ptr<void, decltype(&std::free)> own_{nullptr, std::free};  // data, if not in the buffer
    size_t packed_size_ = claim_.packed_size;
    const std::shared_ptr<Load> load_;
};

}  // namespace edgeprune
