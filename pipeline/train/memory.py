"""How much GPU memory a training needs, by arithmetic: docs/sizing.md has the same terms in words.

Weights, gradients and optimizer are counted exactly; activations are a rule of thumb for decoders with gated
feed-forward layers (Llama, Qwen), within some 30 %. Leaves out the CUDA context (some 0.5 GB a process), what
the allocator cannot use, and the sampling of `on_policy`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from pipeline.config.training import Lora, Train

FLOAT, HALF = 4, 2  # bytes of float32, in which weights are trained, and of bfloat16
# Bytes of the optimizer's state for a parameter; embeddings under an 8-bit optimizer keep float32 moments.
OPTIMIZER = {"adamw_torch_fused": 8, "adamw_8bit": 2, "paged_adamw_8bit": 2, "adafactor": 0}
NF4 = 0.52  # bytes of a weight in 4 bits with its scales
TILE = 4096 * 32768  # logits that TRL's fused loss holds at once
# Bytes for each logit (supervised token x vocabulary) that a loss without tiles holds at its peak: alone, and
# sharded, where accelerate converts no output. Measured on a CPU with the same casts.
LOGIT = {"sft": (12.0, 8.2), "topk_kd": (16.0, 8.2), "logit_kd": (14.3, 10.2)}
SECOND_TEACHER = (4.0, 0.4)  # and each further one


@dataclass(frozen=True)
class Shape:
    """The sizes of a model, as its config names them."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    tied: bool = False  # one matrix for embeddings and head

    def cut_to(self, layers: int) -> Shape:
        """The sizes when only so many layers are kept."""
        each = (self.parameters - _embeddings(self)) // self.layers
        return replace(self, parameters=self.parameters - each * (self.layers - layers), layers=layers)


@dataclass(frozen=True)
class Memory:
    """Bytes on each GPU at the peak of a step."""

    weights: float
    gradients: float
    optimizer: float
    copies: float  # of weights in bfloat16; sharded: what is gathered at once, and one unit's gradients whole
    teachers: float  # in bfloat16, whole on each GPU
    checkpoints: float  # the layers' inputs, or all that the backward pass needs of them
    recomputed: float  # one layer, at its backward pass
    loss: float  # head and cross-entropy

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))


def needed(
    shape: Shape, train: Train, bf16: bool, gpus: int, sharded: bool, teachers: Sequence[int] = ()
) -> Memory:
    """What a training of `shape` needs on each of so many GPUs, for examples of `max_length` tokens.

    `sharded`: weights, gradients and optimizer are spread over the GPUs (FSDP2, ZeRO-3). `teachers`:
    parameters of the models beside the student.
    """
    shards = gpus if sharded else 1
    trained = shape.parameters if train.lora is None else _adapters(shape, train.lora)
    buckets = 2 if gpus > 1 and not sharded else 1  # data parallelism sums gradients in a second copy of them
    tokens = train.micro_batch_size * train.max_length
    width = HALF if bf16 else FLOAT
    layer = tokens * (5 * shape.intermediate + 10 * shape.hidden) * width
    # Under autocast the stream between the layers is float32; FSDP2 casts it.
    stream = tokens * shape.hidden * (HALF if bf16 and sharded else FLOAT)
    again = train.gradient_checkpointing
    return Memory(
        weights=_weights(shape, train.lora, trained, bf16, sharded) / shards,
        gradients=FLOAT * trained * buckets / shards,
        optimizer=_optimizer(shape, train, trained) / shards,
        copies=_copies(shape, train.lora, bf16, sharded),
        teachers=HALF * float(sum(teachers)),
        checkpoints=shape.layers * (stream if again else layer),
        recomputed=layer if again else 0.0,
        loss=_loss(shape, train, tokens, sharded, len(teachers)),
    )


def _adapters(shape: Shape, lora: Lora) -> int:
    """Parameters of adapters at all linear layers: four of attention, three of the feed-forward part."""
    return lora.rank * shape.layers * (8 * shape.hidden + 3 * (shape.hidden + shape.intermediate))


def _weights(shape: Shape, lora: Lora | None, trained: int, bf16: bool, sharded: bool) -> float:
    if lora is None:
        return FLOAT * shape.parameters
    if lora.quantize:
        outside = _embeddings(shape)
        return NF4 * (shape.parameters - outside) + HALF * outside + FLOAT * trained
    return (HALF if bf16 and not sharded else FLOAT) * shape.parameters + FLOAT * trained


def _embeddings(shape: Shape) -> int:
    return shape.vocabulary * shape.hidden * (1 if shape.tied else 2)


def _optimizer(shape: Shape, train: Train, trained: int) -> float:
    state = OPTIMIZER[train.optimizer]
    # transformers keeps the moments of embeddings in float32 where the others are in 8 bits
    whole = shape.vocabulary * shape.hidden if "8bit" in train.optimizer and train.lora is None else 0
    return state * (trained - whole) + OPTIMIZER["adamw_torch_fused"] * whole


def _copies(shape: Shape, lora: Lora | None, bf16: bool, sharded: bool) -> float:
    """Unsharded, autocast holds the weights in bfloat16 until the forward pass ends.

    Sharded, embeddings, head and two layers are gathered at once (one computes, one is on its way), and the
    largest unit's gradient is there whole, once more in float32, in which it is summed.
    """
    width = HALF if bf16 else FLOAT
    if not sharded:
        return HALF * shape.parameters if bf16 and lora is None else 0.0
    layer = (shape.parameters - _embeddings(shape)) / shape.layers
    head = shape.vocabulary * shape.hidden
    gradient = (width + FLOAT) * max(layer, head) if lora is None else 0.0
    return width * (_embeddings(shape) + 2 * layer) + gradient


def _loss(shape: Shape, train: Train, tokens: int, sharded: bool, teachers: int) -> float:
    head, hidden = shape.vocabulary * shape.hidden, tokens * shape.hidden
    fused = train.objective == "on_policy" or (train.objective == "sft" and train.weight_by is None)
    if fused:  # the head's gradient in float32, the hidden states' in both, tiles of logits
        return FLOAT * head * (train.lora is None) + (FLOAT + HALF) * hidden + (FLOAT + HALF) * TILE
    each = LOGIT[train.objective][sharded] + SECOND_TEACHER[sharded] * max(0, teachers - 1)
    return each * tokens * shape.vocabulary
