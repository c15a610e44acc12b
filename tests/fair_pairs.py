"""Correct answers in unusual words or forms, as (group, answer type, reference, response)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from tests.hostile_pairs import CITIES, NUMBERS, OTHERS, Pair, entries, filled, pairs

FAIR = """
%n | %n. | **%n** | $%n$ | \\boxed{%n} | The answer is %n. | Answer: %n | So the answer is %n apples.
<answer>%n</answer> | The final answer is \\boxed{%n}. | #### %n | Therefore, the answer is: %n.
It is %n. | x = %n | The total is %n. | %n apples | Thus she has %n left.
The answer is %n, because half of it is used. | We get %n in all.
The answer is $%n$. I hope it is correct. | First I thought of %o, but that is wrong. The answer is %n.
The answer is not %o. The answer is %n. | If we add the two, we get %n. So the answer is %n.
\\boxed{%n} is the number of apples. | The answer is equal to %n.
At least %o are needed, so the answer is %n. | \\boxed{%n}\\n\\nThis is what was asked.
The answer is exactly %n. | Not all are used. The answer is %n. | She sold half of them. She has %n.
$\\boxed{%n}$. | The answer is simply %n. | If n is even we are done. Hence the answer is %n.
The answer is %n. This can be checked: it is more than 2.
She had twice as many, or %n. The answer is %n. | Final answer: %n | The answer is %n dollars.
\\[ \\boxed{%n} \\] | Wait, let me check. Yes. The answer is %n. | The correct answer is %n.
It should be %n. The answer is %n. | = %n | <answer>%n</answer>\\nLet me know if you have more questions!
\\boxed{%n}. Note that no other number will do.
"""
FAIR_FORMULAS = r"""
x+3 ~ 3+x | |x| ~ \sqrt{x^2} | |x+3| ~ |-x-3| | \max(x,y) ~ \max(y,x) | |x-y| ~ |y-x| | (x+1)^2 ~ x^2+2x+1
\min(x,100) ~ \min(100,x) | \frac{x+y+|x-y|}{2} ~ \max(x,y) | \lfloor x \rfloor + 1 ~ \lfloor x+1 \rfloor
-\lfloor -x \rfloor ~ \lceil x \rceil | \ln(x^2) ~ 2\ln x | \sqrt{4x} ~ 2\sqrt{x}
\frac{1}{\sqrt{x}} ~ x^{-1/2} | e^{2x} ~ (e^x)^2 | \sin^2 x ~ 1-\cos^2 x | x^{100} ~ (x^{50})^2
\frac{x^2-1}{x-1} ~ x+1 | y=2x+1 ~ y=1+2x | |x+3|=5 ~ |3+x|=5 | \sqrt{x+100} ~ (x+100)^{1/2}
\log_2(x) ~ \frac{\ln x}{\ln 2} | |2x| ~ 2|x| | \frac{\sqrt{x^2+1}-1}{x} ~ \frac{x}{\sqrt{x^2+1}+1}
\sqrt[3]{8x} ~ 2\sqrt[3]{x} | x|x| ~ |x|x | \sqrt{12}x ~ 2\sqrt{3}x | \arctan(x) ~ \tan^{-1}(x)
\frac{1}{2}\ln|x| ~ \ln\sqrt{|x|} | (x+y+z)^{20} ~ (z+y+x)^{20} | \min(x,-x) ~ -|x|
"""
FAIR_FLOATS = r"""
0.30000000000000004 ~ 0.3 | 17.900000000000002 ~ 17.9 | 89.99999999999999 ~ 90
5.333333333333333 ~ \frac{16}{3} | 0.10000000149011612 ~ 0.1 | 0.30000000000000004 ~ \frac{3}{10}
0.3333333432674408 ~ \frac{1}{3} | 3.1415927410125732 ~ \pi | 3.3000000000000003 m ~ 3.3 m
30.000000000000004% ~ 0.3 | 1e22 ~ 10^{22} | 0.7999999999999999 ~ 0.8 | 72.0 ~ 72
"""
FAIR_PAIRS = r"""
\emptyset ~ no solution | \emptyset ~ no real solutions | DNE ~ does not exist | 18 dollars ~ 18
18 ~ 18 dollars | $18 ~ 18 dollars | $18 ~ $18.00 | 5 km ~ 5000 m | €5 ~ 5 euros | 18 apples ~ 18 apples
12 cm^2 ~ 12 cm^2 | 50 cents ~ 50 | 60 minutes ~ 1 hour | 1 apple ~ 1 apples | 2 ~ two | 5.5 ~ 5 1/2
-5 ~ minus 5 | -5 ~ negative 5 | 2.5 ~ 2 and 1/2 | 1000 ~ 1,000 | 1,234.5 ~ 1234.5 | 1/2 ~ 0.5
60 ~ 5 dozen | 5000000 ~ 5 million | 1,2 ~ 1, 2 | 1, 2 ~ 2, 1 | \{1,2\} ~ 1, 2 | 0.5 ~ .5 | 5 ~ 5.0
x = 5 ~ 5 | 5 or 6 ~ 6 or 5 | 5, 6 ~ 5 and 6 | 5 \pm 1 ~ 4, 6 | x \ge 2 ~ [2, \infty) | 50% ~ 1/2
3:30 ~ 3:30 | at least 5 ~ at least 5 | half 5 ~ half 5 | not 5 ~ not 5 | \frac{5}{2} ~ 5/2 | 10 ~ ten
$1.50 ~ 1.5 | 2\sqrt{3} ~ \sqrt{12}
"""
FAIR_TEXTS = """
%n | %n. | The capital of France is %n. | It is %n | The answer is %n. | <answer>%n</answer>
\\boxed{\\text{%n}} | **%n** | Answer: %n | Final answer: %n
It is the city of X, not %o. The answer is %n. | the %n | "%n"
"""
FAIR_CHOICES = """
%n | (%n) | %n. | The answer is %n. | Answer: %n | \\boxed{%n} | I choose %n | I think it is %n
So %n is correct. | Option %n | The correct option is %n. | %o is wrong, so %n. | It isn't %o, it is %n.
Therefore, %n. | **%n** | The answer is (%n). %o is wrong. | Hence the correct choice is %n.
The best answer is %n because %o is too small. | It must be %n. | We pick %n. | <answer>%n</answer>
"""
FAIR_TRUTHS = """
%n | %n. | The answer is %n. | \\boxed{%n} | So the answer is %n. | **%n** | Therefore, %n.
<answer>%n</answer> | Answer: %n | Hence the statement is %n. | The claim is %n.
%n, because it holds for all n. | The answer is clearly %n.
"""


def fair() -> Iterator[Pair]:
    """Yields pairs of which all are correct."""
    for a, b in pairs(FAIR_FORMULAS) + pairs(FAIR_FLOATS) + pairs(FAIR_PAIRS):
        yield "the same", "math", a, b
        yield "the same", "math", b, rf"The answer is \boxed{{{a}}}."
    for text, kind in itertools.product(entries(FAIR), ("math", "number")):
        for n in NUMBERS:
            yield "a fair wording", kind, n, filled(text, n, OTHERS[n])
    for text in entries(FAIR_TEXTS):
        for n, o in itertools.pairwise((*CITIES, "Paris")):
            yield "a fair text", "text", n, filled(text, n, o)
    for text in entries(FAIR_CHOICES):
        for n, o in itertools.pairwise("BDCB"):
            yield "a fair choice", "choice", n, filled(text, n, o)
    for text in entries(FAIR_TRUTHS):
        for n in ("true", "yes", "false", "no"):
            yield "a fair truth", "yes_no", n, filled(text, n, "")
