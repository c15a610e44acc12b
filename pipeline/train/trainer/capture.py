"""Records hidden states and the inputs of attention of chosen layers during a forward pass.

Hidden states are the layers' outputs. Queries, keys and values are taken where transformers hands them to its
attention function, after rotary embeddings, so no attention map is ever made by the model, and every model
that uses transformers' attention interface works, whatever its kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pipeline.errors import UserError
from pipeline.train.trainer.layers import layers_of

WATCHER = "attention_watcher"  # attribute of an attention module: called with its inputs


class AttentionInputs(NamedTuple):
    """What a layer's attention was computed from."""

    query: Tensor  # (B, heads, L, d)
    key: Tensor  # (B, key-value heads, L, d)
    value: Tensor  # (B, key-value heads, L, d)
    scale: float
    window: int | None  # of sliding attention
    softcap: float | None


class Capture:
    """The recordings of one model; filled inside `recording()`, by layer, counted from 1."""

    def __init__(self, model: PreTrainedModel, hidden: Iterable[int], attention: Iterable[int]) -> None:
        """Raises UserError where the model computes attention outside transformers' interface."""
        self.hidden: dict[int, Tensor] = {}
        self.attention: dict[int, AttentionInputs] = {}
        self._recording = False
        self._name, self._attention = type(model).__name__, set(attention)
        chosen = set(hidden)
        layers: Any = layers_of(model) if chosen or self._attention else []
        for number in chosen:
            layers[number - 1].register_forward_hook(self._hidden_recorder(number))
        if self._attention:
            _watch(model)
        for number in self._attention:
            for module in layers[number - 1].modules():
                setattr(module, WATCHER, self._attention_recorder(number))

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Records what runs inside; not what gradient checkpointing runs again later."""
        self.clear()
        self._recording = True
        try:
            yield
        finally:
            self._recording = False

    def check(self) -> None:
        """Raises UserError where a layer gave no attention."""
        if missing := self._attention - self.attention.keys():
            raise UserError(
                f"train.attention_transfer: layer {min(missing)} of {self._name} gives no attention maps: it "
                "has none, or computes them in its own way: choose other layers, or remove the table"
            )

    def clear(self) -> None:
        """Drops the recordings, which hold memory."""
        self.hidden.clear()
        self.attention.clear()

    def _hidden_recorder(self, number: int) -> Callable[..., None]:
        def record(module: Any, inputs: Any, output: Any) -> None:
            if self._recording:
                self.hidden[number] = output[0] if isinstance(output, tuple) else output

        return record

    def _attention_recorder(self, number: int) -> Callable[..., None]:
        def record(module: Any, query: Tensor, key: Tensor, value: Tensor, settings: dict[str, Any]) -> None:
            if self._recording:
                scale = settings.get("scaling") or query.shape[-1] ** -0.5
                window = settings.get("sliding_window", getattr(module, "sliding_window", None))
                self.attention[number] = AttentionInputs(
                    query, key, value, scale, window, settings.get("softcap")
                )

        return record


def _watch(model: PreTrainedModel) -> None:
    """Makes the model's attention function call the watcher of a module that has one."""
    name = model.config.get_text_config()._attn_implementation
    if name not in ALL_ATTENTION_FUNCTIONS:
        raise UserError(f"train.attention_transfer does not work with train.attention = {name!r}: use 'sdpa'")
    inner = ALL_ATTENTION_FUNCTIONS[name]
    if getattr(inner, WATCHER, False):
        return

    def watched(module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **settings: Any) -> Any:
        if watcher := getattr(module, WATCHER, None):
            watcher(module, query, key, value, settings)
        return inner(module, query, key, value, *args, **settings)

    setattr(watched, WATCHER, True)
    AttentionInterface.register(name, watched)
