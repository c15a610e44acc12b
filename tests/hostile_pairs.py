"""Answers that only look correct, made from templates. Correct ones are in `tests.fair_pairs`.

Each is (group, answer type, reference, response), and none may be graded as correct. Templates take
several numbers or words in turn.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

Pair = tuple[str, str, str, str]
NUMBERS = ("5", "18", "7.5", "120")
OTHERS = {"5": "6", "18": "21", "7.5": "8", "120": "100"}
CITIES = ("Paris", "Lyon", "New Delhi")

# Formulas that agree near 0, at positive numbers, almost everywhere, or to many digits.
NEARLY = r"""
x+3 ~ |x+3| | x+3 ~ abs(x+3) | x-7 ~ -|x-7| | x ~ \min(x,100) | x ~ min(x, 1000) | x ~ \max(x,-50)
x ~ max(x, -10000) | 2x ~ |x|+x | x+40 ~ \sqrt{(x+40)^2}
x^2+1 ~ |x^2+1| + |x-900| - |900-x| + \lfloor x/300 \rfloor | 0 ~ \lfloor |x|/1000 \rfloor
x ~ x + \lfloor x^2/100000 \rfloor | 200-x ~ |x-200| | 25-x^2 ~ |25-x^2|
\lfloor x \rfloor ~ \lceil x \rceil - 1 | \lfloor x \rfloor ~ \lfloor x + 0.001 \rfloor
\lfloor x+0.5 \rfloor ~ \lceil x-0.5 \rceil | x^4 ~ x^4 + x - \min(x,80) | 0 ~ \max(0, 1-|x-50|)
n+1 ~ |n+1| | a-b+9 ~ |a-b+9| | x+y ~ \max(x+y, -30) | t ~ \min(t, 500) + 0 | k ~ \sqrt{k^2}
\ln(x) ~ \min(\ln x, 5) | e^x ~ \min(e^x, 1000) | x ~ \sqrt[3]{|x|^3} | x^3 ~ |x|^3 | \sin x ~ |\sin x|
x ~ \arcsin(\sin x) | x ~ x + 10^{-40} | \sqrt{2} ~ \sqrt{2} + 10^{-40} | x ~ x + 10^{-90}
\sqrt{3} ~ \sqrt{3} + 10^{-120} | 68925893036109279891085639286943768 ~ e^{\pi\sqrt{652}}
x ~ x + e^{-300} | y=x+3 ~ y=|x+3| | f(x)=x ~ f(x)=\min(x,100) | y=x ~ y=\max(x,-200) | x+3=5 ~ |x+3|=5
x-4=9 ~ |x-4|=9 | x+3<5 ~ |x+3|<5 | x+20>1 ~ |x+20|>1 | x=3 ~ |x|=3 | x>2 ~ x \ge 2 | x<5 ~ |x|<5
y=x^2 ~ y=\min(x^2,900) | (x+3, 1) ~ (|x+3|, 1) | [0, a+9] ~ [0, |a+9|] | \{x, 2\} ~ \{\min(x,99), 2\}
x+60 ~ \left|x+60\right|
"""
UNITS = """
apples oranges | dollars cents | dollars euros | km miles | kg m | hours minutes | boys girls
metres feet | pounds dollars | red_marbles blue_marbles | m m^2 | m/s km/h | cm cm^3 | seconds days
quarters dimes | students teachers | litres gallons | mg g | degrees radians | rows columns | yuan yen
cats dogs | years months | votes seats | wins losses | square_feet feet | miles_per_hour miles
apples pears | men women | newtons joules
"""
MONEY = ("$5 €5", "€5 £5", "$5 5_cents", "£5 $5", "5_USD 5_EUR", "¥5 $5", r"\$5 €5", "5€ 5_dollars", "₹5 $5")
# %n is the number, %o another one.
MODIFIED = """
half %n | half of %n | %n and a half | a third of %n | double %n | twice %n | triple %n | three times %n
point %n | minus %n | negative %n | not %n | never %n | no %n | almost %n | about %n | nearly %n
roughly %n | around %n | approximately %n, but not quite | just under %n | just over %n | less than %n
more than %n | at least %n | at most %n | up to %n | fewer than %n | over %n | under %n | above %n
below %n | no more than %n | a bit over %n | %n or %o | %n or so | %n-ish | %nish | %n or more
%n or less | %n to %o | %n-%o | %n–%o | between %n and %o | from %n to %o | either %n or %o | %n dozen
%n hundred | %n thousand | %n million | %n dozens | %n pairs | %n score | %n tens | %n squared | %n cubed
%n factorial | %n! | the square root of %n | \\sqrt{%n} | %n plus %o | %n minus %o | %n times %o
%n modulo %o | %n \\bmod %o | %n% of %o | %n per cent of %o | %n out of %o | %n of %o | 1 in %n | %n to 1
log %n | the reciprocal of %n | 1/%n | %n more than %o | %n less than %o | %n short of %o | %n below zero
%n if n is even, else %o | %n if n is even | %n unless x = 2 | %n when x > 0, otherwise %o
%n provided that n > 2 | %n for odd n, %o for even n | %n, assuming no friction | %n (if x > 0)
%n except at 0 | %n, or maybe %o | %n, perhaps %o | maybe %n | perhaps %n | possibly %n
probably %n, but I am not sure | %n? | %n?? | I guess %n? | might be %n | could be %n
would be %n if it were true | anything but %n | everything except %n | not %n but %o | %o, not %n
%n is wrong | %n is not right | other than %n | %n, which is wrong | far from %n | close to %n
in the region of %n | %n+ | ~%n | >%n | <%n | \\geq %n | \\le %n | \\neq %n | \\approx %n or %o
%n \\pm 1 | %n ± 2 | %nx | %ni | %n\\pi | %n^2 | %n^{%o} | e^{%n} | 0x%n | %n k | %nk | %n grand | %n bn
twenty %n | %n thirds | %n quarters | %n and %o | %n, %o | %n; %o | the sum of %n and %o | %n less %o
%n gross
"""  # noqa: RUF001
WORDINGS = """
2\\boxed{%n} | -\\boxed{%n} | \\boxed{%n} + 1 | \\boxed{%n}^2 | \\boxed{%n} -> %o | x ≠ \\boxed{%n}
His answer is %n. | The student's answer is %n. | An answer is %n. | One possible answer is %n.
The first answer is %n. | The answer to the first part is %n. | For part (a) the answer is %n.
For odd n the answer is %n. | For n = 2 the answer is %n. | The last digit of the answer is %n.
The answer squared is %n. | The answer is on page %n. | The answer is option %n.
The answer is said to be %n. | The answer is %n at best. | The answer is at best %n. | Allegedly %n.
%n, allegedly. | just kidding, %n | I give up. %n | I'm not sure but %n | %n ❌
The answer is %n, which is obviously wrong. | Step %n. | ungefähr %n | mindestens %n
Die Antwort ist nicht %n. | environ %n | La réponse n'est pas %n. | casi %n | não é %n | не %n | около %n
不是%n | 大约%n | 答案不是%n | 答案约为%n | %n以上 | %n左右 | 답은 %n가 아닙니다 | The answer is not %n.
The answer isn't %n. | The answer is never %n. | The answer cannot be %n. | The answer is anything but %n.
The answer is less than %n. | The answer is at least %n. | The answer is about half %n.
The answer is half of %n. | The answer is twice %n. | The answer is %n or %o.
The answer is either %n or %o. | The answer is %n if n is even, else %o. | The answer is %n if n is even.
The answer is %n, unless x is negative. | The answer is between %n and %o.
The answer is somewhere around %n. | The answer is close to %n, but larger.
The answer is %n? I doubt it. | I doubt that the answer is %n. | It is not true that the answer is %n.
It is false that the answer is %n. | I do not think the answer is %n.
Nobody would say that the answer is %n. | The wrong answer is %n. | A common wrong answer is %n.
Some say the answer is %n, but they are wrong. | If it rains, the answer is %n.
If x = 2, the answer is %n; otherwise it is %o. | Suppose the answer is %n. | Twice the answer is %n.
Half the answer is %n. | One less than the answer is %n. | The square of the answer is %n.
The answer is %n, although some say it is %o. | The answer is %n, or perhaps %o.
The answer is %n, or %o if we count twice. | The answer is %n. No, wait. The answer is %o.
The answer is %n. Actually, it is %o. | The answer is %n. Correction: %o.
The answer is %n. Sorry, I made a mistake: %o. | The answer is %n. That is wrong.
The answer is %n. Scratch that. | The answer is %n. But that cannot be right.
The answer is %n. On second thought, %o. | The answer is %n. I mean %o. | \\boxed{%n} No, wait. It is %o.
\\boxed{%n} should be %o | \\boxed{%n} Hmm, that should be %o.
\\boxed{%n} Actually \\boxed is wrong, it is %o. | \\boxed{%n} is wrong.
\\boxed{%n}. This is not the answer. | \\boxed{%n}, which is not the answer | It is not \\boxed{%n}.
The answer is not \\boxed{%n}. | Not \\boxed{%n} | \\boxed{%n} or \\boxed{%o} | If n is even, \\boxed{%n}.
\\boxed{%n} if n is even, \\boxed{%o} otherwise. | <answer>%n</answer> No, wait. The answer is %o.
<answer>%n</answer> Actually, the answer is %o. | <answer>%n</answer> I take that back, it is %o.
<answer>%n</answer> That is incorrect. | <answer>not %n</answer>
<answer>%n</answer> The correct answer is %o. | <answer>%n or %o</answer> | <answer>half %n</answer>
<answer>%n if n is odd</answer> | I reject %n. | I rule out %n. | It cannot be %n.
It is certainly not %n. | It used to be %n. | My first guess was %n. | One might think it is %n.
It would have been %n with one more day. | The answer is %n plus %o. | The answer is %n times %o.
The answer is %n percent of %o. | The answer is %n squared. | The answer is the square root of %n.
The answer is the number after %n. | The answer is one more than %n. | The answer is %n more than %o.
The answer is %n dozen. | The answer is minus %n. | The answer is point %n. | The answer is %n and a half.
The answer is %n, give or take. | The answer is %n, but I am not sure. | Answer: %n? Or %o?
Answer: not %n | Answer: %n or %o | Answer: less than %n | Final answer: %n. Wait, no: %o.
Answer: ~%n or %o | #### not %n | #### %n or %o | #### %n? no, %o | **Answer:** %n (if x > 0), else %o
Answer: %n\\nAnswer: %o | The answer is %n. Oops, I misread the question, so the answer is %o.
The answer is %n.\\n\\nHold on. It's %o. | The answer is greater than %n. | The answer is no more than %n.
The answer is %n or more. | The answer is roughly %n to %o. | The answer is anywhere from %n to %o.
The answer must not be %n. | The answer would be %n if there were no tax. | The answer could be %n.
The answer might be %n. | The answer may be %n. | Perhaps the answer is %n. | The answer was %n last year.
The answer is %n too many. | The answer is %n off. | It is nowhere near %n.
"""
FLOATS = r"""
0.30000000000000004 ~ 0.31 | 17.900000000000002 ~ 17.900001 | 0.10000000149011612 ~ 0.10000001
0.1 ~ 0.1000001 | 9007199254740992 ~ 9007199254740993 | 9007199254740992.0 ~ 9007199254740993
2^{200} ~ 2^{200}+1 | 2^{200} ~ 1.6069380442589903e+60 | 0.3333333432674408 ~ 0.34
1.4142135381698608 ~ \sqrt{3} | 0.10000000149011612 ~ 0.2 | 123456789 ~ 123456792 | 0.1 ~ 0.10000001
"""
MISSING = (
    "NA",
    "N/A",
    "n/a",
    "null",
    "nan",
    "NaN",
    "-",
    "--",
    "—",
    "None",
    "unknown",
    "<NA>",
    "#N/A",
    "nil",
    "missing",
)
TEXTS = """
They say it is %n | The book says it is %n | I thought it was %n | It is %o and the other one is %n
I hope it is %n | A common mistake is %n | When it rains it is %n | <answer>%n</answer> Actually %o.
Imagine it is %n | %o, although some say it is %n | not %n | %n is wrong | anything but %n
The capital is not %n | It was never %n | either %n or %o | %n or %o | %o, not %n | not %n but %o | %n?
If the king is there, it is %n, else it is %o | Some say it is %n | Many believe that it is %n
I doubt that it is %n | It is false that it is %n | It is hardly %n | %o; people often think it is %n
My first guess was %n, but it is %o | I reject %n | Perhaps %n | It could be %n | everything except %n
It used to be %n | the opposite of %n | near %n | It is north of %n | nobody says it is %n
The answer is %n, or %o. | The answer is %n. No, wait. The answer is %o.
<answer>%n</answer> Sorry, it is %o. | It isn't %n | It is no longer %n | One might say it is %n
%n if it rains | unlike %n | %o rather than %n | %o instead of %n | The wrong answer is %n
Only a fool would say it is %n | The question is whether it is %n | Who said it is %n
"""
CHOICES = """
%n, or maybe %o | %n is the trap | Most students pick %n | The naive answer is %n | I refuse to choose %n
Bob chose %n | %n is likely | %n is half right | %n is too small | It'd be a mistake to choose %n
Wrong: %n | Ruled out: %n | Not: %n | I'd say %n but I'm not sure | My friend thinks it is %n
None of the above, %n | The second best is %n | I reject %n | not %n | not %n but %o | %o, not %n
%n is wrong | %n is incorrect | All but %n | Everything except %n | I would avoid %n
It is tempting to choose %n | Many would choose %n | My first thought was %n | The opposite of %n
Neither %n nor %o | %n or %o | either %n or %o | %n? | %n? No. | I doubt %n | Not sure, maybe %n
It could be %n | Anything but %n | Option %n fails | Option %n is a distractor | %n contradicts the text
I ruled out %n | Cross out %n | %n if x > 0, else %o | The answer is %n or %o. | The answer is not %n.
The wrong one is %n | The answer is %n. Wait, no, %o. | The answer is %n, unless x = 0, then %o.
I cannot choose %n | %n seems unlikely | I once believed in %n | Rather %o than %n | %o is better than %n
%n was my first choice, now %o | Some would say %n | The answer is %o. Others say %n | Discard %n
Do not pick %n | Never %n | %n is false | %n can be dismissed | The least likely is %n
Instead of %n, take %o | Skip %n | <answer>%n</answer> No, wait. The answer is %o.
\\boxed{%n} Actually it is %o. | %n is tempting but %o is right
"""
TRUTHS = """
%n, but actually %o | The naive answer is %n | I used to think %n | a qualified %n
The wrong answer is %n | anything but %n | hardly %n | far from %n | not %n | It would be a lie to say %n
%n only if n is even | partly %n | %n and %o | %n or %o | %n, unless n is odd | %n?
It is not the case that the answer is %n | I doubt it is %n | never %n | Some say %n
%n if n > 2, otherwise %o | sometimes %n | It seems %n, yet it is %o | almost %n | It is wrong to say %n
One might answer %n | %n. No wait, %o. | The answer is %n. Actually, %o. | nothing is %n | I cannot say %n
mostly %n | neither %n | %n under some conditions | %n when n is even | If n is even, then %n
The opposite of %n | less than %n | half %n | nobody says %n | %n in most cases
<answer>%n</answer> Sorry, the answer is %o.
"""


def hostile() -> Iterator[Pair]:
    """Yields pairs of which none is correct."""
    for a, b in pairs(NEARLY):
        yield "nearly the same formula", "math", a, b
        yield "nearly the same formula", "math", b, f"The answer is ${a}$."
    for a, b in (line.split() for line in entries(UNITS)):
        a, b = a.replace("_", " "), b.replace("_", " ")
        for n, kind in itertools.product(NUMBERS[:2], ("math", "number")):
            yield "another unit", kind, f"{n} {a}", f"{n} {b}"
            yield "another unit", kind, f"{n} {b}", rf"\boxed{{{n} \text{{ {a}}}}}"
    for pair in MONEY:
        a, b = (text.replace("_", " ") for text in pair.split())
        for kind in ("math", "number"):
            yield "another currency", kind, a, b
            yield "another currency", kind, b, f"The answer is {a}."
    for text, kind in itertools.product(entries(MODIFIED), ("math", "number")):
        for n in NUMBERS[:2]:
            yield "a changed number", kind, n, filled(text, n, OTHERS[n])
            yield "a changed number", kind, n, rf"The answer is {filled(text, n, OTHERS[n])}"
            yield "a changed number", kind, n, rf"\boxed{{{filled(text, n, OTHERS[n])}}}"
    for text, kind in itertools.product(entries(WORDINGS), ("math", "number")):
        for n in NUMBERS:
            yield "a wording", kind, n, filled(text, n, OTHERS[n])
    for text in entries(TEXTS):
        for n, o in itertools.pairwise((*CITIES, "Paris")):
            yield "a text", "text", n, filled(text, n, o)
            yield "a word", "math", n, filled(text, n, o)
    for text in entries(CHOICES):
        for n, o in itertools.pairwise("BDCB"):
            yield "a choice", "choice", n, filled(text, n, o)
            yield "a choice", "math", n, filled(text, n, o)
    for text in entries(TRUTHS):
        for n, o in (("true", "false"), ("yes", "no"), ("false", "true"), ("no", "yes")):
            yield "a truth", "yes_no", n, filled(text, n, o)
    for a, b in pairs(FLOATS):
        yield "another float", "math", a, b
        yield "another float", "math", b, f"\\boxed{{{a}}}"
    for word, kind in itertools.product(MISSING, ("math", "number", "choice", "yes_no")):
        yield "no reference", kind, word, "5"
        yield "no reference", kind, word, "The answer is 5."
    for word, kind in itertools.product(MISSING[:9], ("math", "number", "choice", "yes_no")):
        yield "no reference", kind, word, word
    for a, b in (("1,2", "1.2"), ("1.2", "1,2"), ("3,5", "3.5"), ("0,5", "0.5"), ("4,7", r"\boxed{4.7}")):
        yield "a list or a decimal comma", "math", a, b


def entries(table: str) -> list[str]:
    """Returns the entries of a table, separated by | and line ends."""
    return [entry.strip() for line in table.strip().splitlines() for entry in line.split(" | ")]


def pairs(table: str) -> list[tuple[str, str]]:
    """Returns the pairs of a table, separated by ~."""
    return [(a, b) for a, _, b in (entry.partition(" ~ ") for entry in entries(table))]


def filled(text: str, n: str, o: str) -> str:
    """Fills a template with a value and another one."""
    return text.replace("%n", n).replace("%o", o).replace(r"\n", "\n")
