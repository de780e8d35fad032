// An operator for onnxruntime's CPU provider: y = x W' with a weight that stands without its zeros.
//
//   edgeprune.SparseMatMul(x: float (..., cols), w: uint8 (bytes,)) -> float (..., rows)
//   attributes: type, layout, bits, group, rows, cols: an ep_shape; threads: parts of a product
//
// `w` is what ep_pack made, in this process: edgeprune/runtime/onnxruntime/sparse.py puts both into a graph.
// It is not looked at, so files must not bring their own.
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "kernels.h"
#include "onnxruntime_abi.h"

using namespace onnxruntime_abi;

namespace {

constexpr const char *kDomain = "edgeprune", *kName = "SparseMatMul";

// Stop at the first call that fails, and hand on what it says.
#define EP_TRY(expression) \
    if (Status *status = (expression)) return status

struct Kernel {
    const Api &api;
    ep_shape shape{};
    int64_t threads = 1;

    Status *read(const KernelInfo *info) {
        int64_t type = 0, layout = 0, bits = 0, group = 0;
        EP_TRY(api.call<KernelInfoGetAttributeInt64>(info, "type", &type));
        EP_TRY(api.call<KernelInfoGetAttributeInt64>(info, "layout", &layout));
        EP_TRY(api.call<KernelInfoGetAttributeInt64>(info, "bits", &bits));
        EP_TRY(api.call<KernelInfoGetAttributeInt64>(info, "group", &group));
        EP_TRY(api.call<KernelInfoGetAttributeInt64>(info, "rows", &shape.rows));
        EP_TRY(api.call<KernelInfoGetAttributeInt64>(info, "cols", &shape.cols));
        EP_TRY(api.call<KernelInfoGetAttributeInt64>(info, "threads", &threads));
        shape.type = static_cast<int32_t>(type);
        shape.layout = static_cast<int32_t>(layout);
        shape.bits = static_cast<int32_t>(bits);
        shape.group = static_cast<int32_t>(group);
        if (!ep_packable(&shape) || threads < 1)
            return api.call<CreateStatus>(kFail, "SparseMatMul: no such matrix");
        return nullptr;
    }

    Status *dimensions(const Value *value, std::vector<int64_t> &dims) const {
        TensorInfo *info = nullptr;
        size_t count = 0;
        EP_TRY(api.call<GetTensorTypeAndShape>(value, &info));
        Status *status = api.call<GetDimensionsCount>(info, &count);
        dims.resize(count);
        if (!status) status = api.call<GetDimensions>(info, dims.data(), count);
        api.call<ReleaseTensorTypeAndShapeInfo>(info);
        return status;
    }

    template <typename T>
    Status *data(const Value *value, T **found) const {
        void *place = nullptr;
        EP_TRY(api.call<GetTensorMutableData>(const_cast<Value *>(value), &place));
        *found = static_cast<T *>(place);
        return nullptr;
    }

    Status *compute(KernelContext *context) const {
        const Value *x = nullptr, *weight = nullptr;
        Value *y = nullptr;
        EP_TRY(api.call<KernelContextGetInput>(context, size_t{0}, &x));
        EP_TRY(api.call<KernelContextGetInput>(context, size_t{1}, &weight));
        std::vector<int64_t> dims;
        EP_TRY(dimensions(x, dims));
        if (dims.empty() || dims.back() != shape.cols)
            return api.call<CreateStatus>(kFail, "SparseMatMul: x has another width");
        int64_t tokens = 1;
        for (size_t i = 0; i + 1 < dims.size(); i++) tokens *= dims[i];
        dims.back() = shape.rows;
        EP_TRY(api.call<KernelContextGetOutput>(context, size_t{0},
                                                static_cast<const int64_t *>(dims.data()),
                                                dims.size(), &y));
        if (tokens == 0) return nullptr;
        const float *from = nullptr;
        const uint8_t *packed = nullptr;
        float *to = nullptr;
        EP_TRY(data(x, &from));
        EP_TRY(data(weight, &packed));
        EP_TRY(data(y, &to));
        return multiply(context, {{shape, packed}, from, shape.cols, to, shape.rows, tokens});
    }

    // Parts may run one after another, so that none may wait for another: rounding comes first.
    Status *multiply(KernelContext *context, const edgeprune::Product &product) const {
        const auto align = std::align_val_t(64);
        const int parts = static_cast<int>(threads);
        const size_t size = ep_work_size(&shape, product.tokens, parts) + 64;
        const auto release = [align](void *memory) { ::operator delete(memory, align); };
        const std::unique_ptr<void, decltype(release)> work(
            ::operator new(size, align, std::nothrow), release);
        if (!work) return api.call<CreateStatus>(kFail, "SparseMatMul: out of memory");
        Job job{product, parts, static_cast<uint8_t *>(work.get())};
        if (product.tokens > 1 && !product.matrix.wide()) {
            EP_TRY(in_parallel(context, job, [](void *all, size_t part) {
                const auto &[p, count, memory] = *static_cast<Job *>(all);
                edgeprune::round_part(p, static_cast<int>(part), count, memory);
            }));
        }
        return in_parallel(context, job, [](void *all, size_t part) {
            const auto &[p, count, memory] = *static_cast<Job *>(all);
            edgeprune::multiply_rounded_part(p, static_cast<int>(part), count, memory);
        });
    }

    struct Job {
        edgeprune::Product product;
        int parts;
        uint8_t *work;
    };

    Status *in_parallel(KernelContext *context, Job &job, void (*part)(void *, size_t)) const {
        if (job.parts == 1) {
            part(&job, 0);
            return nullptr;
        }
        const auto parts = static_cast<size_t>(job.parts);
        return api.call<KernelContextParallelFor>(static_cast<const KernelContext *>(context), part,
                                                  parts, parts, static_cast<void *>(&job));
    }
};

// onnxruntime is told what it can't catch.
template <class Work>
Status *or_status(const Api &api, const Work &work) noexcept {
    try {
        return work();
    } catch (const std::exception &) {
        return api.call<CreateStatus>(kFail, "SparseMatMul: out of memory");
    }
}

Status *create(const CustomOp *, const Api *api, const KernelInfo *info, void **kernel) {
    return or_status(*api, [&]() -> Status * {
        auto made = std::make_unique<Kernel>(Kernel{*api});
        EP_TRY(made->read(info));
        *kernel = made.release();
        return nullptr;
    });
}

Status *compute(void *kernel, KernelContext *context) {
    const auto *own = static_cast<Kernel *>(kernel);
    return or_status(own->api, [&] { return own->compute(context); });
}

const CustomOp &sparse_matmul() {
    static const CustomOp op = [] {
        CustomOp made{};
        made.version = kVersion;
        made.name = [](const CustomOp *) -> const char * { return kName; };
        made.provider = [](const CustomOp *) -> const char * { return nullptr; };
        made.input_type = [](const CustomOp *, size_t i) { return i == 0 ? kFloat : kUint8; };
        made.input_count = [](const CustomOp *) -> size_t { return 2; };
        made.output_type = [](const CustomOp *, size_t) { return int{kFloat}; };
        made.output_count = [](const CustomOp *) -> size_t { return 1; };
        made.destroy = [](void *kernel) { delete static_cast<Kernel *>(kernel); };
        made.input_characteristic = [](const CustomOp *, size_t) { return int{kRequired}; };
        made.output_characteristic = made.input_characteristic;
        made.input_memory = [](const CustomOp *, size_t) { return int{kDefaultMemory}; };
        made.create_kernel_v2 = create;
        made.compute_v2 = compute;
        made.start_version = [](const CustomOp *) { return 1; };
        made.end_version = made.start_version;
        return made;
    }();
    return op;
}

}  // namespace

// Found by its name when onnxruntime opens the library. The domain lives as long as the process, as
// any number of sessions may use it.
extern "C" EP_API Status *RegisterCustomOps(SessionOptions *options, const ApiBase *base) {
    const Api *api = base->get_api(kVersion);
    if (!api)
        return base->get_api(1)->call<CreateStatus>(
            kFail, "edgeprune's operators need onnxruntime 1.21 or later");
    static std::mutex mutex;
    static Domain *domain = nullptr;
    const std::lock_guard lock(mutex);
    if (!domain) {
        Domain *made = nullptr;
        EP_TRY(api->call<CreateCustomOpDomain>(kDomain, &made));
        EP_TRY(api->call<CustomOpDomainAdd>(made, &sparse_matmul()));
        domain = made;
    }
    return api->call<AddCustomOpDomain>(options, domain);
}
