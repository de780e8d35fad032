/* Products of packed matrices with vectors: the kernel library's C interface.
 *
 * A matrix is packed from the rows of a GGUF tensor (Q8_0, Q4_0, F16, BF16 or F32) into tiles of 16 rows
 * without its zeros, or in the few codes that it uses; layout.h says how. All functions are safe to call from several threads at once,
 * ep_use excepted. Nothing here knows llama.cpp; llama_adapter.cpp puts it there. Where memory runs out,
 * functions return EP_NO_MEMORY, those that return a size EP_NO_SIZE; fewer threads than asked for only
 * take longer.
 */
#ifndef EDGEPRUNE_KERNELS_H
#define EDGEPRUNE_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How values are stored; the numbers are ggml's. */
enum ep_type { EP_F32 = 0, EP_F16 = 1, EP_Q4_0 = 2, EP_Q8_0 = 8, EP_BF16 = 30 };

/* EP_SPARSE leaves zeros out. EP_DENSE keeps them: the same tiles and the same kernels without masks.
 * Of a Q4_0 matrix that uses few codes, EP_NARROW has all of its weights in `bits` bits (2: codes -2 to 1;
 * 3: -4 to 3), and EP_MASKED those that are not zero (1: codes -1 and 1; 2: -2 to 2). */
enum ep_layout { EP_SPARSE = 0, EP_DENSE = 1, EP_NARROW = 2, EP_MASKED = 3 };

typedef struct {
    int32_t type;   /* ep_type */
    int32_t layout; /* ep_layout */
    int32_t bits;   /* of a code, in narrow and masked layouts; else 0 */
    int32_t group;  /* blocks of 32 inputs that share their scales: 1, 2 or 4; of floats 1 */
    int64_t rows;   /* outputs, any number */
    int64_t cols;   /* inputs, a multiple of 32 * group */
} ep_shape;

/* How a tensor of a `.packed.gguf` file stands: edgeprune/formats/forms.py. */
typedef struct {
    int32_t bits;   /* of a code; the type's own: as the type has it */
    int32_t masked; /* 1: zeros are left out, by a bit a weight; 2: two of four stand, three fours in a
                       byte (edgeprune/formats/two_of_four.py) */
    int32_t group;  /* blocks that share a scale */
} ep_form;

enum ep_failure { EP_NO_MEMORY = -2 };
#define EP_NO_SIZE ((size_t)-1)

#define EP_API __attribute__((visibility("default")))

/* Whether a matrix of this shape can be packed at all. */
EP_API int ep_packable(const ep_shape *shape);

/* The layout in memory for a matrix of a form whose zeros may be left out; 0, or -1: kernels have none
 * for it. */
EP_API int ep_shape_of(int32_t type, int64_t rows, int64_t cols, const ep_form *form, ep_shape *shape);

/* Bytes of the packed matrix, its padding for wide loads included; 0 if it can't be packed. */
EP_API size_t ep_packed_size(const ep_shape *shape, const void *data, int threads);

/* The same from the number of weights that are not zero, where it follows from that, or from the shape
 * alone; else 0. */
EP_API size_t ep_packed_size_of_count(const ep_shape *shape, int64_t nonzeros);

/* Pack `data` into `packed`, which holds `size` bytes; 0, or -1 if that is not enough, or if the matrix
 * has codes or scales that its layout has not. */
EP_API int ep_pack(const ep_shape *shape, const void *data, void *packed, size_t size, int threads);

/* The same from a tensor of a `.packed.gguf` file, whose `data_size` bytes must be as many as they
 * say (else 0 and -1); the tensor is never whole in memory. */
EP_API size_t ep_packed_size_of_file(const ep_shape *shape, const ep_form *form, const void *data,
                                     size_t data_size, int threads);
EP_API int ep_pack_file(const ep_shape *shape, const ep_form *form, const void *data,
                        size_t data_size, void *packed, size_t size, int threads);

/* The bytes of the GGUF tensor again; negative zeros of floats come back positive. 0 if it could. */
EP_API int ep_unpack(const ep_shape *shape, const void *packed, void *data, int threads);

/* Bytes that ep_matmul_part needs to work with. */
EP_API size_t ep_work_size(const ep_shape *shape, int64_t tokens, int threads);

/* y = x Wᵀ for several tokens: x (tokens, cols) and y (tokens, rows) in float32, with strides in
 * floats. Activations are rounded to 8 bits per 32, as llama.cpp does, for Q8_0 and Q4_0. 0 if it
 * could. */
EP_API int ep_matmul(const ep_shape *shape, const void *packed, const float *x, int64_t x_stride,
                     float *y, int64_t y_stride, int64_t tokens, int threads);

/* One row of a matrix as floats, `cols` of them, where the layout keeps zeros; else, or if there is no
 * such row, -1. */
EP_API int ep_row(const ep_shape *shape, const void *packed, int64_t row, float *out);

/* The kernels this library has for this processor, best first, separated by spaces. */
EP_API const char *ep_kernels(void);

/* Use kernels by name from here on; "" or NULL: the best. 0, or -1 if there are none of that name.
 * The environment variable EDGEPRUNE_KERNEL decides before the first call. */
EP_API int ep_use(const char *name);

/* The kernels in use. */
EP_API const char *ep_in_use(void);

/* The density above which a matrix is better left to llama.cpp with the kernels in use. */
EP_API float ep_break_even(int type);

/* Whether a matrix without zeros gains from EP_DENSE beside llama.cpp with the kernels in use. */
EP_API int ep_dense_gains(int type);

#ifdef __cplusplus
}
#endif
#endif
