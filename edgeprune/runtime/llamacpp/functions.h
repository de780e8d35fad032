// The functions of the llama.cpp in this process that are called here, found by name.
#pragma once

#include "llama_internals.h"

namespace llama {

struct InitParams {  // ggml_init_params
    size_t mem_size;
    void *mem_buffer;
    bool no_alloc;
};

// What it returns, what it is called here, what it takes, what llama.cpp calls it.
#define LLAMA_FUNCTIONS(EACH)                                                                     \
    EACH(void *, extra_buffer_types, (), "_Z39ggml_backend_cpu_get_extra_buffer_typesv")          \
    EACH(BufferType *, cpu_buffer_type, (), "ggml_backend_cpu_buffer_type")                       \
    EACH(Buffer *, alloc_buffer, (BufferType *, size_t), "ggml_backend_buft_alloc_buffer")        \
    EACH(void *, cpu_reg, (), "ggml_backend_cpu_reg")                                             \
    EACH(Device *, reg_dev_get, (void *, size_t), "ggml_backend_reg_dev_get")                     \
    EACH(void *, reg_get_proc_address, (void *, const char *), "ggml_backend_reg_get_proc_address") \
    EACH(void, barrier, (void *), "ggml_barrier")                                                 \
    EACH(const char *, op_name, (int), "ggml_op_name")                                            \
    /* for the check of layouts alone */                                                          \
    EACH(void *, init, (InitParams), "ggml_init")                                                 \
    EACH(void, free, (void *), "ggml_free")                                                       \
    EACH(size_t, tensor_overhead, (), "ggml_tensor_overhead")                                     \
    EACH(Tensor *, new_tensor_2d, (void *, int, int64_t, int64_t), "ggml_new_tensor_2d")          \
    EACH(Tensor *, mul_mat, (void *, Tensor *, Tensor *), "ggml_mul_mat")                         \
    EACH(Tensor *, view_1d, (void *, Tensor *, int64_t, size_t), "ggml_view_1d")                  \
    EACH(Tensor *, set_name, (Tensor *, const char *), "ggml_set_name")                           \
    EACH(void *, buffer_get_base, (Buffer *), "ggml_backend_buffer_get_base")                     \
    EACH(size_t, buffer_get_size, (Buffer *), "ggml_backend_buffer_get_size")                     \
    EACH(int, buffer_get_usage, (Buffer *), "ggml_backend_buffer_get_usage")                      \
    EACH(void, buffer_set_usage, (Buffer *, int), "ggml_backend_buffer_set_usage")                \
    EACH(void, buffer_free, (Buffer *), "ggml_backend_buffer_free")                               \
    EACH(Device *, buft_get_device, (BufferType *), "ggml_backend_buft_get_device")

struct Functions {
#define EP_FIELD(result, name, arguments, symbol) result(*name) arguments;
    LLAMA_FUNCTIONS(EP_FIELD)
#undef EP_FIELD
};

}  // namespace llama
