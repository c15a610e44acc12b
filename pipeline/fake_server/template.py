"""The fake server's chat template, shown and completed as vLLM does: /tokenize, /detokenize, /v1/completions.

A token of these is a character. The template closes a thought in a message of the assistant, as those of many
models do, so that going on with the message asks for something else than was said.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pipeline.fake_server.protocol import BadRequest

_TURN = re.compile(r"<\|(system|user|assistant)\|>")
_NO_THOUGHT = "<think>\n\n</think>\n\n"


def render(messages: list[dict[str, Any]], continued: bool) -> str:
    """The prompt for these messages, the last of them still open where it is to be continued."""
    turns = [
        f"<|{m['role']}|>{_NO_THOUGHT if m['role'] == 'assistant' else ''}{m['content']}" for m in messages
    ]
    return "".join(turns) + ("" if continued else "<|assistant|>")


def tokenize(body: bytes) -> list[int]:
    """The tokens of a prompt, or of messages as the template renders them. Raises BadRequest."""
    try:
        fields = json.loads(body)
        if "messages" in fields:
            text = render(fields["messages"], bool(fields.get("continue_final_message")))
        else:
            text = fields["prompt"]
        return [ord(c) for c in text]
    except (ValueError, KeyError, TypeError):
        raise BadRequest("the request is for no tokens") from None


def detokenize(body: bytes) -> str:
    """The text of tokens. Raises BadRequest."""
    try:
        return "".join(map(chr, json.loads(body)["tokens"]))
    except (ValueError, KeyError, TypeError):
        raise BadRequest("the request holds no tokens") from None


def as_chat(body: bytes) -> bytes:
    """The request for a chat completion that one to complete a prompt amounts to. Raises BadRequest."""
    fields = json.loads(body)
    _, *parts = _TURN.split(detokenize(json.dumps({"tokens": fields["prompt"]}).encode()))
    messages = [{"role": role, "content": text} for role, text in zip(parts[::2], parts[1::2], strict=True)]
    return json.dumps(
        fields | {"messages": messages, "continue_final_message": True, "add_generation_prompt": False}
    ).encode()
