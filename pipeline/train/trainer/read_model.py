"""Reads facts about models without their weights: `python -m pipeline.train.trainer.read_model QUERIES.json`.

Prints a JSON list of ModelFacts (pipeline/train/model_facts.py), one for each ModelQuery in the file.
Downloads the config and tokenizer of a hub name if they are not cached, never its weights.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # read when huggingface_hub is imported

import datasets
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from pipeline.config.mix import ThinkingSwitch
from pipeline.errors import UserError, one_line
from pipeline.inference import model_files
from pipeline.inference.thinking import asked, switch_of
from pipeline.train.model_facts import ModelFacts, ModelQuery
from pipeline.train.trainer import example_checks, prune, special_tokens, teachers
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
    text, bare = config.get_text_config(), _bare(config)
    return ModelFacts(
        name=query.name,
        parameters=None if bare is None else int(bare.num_parameters()),
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
        pruning_fault=_pruning_fault(bare, query),
        vocabulary_fault=_vocabulary_fault(query),
    )


def _bare(config: Any) -> Any:
    """The model without its weights, on the meta device."""
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except (ValueError, KeyError, ImportError, RuntimeError, TypeError, AttributeError):
        return None  # remote code, or not a language model; vLLM may still support it


def _pruning_fault(bare: Any, query: ModelQuery) -> str:
    """Why prune.py would refuse the model; "" if it would not, or if nothing is known of its layers."""
    if bare is None or query.pruning is None:
        return ""
    try:
        prune.check(bare, query.pruning)
    except SystemExit as e:
        return str(e)
    return ""


def _vocabulary_fault(query: ModelQuery) -> str:
    """Why the training would refuse one of the teachers; "" if it would not, or if one cannot be read."""
    try:
        models = (query.model, *query.teachers) if query.teachers else ()
        tokenizers = [AutoTokenizer.from_pretrained(model) for model in models]
        logits = [AutoConfig.from_pretrained(model).get_text_config().vocab_size for model in models]
        for model, own, size in zip(query.teachers, tokenizers[1:], logits[1:], strict=True):
            teachers.check_tokens(model, own, tokenizers[0], (size, logits[0]), query.equal_logits)
    except UserError as e:
        return one_line(e)
    except (OSError, ValueError, KeyError, ImportError, AttributeError):
        pass  # said by the facts of that model
    return ""


def _template_fault(query: ModelQuery) -> str:
    """Why the chat template cannot render a prompt, or would not teach the query's dialogue; "" if it can."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(query.model)
        if query.teach is None:
            return "" if tokenizer.chat_template else "its tokenizer has no chat template"
        messages = query.teach
        end = special_tokens.end_of_turn(tokenizer, messages)
        switch = query.thinking_switch if query.mixed else None
        if query.mixed and switch is None:
            switch = switch_of(tokenizer.get_chat_template())
        examples = [_form(messages, switch, thinking) for thinking in ((True, False) if switch else (True,))]
        made = zip(examples, tokens_of(examples, tokenizer, switch), strict=True)
        rows = datasets.Dataset.from_list([example | row for example, row in made])
        served = example_checks.read_template(query.served_template)
        decoded = list(example_checks.decoded_examples(rows, tokenizer, end, served, switch))
    except (OSError, ValueError, ImportError, UserError) as e:
        return one_line(e)
    checks = example_checks.checks(query.reasoning, switch)
    return next((fault for each in decoded for fault in example_checks.faults(each, checks).values()), "")


def _form(
    messages: Sequence[dict[str, str]], switch: ThinkingSwitch | None, thinking: bool
) -> dict[str, Any]:
    """The dialogue as an example that thinks or does not."""
    answer = messages[-1]
    if not thinking:
        answer = answer | {"content": answer["content"].rpartition("</think>")[2].strip()}
    prompt = asked(messages[:-1], switch, thinking)
    return {"id": "example", "prompt": prompt, "completion": [answer], "thinking": thinking}


def main(file: str) -> None:
    queries = [ModelQuery.model_validate(query) for query in json.loads(Path(file).read_bytes())]
    print(json.dumps([read_model(query).model_dump(mode="json") for query in queries]))


if __name__ == "__main__":
    main(sys.argv[1])
