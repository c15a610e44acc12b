"""Reads facts about models without their weights: `python -m pipeline.train.trainer.read_model QUERIES.json`.

Prints a JSON list of ModelFacts (pipeline/train/model_facts.py), one for each ModelQuery in the file.
Downloads the config and tokenizer of a hub name if they are not cached, never its weights.
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

from pipeline.errors import UserError, one_line
from pipeline.inference import model_files
from pipeline.train.model_facts import ModelFacts, ModelQuery
from pipeline.train.trainer import supervision, tokens
from pipeline.train.trainer.loss_mask import tokens_of


def read_model(query: ModelQuery) -> ModelFacts:
    """The facts of one model. Does not raise: errors are in `fault` and `unread`."""
    try:
        config = AutoConfig.from_pretrained(query.model)
    except OSError as e:  # missing, not accessible, or no network
        return ModelFacts(name=query.name, fault=one_line(e))
    except (ValueError, KeyError, ImportError) as e:  # an architecture that this transformers lacks
        return ModelFacts(name=query.name, unread=one_line(e))
    weight_bytes, downloaded = model_files.weights(query.model)
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
        weight_bytes=weight_bytes,
        downloaded=downloaded,
        template_fault=_template_fault(query),
    )


def _parameters(config: Any) -> int | None:
    """The number of weights, counted on the meta device."""
    try:
        with torch.device("meta"):
            return int(AutoModelForCausalLM.from_config(config).num_parameters())
    except (ValueError, KeyError, ImportError, RuntimeError, TypeError, AttributeError):
        return None  # remote code, or not a language model; vLLM may still support it


def _template_fault(query: ModelQuery) -> str:
    """Why the chat template cannot render a prompt, or would not teach the query's dialogue; "" if it can."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(query.model)
        if query.teach is None:
            return "" if tokenizer.chat_template else "its tokenizer has no chat template"
        messages = query.teach
        end = tokens.end_of_turn(tokenizer, messages)
        example: dict[str, Any] = {"id": "example", "prompt": messages[:-1], "completion": messages[-1:]}
        rows = datasets.Dataset.from_list([example | tokens_of([example], tokenizer)[0]])
        served = supervision.read_template(query.served_template)
        (decoded,) = supervision.decoded_examples(rows, tokenizer, end, served)
    except (OSError, ValueError, ImportError, UserError) as e:
        return one_line(e)
    return next(iter(supervision.faults(decoded, supervision.checks(query.reasoning)).values()), "")


def main(file: str) -> None:
    queries = [ModelQuery.model_validate(query) for query in json.loads(Path(file).read_bytes())]
    print(json.dumps([read_model(query).model_dump(mode="json") for query in queries]))


if __name__ == "__main__":
    main(sys.argv[1])
