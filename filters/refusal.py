"""Filter of refusals: a response that declines the task instead of answering it.

The phrases are those that sets of instructions are usually cleaned of, written as patterns. They are looked
for where a refusal stands, at the start of one of the first sentences: within a sentence or within quotation
marks they are somebody else's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from filters.answers import extract
from filters.finding import Finding, fit, unfit

if TYPE_CHECKING:
    from pipeline.rows import Trace

HEAD = 400  # characters of a response that are looked at
SENTENCES = 3

# What may stand before a refusal, up to a comma or stop; then perhaps a "but".
_APOLOGIES = (
    r"i['’]?m (?:very |really |so |truly )?sorry|i am (?:very |really )?sorry|sorry|(?:my )?apologies"  # noqa: RUF001
    r"|i (?:do )?apologi[sz]e|unfortunately|thank you for",
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
_OPENING = re.compile(
    rf"(?:{'|'.join(_APOLOGIES)})[^.!?\n。,，:;—]{{0,60}}(?:[.!,，:;。—]{{1,3}}\s{{0,3}})?"  # noqa: RUF001
    r"(?:(?:but|aber|mais|pero|ma|mas|maar|ale|но)\s|但是?)?\s?"
)
_REQUEST = (  # what is refused: "I cannot give a smaller number" is none
    r"(?=[^.\n]{0,60}\b(?:requests?|questions?|that|this|such|information|instructions|advice|images?|files?"
    r"|links?|you)\b)"
)
_REFUSALS = {
    "en": r"i (?:simply )?(?:cannot|can['’]?t|can not|won['’]?t|will not|am unable to|am not able to) "  # noqa: RUF001
    r"(?:(?:help|assist)\b(?! but)|comply\b|fulfil|discuss\b|engage in\b|participate in\b|do (?:that|this)\b"
    r"|(?:answer|provide|offer|give|create|generate|write|share|respond|complete|continue|access|view|see)\b"
    rf"{_REQUEST})"
    r"|i['’]?m (?:unable|not able|not allowed|not permitted|not comfortable)\b"  # noqa: RUF001
    rf"{_REQUEST}"
    r"|i (?:must|have to|need to) (?:respectfully |politely )?(?:decline|refuse)\b|i decline to\b",
    "de": r"(?:ich |dabei |damit |da )?(?:kann|darf|möchte|werde) (?:ich )?[^.\n]{0,60}?nicht "
    r"(?:weiterhelfen|helfen|beantworten|unterstützen|bereitstellen|erfüllen|nachkommen)",
    "fr": r"je ne (?:peux|puis|suis) (?:malheureusement )?pas (?:en mesure de )?(?:vous |t['’])?"  # noqa: RUF001
    r"(?:aider|répondre|fournir|assister)",
    "es": r"(?:yo )?no puedo (?:ayudar|responder|proporcionar|asistir|cumplir)",
    "it": r"non posso (?:aiutar|risponder|fornir|assister)",
    "pt": r"(?:eu )?não posso (?:ajud|respond|fornecer|auxiliar|atender)",
    "nl": r"(?:ik )?kan (?:ik )?[^.\n]{0,40}?niet (?:\w{1,10} )?(?:helpen|beantwoorden)",
    "pl": r"nie mogę (?:ci )?(?:w tym )?(?:pomóc|odpowiedzieć|udzielić)",
    "ru": r"(?:я )?не (?:могу|буду|в состоянии) (?:вам |тебе )?"
    r"(?:помочь|помогать|ответить|предоставить|выполнить)",
    "zh": r"(?:但)?我?(?:无法|不能|不可以|没办法|無法)(?:[为帮向][您你])?"
    r"(?:提供|回答|协助|帮助|满足|讨论|協助)",
    "ja": r"(?:申し訳|すみません|ごめんなさい)[^。\n]{0,50}"
    r"(?:手伝い|答え|応え|対応|提供|回答|協力)[^。\n]{0,14}(?:ません|かねます)",
    "ko": r"(?:죄송|미안)[^.\n]{0,60}(?:도와|도움|답변|제공|응답|수행|지원)[^.\n]{0,16}(?:수 없|못|어렵)",
}
_REFUSAL = re.compile("|".join(_REFUSALS.values()))
_SENTENCE_END = re.compile(r"[.!?\n][\s*_]*|[。！？]")  # noqa: RUF001


def no_refusal(trace: Trace) -> Finding:
    """The response does not open by refusing, in twelve languages; a boxed or tagged answer outweighs it."""
    head = trace.response.lstrip(" \t\r\n*_#>")[:HEAD].lower()
    refusal = _refusal(head)
    if refusal is None:
        return fit()
    answer = extract(trace.response)
    return fit() if answer and answer.how in ("boxed", "tag") else unfit("refused", refusal)


def _refusal(head: str) -> str | None:
    at = 0
    for _ in range(SENTENCES):
        starts = [at]
        while len(starts) <= SENTENCES and (opening := _OPENING.match(head, starts[-1])):
            starts.append(opening.end())
        for start in starts:
            if match := _REFUSAL.match(head, start):
                return head[at : match.end()]
        end = _SENTENCE_END.search(head, at)
        if end is None:
            return None
        at = end.end()
    return None
