"""Low-rank adapters that are merged under the mask: for models too large to train whole."""

from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from torch import Tensor, nn

from edgeprune.models.blocks import decoder_blocks, weight_matrices
from edgeprune.support.errors import InputError

if TYPE_CHECKING:
    from edgeprune.formats.weights import Weights

_ADAPTER = "default"  # peft's name of the only one


class _MaskedLinear(Linear):
    """peft's layer, but zeros of the weight are zeros of the sum: what is trained is what is kept.

    peft adds the product of the adapters to the layer's output, as if it filled the zeros too.
    """

    def forward(self, x: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        """The layer with the weight it will have."""
        base = self.get_base_layer()
        return nn.functional.linear(x, base.weight + self.change(), base.bias)

    def change(self) -> Tensor:
        """The adapters' product where the weight is not zero, (out, in)."""
        product = self.lora_B[_ADAPTER].weight @ self.lora_A[_ADAPTER].weight
        return self.scaling[_ADAPTER] * product * (self.get_base_layer().weight != 0)


class Adapters:
    """A student whose matrices get adapters of a low rank ``r``, scaled by 2 (LoRA, 2106.09685).

    Args:
        model: the student; it is changed in place.
        rank: of the adapters.
        seed: of their first values.

    Attributes:
        parameters: what is trained, by name.

    Raises:
        InputError: the blocks keep matrices in other layers than linear ones.
    """

    def __init__(self, model: Any, rank: int, seed: int):
        prefix, blocks = decoder_blocks(model)
        places = [
            (f"{prefix}.{index}.{matrix.module}", matrix)
            for index, block in enumerate(blocks)
            for matrix in weight_matrices(block).values()
        ]
        if not all(isinstance(model.get_submodule(name), nn.Linear) for name, _ in places):
            raise InputError(
                f"{type(model).__name__} keeps matrices in layers that adapters don't fit.",
                "Leave recover_rank out: all kept weights are trained then.",
            )
        config = LoraConfig(
            r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=[n for n, _ in places]
        )
        config._register_custom_module({nn.Linear: _MaskedLinear})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            wrapped = get_peft_model(model, config)
        self._layers = {
            f"{name}.weight": wrapped.get_base_model().get_submodule(name) for name, _ in places
        }
        self.parameters = {n: p for n, p in wrapped.named_parameters() if p.requires_grad}
        wrapped.eval()

    @torch.no_grad()
    def changes(self, values: "Weights") -> dict[str, Tensor]:
        """What adapters of these ``values`` add to the matrices, by their names in the model."""
        for name, parameter in self.parameters.items():
            parameter.data = values.read(name).to(parameter.device)
        return {name: layer.change().cpu() for name, layer in self._layers.items()}
