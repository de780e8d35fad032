#include "weight.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

#include "kernels.h"
#include "pages.h"
#include "rows.h"

namespace edgeprune {
namespace {

constexpr uintptr_t kAlign = 64;

size_t dense_bytes(const ep_shape &shape) {
    return shape.rows * shape.cols / kBlock * source_block_bytes(shape.type);
}

}  // namespace

void stop(const char *why, const llama::Tensor *t) {
    std::fprintf(stderr, "edgeprune: %s: %s\n", t->name, why);
    std::abort();
}

Operations &operations() {
    static Operations all;
    return all;
}

bool Weight::work_size(int threads, const llama::Tensor *op, size_t &size) {
    size = 0;
    if (op->op == operations().lookup) return true;
    const llama::Tensor *x = op->src[1];
    const int64_t tokens = x->ne[1] * x->ne[2] * x->ne[3];
    size = ep_work_size(&shape_, tokens, threads) + kAlign;
    // A batch of single tokens is worked on token by token.
    size = std::max(size, ep_work_size(&shape_, 1, threads) + kAlign);
    return true;
}

bool Weight::compute_forward(llama::ComputeParams *params, llama::Tensor *op) {
    if (!load_->asked()) load_->say_once();
    if (op->op == operations().lookup)
        look_up(params, op);
    else
        multiply(params, op);
    return true;
}

void Weight::set(const llama::Tensor *t, const void *data, size_t offset, size_t size) {
    const size_t whole = dense_bytes(claim_.shape);
    if (offset != 0 || size != whole) stop("it comes in parts, and is packed whole", t);
    int failure = claim_.pack(data, data_, load_->threads);
    if (failure == -1 && !claim_.source) failure = pack_in_own_memory(data);
    if (failure != 0) {
        if (!load_->asked()) stop("it cannot be packed: out of memory, or a file that changes", t);
        load_->failed(failure);
        std::memset(data_, 0, claim_.packed_size);  // no values, and safe to read
        return;
    }
    // It stands in memory now; in Python, what llama.cpp gives is never mapped.
    if (claim_.source)
        drop_mapped_pages(claim_.source, claim_.source_size);
    else if (!load_->asked())
        drop_mapped_pages(data, size);
    load_->packed(packed_size_, whole);
}

// Where the metadata that a claim came from are wrong: there is not enough room in the buffer, or its
// layout has not all codes. The bytes themselves are what counts.
int Weight::pack_in_own_memory(const void *data) {
    return or_failed<int>(EP_NO_MEMORY, [&] {
        const bool with_zeros = Matrix(claim_.shape, nullptr).keeps_zeros();
        const int32_t wide = with_zeros ? EP_DENSE : EP_SPARSE;
        for (const ep_shape &shape :
             {claim_.shape, ep_shape{shape_.type, wide, 0, 1, shape_.rows, shape_.cols}}) {
            const size_t size = ep_packed_size(&shape, data, load_->threads);
            if (size == EP_NO_SIZE) return static_cast<int>(EP_NO_MEMORY);
            own_.reset(std::aligned_alloc(kAlign, round_up(size, kAlign)));
            if (!own_) return static_cast<int>(EP_NO_MEMORY);
            const int failure = ep_pack(&shape, data, own_.get(), size, load_->threads);
            if (failure == -1) continue;
            if (failure == 0) {
                shape_ = shape;
                data_ = own_.get();
                packed_size_ = size;
            }
            return failure;
        }
        return -1;
    });
}

bool Weight::get(void *target, size_t offset, size_t size) const {
    return or_failed(false, [&] {
        std::vector<uint8_t> whole(dense_bytes(shape_));
        if (ep_unpack(&shape_, data_, whole.data(), 1) != 0) return false;
        std::memcpy(target, whole.data() + offset, size);
        return true;
    });
}

void Weight::multiply(llama::ComputeParams *params, llama::Tensor *op) const {
    const llama::Tensor *x = op->src[1];
    const auto begin = reinterpret_cast<uintptr_t>(params->wdata);
    auto *work = reinterpret_cast<uint8_t *>((begin + kAlign - 1) / kAlign * kAlign);
    const Meeting meeting{operations().barrier, params->threadpool};
    // Rows at equal distances are one product, others one for each slice.
    const bool even = x->nb[2] == x->nb[1] * x->ne[1] && x->nb[3] == x->nb[2] * x->ne[2];
    const int64_t slices = even ? 1 : x->ne[2] * x->ne[3];
    const int64_t tokens = x->ne[1] * x->ne[2] * x->ne[3] / slices;
    for (int64_t i = 0; i < slices; i++) {
        if (i > 0) meeting.meet(meeting.with);  // all are done with the work space
        const size_t offset = i % x->ne[2] * x->nb[2] + i / x->ne[2] * x->nb[3];
        const auto *from = static_cast<const uint8_t *>(x->data) + (even ? 0 : offset);
        const Product product{
            Matrix(shape_, data_),
            reinterpret_cast<const float *>(from),
            static_cast<int64_t>(x->nb[1] / sizeof(float)),
            static_cast<float *>(op->data) + i * tokens * shape_.rows,
            shape_.rows,
            tokens};
        multiply_part(product, params->ith, params->nth, work, meeting);
    }
}

void Weight::look_up(const llama::ComputeParams *params, llama::Tensor *op) const {
    const Matrix m(shape_, data_);
    const llama::Tensor *rows = op->src[1];
    const auto *from = static_cast<const uint8_t *>(rows->data);
    auto *to = static_cast<uint8_t *>(op->data);
    const int64_t count = rows->ne[0] * rows->ne[1] * rows->ne[2];
    for (int64_t i = params->ith; i < count; i += params->nth) {
        const int64_t a = i % rows->ne[0], b = i / rows->ne[0] % rows->ne[1],
                      c = i / rows->ne[0] / rows->ne[1];
        int32_t row;
        std::memcpy(&row, from + a * rows->nb[0] + b * rows->nb[1] + c * rows->nb[2], sizeof row);
        if (row < 0 || row >= m.rows) stop("there is no such row", op->src[0]);
        const size_t offset = a * op->nb[1] + b * op->nb[2] + c * op->nb[3];
        read_row(m, row, reinterpret_cast<float *>(to + offset));
    }
}

}  // namespace edgeprune
