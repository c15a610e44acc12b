"""What it means when a server refuses: that another try may pass, that this request cannot, or that none can.

The form of an error differs from server to server; its words are untrusted. Leaves out what is done about it
(client.py).
"""

from __future__ import annotations

import re

from pydantic_core import from_json, to_json

from pipeline.inference.credentials import Redactor, error_message
from pipeline.inference.http import ErrorStatus, RequestFailed, Retry
from pipeline.inference.sse import words_in

_BUSY = {429, 502, 503, 520, 521, 522, 523, 529}  # too much to do, or a gateway before nobody
_TOO_LATE = {504, 524}  # a gateway gave up waiting: the same answer may take as long again
_TOO_LARGE = re.compile(r"(?i)\brequest too large\b")  # for the account's limit a minute, said with a 429
_AGAIN = {408, 409, 425}
_NAMES = (
    "code",
    "type",
    "status",
    "reason",
    "error",
    "error_type",
    "error_code",
)  # fields of an error's kind
# No other request can succeed either: bad key, no money, not allowed, wrong address or model.
_HOPELESS_STATUS = {401, 402, 403, 404}
_HOPELESS_CODE = {"model_not_found", "invalid_api_key"}
# The account has no money left, or its quota is used up for longer than a wait could help: as a word of code,
# type or status, or as a message.
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


# Fields that a request can do without, in the order in which they are let go of: a server that takes either
# of temperature and top_p keeps the first.
_SPARE = ("stream_options", "seed", "top_p", "temperature")
_UNTAKEN = re.compile(
    r"(?i)\b(not|unsupported|unknown|unrecogni[sz]ed|unexpected|extra|cannot|only|deprecated|incompatible"
    r"|invalid|forbidden|must|conflicts?)\b|n't\b"
)
_OUT_OF_RANGE = re.compile(r"(?i)\b(between|range|less than|greater than|at (least|most)|exceeds?)\b|[<>]=")


class FieldRefused(RequestFailed):
    """A refusal that names fields which the request can do without, the first to let go of first."""

    def __init__(self, reason: str, fields: tuple[str, ...]) -> None:
        super().__init__(reason, refused=True)
        self.fields = fields


class FatalError(Exception):
    """Every other request would be refused the same way. The message is one short line saying why.

    `account`: it is about the account's money, whatever was answered before.
    """

    def __init__(self, reason: str, *, account: bool = False) -> None:
        super().__init__(reason)
        self.account = account


def judge(error: ErrorStatus, cleaner: Redactor, began: bool = False) -> Retry | RequestFailed | FatalError:
    """What a refusal means. `began`: it broke an answer off, which has to be paid as far as it came."""
    status, body = error.status, _parsed(error.body)
    reason = f"HTTP {status}: {cleaner.clean(_words(body)) or 'no reason given'}"
    if status == 402 or _no_money(body, reason):
        return FatalError(reason, account=True)
    if status in (400, 422) and (fields := _spare_fields(body)):
        return FieldRefused(reason, fields)
    if _hopeless(status, body, reason):
        return FatalError(reason)
    word = "5xx" if status >= 500 else str(status)
    if _TOO_LARGE.search(reason):
        return RequestFailed(reason, refused=True)
    if status in _BUSY:
        return Retry(word, reason, counts=began, busy=not began, after=error.after)
    if status >= 500 or status in _AGAIN:
        return Retry(word, reason, busy=status in _TOO_LATE, after=error.after)
    return RequestFailed(reason, refused=True)


def _hopeless(status: int, body: object, reason: str) -> bool:
    error = body.get("error") if isinstance(body, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    coded = isinstance(code, str) and code in _HOPELESS_CODE
    moved = 300 <= status < 400
    return (
        moved or status in _HOPELESS_STATUS or coded or bool(status == 400 and _UNKNOWN_MODEL.search(reason))
    )


def _no_money(body: object, reason: str) -> bool:
    """Whether any field says that the account is empty; not where it says that a wait of minutes helps."""
    if isinstance(body, dict) and _SOON.search(to_json(body).decode()):
        return False
    error = body.get("error") if isinstance(body, dict) else None
    fields = [source.get(name) for source in (body, error) if isinstance(source, dict) for name in _NAMES]
    return bool(_NO_MONEY.search(reason)) or any(
        isinstance(word, str) and len(word) <= 64 and _NO_MONEY_WORD.search(word) for word in fields
    )


def _spare_fields(body: object) -> tuple[str, ...]:
    """The spare fields that a refusal says the server does not take; a value out of range is the recipe's."""
    words = body if isinstance(body, str) else to_json(body).decode()
    if not _UNTAKEN.search(words) or _OUT_OF_RANGE.search(words):
        return ()
    return tuple(name for name in _SPARE if re.search(rf"(?<![\w-]){name}(?![\w-])", words))


def _parsed(body: object) -> object:
    if not isinstance(body, bytes):
        return body
    try:
        parsed = from_json(body)
        return parsed[0] if isinstance(parsed, list) and len(parsed) == 1 else parsed
    except ValueError:
        return words_in(body)


def _words(body: object) -> str:
    if words := error_message(body):
        return words
    return body if isinstance(body, str) else to_json(body).decode() if body else ""
