"""Decides what of a recipe may be shown: in a run's record, its manifests, its report, an error."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"
# Names of settings that hold a secret. Not eos_token, max_tokens and the like.
_NAME = re.compile(
    r"(.*[_-])?(api[_-]?key|(access|auth|bearer|hf|hub|id|refresh|session)[_-]?token|secret([_-]?key)?"
    r"|password|passwd|authorization|credentials?|cookie)|x-api-key|token|key",
    re.IGNORECASE,
)
# Keys as OpenAI, Hugging Face, Groq, xAI, GitHub, GitLab, AWS and Google make them; what follows "Bearer".
_VALUE = re.compile(
    r"\b(?:(?:sk|pk|rk|hf|gsk|xai|gh[opsu]|glpat)[-_][\w-]{8,}|AKIA[A-Z0-9]{12,}|AIza[\w-]{20,})"
    r"|(?i:(?<=\bbearer )\S+)"
)
_USER = re.compile(r"(?<=//)[^/@\s]+(?=@)")  # user and password of an address


def shareable(value: Any, name: str = "") -> Any:
    """The settings (plain JSON values) without secrets; `name` is what they are called.

    Environments lose all their values, any text what looks like a key, addresses their user and password.
    """
    if name == "env" and isinstance(value, dict):
        return dict.fromkeys(value, HIDDEN)
    if isinstance(value, dict):
        return {below: shareable(inner, below) for below, inner in value.items()}
    if isinstance(value, list | tuple):
        return [shareable(inner, name) for inner in value]
    if not isinstance(value, str):
        return value
    if value and _NAME.fullmatch(name):
        return HIDDEN
    return _USER.sub(HIDDEN, _VALUE.sub(HIDDEN, value))
