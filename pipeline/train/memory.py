"""Estimates the GPU memory of a training from sizes alone; docs/sizing.md states the same terms in words.

Weights, gradients and optimizer are exact. Activations are a rule of thumb for decoders with gated
feed-forward layers (Llama, Qwen), right to about 30 %. Leaves out the CUDA context (about 0.5 GB a process),
fragmentation, and the sampling of `on_policy`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from pipeline.config.train import Lora, Train
from pipeline.train.objectives import OBJECTIVES, terms

FLOAT, HALF = 4, 2  # bytes of float32, in which weights are trained, and of bfloat16
# Bytes of optimizer state per parameter, by transformers' names: two moments in float32 (Adam), one (Lion,
# Adagrad), none (SGD without momentum), sums of rows and columns (Adafactor); 8-bit ones are bitsandbytes'.
OPTIMIZER = {
    **dict.fromkeys(("adamw_torch_fused", "adamw_torch", "paged_adamw_32bit"), 8),
    **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit"), 2),
    **dict.fromkeys(("lion_32bit", "paged_lion_32bit", "adagrad"), 4),
    **dict.fromkeys(("lion_8bit", "paged_lion_8bit"), 1),
    **dict.fromkeys(("sgd", "adafactor"), 0),
}
MOST_CHECKPOINTS = 3  # two are kept, and the oldest is deleted only when a new one is complete
NF4 = 0.52  # bytes of a 4-bit weight with its scales
TILE = 4096 * 32768  # logits that TRL's fused loss holds at once
SLICE = 2**26  # logits that trainer/tiles.py makes at once: 256 MiB for each float32 copy
# Bytes per logit of a slice at the peak of its backward pass, and more for each teacher after the first. The
# former is measured (python -m tests.benchmarks.loss_memory), the latter its three float32 copies.
SLICE_BYTES, FURTHER_TEACHER = 20, 12


@dataclass(frozen=True)
class Shape:
    """The sizes of a model, as its config names them."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    tied: bool = False  # embeddings and head share one matrix

    @property
    def embeddings(self) -> int:
        """Parameters of embeddings and head."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    def pruned_to(self, layers: int, intermediate: int, heads: float) -> Shape:
        """The sizes with fewer layers, MLP channels, and parameters for `heads` less in each layer."""
        whole = (self.parameters - self.embeddings) // self.layers
        layer = int(whole - 3 * self.hidden * (self.intermediate - intermediate) - heads)
        parameters = self.parameters - whole * self.layers + layer * layers
        return replace(self, parameters=parameters, layers=layers, intermediate=intermediate)


@dataclass(frozen=True)
class Memory:
    """Bytes on each GPU at the peak of a step."""

    weights: float
    gradients: float
    optimizer: float
    copies: float  # bfloat16 weights; sharded: the layers gathered at once and the largest full gradient
    teachers: float  # in bfloat16
    checkpoints: float  # saved for the backward pass: the layers' inputs, or all activations
    recomputed: float  # one layer's activations during its backward pass
    loss: float  # head and objective
    terms: float  # what white-box terms keep for the backward pass

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))


def knows_optimizer(train: Train) -> bool:
    """Whether the optimizer's state has a known size; otherwise the estimates leave it out."""
    return train.used_optimizer in OPTIMIZER and "optim_args" not in train.trl


def _state_bytes(train: Train) -> int:
    return OPTIMIZER[train.used_optimizer] if knows_optimizer(train) else 0


def disk(parameters: int, train: Train, checkpoints: int = MOST_CHECKPOINTS) -> int:
    """Bytes of checkpoints, each with float32 weights and the optimizer's state, and of the student.

    Those of adapters are left out: they fit into the difference between float32 and a student in bfloat16.
    """
    per_checkpoint = 0 if train.lora else FLOAT + _state_bytes(train)
    return parameters * (min(checkpoints, MOST_CHECKPOINTS) * per_checkpoint + FLOAT)


def needed(
    shape: Shape, train: Train, bf16: bool, gpus: int, sharded: bool, teachers: Sequence[int] = ()
) -> Memory:
    """Memory on each of `gpus` GPUs for examples of `max_length` tokens.

    `sharded`: weights, gradients and optimizer are spread over the GPUs (FSDP2, ZeRO-3). `teachers`:
    parameters of each model next to the student.
    """
    shards = gpus if sharded else 1
    trained = shape.parameters if train.lora is None else _adapters(shape, train.lora)
    gradient_copies = 2 if gpus > 1 and not sharded else 1  # DDP reduces gradients in a second copy
    traces = 2 if OBJECTIVES[train.objective].pairs else 1  # of an example
    tokens = train.micro_batch_size * train.max_length * traces
    layer = tokens * (5 * shape.intermediate + 10 * shape.hidden) * (HALF if bf16 else FLOAT)
    # The residual stream is float32 under autocast; FSDP2 casts it.
    stream = tokens * shape.hidden * (HALF if bf16 and sharded else FLOAT)
    recompute = train.gradient_checkpointing
    return Memory(
        weights=_weights(shape, train.lora, trained, bf16, sharded) / shards,
        gradients=FLOAT * trained * gradient_copies / shards,
        optimizer=_optimizer(shape, train, trained) / shards,
        copies=_copies(shape, train.lora, bf16, sharded),
        teachers=HALF * float(sum(teachers)) / shards,
        checkpoints=shape.layers * (stream if recompute else layer),
        recomputed=layer if recompute else 0.0,
        loss=_loss(shape, train, tokens, len(teachers)),
        terms=_terms(shape, train, tokens),
    )


def _adapters(shape: Shape, lora: Lora) -> int:
    """Parameters of adapters on all linear layers: four of attention, three of the feed-forward part."""
    return lora.rank * shape.layers * (8 * shape.hidden + 3 * (shape.hidden + shape.intermediate))


def _weights(shape: Shape, lora: Lora | None, trained: int, bf16: bool, sharded: bool) -> float:
    if lora is None:
        return FLOAT * shape.parameters
    if lora.quantize:
        return NF4 * (shape.parameters - shape.embeddings) + HALF * shape.embeddings + FLOAT * trained
    return (HALF if bf16 and not sharded else FLOAT) * shape.parameters + FLOAT * trained


def _optimizer(shape: Shape, train: Train, trained: int) -> float:
    # transformers keeps float32 moments, of 4 times the bytes, for embeddings under an 8-bit optimizer.
    full = shape.vocabulary * shape.hidden if "8bit" in train.used_optimizer and train.lora is None else 0
    return _state_bytes(train) * (trained + 3 * full)


def _copies(shape: Shape, lora: Lora | None, bf16: bool, sharded: bool) -> float:
    """Unsharded, autocast holds bfloat16 weights until the forward pass ends.

    Sharded, embeddings, head and two layers are gathered at once (one computes, one is being fetched), and
    the gradient of the largest unit is whole, with a second copy in float32 for the reduction.
    """
    if not sharded:
        return HALF * shape.parameters if bf16 and lora is None else 0.0
    width = HALF if bf16 else FLOAT
    layer = (shape.parameters - shape.embeddings) / shape.layers
    head = shape.vocabulary * shape.hidden
    gradient = (width + FLOAT) * max(layer, head) if lora is None else 0.0
    return width * (shape.embeddings + 2 * layer) + gradient


def _loss(shape: Shape, train: Train, tokens: int, teachers: int) -> float:
    """Head and loss; no objective holds the logits of all tokens.

    The head's float32 gradient, and the hidden states in both precisions. TRL's loss, of plain `sft`, adds
    tiles of logits; the others a bfloat16 head, and slices of logits.
    """
    head = shape.vocabulary * shape.hidden
    common = FLOAT * head * (train.lora is None) + (FLOAT + HALF) * tokens * shape.hidden
    if train.objective in ("sft", "on_policy") and train.weight_by is None and not terms(train):
        return common + (FLOAT + HALF) * TILE
    return common + HALF * head + (SLICE_BYTES + FURTHER_TEACHER * max(0, teachers - 1)) * SLICE


def _terms(shape: Shape, train: Train, tokens: int) -> float:
    """Recorded states of student and teacher, taken as equally wide, at the layers that are compared."""
    states = (FLOAT + HALF) * tokens * shape.hidden
    layers = {"features": shape.layers, "attention_transfer": 3, "relations": 1}  # queries, keys, values
    used = {name: len(getattr(train, name).layers) or layers[name] for name in terms(train)}
    if "attention_transfer" in used and train.attention_transfer and train.attention_transfer.layers:
        used["attention_transfer"] *= 3
    return states * sum(used.values())
