"""White-box terms inside a training: added, logged, resumed, left out of the saved student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.train import KDTeacher, Train
from pipeline.errors import UserError
from pipeline.inference import model_files
from tests import tiny_student

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from pipeline.train.trainer import capture  # noqa: E402

TERMS = {"features": {}, "attention_transfer": {}, "relations": {}}


def teacher(folder: Path, layers: int = 4, **sizes: Any) -> str:
    """A deeper and wider teacher, with dropout that must stay off."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(5)
    settings: dict[str, Any] = {"hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": layers}
    settings |= {"num_attention_heads": 6, "attention_dropout": 0.5, "vocab_size": 259} | sizes
    LlamaForCausalLM(LlamaConfig(eos_token_id=2, pad_token_id=2, **settings)).save_pretrained(folder)
    tiny_student.tokenizer().save_pretrained(folder)
    return str(folder)


def trainer(
    folder: Path, train: dict[str, Any], objective: str = "sft", steps: int = 2, **changed: Any
) -> Any:
    import importlib

    import datasets

    from pipeline.train.trainer.attention import for_packing
    from pipeline.train.trainer.trainer import Setup
    from tests.unit.pipeline.train.trainer.test_trainer import rows as examples

    named = changed.pop("teacher", None) or teacher(folder / "teacher")
    job = tiny_student.job(folder, micro_batch_size=4, precision="fp32", objective=objective, **train)
    job = job.model_copy(update={"teachers": (KDTeacher(model=named),)})
    arguments = {
        "output_dir": str(folder / "checkpoints"),
        "per_device_train_batch_size": 4,
        "max_steps": steps,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_steps": 1,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 3,
    }
    model = tiny_student.model()
    if job.train.packing:
        model.set_attn_implementation(for_packing())
    tokenizer = tiny_student.tokenizer(pad_token="<|endoftext|>")
    module = importlib.import_module(f"pipeline.train.trainer.{objective}")
    data = {"train": datasets.Dataset.from_list(examples())}
    return module.build(Setup(job, data, model, tokenizer, 2, arguments | changed))


@pytest.mark.parametrize("objective", ["sft", "logit_kd"])
def test_terms_are_added_to_an_objective_logged_and_fall(objective: str, tmp_path: Path) -> None:
    weighted = {**TERMS, "attention_transfer": {"weight": 1000}, "relations": {"weight": 100}}
    it = trainer(tmp_path, weighted, objective, steps=10, save_strategy="no", learning_rate=3e-3)
    beside = it.teachers[0].model
    before = {name: weight.clone() for name, weight in beside.state_dict().items()}
    it.train()
    logged = [line for line in it.state.log_history if "loss" in line]
    assert len(logged) == 10
    for name in TERMS:
        assert logged[-1][f"loss_{name}"] < logged[0][f"loss_{name}"]
    assert all(torch.equal(weight, before[name]) for name, weight in beside.state_dict().items())
    assert not any(module.training for module in beside.modules())  # its dropout of 0.5 is off
    assert not any(p.requires_grad or p.grad is not None for p in beside.parameters())


def test_a_weight_scales_its_term(tmp_path: Path) -> None:
    from tests.unit.pipeline.train.trainer.test_trainer import rows as examples
    from tests.unit.pipeline.train.trainer.test_trainer import step

    named, results = teacher(tmp_path / "teacher", hidden_size=64, num_attention_heads=4), []
    for weight in (1e-9, 1.0, 3.0):
        it = trainer(tmp_path, {"relations": {"weight": weight}}, teacher=named)
        it.current_gradient_accumulation_steps = 1
        results.append(step(it, examples()))
    (plain, g0), (once, g1), (thrice, g3) = results
    assert thrice - plain == pytest.approx(3 * (once - plain), rel=1e-3)
    torch.testing.assert_close(g3 - g0, 3 * (g1 - g0), rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_packing_and_gradient_checkpointing_change_no_term(checkpointing: bool, tmp_path: Path) -> None:
    from tests.unit.pipeline.train.trainer.test_trainer import rows as examples
    from tests.unit.pipeline.train.trainer.test_trainer import step

    named, results = teacher(tmp_path / "teacher"), []
    for settings in ({}, {"packing": True}):
        it = trainer(tmp_path, {**TERMS, **settings}, teacher=named)
        torch.manual_seed(0)
        for p in it.model.feature_projections.parameters():
            torch.nn.init.normal_(p, std=0.1)
        if checkpointing and settings:
            it.model.gradient_checkpointing_enable()
        it.current_gradient_accumulation_steps = 1
        results.append((step(it, examples()), {name: float(v) for name, v in it._values.items()}))
    ((loss, gradient), values), ((packed, other), packed_values) = results
    assert packed == pytest.approx(loss, rel=1e-5)
    assert packed_values == pytest.approx(values, rel=1e-4)
    assert (gradient - other).norm() < 1e-4 * gradient.norm()


@pytest.mark.alone
def test_a_training_with_a_projection_resumes_to_the_same_weights(tmp_path: Path) -> None:
    named = teacher(tmp_path / "teacher")
    whole = trainer(tmp_path / "whole", TERMS, teacher=named)
    whole.train()
    trainer(tmp_path / "cut", TERMS, teacher=named, steps=1).train()
    resumed = trainer(tmp_path / "cut", TERMS, teacher=named)
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoints" / "checkpoint-1"))
    expected = whole.model.state_dict()
    assert sum(name.startswith("feature_projections.") for name in expected) == 2
    for name, weight in resumed.model.state_dict().items():
        torch.testing.assert_close(weight, expected[name])


def test_the_saved_student_has_no_projection(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from pipeline.train.trainer.save import save

    it = trainer(tmp_path, TERMS)
    it.train()
    messages = [m.model_dump() for m in tiny_student.example(0).messages]
    job = tiny_student.job(tmp_path, precision="fp32").model_copy(update={"generation": "2+"})
    save(it, it.processing_class, messages, job)
    loaded: Any = AutoModelForCausalLM.from_pretrained(job.output, output_loading_info=True)
    loaded[0].save_pretrained(tmp_path / "again")
    for folder in (job.output, tmp_path / "again"):  # by any tool that keeps the config
        assert model_files.generation(str(folder)) == "2+"
    assert not any(loaded[1][kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, weight in loaded[0].state_dict().items():
        torch.testing.assert_close(weight, it.model.state_dict()[name])


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (
            {"features": {"layers": [[3, 1]]}},
            r"train.features.layers: \[3, 1\] is not there: the student has 2",
        ),
        ({"features": {}, "lora": {}}, "hidden states of 64 and 96 numbers need a projection"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_training(
    train: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        trainer(tmp_path, train)


def test_relation_heads_that_do_not_divide_the_width_are_refused(tmp_path: Path) -> None:
    it = trainer(tmp_path, {"attention_transfer": {"relation_heads": 5}})
    with pytest.raises(UserError, match=r"relation_heads = 5 does not divide .* 64 of the student and 96"):
        it.train()


def test_relation_heads_fit_grouped_query_attention_by_default(tmp_path: Path) -> None:
    grouped = teacher(tmp_path / "teacher", head_dim=6, num_key_value_heads=1)  # values are 6 wide
    it = trainer(tmp_path, {"attention_transfer": {}}, teacher=grouped, steps=1)
    it.train()
    assert it.state.global_step == 1


def test_a_model_that_gives_no_attention_is_refused_in_one_line(tmp_path: Path) -> None:
    model = tiny_student.model()
    recorder = capture.Capture(model, (), (1,))
    with recorder.recording():
        pass  # as where a layer computes attention in its own way
    with pytest.raises(UserError, match="layer 1 of LlamaForCausalLM gives no attention maps"):
        recorder.check()
    model.set_attn_implementation("eager")
    with pytest.raises(UserError, match=r"does not work with train\.attention = 'eager'"):
        capture.Capture(model, (), (1,))


def test_settings_have_defaults_that_change_nothing() -> None:
    train = Train()
    assert (train.features, train.attention_transfer, train.relations, train.term_teacher) == (None,) * 4
