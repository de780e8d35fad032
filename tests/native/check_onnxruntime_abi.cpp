// onnxruntime_abi.h beside onnxruntime's own header; compiled by
// tests/integration/onnx/test_onnx_sparse.py.
#include <cstddef>

#include "onnxruntime_abi.h"
#include "onnxruntime_c_api.h"

namespace own = onnxruntime_abi;

#define SLOT(name, theirs) \
    static_assert(own::name::kPlace * sizeof(void *) == offsetof(OrtApi, theirs), #theirs)
#define FIELD(name, theirs) \
    static_assert(offsetof(own::CustomOp, name) == offsetof(OrtCustomOp, theirs), #theirs)

SLOT(CreateStatus, CreateStatus);
SLOT(CreateCustomOpDomain, CreateCustomOpDomain);
SLOT(CustomOpDomainAdd, CustomOpDomain_Add);
SLOT(AddCustomOpDomain, AddCustomOpDomain);
SLOT(GetTensorMutableData, GetTensorMutableData);
SLOT(GetDimensionsCount, GetDimensionsCount);
SLOT(GetDimensions, GetDimensions);
SLOT(GetTensorTypeAndShape, GetTensorTypeAndShape);
SLOT(KernelInfoGetAttributeInt64, KernelInfoGetAttribute_int64);
SLOT(KernelContextGetInput, KernelContext_GetInput);
SLOT(KernelContextGetOutput, KernelContext_GetOutput);
SLOT(ReleaseTensorTypeAndShapeInfo, ReleaseTensorTypeAndShapeInfo);
SLOT(KernelContextParallelFor, KernelContext_ParallelFor);

FIELD(version, version);
FIELD(create_kernel, CreateKernel);
FIELD(name, GetName);
FIELD(provider, GetExecutionProviderType);
FIELD(input_type, GetInputType);
FIELD(input_count, GetInputTypeCount);
FIELD(output_type, GetOutputType);
FIELD(output_count, GetOutputTypeCount);
FIELD(compute, KernelCompute);
FIELD(destroy, KernelDestroy);
FIELD(input_characteristic, GetInputCharacteristic);
FIELD(output_characteristic, GetOutputCharacteristic);
FIELD(input_memory, GetInputMemoryType);
FIELD(variadic, GetVariadicInputMinArity);
FIELD(create_kernel_v2, CreateKernelV2);
FIELD(compute_v2, KernelComputeV2);
FIELD(infer_shape, InferOutputShapeFn);
FIELD(start_version, GetStartVersion);
FIELD(end_version, GetEndVersion);
FIELD(aliases, GetMayInplace);
static_assert(sizeof(own::CustomOp) == sizeof(OrtCustomOp));

static_assert(own::kVersion == ORT_API_VERSION);
static_assert(own::kFail == ORT_FAIL);
static_assert(own::kFloat == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
static_assert(own::kUint8 == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8);
static_assert(own::kRequired == INPUT_OUTPUT_REQUIRED);
static_assert(own::kDefaultMemory == OrtMemTypeDefault);

static_assert(offsetof(own::ApiBase, get_api) == offsetof(OrtApiBase, GetApi));
static_assert(offsetof(own::ApiBase, get_version) == offsetof(OrtApiBase, GetVersionString));
