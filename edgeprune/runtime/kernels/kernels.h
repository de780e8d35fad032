// The functions that each processor has its own version of, and how work is cut into parts.
#pragma once

#include "layout.h"

namespace edgeprune {

// One token times tiles [from, to): `x` is the token's codes, or its floats for types of floats.
using MatVec = void (*)(const Matrix &, int64_t from, int64_t to, const void *x, float *y);

// Several tokens times tiles [from, to): one token every `x_stride` bytes. `scratch` holds one tile
// with its zeros: kTileRows * cols codes or floats.
using MatMul = void (*)(const Matrix &, int64_t from, int64_t to, const void *x, int64_t x_stride,
                        float *y, int64_t y_stride, int64_t tokens, uint8_t *scratch);

// Write the codes of a chunk that are not `zero` to `out`, where 64 bytes may be touched, and 8 bytes
// that say which they are to `mask`; where `out` goes on.
using Compress = uint8_t *(*)(const uint8_t *codes, uint8_t zero, uint8_t *mask, uint8_t *out);

// The same for a chunk of 16-bit values, those that are not zero of either sign; the mask has 4 bytes.
using Compress16 = uint8_t *(*)(const uint16_t *values, uint8_t *mask, uint8_t *out);

struct Products {
    MatVec matvec;
    MatMul matmul;
};

// Types of which matrices with all of their weights run faster than in llama.cpp.
struct DenseGains {
    bool f16 = false, q4_0 = false, q8_0 = false;
};

struct Kernels {
    const char *name;
    bool (*runs_here)();
    void (*quantize)(const float *x, int64_t cols, Token token);
    Compress compress;
    Compress16 compress16;
    Products by_coding[kCodings];  // of 8- and 4-bit types
    struct OfFloats {
        Products by_layout[2];
    } f16, bf16, f32;
    struct {
        float f16, q4_0, q8_0, bf16, f32;
    } break_even;      // see ep_break_even
    DenseGains dense;  // see ep_dense_gains

    const Products &of(const Matrix &m) const;
};

extern const Kernels kPortable, kAvx2, kAvx512, kNeon;

const Kernels &kernels();  // those in use

// One row as floats, of a layout that keeps its zeros.
void read_row(const Matrix &m, int64_t row, float *out);

// y = x W': rows of x and y are `x_stride` and `y_stride` floats apart.
struct Product {
    Matrix matrix;
    const float *x;
    int64_t x_stride;
    float *y;
    int64_t y_stride;
    int64_t tokens;
};

// Where all threads that work on a product wait for each other.
struct Meeting {
    void (*meet)(void *);
    void *with;
};

// A product of several tokens with an 8- or 4-bit matrix comes in two steps, each in `parts` equal
// shares, and the second begins when all of the first are done: rounding activations, multiplying.
// Any other product has the second alone. `work` holds ep_work_size bytes, aligned to 64, and is
// common to all parts.
void round_part(const Product &product, int part, int parts, uint8_t *work);
void multiply_rounded_part(const Product &product, int part, int parts, uint8_t *work);

// One share of both steps, by threads that all run at once; a single token makes nobody wait.
void multiply_part(const Product &product, int part, int parts, uint8_t *work, Meeting meeting);

}  // namespace edgeprune
