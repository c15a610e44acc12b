"""What is measured as unimportant can go: a model without its silent parts computes what it did with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.manifest import Manifest
from pipeline.engine.store import Output
from pipeline.errors import UserError
from pipeline.inference import model_files
from pipeline.inference.pruning import RECORD, Pruning, dropped, pruning_of
from pipeline.rows import Example
from tests import tiny_student

pytest.importorskip("transformers")

IDS = [[5, 9, 40, 7, 100, 31], [8, 8, 60]]
SIZES: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 48,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 8,
    "eos_token_id": 2,
}


def model(kind: str) -> Any:
    """A model with grouped heads; "llama" has biases everywhere, "qwen3" norms of queries and keys."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    if kind == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**SIZES)).eval()
    made = LlamaForCausalLM(LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True)).eval()
    for name, weight in made.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight, std=0.1)
    return made


def silence(linear: Any, outputs: list[int]) -> None:
    linear.weight.data[outputs] = 0
    if linear.bias is not None:
        linear.bias.data[outputs] = 0


def logits(of: Any) -> Any:
    import torch

    with torch.no_grad():
        return torch.cat([of(torch.tensor([ids])).logits[0] for ids in IDS])


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_silent_heads_and_channels_are_dropped_and_change_no_logit(kind: str) -> None:
    import torch

    from pipeline.train.trainer.importance import measure
    from pipeline.train.trainer.prune import reduce_to

    whole = model(kind)
    silent = {1: 0, 2: 2, 3: 1}  # layer -> key-value head
    for number, layer in enumerate(whole.model.layers, 1):
        group = silent[number]
        silence(layer.self_attn.v_proj, list(range(8 * group, 8 * group + 8)))
        silence(layer.mlp.up_proj, [number, 20])
    before = logits(whole)
    record = reduce_to(whole, Pruning(heads=4, intermediate_size=22), measure(whole, IDS))
    assert record["key_value_heads_dropped"] == {number: [group + 1] for number, group in silent.items()}
    assert record["channels_dropped"] == {number: [number + 1, 21] for number in silent}
    assert record["mlp_activity_kept"] == dict.fromkeys(silent, 1.0)
    assert torch.allclose(logits(whole), before, atol=1e-6)
    config = whole.config
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (4, 2, 8)
    assert config.intermediate_size == 22
    assert whole.model.layers[0].self_attn.q_proj.weight.shape == (32, 48)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_heads_that_count_are_kept_with_their_own_weights(kind: str) -> None:
    """Against the whole model in which the dropped heads and channels have no way out."""
    import torch

    from pipeline.train.trainer.importance import measure
    from pipeline.train.trainer.prune import reduce_to

    whole, masked = model(kind), model(kind)
    record = reduce_to(whole, Pruning(heads=2, intermediate_size=9), measure(whole, IDS))
    for number, layer in enumerate(masked.model.layers, 1):
        for group in record["key_value_heads_dropped"][number]:
            layer.self_attn.o_proj.weight.data[:, 16 * (group - 1) : 16 * group] = 0
        layer.mlp.down_proj.weight.data[:, [c - 1 for c in record["channels_dropped"][number]]] = 0
    assert torch.allclose(logits(whole), logits(masked), atol=1e-6)


def test_block_influence_drops_the_layer_that_changes_nothing() -> None:
    import torch

    from pipeline.train.trainer.importance import measure
    from pipeline.train.trainer.prune import reduce_to

    whole = model("qwen3")
    for linear in (whole.model.layers[1].self_attn.o_proj, whole.model.layers[1].mlp.down_proj):
        linear.weight.data.zero_()
    before, found = logits(whole), measure(whole, IDS)
    assert found.layers[1] == pytest.approx(0, abs=1e-6)
    assert min(found.layers[0], found.layers[2]) > 1e-3
    record = reduce_to(whole, Pruning(layers=2, layers_by="block_influence"), found)
    assert record["layers_dropped"] == [2]
    assert torch.equal(logits(whole), before)


def test_block_influence_is_that_of_the_paper() -> None:
    """Equation 1 of ShortGPT on the states that transformers itself returns."""
    import torch

    from pipeline.train.trainer.importance import measure

    whole = model("llama")
    whole.model.norm = torch.nn.Identity()  # the last state is returned after it
    with torch.no_grad():
        states = [whole(torch.tensor([ids]), output_hidden_states=True).hidden_states for ids in IDS]
    for layer, found in enumerate(measure(whole, IDS).layers):
        pairs = [(s[layer][0], s[layer + 1][0]) for s in states]
        cosines = torch.cat([(a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1)) for a, b in pairs])
        assert found == pytest.approx(1 - float(cosines.mean()), abs=1e-6)


def select(run_dir: Path) -> None:
    """A complete select stage with six examples."""
    output = Output(run_dir / "select", Example)
    output.save(Manifest(stage="select", version=1, settings={}, inputs={}))
    output.write("shard-00000", [tiny_student.example(n) for n in range(6)])
    output.finish()


@pytest.mark.slow
def test_a_student_is_pruned_on_the_examples_of_its_run(tmp_path: Path, monkeypatch: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))
    model("llama").save_pretrained(tmp_path / "whole")
    tiny_student.tokenizer().save_pretrained(tmp_path / "whole")
    wanted = {"layers": 2, "layers_by": "block_influence", "heads": 4, "intermediate_size": 16}
    student = tiny_student.recipe().student
    assert student is not None
    student = student.model_copy(update={"model": str(tmp_path / "whole"), **wanted})
    with pytest.raises(UserError, match="run `retort select` first"):
        model_files.resolve(student.model, None, pruning_of(student, tmp_path / "run"))
    select(tmp_path / "run")
    pruning = pruning_of(student, tmp_path / "run")
    assert pruning is not None
    assert pruning.words == "2 layers by block influence and 4 heads and 16 MLP channels"
    folder = Path(model_files.resolve(student.model, None, pruning))
    assert model_files.existing(student.model, pruning) == str(folder)
    pruned = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = json.loads((folder / "config.json").read_bytes())
    assert (
        config
        | {
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "intermediate_size": 16,
        }
        == config
    )
    assert pruned(torch.tensor([IDS[0]])).logits.shape == (1, 6, 259)
    known = dropped(folder)
    assert len(known["layers_dropped"]) == 1
    assert [len(scores) for scores in known["key_value_head_scores"].values()] == [3, 3]
    assert not any(name.startswith("channel") for name in known)
    first = (folder / RECORD).read_bytes()
    monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "again"))
    again = Path(model_files.resolve(student.model, None, pruning))
    assert (again / RECORD).read_bytes() == first
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_sizes_that_do_not_fit_are_refused_before_any_work(tmp_path: Path) -> None:
    model("llama").save_pretrained(tmp_path)
    for pruning, message in (
        (Pruning(heads=5), r"^student\.heads = 5: 2 heads of .* share a key-value head .* a multiple of 2$"),
        (Pruning(heads=8), r"^student\.heads = 8: .* has 6 attention heads$"),
        (Pruning(intermediate_size=25), r"^student\.intermediate_size = 25: .* has 24 MLP channels$"),
    ):
        with pytest.raises(UserError, match=message):
            model_files.check(str(tmp_path), pruning)


def test_a_model_whose_heads_cannot_be_told_apart_is_refused() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

    from pipeline.train.trainer.prune import check

    sizes = {name: size for name, size in SIZES.items() if name != "head_dim"}
    qwen2 = Qwen2ForCausalLM(Qwen2Config(**sizes))
    check(qwen2, Pruning(layers=2, intermediate_size=16))
    with pytest.raises(SystemExit, match="Qwen2ForCausalLM has no setting for the size of a head: keep all"):
        check(qwen2, Pruning(heads=4))
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2))
    with pytest.raises(SystemExit, match="GPT2LMHeadModel has other weights than q, k, v, o"):
        check(gpt2, Pruning(heads=1))
    llama = model("llama")
    llama.config.hidden_size = 50
    with pytest.raises(SystemExit, match=r"LlamaForCausalLM cannot have 4 heads: .* not a multiple"):
        check(llama, Pruning(heads=4))
