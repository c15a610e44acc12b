"""Base URLs and API keys: validation before use, and redaction of what is shown.

Servers are untrusted: their messages are reduced to one printable line of bounded length, without keys.
"""

from __future__ import annotations

import os
import re
import urllib.request
from dataclasses import dataclass
from urllib.parse import urlsplit

from pipeline.errors import UserError

MAX_MESSAGE = 300  # characters of a server's message that are repeated

_UNPARSED = 2000  # bytes of a body that is not JSON that are searched for text
_MARKUP = re.compile(r"<(?:style|script|svg)\b[^<]*|<[^<>]*>")
_BEARER = re.compile(r"(?i)\bbearer\s+\S+")
_SECRET = re.compile(r"(?i)(^|&)[^=&]*(key|token|secret|password|sig(nature)?)=")
_KEY_LIKE = re.compile(r"(?i)\b(sk|pk|hf|gsk|xai)[-_]\S{6}|\*\*\*")  # "sk-...", and the masked "abcd****wxyz"


def check_base_url(base_url: str) -> str:
    """Returns the URL without its query. Raises UserError if it is malformed or holds a secret."""
    if "@" in base_url:
        raise UserError("base_url holds a user or a password; api_key_env names the variable with the key")
    try:
        parts = urlsplit(base_url)
        if _SECRET.search(parts.query):
            raise UserError("base_url holds a key in its query; api_key_env names the variable with the key")
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an unclosed [ or a port that is not a number
        usable = False
    if not usable:
        raise UserError(
            f"base_url {base_url.partition('?')[0]!r}: write http://HOST:PORT/v1 or https://HOST/v1"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def read_key(env: str | None) -> str | None:
    """Returns the API key held by an environment variable. Raises UserError if it is missing or malformed."""
    if env is None:
        return None
    key = os.environ.get(env, "").strip()
    if not key:
        raise UserError(f"the environment variable {env} (api_key_env) is not set: it must hold the key")
    if not re.fullmatch(r"[!-~]+", key):
        raise UserError(f"the environment variable {env} (api_key_env) holds something that cannot be a key")
    return key


def proxy_for(base_url: str) -> str | None:
    """Returns the proxy that the environment sets for a URL; None for URLs of this machine."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if host in ("127.0.0.1", "::1", "localhost") or urllib.request.proxy_bypass(host):
        return None
    proxy = urllib.request.getproxies().get(parts.scheme)
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


def display_url(url: str) -> str:
    """Returns a URL without query and password, in the form that base_url would have."""
    parts = urlsplit(url)
    base = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return base.removesuffix("/chat/completions").removesuffix("/models")


@dataclass(frozen=True)
class Redactor:
    """Removes keys from text that a server sent."""

    key: str | None = None

    def __repr__(self) -> str:  # keeps the key out of tracebacks and logs
        return "Redactor()"

    def clean(self, text: str) -> str:
        """Returns one printable line without keys, at most MAX_MESSAGE characters long."""
        text = "".join(c if c.isprintable() else " " for c in text[: 10 * MAX_MESSAGE])
        words = _BEARER.sub("[key]", text).split()
        line = " ".join("[key]" if self._like_key(word) else word for word in words)
        return line if len(line) <= MAX_MESSAGE else line[: MAX_MESSAGE - 3] + "..."

    def without_key(self, text: str) -> str:
        """Returns a response with our key replaced: some servers quote what they were sent."""
        return text if self.key is None or len(self.key) < 8 else text.replace(self.key, "[key]")

    def _like_key(self, word: str) -> bool:
        """Whether the word holds our key, either end of it (servers quote those), or any key-like string."""
        key = self.key
        ends = [] if key is None else [key] if len(key) < 12 else [key[:5], key[-5:]]
        return bool(_KEY_LIKE.search(word)) or any(end in word for end in ends)


def error_message(body: object) -> str | None:
    """Returns the message in an error body, whose form differs from server to server."""
    for name in ("error", "message", "detail"):
        if isinstance(body, dict) and body.get(name):
            body = body[name]
    return body if isinstance(body, str) else None


def visible_text(data: bytes) -> str:
    """Returns the beginning of a body that is not JSON, without HTML markup."""
    text = data[:_UNPARSED].decode(errors="replace")
    return " ".join((_MARKUP.sub(" ", text) if "<" in text else text).split())
