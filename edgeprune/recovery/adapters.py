"""Low-rank adapters, merged under the mask, for models too large to train whole."""

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
    """A peft LoRA layer whose product is masked: zeros of the weight stay zeros of the sum.

    peft itself adds the adapters' product to the layer's output, which would fill the zeros.
    """

    def forward(self, x: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        """Run the layer with its merged weight."""
        base = self.get_base_layer()
        return nn.functional.linear(x, base.weight + self.change(), base.bias)

    def change(self) -> Tensor:
        """Compute the adapters' product where the weight is not zero, (out, in)."""
        product = self.lora_B[_ADAPTER].weight @ self.lora_A[_ADAPTER].weight
        return self.scaling[_ADAPTER] * product * (self.get_base_layer().weight != 0)


class Adapters:
    """A student whose matrices get adapters of low rank ``r``, scaled by 2 (LoRA, 2106.09685).

    Args:
        model: the student; it is changed in place.
        rank: rank of the adapters.
        seed: random seed of the adapters' initial values.

    Attributes:
        parameters: trained parameters by name.

    Raises:
        InputError: the blocks have matrices in layers other than linear ones.
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
                f"{type(model).__name__} has matrices in layers that do not support adapters.",
                "Remove training.rank from the recipe, to train all kept weights.",
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
        """Compute what adapters of these ``values`` add to the matrices, by names in the model."""
        for name, parameter in self.parameters.items():
            parameter.data = values.read(name).to(parameter.device)
        return {name: layer.change().cpu() for name, layer in self._layers.items()}
