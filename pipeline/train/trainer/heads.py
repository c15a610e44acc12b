"""The output layer of a causal language model, and a forward pass that ends before it.

A loss over the vocabulary needs the last hidden states and the output layer, never all logits at once:
tiles.py multiplies them slice by slice. Everything that needs weights runs inside the model's forward pass,
where FSDP and ZeRO-3 have them whole.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from trl.trainer.utils import maybe_gather_lm_head_ctx

from pipeline.errors import UserError

PROBE = (1, 2, 3, 4)  # token ids; every vocabulary has them
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}  # relative to the largest logit


@dataclass(frozen=True)
class Head:
    """logits = softcap tanh(s / softcap), s = scale (hidden weight^T + bias); without a softcap s itself."""

    weight: Tensor  # (V, h)
    bias: Tensor | None  # (V,)
    scale: float = 1.0
    softcap: float | None = None

    @property
    def vocabulary(self) -> int:
        return self.weight.shape[0]

    def product(self, hidden: Tensor, dtype: torch.dtype) -> Tensor:
        """hidden weight^T + bias in this dtype: (n, h) -> (n, V)."""
        bias = None if self.bias is None else self.bias.to(dtype)
        return torch.nn.functional.linear(hidden.to(dtype), self.weight.to(dtype), bias)

    def finished(self, product: Tensor) -> Tensor:
        """The logits from the product."""
        scaled = product if self.scale == 1 else product * self.scale
        return scaled if self.softcap is None else self.softcap * torch.tanh(scaled / self.softcap)

    def whole(self) -> AbstractContextManager[Any]:
        """Gathers a weight that ZeRO-3 has sharded; does nothing elsewhere."""
        parameters: Any = self.weight, self.bias
        context: AbstractContextManager[Any] = maybe_gather_lm_head_ctx(*parameters)
        return context


def head_of(model: PreTrainedModel) -> Head:
    """The output layer of a model, as it is now: FSDP replaces its weights."""
    config, layer = model.config.get_text_config(), model.get_output_embeddings()
    weight, bias = (_gathered(p) for p in (layer.weight, layer.bias))
    return Head(weight, bias, _scale(config), getattr(config, "final_logit_softcapping", None))


def _gathered(parameter: Any) -> Any:
    """A frozen weight that FSDP has sharded as one tensor; a trained one is whole during its forward pass."""
    if not isinstance(parameter, DTensor):
        return parameter
    if parameter.requires_grad:
        raise RuntimeError("the student's output layer is sharded outside its forward pass")
    return parameter.full_tensor()


def _scale(config: Any) -> float:
    """The factor of the logits, by the name that each family's config gives it."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if (factor := getattr(config, name, None)) is not None:
            return float(factor)
    divisor = getattr(config, "logits_scaling", None)  # Granite and MiniCPM3 divide, HyperCLOVA X multiplies
    if divisor is None:
        return 1.0
    return float(divisor) if config.model_type == "hyperclovax" else 1 / float(divisor)


def check(name: str, model: PreTrainedModel) -> None:
    """Raises UserError where the logits are not the output layer's product of the last hidden states."""
    tokens = torch.tensor([PROBE], device=model.device)
    training = model.training
    with torch.no_grad():
        model.eval()
        logits = model(input_ids=tokens, use_cache=False).logits
        head = head_of(model)
        hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        made = head.finished(head.product(hidden[0], hidden.dtype)).float()
        model.train(training)
    expected = logits[0].float()
    if (made - expected).abs().max() > TOLERANCE[hidden.dtype] * expected.abs().max().clamp(min=1):
        raise UserError(
            f"{name}: {type(model).__name__} changes its logits after the output layer in a way that is not "
            'known here: use train.objective = "sft" without weights and white-box terms'
        )


def add_forward_to_hidden(model: PreTrainedModel) -> None:
    """Adds a keyword to model.forward: model(..., at_hidden=f) returns f(hidden, head) and "aux_loss".

    f gets the last hidden states (B, L, h) and the Head, and returns a dictionary of tensors. "aux_loss" is
    the load-balancing loss of a mixture of experts, whose config asks for it, else absent.
    """
    original = model.forward

    @functools.wraps(type(model).forward)
    def forward(
        self: Any,
        *args: Any,
        at_hidden: Callable[[Tensor, Head], dict[str, Tensor]] | None = None,
        **kwargs: Any,
    ) -> Any:
        if at_hidden is None:
            return original(*args, **kwargs)
        config = self.config.get_text_config()
        if getattr(config, "output_router_logits", False):
            kwargs["output_router_logits"] = True
        outputs = self.base_model(*args, **kwargs)
        head = head_of(self)
        with head.whole():
            found = at_hidden(outputs.last_hidden_state, head)
        if kwargs.get("output_router_logits"):
            found["aux_loss"] = _balance(outputs.router_logits, config, kwargs.get("attention_mask"))
        return found

    model.forward = types.MethodType(forward, model)


def _balance(router_logits: Any, config: Any, mask: Tensor | None) -> Tensor:
    """The load-balancing loss, the same function in all families (Fedus et al. 2021, arXiv 2101.03961)."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    experts = getattr(config, "num_experts", None) or config.num_local_experts
    loss: Any = load_balancing_loss_func(router_logits, experts, config.num_experts_per_tok, mask)
    return loss
