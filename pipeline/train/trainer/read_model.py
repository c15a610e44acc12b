"""Looks at models without loading their weights: `python -m pipeline.train.trainer.read_model QUERIES.json`.

Prints a JSON list of ModelFacts (pipeline/train/model_facts.py), one for each ModelQuery in the file. Config
and tokenizer of a hub name are fetched where they are not cached; weights are not.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # read when huggingface_hub is imported

import datasets
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from pipeline.errors import UserError
from pipeline.train.model_facts import ModelFacts, ModelQuery
from pipeline.train.trainer import data, supervision, tokens


def facts(query: ModelQuery) -> ModelFacts:
    """What can be known of a model without its weights. Raises nothing: what is wrong is in `fault`."""
    try:
        config = AutoConfig.from_pretrained(query.model)
    except OSError as e:  # not there, not ours to read, or no network
        return ModelFacts(name=query.name, fault=_line(e))
    except (ValueError, KeyError, ImportError) as e:  # a kind that this transformers does not know
        return ModelFacts(name=query.name, unread=_line(e))
    size, there = _weights(query.model)
    text = config.get_text_config()
    return ModelFacts(
        name=query.name,
        parameters=_parameters(config),
        layers=getattr(text, "num_hidden_layers", None),
        hidden=getattr(text, "hidden_size", None),
        intermediate=getattr(text, "intermediate_size", None),
        vocabulary=getattr(text, "vocab_size", None),
        tied=bool(getattr(text, "tie_word_embeddings", False)),
        context=getattr(text, "max_position_embeddings", None),
        config=text.to_diff_dict(),
        weight_bytes=size,
        downloaded=there,
        template_fault=_template_fault(query),
    )


def _parameters(config: Any) -> int | None:
    """All weights of the model, counted on a device that holds none."""
    try:
        with torch.device("meta"):
            return int(AutoModelForCausalLM.from_config(config).num_parameters())
    except (ValueError, KeyError, ImportError, RuntimeError, TypeError, AttributeError):
        return None  # code of its own, or no language model: vLLM may know it all the same


def _weights(model: str) -> tuple[int | None, bool]:
    """Bytes of the weights' files, and whether they are on this machine already."""
    from huggingface_hub import HfApi, snapshot_download

    folder = model
    if not os.path.isdir(model):
        try:
            folder = snapshot_download(model, local_files_only=True, allow_patterns="*.safetensors")
        except Exception:  # noqa: BLE001 - nothing of it is cached, whatever the library calls that
            folder = ""
    if folder and (files := list(Path(folder).glob("*.safetensors"))):
        return sum(file.stat().st_size for file in files), True
    if os.path.isdir(model):
        return None, True
    try:
        listed = HfApi().model_info(model, files_metadata=True).siblings or []
    except Exception:  # noqa: BLE001 - a figure for people: without a hub it is not known
        return None, False
    sizes = [file.size or 0 for file in listed if file.rfilename.endswith(".safetensors")]
    return sum(sizes) or None, False


def _template_fault(query: ModelQuery) -> str:
    """Why the model cannot be asked, or be taught the messages of the query; "" when it can."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(query.model)
        if query.teach is None:
            return "" if tokenizer.chat_template else "its tokenizer has no chat template"
        messages = query.teach
        end = tokens.end_of_turn(tokenizer, messages)
        example: dict[str, Any] = {"id": "example", "prompt": messages[:-1], "completion": messages[-1:]}
        rows = datasets.Dataset.from_list([example | data.tokens_of([example], tokenizer)[0]])
        (row,) = supervision.rows(rows, tokenizer, end, supervision.template(query.served_template))
    except (OSError, ValueError, ImportError, UserError) as e:
        return _line(e)
    return next(iter(supervision.faults(row, supervision.checks(query.reasoning)).values()), "")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def main(file: str) -> None:
    queries = [ModelQuery.model_validate(given) for given in json.loads(Path(file).read_bytes())]
    print(json.dumps([facts(query).model_dump(mode="json") for query in queries]))


if __name__ == "__main__":
    main(sys.argv[1])
