"""The marks that chat templates put between turns, in one table.

Tokenizers write them as special tokens. They appear in a response as text only if the server did not strip
them, or if the model went on to write the next turn. All functions take linear time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# From the models' chat templates and tokenizers, and from llama.cpp's list of end-of-generation tokens
# (https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp).
_END_OF_TURN = """
ChatML (Qwen, Yi, SmolLM, OLMo 3, Kimi, Nemotron, LFM2): <|im_end|>
GPT-2 and others (Qwen, Phi, GLM, OLMo, Falcon): <|endoftext|>
Llama 3, Granite: <|eot_id|> <|eom_id|> <|end_of_text|>
Llama 4: <|eot|> <|eom|>
Llama 2, Mistral, Zephyr: </s>
Gemma: <end_of_turn> <turn|> <eos>
DeepSeek, Step: <｜end▁of▁sentence｜> <|EOT|>
Phi, gpt-oss, StarChat: <|end|> <|return|> <|call|>
Cohere: <|END_OF_TURN_TOKEN|>
OpenChat: <|end_of_turn|>
ERNIE: <|end_of_sentence|>
Megrez: <|turn_end|>
Apertus: <|assistant_end|>
Grok, Hunyuan: <|eos|>
Seed-OSS: <seed:eos>
EXAONE: [|endofturn|]
MiniMax: [e~[
SmolVLM, Idefics: <end_of_utterance>
InternLM: <eoa>
Kimi: [EOS] [EOT]
CodeLlama: <EOT>
GLM, which ends its turn with the mark that begins the next: <|user|> <|observation|>
"""  # noqa: RUF001
_START_OF_TURN = """
ChatML, Kimi: <|im_start|> <|im_user|> <|im_assistant|> <|im_system|> <|im_middle|>
Llama 3: <|start_header_id|> <|end_header_id|> <|begin_of_text|>
Llama 4: <|header_start|> <|header_end|>
Llama 2, Mistral: [INST] [/INST]
Gemma: <start_of_turn> <|turn>
DeepSeek: <｜User｜> <｜Assistant｜> <｜begin▁of▁sentence｜>
Phi, GLM, Zephyr: <|assistant|> <|system|>
gpt-oss: <|start|>
Cohere: <|START_OF_TURN_TOKEN|> <|USER_TOKEN|> <|CHATBOT_TOKEN|>
Granite: <|start_of_role|> <|end_of_role|>
Apertus: <|user_start|> <|assistant_start|>
Seed-OSS: <seed:bos>
EXAONE: [|user|] [|assistant|] [|system|]
MiniMax: ]~b]
"""  # noqa: RUF001


def _marks(table: str) -> tuple[str, ...]:
    return tuple(mark for line in table.strip().splitlines() for mark in line.rpartition(": ")[2].split())


END_MARKS = _marks(_END_OF_TURN)  # end a turn or a text
START_MARKS = _marks(_START_OF_TURN)  # begin a turn, or name its role
TURN_MARKS = END_MARKS + START_MARKS


def _pattern(marks: Sequence[str]) -> str:
    """Matches any mark. Marks are grouped by their first two characters, so text full of < stays cheap."""
    groups = {start: [mark[2:] for mark in marks if mark[:2] == start] for start in {m[:2] for m in marks}}
    return "|".join(f"{re.escape(b)}(?:{'|'.join(map(re.escape, groups[b]))})" for b in sorted(groups))


TURN_MARK = re.compile(_pattern(TURN_MARKS))

_STRIKE_THROUGH = ("<s>", "</s>")  # as HTML


def strip_end_marks(text: str) -> str:
    """Removes marks at the very end of the text, with the whitespace around them.

    A `</s>` that closes an earlier `<s>` is HTML and stays.
    """
    end, has_opening = len(text), _STRIKE_THROUGH[0] in text
    while True:
        bare = _end_without_space(text, end)
        mark = next((mark for mark in END_MARKS if text.endswith(mark, 0, bare)), None)
        if mark is None or (mark == _STRIKE_THROUGH[1] and has_opening):
            return text if end == len(text) else text[:bare]
        end = bare - len(mark)


def _end_without_space(text: str, end: int) -> int:
    """Returns the length of `text[:end].rstrip()` without copying the text."""
    while end and text[end - 1].isspace():
        end -= 1
    return end
