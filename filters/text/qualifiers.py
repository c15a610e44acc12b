r"""Words that negate, limit or change a stated answer: not 5, half 5, 5 if n is even, perhaps 5.

Comparisons do not read these words, so an answer next to one of them is undecided, never correct. The tables
are mainly English, with words for "not" and "about" in other languages.
"""

from __future__ import annotations

import re

# Phrases are separated by |. The character * stands for the rest of a word.
NEGATIONS = """
not | never | no | nor | neither | none | nobody | nothing | nowhere | cannot | hardly | scarcely | barely
without | nicht | kein* | pas | n'est | non | não | nunca | niet | geen | inte | nie | değil | tidak
bukan | không | не | нет
"""
DENIALS = """
wrong | incorrect | untrue | mistaken | reject* | exclud* | rule out | rules out | ruled out | ruling out
eliminat* | dismiss* | discard* | avoid* | skip | doubt* | unlikely | except | anything but
everything but | all but | any * but | all * but | every * but | far from | other than | rather than
instead of | unlike | opposite | a lie | worst | least likely | least plausible | tempting | distractor
contradict* | used to | no longer | first guess | first thought | first idea | once believed
once thought | kidding | joking | a joke | jk
"""
HEDGES = """
they say | when it | says | said | thinks | thought | believes | believed | claims | claimed | pretend*
imagine | wish | hope | fear | rumor* | rumour* | naive | second best | trap | mistake | formerly | assume
might | may be | may have | could | maybe | perhaps | possibly | probably | presumably | allegedly
supposedly | reportedly | guess* | unsure | unclear | unknown | seem* | sometimes | partly | mostly
almost | nearly | somewhere | give or take | thereabouts | at best | at worst | said to | thought to
believed to | rumored to | rumoured to | who says | who said | who thinks | some say | some think
some believe | many say | many think | many believe | people say | people think | people believe
others say | others think | others believe | most say | one might | only a fool | would say
would have been | would guess | would think | would answer | would choose | give up | gave up | could not
"""
_CONDITIONS = """
if | unless | whenever | provided | assuming | suppos* | otherwise | else | depend* | whether | in case
in the case of | only when | for odd | for even | for part | for the first | for the second | for positive
for negative
"""
# Before a number.
_CHANGES = """
half | half of | a half | a third | a quarter | a fifth | a tenth | a third of | a quarter of
two thirds of | double | twice | triple | thrice | quadruple | * times | dozen | hundred | thousand
million | billion | *teen | *ty | point | than | least | most | up to | under | over | above | below
beyond | exceed* | between | from | minus | plus | negative | less | more | fewer | after | before
next to | past | near | near to | close to | region of | shy of | short of | out of | root | root of
square of | cube of | log | log of | logarithm of | reciprocal of | inverse of | negative of
factorial of | multiple of | power of | sum of | product of | difference of | percent of | divided by
multiplied by | modulo | mod | in | but | page | step | question | equation | option | part | chapter
mindestens | höchstens | die Hälfte von | au moins | au plus | al menos | como máximo | almeno
pelo menos | не менее | не более | fast | beinahe | knapp | presque | casi | quasi | quase | почти
"""
# Before a whole number only, since a decimal may be a rounded value.
_ROUGHLY = """
about | around | approximately | approx | roughly | circa | ca | some | etwa | ungefähr | rund | environ
aproximadamente | alrededor de | cerca de | около | примерно | приблизительно
"""
# After a number.
_CHANGED = """
dozen* | hundred* | thousand* | million* | billion* | trillion* | quintillion* | choose | permille | per mille
ppm | ppb | lac | lacs | pair* | score* | gross | grand | tens
k | bn | half | halves | third* | quarter* | fourths | fifths | sixths | eighths | ninths | tenths
hundredths | ish | or so | or more | or less | or fewer | or thereabouts | plus | minus | squared | cubed
factorial | mod | modulo | base | in base | by | power | too many | too few | too much | too little | off
below zero | at most | at least | is not | is wrong | is incorrect | is false | is too | was not
was wrong | for odd | for even | for negative | for positive | for small | for large | for part | digit
"""
# Numbers and operations in other languages, after a number: 5 Millionen, 5 mille, 5 тысяч.
SCALES = """
tausend | million* | milliarde* | dutzend | hundert | drittel | viertel | fünftel | mio | mrd | tsd
mille | milliard* | douzaine* | dizaine* | centaine* | au carré | au cube
mil | millón | millones | docena* | al cuadrado | al cubo | milhão | milhões | dúzia* | ao quadrado
mila | milione | milioni | miliard* | dozzin* | duizend | miljoen* | miljard* | dozijn | tusen | tusind
tysiąc* | tysięcy | milion* | milyon | milyar | juta | ribu | ratus | nghìn | triệu | tỷ
в квадрате | в кубе | do kwadratu | do sześcianu
тысяч* | миллион* | миллиард* | тыс | млн | млрд | дюжин* | сотен | тисяч* | мільйон* | мільярд*
"""
_OF_A_NUMBER = (
    "times | more than | less than | fewer than | short of | out of | of | percent of | percent more than"
)
_MARKS = re.compile(
    "[✗✘❌🚫👎不非没無无约約超未几幾]|大概|左右|或|至[少多]|以[上下内外]|\\d多|程度|前後|的[平立]方|の?[二三2-9]乗|의\\s?(?:세\\s?)?제곱|ない|ません|くらい|ぐらい"
    "|아니|아닙|않|약\\s?\\d|정도|이상|이하|미만|초과|또는|거의"
)


def any_phrase(*tables: str) -> str:
    """Returns a pattern that matches any phrase of the tables between word boundaries."""
    phrases = [phrase for table in tables for line in table.split("\n") for phrase in line.split("|")]
    found = (re.escape(phrase.strip()).replace(r"\*", r"\w*").replace(r"\ ", r"\s") for phrase in phrases)
    return rf"(?<![\w-])(?:{'|'.join(filter(None, found))})(?![\w-])"


CONDITION = re.compile(
    rf"{any_phrase(_CONDITIONS)}|(?<!\w)(?:for|when)\s[$\\(]*[a-zA-Z][$)]*\s?(?:[=<>≤≥]|is\b)", re.IGNORECASE
)
DOUBTS = rf"{any_phrase(NEGATIONS, DENIALS, HEDGES)}|n['’]t\b"  # noqa: RUF001
_DOUBT = re.compile(rf"{DOUBTS}|{CONDITION.pattern}|\?\s*\Z", re.IGNORECASE)
_PLAIN_NUMBER = re.compile(r"[-\d.,/$ ]*", re.ASCII)
_ROUGH = re.compile(r"[\s$\\({]*(?:~|≈|approx|sim)\s*-?\d[\d,]*(?![\d,]*[./])")  # ~5; but not ~5.02
_BEFORE_NUMBER = re.compile(
    rf"{any_phrase(_CHANGES)}[\s$\\({{\[*]*-?\d|(?:{any_phrase(_ROUGHLY)}\.?|[~≈])\s?\$?-?\d[\d,]*(?![\d,]*\.\d|[\d,]*/)"
    r"|[<>≤≥≠]\s?[$\\(]*-?\d",
    re.IGNORECASE,
)
_AFTER_NUMBER = re.compile(
    rf"\d[\s}}$*)]*(?:{any_phrase(_CHANGED, SCALES)}|(?:{any_phrase(_OF_A_NUMBER)}|% of)\s\$?\d|-ish|ish\b"
    r"|\+(?!\s?[\dA-Za-z(\\$])|_\{?\d|and \d+/\d"
    r"|\s(?:[a-z]+\s)?(?:two|three|four|five|six|seven|eight|nine)(?=\s*(?:[.,;)]|\Z))"  # 5 point two
    r"|\((?:(?:hundr|thousa)\w*|[a-z]{1,4}illion\w*|dozens?|negative|squared|cubed|percent|remainder)\b)"
    r"|\band (?:an? |one )?(?:half|third|quarter)\b",
    re.IGNORECASE,
)
_CHANGING = re.compile(  # as a remark on a number: 5 (thousand)
    any_phrase(
        SCALES,
        "hundred* | thousand* | million* | billion* | trillion* | dozen* | pair* | squared | cubed"
        "| factorial | mod | modulo | base | negative | percent | remainder",
    ),
    re.IGNORECASE,
)
_COMMAND = re.compile(r"\\[A-Za-z]+")
_NO_DENIAL = re.compile(
    r"\b(?:no (?:\w+ )?solutions?|(?:does|do) not exist)\b"  # these are answers
    r"|\bnot\s(?:it['’]s not\s)?[^\s,]+,?\s(?:but|it(?:['’]s| is))\s(?!not\b)",  # not 6 but 5  # noqa: RUF001
    re.IGNORECASE,
)


def changes_number(remark: str) -> bool:
    """Whether a remark on a number changes it: thousand, not included, except 3."""
    return bool(_CHANGING.match(remark) or _DOUBT.search(remark))


def is_changed(text: str) -> bool:
    """Whether words or symbols negate, limit or change the number or word that a text contains."""
    return is_doubted(text) or bool(_BEFORE_NUMBER.search(text) or _AFTER_NUMBER.search(text))


def is_doubted(text: str, reference: str = "") -> bool:
    """Whether words negate, limit or doubt a text. Words that the reference contains too do not count."""
    if _PLAIN_NUMBER.fullmatch(text):  # the usual case
        return False
    if _ROUGH.match(text) or (
        not text.isascii() and (mark := _MARKS.search(text)) and mark[0] not in reference
    ):
        return True
    known = reference.casefold()
    words = _DOUBT.finditer(_NO_DENIAL.sub(" ", _COMMAND.sub(" ", text)))
    return any(match[0].casefold() not in known for match in words)
