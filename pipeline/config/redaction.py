"""Hides secrets in settings before they reach a run's record, a manifest, a report or an error."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"
# Names of settings that hold a secret; not eos_token, max_tokens and the like.
_NAME = re.compile(
    r"(.*[_-])?(api[_-]?key|(access|auth|bearer|hf|hub|id|refresh|session)[_-]?token|secret([_-]?key)?"
    r"|password|passwd|authorization|credentials?|cookie)|x-api-key|token|key",
    re.IGNORECASE,
)
# Keys of OpenAI, Hugging Face, Groq, xAI, GitHub, GitLab, AWS and Google, and what follows "Bearer". Names of
# models and folders, such as hf-internal-testing or hf_llama-3-8b, are no keys.
_VALUE = re.compile(
    r"\b(?:(?:hf|gsk|gh[opsu])_[A-Za-z0-9]{16,}|(?:sk|pk|rk|xai|glpat)[-_](?=[\w-]*\d)[\w-]{16,}"
    r"|AKIA[A-Z0-9]{12,}|AIza[\w-]{20,})|(?i:(?<=\bbearer )\S+)"
)
_USER = re.compile(r"(?<=//)[^/@\s]+(?=@)")  # user and password in a URL


def redact(value: Any, name: str = "") -> Any:
    """Returns settings, as JSON values, without secrets; `name` is the setting's name.

    Hides every value of an environment, whatever looks like a key, and user and password in URLs.
    """
    if name == "env" and isinstance(value, dict):
        return dict.fromkeys(value, HIDDEN)
    if isinstance(value, dict):
        of_data = name == "keep"  # its keys are columns of a source, whatever they are called
        return {below: redact(inner, "" if of_data else below) for below, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item, name) for item in value]
    if not isinstance(value, str):
        return value
    if value and _NAME.fullmatch(name):
        return HIDDEN
    return _USER.sub(HIDDEN, _VALUE.sub(HIDDEN, value))
