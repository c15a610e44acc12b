"""Runs the losses, attention over packed documents and FSDP2 on one GPU; prints memory and tokens a second.

    python -m tests.gpu.white_box [--tokens 32768] [--skip-training]

Losses and attention have the sizes of Qwen2.5-7B in bfloat16; two trainings of the tiny student, plain and
with FSDP2 on one device, have all white-box terms and must end alike. By estimate it takes below eight
minutes on one H100; it needs 24 GB, torch 2.11 and transformers 5.17 or later. It was not run yet: no GPU was
at hand.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.train.trainer import attention, attention_transfer, losses, tiles
from pipeline.train.trainer.capture import AttentionInputs
from pipeline.train.trainer.documents import Document
from pipeline.train.trainer.heads import Head

VOCABULARY, HIDDEN, HEADS, GROUPS, WIDTH, K = 152_064, 3_584, 28, 4, 128, 20
REPEATS = 3
TOLERANCE = 2e-2  # of outputs in bfloat16


def measured(name: str, tokens: int, run: Callable[[], Any]) -> None:
    """Prints the highest memory above what was there, and the tokens a second of the fastest repeat."""
    run()  # compiles and warms up
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(REPEATS):
        began = time.monotonic()
        run()
        torch.cuda.synchronize()
        seconds.append(time.monotonic() - began)
    memory = (torch.cuda.max_memory_allocated() - before) / 1e9
    print(f"| {name} | {memory:.1f} GB | {tokens / min(seconds):,.0f} |", flush=True)


def run_losses(tokens: int) -> None:
    """Forward and backward pass of each loss over the vocabulary."""
    options: dict[str, Any] = {"device": "cuda"}
    weight = torch.randn(VOCABULARY, HIDDEN, **options).mul_(0.02).requires_grad_()
    hidden = torch.randn(tokens, HIDDEN, dtype=torch.bfloat16, **options).requires_grad_()
    theirs = torch.randn(tokens, HIDDEN, dtype=torch.bfloat16, **options)
    other = torch.randn(VOCABULARY, HIDDEN, dtype=torch.bfloat16, **options).mul_(0.02)
    targets = torch.randint(VOCABULARY, (tokens,), **options)
    ids = torch.randint(VOCABULARY, (tokens, K), **options)
    logprobs = torch.full((tokens, K), -4.0, **options)

    def run(of_slice: Callable[..., Any], *inputs: Any) -> None:
        with torch.autocast("cuda", torch.bfloat16):
            values = tiles.tiled(of_slice, hidden, Head(weight, None), *inputs)
        values.mean().backward()
        assert weight.grad is not None
        assert torch.isfinite(values).all()
        assert torch.isfinite(weight.grad).all()

    weight.grad, hidden.grad = torch.zeros_like(weight), torch.zeros_like(hidden)
    measured("weighted cross-entropy", tokens, lambda: run(losses.cross_entropy, targets))
    measured("topk_kd", tokens, lambda: run(losses.topk_kl, ids, logprobs))
    for name in losses.DIVERGENCES:

        def divergence(logits: Any, states: Any, name: str = name) -> Any:
            return losses.divergence(name, logits, states @ other.T, 0.1)

        measured(f"logit_kd, {name}", tokens, lambda of=divergence: run(of, theirs))  # type: ignore[misc]


def run_attention(tokens: int) -> None:
    """The kernel over packed documents against one document at a time, and attention transfer."""
    ends = torch.tensor([0, tokens // 8, tokens // 2, tokens], dtype=torch.int32, device="cuda")
    query, key, value = (
        torch.randn(1, heads, tokens, WIDTH, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for heads in (HEADS, GROUPS, GROUPS)
    )
    settings: dict[str, Any] = {"scaling": WIDTH**-0.5, "dropout": 0.0}
    longest = tokens - tokens // 2
    module = torch.nn.Module()
    module.num_key_value_groups = HEADS // GROUPS  # type: ignore[assignment]
    module.is_causal = True  # type: ignore[assignment]

    def packed() -> Any:
        return attention.attend(module, query, key, value, None, ends, longest, **settings)[0]

    with torch.no_grad():
        alone = [
            attention.sdpa_attention_forward(
                module, *(x[:, :, a:b] for x in (query, key, value)), None, **settings
            )[0]
            for a, b in zip(ends.tolist(), ends.tolist()[1:], strict=False)
        ]
        torch.testing.assert_close(packed(), torch.cat(alone, 1), rtol=TOLERANCE, atol=TOLERANCE)
    measured("varlen attention, one layer", tokens, lambda: packed().sum().backward())
    found = [Document(0, a, b) for a, b in zip(ends.tolist(), ends.tolist()[1:], strict=False)]
    rows = torch.zeros(1, tokens, dtype=torch.bool, device="cuda")
    rows[0, tokens // 2 :: 8] = True  # an eighth of the longest document
    ours = AttentionInputs(query, key, value, WIDTH**-0.5, None, None)
    theirs = ours._replace(query=query.detach().roll(1, 2))
    for kind in ("kl", "minilm"):

        def transfer(kind: str = kind) -> None:
            attention_transfer.attention_loss(kind, ours, theirs, found, rows, HEADS).mean().backward()

        measured(f"attention_transfer, {kind}, {int(rows.sum()):,} rows", tokens, transfer)


def run_trainings() -> None:
    """The tiny student with all terms: FSDP2 on one device ends as plain training does."""
    from pipeline.train.job import read_steps
    from tests import tiny_student
    from tests.e2e.test_distributed import TERMS, trained

    fsdp2 = str(Path(__file__).resolve().parents[2] / "pipeline" / "recipes" / "fsdp2.yaml")
    with tempfile.TemporaryDirectory() as folder:
        student, curves = tiny_student.save(Path(folder) / "student"), []
        for name, settings in (("plain", {}), ("fsdp2", {"config_file": fsdp2, "num_processes": 1})):
            (Path(folder) / name).mkdir()
            job = trained(Path(folder) / name, student, 8, settings, **TERMS)
            curves.append([step.loss for step in read_steps(job.log)])
            print(f"training, {name}: loss {curves[-1][0]} to {curves[-1][-1]}", flush=True)
    if any(abs(a - b) > TOLERANCE * abs(b) for a, b in zip(*curves, strict=True)):
        sys.exit(f"the losses differ: {curves}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--skip-training", action="store_true")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this needs a GPU")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    print("| part | memory above its inputs | tokens a second |\n| --- | --- | --- |")
    run_losses(options.tokens)
    run_attention(options.tokens)
    if not options.skip_training:
        run_trainings()


if __name__ == "__main__":
    main()
