"""How onnxruntime-genai runs the folder that the model stands in."""

import json
from pathlib import Path
from typing import Any

from edgeprune.support.files import write_json
from exporters.onnx.decoder import Decoder


def write_genai_config(path: Path, folder: Path, decoder: Decoder) -> None:
    """Write ``genai_config.json``, so that onnxruntime-genai can run the folder."""
    write_json(path.with_name("genai_config.json"), _genai_config(path.name, folder, decoder))


def _genai_config(filename: str, folder: Path, decoder: Decoder) -> dict[str, Any]:
    generation = folder / "generation_config.json"
    given = json.loads(generation.read_text(encoding="utf-8")) if generation.is_file() else {}
    tokens = decoder.config | {k: v for k, v in given.items() if v is not None}
    eos = tokens.get("eos_token_id")
    first_eos = eos[0] if isinstance(eos, list) else eos
    pad = tokens.get("pad_token_id")
    return {
        "model": {
            "type": decoder.family.onnx.genai or decoder.kind,
            "bos_token_id": tokens.get("bos_token_id", first_eos),
            "eos_token_id": eos,
            "pad_token_id": first_eos if pad is None else pad,
            "context_length": decoder.context,
            "vocab_size": decoder.vocabulary,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": filename,
                "head_size": decoder.head_dim,
                "hidden_size": decoder.hidden,
                "num_attention_heads": decoder.heads,
                "num_hidden_layers": decoder.layers,
                "num_key_value_heads": decoder.kv_heads,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "do_sample": False,
            "max_length": decoder.context,
            "min_length": 0,
            "num_beams": 1,
            "num_return_sequences": 1,
            "past_present_share_buffer": True,
            "repetition_penalty": 1.0,
            "temperature": 1.0,
            "top_k": 1,
            "top_p": 1.0,
        },
    }
