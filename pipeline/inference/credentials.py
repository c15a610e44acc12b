"""An address and its key: checked before use, shown without secrets; a server's words made fit to be shown.

Servers are untrusted: their words are one printable line of bounded length without keys. Leaves out the
requests for completions (transport.py) and servers started here (pipeline/inference/vllm_server.py).
"""

from __future__ import annotations

import asyncio
import difflib
import os
import re
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from pydantic import BaseModel, ValidationError

from pipeline.errors import UserError

if TYPE_CHECKING:
    import openai

MAX_WORDS = 300  # characters of a server's message that we repeat
LIST_TIMEOUT = 30  # seconds to list the models
LIST_RETRIES = 2
MAX_LIST = 2**24  # bytes; the longest lists, of a thousand models with prices, are under 1 MB

_UNLISTED = {404, 405, 501}
_BEARER = re.compile(r"(?i)\bbearer\s+\S+")
_SECRET = re.compile(r"(?i)(^|&)[^=&]*(key|token|secret|password|sig(nature)?)=")
_KEY_LIKE = re.compile(r"(?i)\b(sk|pk|hf|gsk|xai)[-_]\S{6}|\*\*\*")  # "sk-...", and the masked "abcd****wxyz"


class ModelListError(Exception):
    """A server did not tell its models; the message says why in one line.

    `useless`: nor would it take a request now: nobody answers, the key is wrong, or it is unwell.
    """

    def __init__(self, reason: str, *, useless: bool = False) -> None:
        super().__init__(reason)
        self.useless = useless


def check_address(base_url: str) -> str:
    """The address as it may be shown, without its query. UserError when it is none or holds a password."""
    if "@" in base_url:
        raise UserError("base_url holds a user or a password; api_key_env names the variable with the key")
    try:
        parts = urlsplit(base_url)
        if _SECRET.search(parts.query):
            raise UserError("base_url holds a key in its query; api_key_env names the variable with the key")
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of an unclosed [ or a port that is no number
        usable = False
    if not usable:
        raise UserError(
            f"base_url {base_url.partition('?')[0]!r}: write http://HOST:PORT/v1 or https://HOST/v1"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def read_key(env: str | None) -> str | None:
    """The key that an environment variable holds. UserError when it holds none."""
    if env is None:
        return None
    key = os.environ.get(env, "").strip()
    if not key:
        raise UserError(f"the environment variable {env} (api_key_env) is not set: it must hold the key")
    if not re.fullmatch(r"[!-~]+", key):
        raise UserError(f"the environment variable {env} (api_key_env) holds something that cannot be a key")
    return key


def is_local(base_url: str) -> bool:
    return urlsplit(base_url).hostname in ("127.0.0.1", "::1", "localhost")


def proxy_for(base_url: str) -> str | None:
    """The proxy that the environment names for an address; never one for this machine."""
    parts = urlsplit(base_url)
    if is_local(base_url) or urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    proxy = urllib.request.getproxies().get(parts.scheme)
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


def redirected(url: str, location: str) -> str:
    """Where a redirect from `url` leads. Raises ValueError, saying why, for another server or nowhere."""
    try:
        target = urljoin(url, location)
        here, there = urlsplit(url), urlsplit(target)
        elsewhere = (there.scheme, there.netloc.lower()) != (here.scheme, here.netloc.lower())
        moved = shown(target)
    except ValueError:
        location = ""
    if not location:
        raise ValueError("a redirect without an address that can be read")
    if elsewhere:
        raise ValueError(f"moved to {moved}, and requests are sent to no other address than base_url")
    return target


def shown(url: str) -> str:
    """An address without a query or a password, as base_url would name it."""
    parts = urlsplit(url)
    where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return where.removesuffix("/chat/completions")


@dataclass(frozen=True)
class Redactor:
    """Makes what a server says fit to be shown."""

    key: str | None = None

    def __repr__(self) -> str:  # the key stays out of tracebacks and logs
        return "Redactor()"

    def clean(self, text: str) -> str:
        """One printable line without keys, at most MAX_WORDS characters."""
        text = "".join(c if c.isprintable() else " " for c in text[: 10 * MAX_WORDS])
        words = _BEARER.sub("[key]", text).split()
        line = " ".join("[key]" if self._like_key(word) else word for word in words)
        return line if len(line) <= MAX_WORDS else line[: MAX_WORDS - 3] + "..."

    def without_key(self, text: str) -> str:
        """The text of an answer without our key: some servers quote what they were sent."""
        return text if self.key is None or len(self.key) < 8 else text.replace(self.key, "[key]")

    def _like_key(self, word: str) -> bool:
        """Whether it holds our key, an end of it (servers quote those), or anything that looks like a key."""
        key = self.key
        ends = [] if key is None else [key] if len(key) < 12 else [key[:5], key[-5:]]
        return bool(_KEY_LIKE.search(word)) or any(end in word for end in ends)


def error_message(body: object) -> str | None:
    """The message in the body of an error, whose form differs from server to server."""
    for name in ("error", "message", "detail"):
        if isinstance(body, dict) and body.get(name):
            body = body[name]
    return body if isinstance(body, str) else None


class _Model(BaseModel):
    id: str


class _ModelList(BaseModel):
    data: list[_Model]


async def list_models(base_url: str, cleaner: Redactor, max_retries: int) -> list[str] | None:
    """The names of the models that a server knows, None where it answers but keeps no list. Raises ModelListError."""
    import httpx2
    import openai

    api = openai.AsyncOpenAI(
        base_url=base_url,
        api_key=cleaner.key or "none",  # servers without keys accept any; the package insists on one
        max_retries=min(LIST_RETRIES, max_retries),
        timeout=LIST_TIMEOUT,
        http_client=openai.DefaultAsyncHttpxClient(trust_env=not is_local(base_url)),
    )
    try:
        # The package's own limit is for one read: a server that drips bytes would hold us for ever.
        async with asyncio.timeout(LIST_TIMEOUT * (1 + LIST_RETRIES)), api:
            return [model.id for model in _ModelList.model_validate_json(await _list_body(api)).data]
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(p) for p in first["loc"])
        raise ModelListError(f"its list of models cannot be read: {where}: {first['msg']}") from None
    except TimeoutError:
        raise ModelListError(f"no answer after {LIST_TIMEOUT * (1 + LIST_RETRIES)} s", useless=True) from None
    except openai.APIStatusError as e:
        if e.status_code in _UNLISTED:
            return None  # the first request will tell whether the address is right
        words = error_message(e.body) or e.response.text
        reason = f"HTTP {e.status_code}: {cleaner.clean(words) or 'no reason given'}"
        raise ModelListError(reason, useless=e.status_code == 401 or e.status_code >= 500) from None
    except (openai.OpenAIError, httpx2.HTTPError) as e:
        cause = e.__cause__ or e
        reason = f"no answer: {cleaner.clean(str(cause)) or type(cause).__name__}"
        raise ModelListError(reason, useless=True) from None


def nearest(name: str, known: list[str]) -> str:
    """The few of the known names that are most like one, for people."""
    near = difflib.get_close_matches(name, known[:10_000], n=5, cutoff=0.3) or known[:5]
    others = len(known) - len(near)
    return (", ".join(map(repr, near)) or "no model") + (f" and {others} more" if others else "")


async def _list_body(api: openai.AsyncOpenAI) -> bytes:
    body = bytearray()
    async with api.models.with_streaming_response.list() as answer:
        async for chunk in answer.iter_bytes():
            body += chunk
            if len(body) > MAX_LIST:
                raise ModelListError(f"its list of models is larger than {MAX_LIST >> 20} MiB")
    return bytes(body)
