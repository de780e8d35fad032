// Holds llama_internals.h against llama.cpp's own headers: compiles only if every size, offset and
// number is the same. tests/slow/test_native.py compiles it beside the installed version's sources.
#include <cstddef>

#include "ggml-backend-impl.h"
#include "ggml-cpu/traits.h"
#include "llama_internals.h"

#define SAME_SIZE(ours, theirs) static_assert(sizeof(ours) == sizeof(theirs), #ours)
#define SAME_PLACE(ours, theirs, field)                                       \
    static_assert(offsetof(ours, field) == offsetof(theirs, field), #field); \
    static_assert(sizeof(ours::field) == sizeof(theirs::field), #field)

using namespace llama;

SAME_SIZE(Tensor, ggml_tensor);
SAME_PLACE(Tensor, ggml_tensor, type);
SAME_PLACE(Tensor, ggml_tensor, buffer);
SAME_PLACE(Tensor, ggml_tensor, ne);
SAME_PLACE(Tensor, ggml_tensor, nb);
SAME_PLACE(Tensor, ggml_tensor, op);
SAME_PLACE(Tensor, ggml_tensor, src);
SAME_PLACE(Tensor, ggml_tensor, data);
SAME_PLACE(Tensor, ggml_tensor, name);
SAME_PLACE(Tensor, ggml_tensor, extra);

SAME_SIZE(BufferTypeInterface, ggml_backend_buffer_type_i);
SAME_PLACE(BufferTypeInterface, ggml_backend_buffer_type_i, get_name);
SAME_PLACE(BufferTypeInterface, ggml_backend_buffer_type_i, alloc_buffer);
SAME_PLACE(BufferTypeInterface, ggml_backend_buffer_type_i, get_alignment);
SAME_PLACE(BufferTypeInterface, ggml_backend_buffer_type_i, get_max_size);
SAME_PLACE(BufferTypeInterface, ggml_backend_buffer_type_i, get_alloc_size);
SAME_PLACE(BufferTypeInterface, ggml_backend_buffer_type_i, is_host);
SAME_SIZE(BufferType, ggml_backend_buffer_type);
SAME_PLACE(BufferType, ggml_backend_buffer_type, iface);
SAME_PLACE(BufferType, ggml_backend_buffer_type, device);
SAME_PLACE(BufferType, ggml_backend_buffer_type, context);

SAME_SIZE(BufferInterface, ggml_backend_buffer_i);
SAME_PLACE(BufferInterface, ggml_backend_buffer_i, free_buffer);
SAME_PLACE(BufferInterface, ggml_backend_buffer_i, get_base);
SAME_PLACE(BufferInterface, ggml_backend_buffer_i, init_tensor);
SAME_PLACE(BufferInterface, ggml_backend_buffer_i, set_tensor);
SAME_PLACE(BufferInterface, ggml_backend_buffer_i, get_tensor);
SAME_PLACE(BufferInterface, ggml_backend_buffer_i, set_tensor_2d);
SAME_PLACE(BufferInterface, ggml_backend_buffer_i, get_tensor_2d);
SAME_PLACE(BufferInterface, ggml_backend_buffer_i, cpy_tensor);
SAME_SIZE(Buffer, ggml_backend_buffer);
SAME_PLACE(Buffer, ggml_backend_buffer, iface);
SAME_PLACE(Buffer, ggml_backend_buffer, buft);

SAME_SIZE(ComputeParams, ggml_compute_params);
SAME_PLACE(ComputeParams, ggml_compute_params, ith);
SAME_PLACE(ComputeParams, ggml_compute_params, nth);
SAME_PLACE(ComputeParams, ggml_compute_params, wdata);
SAME_PLACE(ComputeParams, ggml_compute_params, threadpool);

static_assert(GGML_TYPE_F32 == 0 && GGML_TYPE_F16 == 1 && GGML_TYPE_Q4_0 == 2);
static_assert(GGML_TYPE_Q8_0 == 8 && GGML_TYPE_BF16 == 30 && GGML_STATUS_SUCCESS == 0);

// The virtual functions: overriding theirs with our signatures compiles only if they are the same,
// and their number and order are those of the classes' virtual tables.
struct Traits final : ggml::cpu::tensor_traits {
    bool work_size(int, const ggml_tensor *, size_t &) override { return false; }
    bool compute_forward(ggml_compute_params *, ggml_tensor *) override { return false; }
};
struct Extra final : ggml::cpu::extra_buffer_type {
    bool supports_op(ggml_backend_dev_t, const ggml_tensor *) override { return false; }
    ggml::cpu::tensor_traits *get_tensor_traits(const ggml_tensor *) override { return nullptr; }
};
static_assert(sizeof(Traits) == sizeof(void *) && sizeof(Extra) == sizeof(void *));
