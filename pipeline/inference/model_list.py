"""Lists the models of a server. The list is a hint: many servers accept names that they do not list."""

from __future__ import annotations

import asyncio
import difflib

from pydantic import BaseModel, ValidationError

from pipeline.inference.credentials import Redactor
from pipeline.inference.http import MODELS, ResponseLimits, Transport
from pipeline.inference.http_errors import ErrorStatus, RequestFailed, Retry, classify, describe
from pipeline.inference.retry import backoff

TIMEOUT = 30  # seconds of one attempt without progress
MAX_RETRIES = 2
MAX_LIST = 2**24  # bytes; the longest lists, of a thousand models with prices, are under 1 MB

_UNLISTED = {404, 405, 501}


class ModelListError(Exception):
    """The server did not list its models. The message is one line with the reason.

    `unusable`: it would take no request either: no response, a wrong key, or an internal error.
    """

    def __init__(self, reason: str, *, unusable: bool = False) -> None:
        super().__init__(reason)
        self.unusable = unusable


class _Model(BaseModel):
    id: str


class _ModelList(BaseModel):
    data: list[_Model]


async def find_model(model: str, transport: Transport, redactor: Redactor, max_retries: int) -> str | None:
    """Returns None if the server lists the model or keeps no list; otherwise what it said, in one line.

    Raises ModelListError if the server is unusable.
    """
    try:
        known = await list_models(transport, redactor, max_retries)
    except ModelListError as e:
        if e.unusable:
            raise
        return str(e)
    # Some servers list "models/NAME" and accept "NAME".
    if known is None or any(f"/{name}".endswith(f"/{model}") for name in known):
        return None
    return f"it lists {redactor.clean(_closest(model, known))}"


async def list_models(transport: Transport, redactor: Redactor, max_retries: int) -> list[str] | None:
    """Returns the names of the server's models; None if it keeps no list. Raises ModelListError."""
    seconds = TIMEOUT * (1 + MAX_RETRIES)
    try:
        async with asyncio.timeout(seconds):
            body = await _get(transport, redactor, min(MAX_RETRIES, max_retries))
        return [model.id for model in _ModelList.model_validate_json(body).data]
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(p) for p in first["loc"])
        raise ModelListError(f"its list of models cannot be read: {where}: {first['msg']}") from None
    except RequestFailed:
        raise ModelListError(f"its list of models is larger than {MAX_LIST >> 20} MiB") from None
    except TimeoutError:
        raise ModelListError(f"no response after {seconds} s", unusable=True) from None
    except ErrorStatus as e:
        if e.status in _UNLISTED:
            return None  # the first request will tell whether the address is right
        raise ModelListError(describe(e, redactor), unusable=e.status == 401 or e.status >= 500) from None
    except Retry as e:
        raise ModelListError(redactor.clean(e.reason), unusable=True) from None


async def _get(transport: Transport, redactor: Redactor, max_retries: int) -> bytes:
    limits = ResponseLimits(TIMEOUT, overhead=MAX_LIST)
    for retries in range(max_retries):
        try:
            return await transport.fetch(MODELS, limits)
        except (ErrorStatus, Retry) as e:
            failure = classify(e, redactor) if isinstance(e, ErrorStatus) else e
            if not isinstance(failure, Retry):
                raise
        await asyncio.sleep(backoff(retries) if failure.after is None else failure.after)
    return await transport.fetch(MODELS, limits)


def _closest(name: str, known: list[str]) -> str:
    """Returns the few known names most like the given one, as text."""
    near = difflib.get_close_matches(name, known[:10_000], n=5, cutoff=0.3) or known[:5]
    others = len(known) - len(near)
    return (", ".join(map(repr, near)) or "no model") + (f" and {others} more" if others else "")
