// What llama.cpp has inside and does not install: the layouts that a buffer type of its CPU backend
// meets, in the versions that edgeprune/runtime/llamacpp/adapter.py names as CHECKED.
// tests/slow/test_native.py compiles this beside their sources and compares sizes and offsets
// (tests/native/check_layout.cpp).
// A buffer type may ask for less than a tensor's own size only in builds with NDEBUG, as releases
// are: others stop at an assertion, which the probe finds first.
// Fields that are not used stand here only for what comes after them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace llama {

struct Buffer;
struct BufferType;
struct Device;
struct Threadpool;

constexpr int kMaxDimensions = 4, kMaxSources = 10, kMaxName = 64, kOpParameters = 64;

struct Tensor {
    int32_t type;
    Buffer *buffer;
    int64_t ne[kMaxDimensions];  // elements
    size_t nb[kMaxDimensions];   // bytes from one to the next
    int32_t op;
    int32_t op_params[kOpParameters / 4];
    int32_t flags;
    Tensor *src[kMaxSources];
    Tensor *view_src;
    size_t view_offs;
    void *data;
    char name[kMaxName];
    void *extra;
    char padding[8];
};

struct BufferTypeInterface {
    const char *(*get_name)(BufferType *);
    Buffer *(*alloc_buffer)(BufferType *, size_t size);
    size_t (*get_alignment)(BufferType *);
    size_t (*get_max_size)(BufferType *);
    size_t (*get_alloc_size)(BufferType *, const Tensor *);
    bool (*is_host)(BufferType *);
};

struct BufferType {
    BufferTypeInterface iface;
    Device *device;
    void *context;  // of an extra buffer type of the CPU: its ExtraBufferType
};

struct BufferInterface {
    void (*free_buffer)(Buffer *);
    void *(*get_base)(Buffer *);
    int (*init_tensor)(Buffer *, Tensor *);
    void (*memset_tensor)(Buffer *, Tensor *, uint8_t value, size_t offset, size_t size);
    void (*set_tensor)(Buffer *, Tensor *, const void *data, size_t offset, size_t size);
    void (*get_tensor)(Buffer *, const Tensor *, void *data, size_t offset, size_t size);
    void (*set_tensor_2d)(Buffer *, Tensor *, const void *, size_t, size_t, size_t, size_t, size_t);
    void (*get_tensor_2d)(Buffer *, const Tensor *, void *, size_t, size_t, size_t, size_t, size_t);
    bool (*cpy_tensor)(Buffer *, const Tensor *source, Tensor *target);
    void (*clear)(Buffer *, uint8_t value);
    void (*reset)(Buffer *);
};

struct Buffer {
    BufferInterface iface;
    BufferType *buft;
    void *context;
    size_t size;
    int32_t usage;
};

struct ComputeParams {
    int ith, nth;
    size_t wsize;
    void *wdata;
    Threadpool *threadpool;
    bool use_ref;
};

// llama.cpp calls these through their virtual tables: the order of functions is the layout.
class TensorTraits {
  public:
    virtual ~TensorTraits() = default;
    virtual bool work_size(int threads, const Tensor *op, size_t &size) = 0;
    virtual bool compute_forward(ComputeParams *params, Tensor *op) = 0;
};

class ExtraBufferType {
  public:
    virtual ~ExtraBufferType() = default;
    virtual bool supports_op(Device *device, const Tensor *op) = 0;
    virtual TensorTraits *get_tensor_traits(const Tensor *op) = 0;
};

}  // namespace llama
