// What a custom operator needs of onnxruntime's C interface, declared anew: the Python wheel ships no
// headers. The interface is a table of functions that only grows, so the places below, those of
// version 21 of onnxruntime_c_api.h, hold in later ones. tests/integration/onnx/test_onnx_sparse.py
// compares them with Debian's libonnxruntime-dev where that can be fetched
// (tests/native/check_onnxruntime_abi.cpp).
#pragma once

#include <cstddef>
#include <cstdint>

namespace onnxruntime_abi {

constexpr uint32_t kVersion = 21;

struct Status;  // null: all is well
struct Value;
struct TensorInfo;
struct KernelInfo;
struct KernelContext;
struct SessionOptions;
struct Domain;

// A function's place in the table, and what it looks like.
template <size_t Place, typename Function>
struct Slot {
    static constexpr size_t kPlace = Place;
    using Pointer = Function *;
};

using CreateStatus = Slot<0, Status *(int code, const char *message)>;
using CreateCustomOpDomain = Slot<26, Status *(const char *name, Domain **)>;
using CustomOpDomainAdd = Slot<27, Status *(Domain *, const struct CustomOp *)>;
using AddCustomOpDomain = Slot<28, Status *(SessionOptions *, Domain *)>;
using GetTensorMutableData = Slot<51, Status *(Value *, void **)>;
using GetDimensionsCount = Slot<61, Status *(const TensorInfo *, size_t *)>;
using GetDimensions = Slot<62, Status *(const TensorInfo *, int64_t *, size_t)>;
using GetTensorTypeAndShape = Slot<65, Status *(const Value *, TensorInfo **)>;
using KernelInfoGetAttributeInt64 = Slot<86, Status *(const KernelInfo *, const char *, int64_t *)>;
using KernelContextGetInput = Slot<90, Status *(const KernelContext *, size_t, const Value **)>;
using KernelContextGetOutput =
    Slot<91, Status *(KernelContext *, size_t, const int64_t *dims, size_t, Value **)>;
using ReleaseTensorTypeAndShapeInfo = Slot<99, void(TensorInfo *)>;
using KernelContextParallelFor =
    Slot<274, Status *(const KernelContext *, void (*)(void *, size_t), size_t total,
                       size_t batches, void *)>;

// The table itself.
class Api {
  public:
    template <typename Function, typename... Arguments>
    auto call(Arguments... arguments) const {
        return reinterpret_cast<typename Function::Pointer>(slots_[Function::kPlace])(arguments...);
    }

  private:
    void *slots_[1];  // and those behind
};

struct ApiBase {
    const Api *(*get_api)(uint32_t version);
    const char *(*get_version)();
};

constexpr int kFail = 1, kFloat = 1, kUint8 = 2, kRequired = 0, kDefaultMemory = 0;

// An operator, as it is announced; what is null is never called.
struct CustomOp {
    uint32_t version;
    void *(*create_kernel)(const CustomOp *, const Api *, const KernelInfo *);
    const char *(*name)(const CustomOp *);
    const char *(*provider)(const CustomOp *);
    int (*input_type)(const CustomOp *, size_t);
    size_t (*input_count)(const CustomOp *);
    int (*output_type)(const CustomOp *, size_t);
    size_t (*output_count)(const CustomOp *);
    void (*compute)(void *kernel, KernelContext *);
    void (*destroy)(void *kernel);
    int (*input_characteristic)(const CustomOp *, size_t);
    int (*output_characteristic)(const CustomOp *, size_t);
    int (*input_memory)(const CustomOp *, size_t);
    int (*variadic[4])(const CustomOp *);
    Status *(*create_kernel_v2)(const CustomOp *, const Api *, const KernelInfo *, void **);
    Status *(*compute_v2)(void *kernel, KernelContext *);
    Status *(*infer_shape)(const CustomOp *, void *);
    int (*start_version)(const CustomOp *);
    int (*end_version)(const CustomOp *);
    void *aliases[4];
};

}  // namespace onnxruntime_abi
