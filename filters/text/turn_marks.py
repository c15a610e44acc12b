"""The marks that chat templates put between turns: one table of them.

A tokenizer writes them as special tokens. As text they stand in an answer only where a server did not take
them off, or where a model went on to imagine the next turn. Everything here is linear in the text's length.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# From the models' chat templates and tokenizers, and llama.cpp's list of end-of-generation tokens
# (https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp).
END_MARKS = (  # end a turn or a text
    "<|im_end|>",  # ChatML: Qwen, Yi, SmolLM, OLMo 3, Kimi, Nemotron, LFM2
    "<|endoftext|>",  # GPT-2's, of many: Qwen, Phi, GLM, OLMo, Falcon
    "<|eot_id|>",  # Llama 3
    "<|eom_id|>",
    "<|end_of_text|>",  # Llama 3, Granite
    "<|eot|>",  # Llama 4
    "<|eom|>",
    "</s>",  # Llama 2, Mistral, Zephyr
    "<end_of_turn>",  # Gemma 1 to 3
    "<turn|>",  # Gemma 4
    "<eos>",
    "<｜end▁of▁sentence｜>",  # DeepSeek  # noqa: RUF001
    "<|EOT|>",  # DeepSeek Coder, Step
    "<|end|>",  # Phi, gpt-oss, StarChat
    "<|return|>",  # gpt-oss
    "<|call|>",
    "<|END_OF_TURN_TOKEN|>",  # Cohere
    "<|end_of_turn|>",  # OpenChat
    "<|end_of_sentence|>",  # ERNIE
    "<|turn_end|>",  # Megrez
    "<|assistant_end|>",  # Apertus
    "<|eos|>",  # Grok, Hunyuan
    "<seed:eos>",  # Seed-OSS
    "[|endofturn|]",  # EXAONE
    "[e~[",  # MiniMax
    "<end_of_utterance>",  # SmolVLM, Idefics
    "<eoa>",  # InternLM
    "[EOS]",  # Kimi
    "[EOT]",
    "<EOT>",  # CodeLlama
    "<|user|>",  # GLM ends its own turn with the mark that begins the next
    "<|observation|>",
)
START_MARKS = (  # begin a turn, or name whose it is
    "<|im_start|>",
    "<|im_user|>",  # Kimi
    "<|im_assistant|>",
    "<|im_system|>",
    "<|im_middle|>",
    "<|start_header_id|>",  # Llama 3
    "<|end_header_id|>",
    "<|begin_of_text|>",
    "<|header_start|>",  # Llama 4
    "<|header_end|>",
    "[INST]",  # Llama 2, Mistral
    "[/INST]",
    "<start_of_turn>",
    "<|turn>",
    "<｜User｜>",  # noqa: RUF001
    "<｜Assistant｜>",  # noqa: RUF001
    "<｜begin▁of▁sentence｜>",  # noqa: RUF001
    "<|assistant|>",  # Phi, GLM, Zephyr
    "<|system|>",
    "<|start|>",  # gpt-oss
    "<|START_OF_TURN_TOKEN|>",
    "<|USER_TOKEN|>",
    "<|CHATBOT_TOKEN|>",
    "<|start_of_role|>",  # Granite
    "<|end_of_role|>",
    "<|user_start|>",  # Apertus
    "<|assistant_start|>",
    "<seed:bos>",
    "[|user|]",  # EXAONE
    "[|assistant|]",
    "[|system|]",
    "]~b]",  # MiniMax
)
TURN_MARKS = END_MARKS + START_MARKS


def _pattern(marks: Sequence[str]) -> str:
    """Any of the marks; those that begin alike are tried together, so that text full of < costs little."""
    alike = {begin: [mark[2:] for mark in marks if mark[:2] == begin] for begin in {m[:2] for m in marks}}
    return "|".join(f"{re.escape(b)}(?:{'|'.join(map(re.escape, alike[b]))})" for b in sorted(alike))


TURN_MARK = re.compile(_pattern(TURN_MARKS))

_STRUCK = ("<s>", "</s>")  # strike-through in HTML, where the first opens


def without_end_marks(text: str) -> str:
    """The text without the marks at its very end, and without the space around those.

    A `</s>` that closes an `<s>` before it is HTML and stays.
    """
    end, opened = len(text), -1
    while True:
        bare = _bare(text, end)
        mark = next((mark for mark in END_MARKS if text.endswith(mark, 0, bare)), None)
        if mark == _STRUCK[1]:
            opened = text.count(_STRUCK[0]) if opened < 0 else opened
            mark = None if opened else mark
        if mark is None:
            return text if end == len(text) else text[:bare]
        end = bare - len(mark)


def _bare(text: str, end: int) -> int:
    """Where `text[:end]` ends without the space at its end."""
    while end and text[end - 1].isspace():
        end -= 1
    return end
