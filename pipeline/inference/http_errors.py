"""Exceptions of a request, and the classification of refusals: transient, this request's own, or fatal.

The form of an error differs from server to server, and its text is untrusted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydantic_core import from_json, to_json

from pipeline.errors import WorkItemFailed
from pipeline.inference.credentials import Redactor, error_message, visible_text

_OVERLOADED = {429, 502, 503, 520, 521, 522, 523, 529}  # overload, or a gateway without a backend
_GATEWAY_TIMEOUT = {504, 524}  # the same response may take as long again
_TRANSIENT = {408, 409, 425}
_FATAL_STATUS = {401, 402, 403, 404}  # bad key, no money, not allowed, wrong address or model
_FATAL_CODE = {"model_not_found", "invalid_api_key"}
_KIND_FIELDS = ("code", "type", "status", "reason", "error", "error_type", "error_code")
_TOO_LARGE = re.compile(r"(?i)\brequest too large\b")  # above the account's limit per minute, sent with a 429
# The account has no money left, or its quota is used up for longer than any backoff: as a word of a kind
# field, or as a message.
_NO_MONEY_WORD = re.compile(
    r"(?i)insufficient_?(quota|balance|credit|fund)|billing|arrear|overdue|payment_?required|current_?quota"
)
_NO_MONEY = re.compile(
    r"(?i)\b(exceeded your current quota|credit balance|insufficient (account )?(quota|balance|credit|fund)"
    r"|account is in good standing|billing (details|hard limit|is not active)|out of credits?|in arrears"
    r"|account is overdue|payment required)"
)
_SOON = re.compile(r"(?i)\b(retry|try again) (in|after) [0-9]|per[_ ]?(minute|second)|retry_?delay")
_UNKNOWN_MODEL = re.compile(
    r"(?i)\b(unknown|invalid|no such|unsupported) model\b|\bmodel\b.{0,120}\bnot (found|exist|supported)\b"
)
# Fields that a request can do without, in the order in which they are dropped: a server that takes either
# of temperature and top_p keeps the first.
_OPTIONAL = ("stream_options", "seed", "top_p", "temperature")
_NOT_ACCEPTED = re.compile(
    r"(?i)\b(not|unsupported|unknown|unrecogni[sz]ed|unexpected|extra|cannot|only|deprecated|incompatible"
    r"|invalid|forbidden|must|conflicts?)\b|n't\b"
)
_OUT_OF_RANGE = re.compile(r"(?i)\b(between|range|less than|greater than|at (least|most)|exceeds?)\b|[<>]=")


class RequestFailed(WorkItemFailed):
    """This request has no response, others may have one. The message is one short line with the reason."""

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


class FieldRefused(RequestFailed):
    """A refusal that names optional fields of the request, the first to drop first."""

    def __init__(self, reason: str, fields: tuple[str, ...]) -> None:
        super().__init__(reason, refused=True)
        self.fields = fields


class ErrorStatus(Exception):
    """The server refused, with an HTTP status or with an error inside a response that began well."""

    def __init__(self, status: int, body: object, after: float | None = None) -> None:
        super().__init__(f"HTTP {status}")
        self.status, self.body = status, body
        self.after = after  # seconds that the server asks to wait


@dataclass(eq=False)
class Retry(Exception):
    """This attempt failed, another may succeed."""

    cause: str  # "429", "5xx", "connection", "dropped", "stalled", "garbage"; retries are counted by it
    reason: str  # one line, not redacted yet
    counts: bool = True  # against max_retries; otherwise it waits as long as other requests get responses
    busy: bool = False  # the server is overloaded: it refuses before it begins to respond
    refused: bool = False  # no connection
    after: float | None = None  # seconds that the server asks to wait


class FatalError(Exception):
    """Every other request would be refused the same way. The message is one short line with the reason.

    `account`: the account has no money, whatever responses it got before.
    """

    def __init__(self, reason: str, *, account: bool = False) -> None:
        super().__init__(reason)
        self.account = account


def classify(
    error: ErrorStatus, redactor: Redactor, began: bool = False
) -> Retry | RequestFailed | FatalError:
    """Classifies a refusal. `began`: it broke off a response, which has to be paid as far as it came."""
    status, body = error.status, _parsed(error.body)
    reason = _reason(status, body, redactor)
    if status == 402 or _no_money(body, reason):
        return FatalError(reason, account=True)
    if status in (400, 422) and (fields := _optional_fields(body)):
        return FieldRefused(reason, fields)
    if _is_fatal(status, body, reason):
        return FatalError(reason)
    if _TOO_LARGE.search(reason):
        return RequestFailed(reason, refused=True)
    cause = "5xx" if status >= 500 else str(status)
    if status in _OVERLOADED:
        return Retry(cause, reason, counts=began, busy=not began, after=error.after)
    if status >= 500 or status in _TRANSIENT:
        return Retry(cause, reason, busy=status in _GATEWAY_TIMEOUT, after=error.after)
    return RequestFailed(reason, refused=True)


def describe(error: ErrorStatus, redactor: Redactor) -> str:
    """Returns the status and the server's message as one line."""
    return _reason(error.status, _parsed(error.body), redactor)


def _reason(status: int, body: object, redactor: Redactor) -> str:
    message = error_message(body) or (
        body if isinstance(body, str) else to_json(body).decode() if body else ""
    )
    return f"HTTP {status}: {redactor.clean(message) or 'no reason given'}"


def _is_fatal(status: int, body: object, reason: str) -> bool:
    error = body.get("error") if isinstance(body, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    if 300 <= status < 400 or status in _FATAL_STATUS or (isinstance(code, str) and code in _FATAL_CODE):
        return True
    return status == 400 and bool(_UNKNOWN_MODEL.search(reason))


def _no_money(body: object, reason: str) -> bool:
    """Whether any field says that the account is empty, and none that waiting for minutes helps."""
    if isinstance(body, dict) and _SOON.search(to_json(body).decode()):
        return False
    error = body.get("error") if isinstance(body, dict) else None
    kinds = [part.get(name) for part in (body, error) if isinstance(part, dict) for name in _KIND_FIELDS]
    return bool(_NO_MONEY.search(reason)) or any(
        isinstance(kind, str) and len(kind) <= 64 and _NO_MONEY_WORD.search(kind) for kind in kinds
    )


def _optional_fields(body: object) -> tuple[str, ...]:
    """Returns the optional fields that the server does not accept; a value out of range is not meant."""
    text = body if isinstance(body, str) else to_json(body).decode()
    if not _NOT_ACCEPTED.search(text) or _OUT_OF_RANGE.search(text):
        return ()
    return tuple(name for name in _OPTIONAL if re.search(rf"(?<![\w-]){name}(?![\w-])", text))


def _parsed(body: object) -> object:
    if not isinstance(body, bytes):
        return body
    try:
        parsed = from_json(body)
    except ValueError:
        return visible_text(body)
    return parsed[0] if isinstance(parsed, list) and len(parsed) == 1 else parsed
