// What is claimed of the model that a thread is about to load, and what became of it.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "llama_adapter.h"
#include "llama_internals.h"

namespace edgeprune {

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

// llama.cpp places and fills all weights of a model in the thread that loads it. Two threads may load
// models whose tensors have the same names, so each has a load of its own; a weight keeps the one that
// it came with.
class Load {
  public:
    // `model`: its name, if nobody reads the report. Then a weight without values ends the process.
    Load(const ep_llama_tensor *tensors, size_t count, int threads, std::string model = {});

    const int threads;
    bool asked() const { return model_.empty(); }
    // Where nobody asks: what stands packed, in a line on stderr.
    void say_once();

    Claim claim_of(const llama::Tensor *t) const;
    void packed(size_t packed_bytes, size_t dense_bytes);
    void failed(int failure);
    ep_llama_report report() const;

  private:
    const std::string model_;
    std::once_flag said_;
    std::map<std::string, Claim, std::less<>> claims_;  // looked up without memory of its own
    mutable std::mutex mutex_;                          // of what follows
    ep_llama_report report_{};
};

// This thread's; never null, but `no_load` at first.
std::shared_ptr<Load> &this_load();

// One that claims nothing.
const std::shared_ptr<Load> &no_load();

// None, if this thread's load claims nothing of the tensor's name, type and shape.
inline Claim claim_of(const llama::Tensor *t) { return this_load()->claim_of(t); }

}  // namespace edgeprune
