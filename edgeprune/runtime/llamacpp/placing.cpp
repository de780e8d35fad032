// Which tensors gain from packing, and how they stand then.
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "layout.h"
#include "llama_adapter.h"
#include "rows.h"

namespace {

constexpr std::string_view kEmbedding = "token_embd.weight", kHead = "output.weight", kBlocks = "blk.";

// Bits of a type's own codes; 0: there are no kernels for it.
int32_t bits_of(int32_t type) {
    switch (type) {
        case EP_F32: return 32;
        case EP_F16:
        case EP_BF16: return 16;
        case EP_Q8_0: return 8;
        case EP_Q4_0: return 4;
        default: return 0;
    }
}

bool take(std::string_view &text, std::string_view prefix) {
    if (text.substr(0, prefix.size()) != prefix) return false;
    text.remove_prefix(prefix.size());
    return true;
}

// As edgeprune/formats/forms.py writes it: "3", "2+mask/64", "4+2:4".
bool parse(std::string_view text, int32_t type, ep_form *form) {
    *form = {0, 0, 1};
    while (!text.empty() && '0' <= text[0] && text[0] <= '9' && form->bits < 100) {
        form->bits = 10 * form->bits + (text[0] - '0');
        text.remove_prefix(1);
    }
    if (take(text, "+mask"))
        form->masked = 1;
    else if (take(text, "+2:4"))
        form->masked = 2;
    if (take(text, "/64"))
        form->group = 2;
    else if (take(text, "/128"))
        form->group = 4;
    const int32_t own = bits_of(type);
    const bool narrow = (type == EP_Q4_0 || type == EP_Q8_0) && form->bits < own;
    const bool whole = form->bits == own && form->masked && form->group == 1;
    return text.empty() && form->bits > 0 && (narrow || whole);
}

bool narrow_gains() { return std::strcmp(ep_in_use(), "portable") != 0; }  // plain C++ is not faster

int size_of(const ep_llama_offer &offer, int threads, ep_llama_tensor *claim) {
    size_t size = 0;
    if (offer.packed) {
        size = ep_packed_size_of_file(&claim->shape, &claim->form, offer.data, offer.data_size, threads);
        claim->source = offer.data;
        claim->source_size = offer.data_size;
    } else if (offer.nonzeros >= 0 || edgeprune::Matrix(claim->shape, nullptr).keeps_zeros()) {
        size = ep_packed_size_of_count(&claim->shape, offer.nonzeros > 0 ? offer.nonzeros : 0);
    }
    if (size == 0 && !offer.packed) {
        if (!offer.data) return EP_NEEDS_DATA;
        const edgeprune::Matrix m(claim->shape, nullptr);
        if (offer.data_size < static_cast<size_t>(m.rows * edgeprune::row_bytes(m))) return EP_DAMAGED;
        size = ep_packed_size(&claim->shape, offer.data, threads);
    }
    if (size == EP_NO_SIZE) return EP_NO_MEMORY;
    claim->packed_size = size;
    return size ? 1 : EP_DAMAGED;
}

}  // namespace

int ep_llama_place(const ep_llama_offer *offer, int tied, int threads, ep_llama_tensor *claim) {
    const std::string_view name = offer->name;
    const int32_t type = offer->type, own = bits_of(type);
    const bool embedding = name == kEmbedding, head = tied ? embedding : name == kHead;
    const bool pruned = offer->nonzeros >= 0, in_block = name.substr(0, kBlocks.size()) == kBlocks;
    if (!own || !(in_block || pruned || offer->alphabet || head)) return 0;

    ep_form form{own, 1, 1};
    const bool narrow = offer->alphabet && narrow_gains();
    if (narrow && !parse(offer->alphabet, type, &form)) return EP_NO_FORM;
    const char *forced = std::getenv("EDGEPRUNE_LAYOUT");
    const double weights = static_cast<double>(offer->rows) * static_cast<double>(offer->cols);
    const double most = weights * (forced ? 1 : ep_break_even(type));
    const bool sparse = narrow || (pruned && static_cast<double>(offer->nonzeros) <= most);
    const bool dense = ep_dense_gains(type);
    if (!sparse && (!dense || (embedding && !tied))) return 0;

    if (offer->packed) form = *offer->packed;
    ep_shape shape;
    const bool with_zeros = !sparse || (embedding && form.masked);
    if (with_zeros || ep_shape_of(type, offer->rows, offer->cols, &form, &shape) != 0) {
        shape = {type, EP_DENSE, 0, 1, offer->rows, offer->cols};
        if (!dense || !ep_packable(&shape)) return 0;
    } else if (forced && std::strcmp(forced, "dense") == 0) {
        shape.layout = EP_DENSE;
        shape.bits = 0;
    }
    *claim = {offer->name, shape, 0, nullptr, 0, form};
    return size_of(*offer, threads, claim);
}
