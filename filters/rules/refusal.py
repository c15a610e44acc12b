"""Filter of refusals: a response that declines the task instead of answering it.

The patterns cover the phrases that instruction datasets are usually cleaned of. They match only at the start
of one of the first sentences; within a sentence or a quotation the words are somebody else's.
"""

from __future__ import annotations

import re

from filters.extract.answer import extract
from filters.extract.sentences import is_prose
from filters.result import FilterResult, failed, passed
from pipeline.rows import Trace

HEAD = 400  # characters of a response that are searched
SENTENCES = 3  # of those

# Text that may precede a refusal, up to a punctuation mark; then perhaps a "but".
_APOLOGIES = (
    r"i'm (?:very |really |so |truly )?sorry|i am (?:very |really )?sorry|sorry|(?:my )?apologies"
    r"|i (?:do )?apologi[sz]e|unfortunately|regrettably|thank you for|i(?:'m| am) afraid(?: that)?|however",
    r"as an? (?:ai|artificial|large language|language)\b|als (?:ki\b|künstliche|sprachmodell)",
    r"作为(?:一个|一名|一款)?(?:ai|人工智能|语言模型)",
    r"(?:es )?tut mir leid|entschuldigung|leider",
    r"(?:je suis )?désolée?|malheureusement",
    r"lo siento|lo lamento|lamentablemente",
    r"mi dispiace|spiacente|purtroppo",
    r"desculpe|sinto muito|infelizmente",
    r"(?:het )?spijt me|helaas",
    r"przepraszam|niestety",
    r"извините|простите|к сожалению|мне жаль",
    r"(?:非常|很)?抱歉|对不起|對不起|不好意思",
)
_APOLOGY = rf"(?:{'|'.join(_APOLOGIES)})"
_BUT = r"(?:(?:but|aber|mais|pero|ma|mas|maar|ale|но)\s|但是?)?\s?"
_OPENINGS = (  # the apology alone, or with the rest of its clause
    re.compile(rf"{_APOLOGY}\s?{_BUT}"),
    re.compile(rf"{_APOLOGY}[^.!?\n。,，:;—]{{0,60}}[.!,，:;。—]{{1,3}}\s{{0,3}}{_BUT}"),  # noqa: RUF001
)
_END = r"(?=\s*(?:[.!*]|\Z))"
# The refused thing, in the rest of the clause. "I cannot write this as a square" and "I cannot give a smaller
# number" are no refusals.
_REQUEST = (
    r"(?=[^.\n]{0,60}\b(?:requests?|questions?|information|instructions|advice|images?|files?|links?|content"
    r"|conversation|you with|such(?! an?\b)|(?:this|that)(?=\s*(?:[.!*,;]|\Z|(?:kind|type|sort|specific"
    r"|particular|topic|problem|task|for you)\b)))(?!\w))"
)
_ANSWER = (  # "I cannot give an answer in closed form" is no refusal either
    r" (?:you )?(?:with )?(?:an?|the|any) (?:definitive |complete |specific |final |correct |direct )?"
    r"(?:answer|solution|response)(?=\s*(?:[.!,;:]|to\b|for\b|at\b|here\b|\Z))"
)
_HELP = (
    r"(?:help|assist)\b(?! but| it\b| \w{1,20}ing\b)|comply\b|fulfil|discuss\b|engage in\b|participate in\b"
    rf"|do (?:that|this)(?:{_END}| for you\b)|(?:answer|respond|continue){_END}"
    rf"|(?:solve|answer|do|complete) (?:this|that|the|your) (?:problem|question|task|exercise|request){_END}"
    rf"|(?:provide|give|offer){_ANSWER}|(?:answer|provide|offer|create|generate|respond)\b{_REQUEST}"
)
_CANNOT = (
    r"(?:cannot|can't|can not|(?:won't|will not) be able to"
    r"|(?:am|'m) (?:unable|not able|not allowed|not permitted) to)"
)
_REFUSALS = {
    "en": rf"i(?: simply)? ?(?:{_CANNOT}|won't|will not|refuse to|decline to|(?:am|'m) not going to)"
    rf" (?:in good conscience |currently |directly |really )?(?:{_HELP})"
    rf"|i(?: simply)? ?{_CANNOT} (?:give|write|share|complete|continue|access|view|see)\b{_REQUEST}"
    rf"|unable to (?:help|assist|comply|fulfil|(?:answer|respond)(?:{_END}| this\b| that\b| your\b))"
    rf"|i(?:'m| am) (?:not allowed|not permitted|not comfortable)\b{_REQUEST}"
    r"|i(?:'m| am) not comfortable (?:answering|helping|doing)\b"
    r"|i(?:'m| am) not (?:programmed|designed|trained) to\b"
    r"|i (?:do not|don't) (?:have|hold) (?:personal |real |any )*(?:opinions?|feelings|beliefs|emotions"
    r"|preferences|experiences|access to (?:your|this|real|the internet)|enough information to answer)\b"
    r"|i (?:must|have to|need to) (?:respectfully |politely )?(?:decline|refuse)\b(?! \d)|i decline to\b"
    r"|(?:this|your) request violates\b|my guidelines (?:prevent|forbid|do not allow)\b",
    "de": r"(?:ich |dabei |damit |da )?(?:kann|darf|möchte|werde) (?:ich )?[^.\n]{0,60}?nicht "
    r"(?:weiterhelfen|helfen|beantworten|unterstützen|bereitstellen|erfüllen|nachkommen)",
    "fr": r"je ne (?:peux|puis|suis) (?:malheureusement )?pas (?:en mesure de )?(?:vous |t')?"
    r"(?:aider|répondre|fournir|assister)",
    "es": r"(?:yo )?no puedo (?:ayudar|responder|proporcionar|asistir|cumplir)",
    "it": r"non posso (?:aiutar|risponder|fornir|assister)",
    "pt": r"(?:eu )?não posso (?:ajud|respond|fornecer|auxiliar|atender)",
    "nl": r"(?:ik )?kan (?:ik )?[^.\n]{0,40}?niet (?:\w{1,10} )?(?:helpen|beantwoorden)",
    "pl": r"nie mogę (?:ci )?(?:w tym )?(?:pomóc|odpowiedzieć|udzielić)",
    "ru": r"(?:я )?не (?:могу|буду|в состоянии) (?:вам |тебе )?"
    r"(?:помочь|помогать|ответить|предоставить|выполнить)",
    "zh": r"(?:但)?我?(?:无法|不能|不可以|没办法|無法)(?:[为帮向][您你])?"
    r"(?:提供|回答|协助|帮助|讨论|協助|满足(?:[您你]|[^。\n]{0,4}请求))",
    "ja": r"(?:申し訳|すみません|ごめんなさい)[^。\n]{0,50}"
    r"(?:手伝い|答え|応え|対応|提供|回答|協力)[^。\n]{0,14}(?:ません|かねます)",
    "ko": r"(?:죄송|미안)[^.\n]{0,60}(?:도와|도움|답변|제공|응답|수행|지원)[^.\n]{0,16}(?:수 없|못|어렵)",
}
_REFUSAL = re.compile("|".join(_REFUSALS.values()))
_SENTENCE_END = re.compile(r"[.!?\n][\s*_]*|[。！？]")  # noqa: RUF001


def no_refusal(trace: Trace) -> FilterResult:
    """The response does not begin with a refusal, in any of twelve languages, unless it states an answer.

    A boxed or tagged answer counts anywhere, "the answer is" only after the refusal.
    """
    body = trace.response.lstrip(" \t\r\n*_#>")
    refusal = _refusal(body[:HEAD].lower().replace("’", "'"))  # noqa: RUF001
    if refusal is None:
        return passed()
    answer = extract(trace.response)
    if answer and answer.how in ("boxed", "tag"):
        return passed()
    answer = extract(body[refusal.stop :])
    if answer and answer.how == "phrase" and not is_prose(answer.text):
        return passed()
    return failed("refused", body[refusal])


def _refusal(head: str) -> slice | None:
    """The refusal, from the start of its sentence; None if there is none."""
    at = 0
    for _ in range(SENTENCES):
        for start in _starts(head, at):
            if match := _REFUSAL.match(head, start):
                return slice(at, match.end())
        end = _SENTENCE_END.search(head, at)
        if end is None:
            return None
        at = end.end()
    return None


def _starts(head: str, at: int) -> list[int]:
    """Positions where a refusal may begin in a sentence: its start, and after apologies."""
    starts = [at]
    for start in starts:  # the list grows while it is read
        if len(starts) > 2 * SENTENCES:
            break
        starts += [found.end() for opening in _OPENINGS if (found := opening.match(head, start))]
    return starts
