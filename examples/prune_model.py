"""Prune a transformers model in memory, offline; it stays a transformers model.

python examples/prune_model.py [MODEL]
"""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from edgeprune import prune
from edgeprune.models import open_checkpoint


def main(name: str = "smollm2-135m") -> None:
    """Prune it, count the zeros and let it write."""
    folder = open_checkpoint(name).folder  # of a packaged model, a hub id, a folder or a GGUF file
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    options = {"method": "wanda", "sparsity": 0.5, "samples": 4, "length": 128}
    pruned = prune(model, tokenizer=tokenizer, task="medqa", **options)

    blocks = [p for n, p in pruned.named_parameters() if ".layers." in n and p.dim() > 1]
    zeros, size = sum(int((p == 0).sum()) for p in blocks), sum(p.numel() for p in blocks)
    print(f"{zeros:,} of {size:,} weights in {len(blocks)} matrices are zero ({zeros / size:.1%})")

    prompt = tokenizer("Question: What is aspirin for?\nAnswer:", return_tensors="pt")
    with torch.inference_mode():
        answer = pruned.generate(**prompt, max_new_tokens=24, do_sample=False)
    print(tokenizer.decode(answer[0], skip_special_tokens=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
