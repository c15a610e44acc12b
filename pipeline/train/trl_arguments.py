"""Checks [train.trl]: arguments for TRL's configuration that retort has no setting for.

Light: the names that TRL and transformers know are read from their source, so nothing of them is imported.
"""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

from pipeline.config.train import Train
from pipeline.errors import UserError, nearest
from pipeline.train.objectives import OBJECTIVES

# Arguments of ours that may be given here, and the setting that they take the place of.
REPLACES = {"optim": "optimizer", "lr_scheduler_type": "schedule"}
# Arguments that retort sets, and what to use.
SET_BY = {
    "num_train_epochs": "train.epochs",
    "max_steps": "train.epochs",
    "learning_rate": "train.learning_rate",
    "warmup_steps": "train.warmup",
    "weight_decay": "train.weight_decay",
    "max_grad_norm": "train.max_grad_norm",
    "per_device_train_batch_size": "train.micro_batch_size",
    "per_device_eval_batch_size": "train.micro_batch_size",
    "gradient_accumulation_steps": "train.batch_size",
    "auto_find_batch_size": "train.micro_batch_size",
    "gradient_checkpointing": "train.gradient_checkpointing",
    "train_sampling_strategy": "train.order",
    "shuffle_dataset": "train.order",
    "bf16": "train.precision",
    "fp16": "train.precision",
    "bf16_full_eval": "train.precision",
    "fp16_full_eval": "train.precision",
    "save_steps": "train.save_steps",
    "report_to": "train.trackers",
    "seed": "train.seed",
    "data_seed": "train.seed",
    "packing": "train.packing",
    "eval_packing": "train.packing",
    "packing_strategy": "train.packing",
    "padding_free": "train.packing",
    "max_length": "train.max_length",
    "truncation_mode": "train.max_length",
    "max_completion_length": "train.on_policy.max_tokens",
    "temperature": "train.on_policy.temperature",
    "teacher_model_name_or_path": "train.on_policy.teacher",
    "use_vllm": "train.on_policy.sampler",
    "vllm_mode": "train.on_policy.sampler_url",
    "vllm_server_base_url": "train.on_policy.sampler_url",
    "vllm_gpu_memory_utilization": "train.on_policy.sampler_memory",
    "vllm_max_model_length": "train.max_length",
    "beta": "the table of the objective",
    "loss_type": "train.objective and its table",
    "loss_weights": "train.dpo.sft_weight",
    "label_smoothing_factor": "train.objective",
    "use_cpu": "train.accelerate",
    "fsdp": "train.accelerate",
    "fsdp_config": "train.accelerate",
    "deepspeed": "train.accelerate",
    "parallelism_config": "train.accelerate",
    "model_init_kwargs": "[student]",
    "chat_template_path": "[student]",
    "push_to_hub": "retort publish",
}
# Arguments that retort needs as they are, for its data, its log, and the resumption of a killed training.
FIXED = frozenset(
    (
        "output_dir",
        "accelerator_config",
        "ddp_timeout",
        "eval_strategy",
        "eval_steps",
        "eval_on_start",
        "eval_delay",
        "do_train",
        "do_eval",
        "do_predict",
        "prediction_loss_only",
        "save_strategy",
        "save_total_limit",
        "save_only_model",
        "save_on_each_node",
        "load_best_model_at_end",
        "enable_jit_checkpoint",
        "resume_from_checkpoint",
        "restore_callback_states_from_checkpoint",
        "ignore_data_skip",
        "logging_strategy",
        "logging_steps",
        "logging_first_step",
        "logging_nan_inf_filter",
        "include_num_input_tokens_seen",
        "include_for_metrics",
        "batch_eval_metrics",
        "dataloader_pin_memory",
        "dataloader_drop_last",
        "average_tokens_across_devices",
        "run_name",
        "project",
        "disable_tqdm",
        "eos_token",
        "pad_token",
        "completion_only_loss",
        "assistant_only_loss",
        "dataset_text_field",
        "dataset_kwargs",
        "remove_unused_columns",
        "label_names",
        "length_column_name",
        "precompute_ref_log_probs",
        "sync_ref_model",
        "local_rank",
        "hub_token",
        "hub_private_repo",
        "hub_model_id",
        "hub_strategy",
        "hub_always_push",
        "hub_revision",
        "generation_kwargs",
    )
)


def check(train: Train) -> None:
    """Raises UserError for an argument that retort sets, or that the objective's configuration lacks."""
    known = known_names(train.objective) if train.trl else ()
    for name in train.trl:
        where = f"train.trl.{name}"
        if name not in known:
            config = OBJECTIVES[train.objective].config
            raise UserError(f"{where}: TRL's {config} has no such argument{nearest(name, known)}")
        if instead := SET_BY.get(name):
            raise UserError(f"{where}: retort sets it; use {instead}")
        if name in FIXED:
            raise UserError(f"{where}: retort sets it, and depends on its value; remove it")
        ours = REPLACES.get(name)
        if ours and getattr(train, ours) != getattr(Train(), ours):
            raise UserError(f"{where} takes the place of train.{ours}: give one of them")


def known_names(objective: str) -> frozenset[str]:
    """The arguments of the objective's configuration: of its own class and those that it extends."""
    config = OBJECTIVES[objective].config.removesuffix("Config").lower()  # dpo of DPOConfig
    trl, transformers = _folder("trl") / "trainer", _folder("transformers")
    found = set()
    for path in (trl / f"{config}_config.py", trl / "base_config.py", transformers / "training_args.py"):
        tree = ast.parse(path.read_text("utf-8"))
        classes = (node for node in tree.body if isinstance(node, ast.ClassDef))
        found |= {_name(statement) for each in classes for statement in each.body}
    return frozenset(found) - {""}


def _folder(package: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    assert spec is not None, package
    return Path(spec.origin or "").parent


def _name(statement: ast.stmt) -> str:
    """The name of a field of a dataclass; "" for other statements."""
    is_field = isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    return statement.target.id if is_field else ""  # type: ignore[attr-defined]
