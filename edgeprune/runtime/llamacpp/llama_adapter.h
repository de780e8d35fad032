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

enum ep_llama_failure {
    EP_OTHER_LLAMA = -3,
    EP_TOO_LATE = -4,
    EP_NEEDS_DATA = -5,
    EP_NO_FORM = -6,
    EP_DAMAGED = -7
};

/* The name of the index-th function of llama.cpp that is called here; NULL past the last. The caller
 * finds all of them in this process and hands over their addresses in this order. */
EP_API const char *ep_llama_needs(int index);

/* What in this llama.cpp stands elsewhere than in the versions that were tested; NULL: nothing that
 * can be seen. It only looks, at any time. */
EP_API const char *ep_llama_fault(void *const *functions);

typedef struct {
    const char *name;
    ep_shape shape;
    size_t packed_size; /* what ep_packed_size will be of what llama.cpp reads from the file; if it is not,
                           the weight stands in memory of its own. Or: */
    const void *source; /* a tensor of a `.packed.gguf` file; what llama.cpp reads is not looked at */
    size_t source_size; /* its size; ep_packed_size_of_file gave packed_size */
    ep_form form;       /* and how it stands there */
} ep_llama_tensor;

typedef struct {
    int64_t tensors;      /* packed so far by the latest model */
    int64_t packed_bytes; /* that they take */
    int64_t dense_bytes;  /* that they would take as they stand in the file */
    int64_t failures;     /* tensors whose source has changed */
    int64_t exhausted;    /* tensors for whose packing memory ran out */
} ep_llama_report;

/* A tensor of a file that is about to be loaded, and what the file's metadata say of it. */
typedef struct {
    const char *name;
    int32_t type; /* ggml's number */
    int64_t rows, cols;
    int64_t nonzeros;      /* -1: it was not pruned */
    const char *alphabet;  /* the form of its codes, as in edgeprune/formats/forms.py; NULL: any of its type */
    const void *data;      /* as llama.cpp reads it, or as it is packed in the file; may be NULL */
    size_t data_size;
    const ep_form *packed; /* how it is packed in the file; NULL: it is not */
} ep_llama_offer;

/* Whether a tensor gains from packing with the kernels in use: 1, and `claim` says how; or 0, it is
 * better left to llama.cpp. Above the break-even density, in the head, and where neither zeros nor few
 * codes were asked for, it stands with all its weights if the kernels gain even then. An embedding
 * keeps its zeros, where a row has its place: without them llama.cpp would take a second table for its
 * look-ups; `tied`: it is the head, too. Or EP_NEEDS_DATA: its size follows from `data` alone;
 * EP_NO_FORM: its type has no such alphabet; EP_DAMAGED: it is not packed as it says; EP_NO_MEMORY.
 * The environment variable EDGEPRUNE_LAYOUT is for benchmarks: "sparse" packs pruned tensors of any
 * density, and "dense" keeps their zeros, which shows what sparsity itself brings. */
EP_API int ep_llama_place(const ep_llama_offer *offer, int tied, int threads, ep_llama_tensor *claim);

/* Once for a process, before its first model; a later call returns what the first did. 0, or
 * EP_OTHER_LLAMA: its operations have other names; EP_TOO_LATE: a model was loaded before, and llama.cpp
 * asks no other buffer types any more; EP_NO_MEMORY. llama.cpp calls what is installed here, and most of
 * that can't return an error: where it can't go on, it says why in a line on stderr and ends the process. */
EP_API int ep_llama_attach(void *const *functions);

/* The tensors to be packed of models that this thread loads from here on, instead of any earlier ones;
 * sources have to stay until they are replaced. 0, or EP_NO_MEMORY: none are. */
EP_API int ep_llama_claim(const ep_llama_tensor *tensors, size_t count, int threads);

/* What became of this thread's latest claim. */
EP_API ep_llama_report ep_llama_reported(void);

#ifdef __cplusplus
}
#endif
#endif
