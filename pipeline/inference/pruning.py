"""How a student is pruned from a larger model: which parts stay, and what decides that.

train/trainer/prune.py does it; model_files.py keeps the result in the cache.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline.config.endpoints import LayersBy, Student
from pipeline.engine.store import Output
from pipeline.errors import UserError, user_error
from pipeline.rows import Example

PRUNING_VERSION = 2  # raised when prune.py writes different files: older folders are then ignored
RECORD = "pruned.json"  # in the folder of a pruned model: what was dropped, and the scores


class Pruning(BaseModel):
    """The parts that stay; None: all of them."""

    model_config = ConfigDict(frozen=True)
    layers: int | None = None
    layers_by: LayersBy = "spacing"
    heads: int | None = None
    intermediate_size: int | None = None
    examples: Path | None = None  # folder of the examples on which importance is measured
    content: str = ""  # the content id of these examples; "" before they are complete

    @property
    def measured(self) -> bool:
        """Whether examples decide what stays."""
        return bool(self.heads or self.intermediate_size or (self.layers and self.layers_by != "spacing"))

    @property
    def words(self) -> str:
        """The pruning for people, such as "24 layers and 6 heads"."""
        by = " by block influence" if self.layers_by != "spacing" else ""
        sizes = {f"layers{by}": self.layers, "heads": self.heads, "MLP channels": self.intermediate_size}
        return " and ".join(f"{n} {what}" for what, n in sizes.items() if n is not None)

    @property
    def settings(self) -> dict[str, Any]:
        """What changes the pruned model, besides the examples."""
        return self.model_dump(exclude={"examples", "content"}, exclude_defaults=True)

    @property
    def name(self) -> str:
        """A name for people and folders, such as "24-layers-6-heads"."""
        sizes = {"layers": self.layers, "heads": self.heads, "channels": self.intermediate_size}
        return "-".join(f"{n}-{what}" for what, n in sizes.items() if n is not None)

    def check(self, model: str) -> None:
        """Raises UserError for sizes that a local model cannot have; prune.py checks the others."""
        config = _config_of(Path(model)) if os.path.isdir(model) else {}
        wanted = {
            "layers": (self.layers, config.get("num_hidden_layers"), "layers"),
            "heads": (self.heads, config.get("num_attention_heads"), "attention heads"),
            "intermediate_size": (self.intermediate_size, config.get("intermediate_size"), "MLP channels"),
        }
        for setting, (keep, has, what) in wanted.items():
            if keep is not None and keep < 1:
                raise UserError(f"student.{setting} = {keep}: a model needs 1 at least")
            if keep is not None and isinstance(has, int) and keep > has:
                raise UserError(f"student.{setting} = {keep}: {model} has {has} {what}")
        if self.heads and config.get("num_attention_heads"):
            heads = config["num_attention_heads"]
            group = heads // (config.get("num_key_value_heads") or heads)
            if self.heads % group:
                raise UserError(
                    f"student.heads = {self.heads}: {group} heads of {model} share a key-value head and stay "
                    f"or go together: set a multiple of {group}"
                )


def pruning_of(student: Student, run_dir: Path | None = None) -> Pruning | None:
    """The pruning of a student; None if it stays whole. `run_dir`: of the run with the examples."""
    pruning = Pruning(
        layers=student.layers,
        layers_by=student.layers_by,
        heads=student.heads,
        intermediate_size=student.intermediate_size,
    )
    if not pruning.settings:
        return None
    if run_dir is None or not pruning.measured:
        return pruning
    examples = Output(run_dir / "select", Example)
    manifest = examples.manifest()
    content = manifest.content_id if manifest and examples.complete else ""
    return pruning.model_copy(update={"examples": examples.folder.absolute(), "content": content})


def dropped(folder: Path) -> dict[str, Any]:
    """The record of a pruned model without the single MLP channels, of which there are thousands."""
    record: dict[str, Any] = json.loads((folder / RECORD).read_bytes())
    return {name: value for name, value in record.items() if not name.startswith("channel")}


def _config_of(folder: Path) -> dict[str, Any]:
    """The text model's config."""
    with user_error(f"{folder}/config.json cannot be read", OSError, ValueError, AttributeError):
        config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
        found: dict[str, Any] = config.get("text_config", config)
    return found
