/* Sparse weights inside an unmodified llama.cpp, in the process that loaded it.
 *
 * ep_llama_attach puts a buffer type in front of those that llama.cpp's CPU backend offers for
 * weights. Before a model is loaded, ep_llama_claim says which of its tensors are to be packed; the
 * rest of the model, and every model without claims, is loaded as ever.
 */
#ifndef EDGEPRUNE_LLAMA_ADAPTER_H
#define EDGEPRUNE_LLAMA_ADAPTER_H

#include "edgeprune_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Functions of the llama.cpp in this process, found by name by the caller. */
typedef struct {
    void *(*extra_buffer_types)(void); /* ggml_backend_cpu_get_extra_buffer_types() */
    void *(*cpu_buffer_type)(void);        /* ggml_backend_cpu_buffer_type */
    void *(*alloc_buffer)(void *, size_t); /* ggml_backend_buft_alloc_buffer */
    void *(*cpu_reg)(void);                /* ggml_backend_cpu_reg */
    void *(*reg_dev_get)(void *, size_t);  /* ggml_backend_reg_dev_get */
    void (*barrier)(void *);               /* ggml_barrier */
    const char *(*op_name)(int);           /* ggml_op_name */
} ep_llama_functions;

typedef struct {
    const char *name;
    ep_shape shape;
    size_t packed_size; /* ep_packed_size of what llama.cpp reads from the file, or: */
    const void *source; /* a tensor of a `.packed.gguf` file; what llama.cpp reads is not looked at */
    size_t source_size; /* its size; ep_packed_size_of_file gave packed_size */
    ep_form form;       /* and how it stands there */
} ep_llama_tensor;

typedef struct {
    int64_t tensors;      /* packed so far by the latest model */
    int64_t packed_bytes; /* that they take */
    int64_t dense_bytes;  /* that they would take as they stand in the file */
    int64_t failures;     /* tensors whose data were not as announced */
    int64_t exhausted;    /* tensors for whose packing memory ran out */
} ep_llama_report;

/* Once for a process, before its first model; 0, or -1: the names of operations are not as known, or
 * EP_NO_MEMORY. llama.cpp calls what is installed here, and most of that can't return an error: where it
 * can't go on, it says why in a line on stderr and ends the process. */
EP_API int ep_llama_attach(const ep_llama_functions *functions);

/* The tensors to be packed from here on, instead of any earlier ones; sources have to stay until they
 * are replaced. 0, or EP_NO_MEMORY: none are. */
EP_API int ep_llama_claim(const ep_llama_tensor *tensors, size_t count, int threads);

/* What became of the latest claim. */
EP_API ep_llama_report ep_llama_reported(void);

#ifdef __cplusplus
}
#endif
#endif
