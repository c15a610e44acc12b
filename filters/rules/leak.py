"""Filter of leaked references: reasoning that mentions an answer it was given, or its prompt.

A teacher that was shown the reference or worked examples may reason towards it ("the answer given is 12, so
..."). That teaches a student to justify instead of to solve. STaR (Zelikman et al. 2022, arXiv 2203.14465)
calls such traces rationalizations and requires them to read as if nothing had been given. Mentioning what the
question itself mentions is no leak.
"""

from __future__ import annotations

import functools
import re

from filters.result import FilterResult, failed, passed
from filters.text.prose import reasoning_of
from pipeline.rows import Trace

AROUND = 60  # characters searched on either side of a keyword

_SHOWN = r"(?:given|provided|supplied|reference|official|sample|model|gold|ground[- ]truth|suggested)"
# Fewer words than _SHOWN: a question may give a salt solution, or a solution of an equation.
_SHOWN_SOLUTION = r"(?:reference|official|model|gold|ground[- ]truth|suggested)"
_SAYS = r"(?:is|was|says|said|states|gives|claims|mentions)\b"
_SAYS_THE_ANSWER = (
    r"(?:says|states|tells (?:me|us)|claims) (?:that )?the (?:final |correct |right )?answer is\b"
)
# Answer options, and answers to other questions, are not the reference.
_NOT_THIS = (
    r"(?!(?:['’]s)?[ -](?:choice|option|set|format|form|space|template|box|alternative|candidate|list|type"  # noqa: RUF001
    r"|interval|curve|path)(?:s|es)?\b"
    r"|[ -](?:to|of|for|in|from) (?:part|problem|question|exercise|example"
    r"|the (?:first|second|previous|last|equation|system|inequality|differential|sub)))"
)
_NOUN = rf"(?:final |correct |right )?(?:answer|solution)\b{_NOT_THIS}"
_THE = r"\b(?:the|this|that|your|our|my)"
_WHERE = r"(?: to (?:me|us)| here| above| in the (?:prompt|reference|data ?set|solution|key|ground truth))?"
_TOLD = (
    r"\b(?:i|we)(?:['’]m|['’]re| am| are| was| were| have been) (?:already )?"  # noqa: RUF001
    rf"(?:given|told|provided with|shown) (?:that )?(?:the {_NOUN}"
    rf"|(?:[^.\n]|\.\d){{1,40}}? as the {_NOUN})"
)
# "The expected answer is 12" is a leak, "the expected answer is probably 12" is a guess.
_KNOWN = (
    r"(?P<known>\b(?:the|this|that) (?:expected|known|target|stated|intended) (?:final |correct )?answer"
    r"(?: here)? (?:is|was|of)(?! (?:probably|likely|maybe|perhaps|presumably|surely|just|simply|not|to|in"
    r"|either|supposed|indeed|also|still|the|an?|one|some|something|that|what|as|a)\b))"
)
_GUESSED = re.compile(
    r"\b(?:think|guess|suppose|believe|suspect|assum\w{1,5}|imagine|maybe|perhaps|probably|likely|presumably|if"
    r"|whether|seems?|possibly)\b[^.\n]{0,30}\Z"
)
# Keyword -> phrases with it that mention a given answer.
_PHRASES = {
    "answer": (
        rf"{_THE} {_SHOWN} (?:final |correct |right )?answer\b{_NOT_THIS}",
        r"\bthe (?:final |correct )?answer (?:that (?:is |was |i was |we were |we are )|which (?:is |was ))?"
        rf"(?:given|provided|supplied){_WHERE} (?:is|was|says|states)\b",
        r"\bthe (?:final |correct |right )?answer (?:is|was) (?:already )?(?:known to be\b"
        rf"|(?:given|provided|supplied)(?: as\b|{_WHERE[:-1]}))",
        r"\banswer (?:key|sheet)\b",
        rf"\b(?:key|user|prompt|note|metadata) {_SAYS_THE_ANSWER}",
        _KNOWN,
        _TOLD,
    ),
    "solution": (
        rf"{_THE} {_SHOWN_SOLUTION} {_NOUN}",
        rf"{_THE} (?:given|provided|supplied|sample) (?:final |correct |right )?solution {_SAYS}",
        r"\b(?:according to|as per|as in) the (?:(?:given|provided|supplied|sample) )?solution\b"
        r"(?! (?:of|to|for|set|in|above|we|i)\b)",
        r"\bthe solution (?:says|states|mentions|claims)\b",
        r"\bsolutions? manual\b",
        rf"\bthe solution (?:given|provided|supplied){_WHERE} (?:is|was|says|states)\b",
        _TOLD,
    ),
    "ground truth": (r"\bthe ground truth\b", r"\bground truth (?:answer|label|solution)\b"),
    "hint": (rf"\bhint {_SAYS_THE_ANSWER}",),
    "label": (r"\b(?:the|this) (?:gold|reference) label\b",),
    "reference": (r"\bthe reference (?:says|states)\b",),
    "prompt": (
        r"\b(?:system|hidden) prompt\b|\bin the prompt\b",
        r"\bthe prompt (?:says|tells|asks|states|gives|wants|instructs)\b",
    ),
    "example": (
        r"\bthe (?:worked |few-shot |in-context )?examples? (?:above|given|provided|shown)\b",
        r"\b(?:few-shot|in-context) examples?\b",
    ),
    "antwort": (r"\b(?:vorgegebene|angegebene|mitgelieferte)n? antwort\b", r"\blaut der antwort\b"),
    "lösung": (r"\b(?:vorgegebene|angegebene)n? lösung\b", r"\blaut (?:der )?(?:muster)?lösung\b"),
    "réponse": (r"\bla réponse (?:donnée|fournie)\b", r"\bselon la réponse\b"),
    "respuesta": (r"\bla respuesta (?:dada|proporcionada)\b", r"\bsegún la respuesta\b"),
    "答案": (r"(?:标准|参考|给定的?|所给的?|提供的)答案(?!选项)", r"根据答案"),
}
_PATTERNS = {word: re.compile("|".join(phrases)) for word, phrases in _PHRASES.items()}


def no_leak(trace: Trace, *, phrases: list[str] | None = None) -> FilterResult:
    """The reasoning does not mention a given answer or solution, nor the prompt or its examples.

    `phrases`: words of the prompt that reasoning must not contain, in any case. A phrase is no leak if the
    question contains it, mentions its subject ("the pH of the solution") or presents one as given ("the
    student's solution"), or if the reasoning only guesses.
    """
    text, question = reasoning_of(trace).lower(), trace.question.lower()
    for phrase in (p.lower() for p in phrases or () if p.strip()):
        at = text.find(phrase)
        if at >= 0 and phrase not in question:
            return failed("prompt_words", text[max(at - AROUND, 0) : at + len(phrase) + AROUND])
    for word, pattern in _PATTERNS.items():
        for start, end in _windows(text, word):
            for match in pattern.finditer(text, start, end):
                before = text[max(match.start() - AROUND, 0) : match.start()]
                guessed = match.lastgroup == "known" and _GUESSED.search(before)
                if not (guessed or match[0] in question or _presented(question, word)):
                    return failed("leaked_reference", text[start : match.end() + AROUND])
    return passed()


def _windows(text: str, word: str) -> list[tuple[int, int]]:
    """Spans around each occurrence of a word, merged where they overlap, so that each is searched once."""
    found: list[tuple[int, int]] = []
    at = text.find(word)
    while at >= 0:
        start, end = max(at - AROUND, 0), at + len(word) + AROUND
        if found and start <= found[-1][1]:
            start = found.pop()[0]
        found.append((start, end))
        at = text.find(word, at + len(word))
    return found


# Solutions that a question mentions, such as salt solutions or a student's; not the one that it asks for.
_SOLUTION = re.compile(
    r"\b(?:of|in|into|to|from|with|is|that) (?:the|a|an|this|that) solution\b"
    r"|\b(?:sample|given|aqueous|saline|buffer|acid|salt|sugar|stock) solution\b"
    r"|(?:\d%?|\bml|\blit(?:er|re)s?|\bmolar) [^.\n]{0,40}\bsolution\b"
)
_PAIR = re.compile(r"->|→|=>|\binput\b")  # between an input and its output; two of them make examples
# A question presents these by containing the word.
_NAMED = ("ground truth", "hint", "label", "reference", "prompt", "example")


@functools.lru_cache(maxsize=1024)  # one question has many samples
def _presented(question: str, word: str) -> bool:
    """Whether a question itself presents an answer, a solution or examples."""
    if not word.isascii() or word in _NAMED:
        return word in question or (word == "example" and len(_PAIR.findall(question)) > 1)
    if word == "solution" and _SOLUTION.search(question):
        return True
    before = r"(?:['’]s|his|her|my|their|following|given|provided|below|above|proposed|this|wrong|incorrect)"  # noqa: RUF001
    after = r"s? (?:below|above|given|provided|is (?:correct|wrong|given))"
    return bool(re.search(rf"{before} (?:\w+ )?{word}|\b{word}{after}|\b{word}:", question))
