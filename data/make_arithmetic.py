"""Write arithmetic.jsonl: one-step word problems with one-digit numbers. `python data/make_arithmetic.py`

The same file comes out every time. Each pattern says its one step; the answer is worked out from it.
"""

import json
import random
from pathlib import Path

COUNT = 300
NAMES = (
    "Tom", "Anna", "Ben", "Lucy", "Sam", "Mia", "Jack", "Emma",
    "Leo", "Ruby", "Max", "Zoe", "Dan", "Ella", "Finn",
)  # fmt: skip
THINGS = (
    "apples", "pens", "books", "coins", "shells", "cards", "eggs", "stamps",
    "balls", "cups", "buttons", "flowers", "stickers", "marbles", "keys",
)  # fmt: skip
PATTERNS = [  # {name} and {friend}, {things}, {a} and {b}; and what to do with a and b
    ("{name} has {a} {things} and buys {b} more. How many {things} does {name} have now?", "+"),
    ("{name} has {a} {things}. {friend} gives {name} {b} more. How many {things} does {name} have now?", "+"),
    ("{name} found {a} {things} yesterday and {b} {things} today. How many {things} did {name} find?", "+"),
    ("There are {a} {things} in a box. {name} puts in {b} more. How many {things} are in the box now?", "+"),
    ("{name} has {a} {things} and {friend} has {b}. How many {things} do they have together?", "+"),
    ("{name} has {a} red {things} and {b} blue {things}. How many {things} does {name} have?", "+"),
    ("{a} {things} are on the table and {b} are on the chair. How many {things} are there in all?", "+"),
    (
        "{friend} has {a} {things}. {name} has {b} more than that. How many {things} does {name} have?",
        "+",
    ),
    ("{name} has {a} {things} and gives {b} to {friend}. How many {things} does {name} have left?", "-"),
    ("{name} has {a} {things} and loses {b}. How many {things} does {name} have left?", "-"),
    ("There are {a} {things} in a bag. {name} takes out {b}. How many {things} are left in the bag?", "-"),
    ("{name} has {a} {things} and sells {b} of them. How many {things} does {name} have left?", "-"),
    ("There are {a} {things} on the table. {b} fall down. How many {things} are still on the table?", "-"),
    ("{name} has {a} {things}. {friend} has {b} fewer. How many {things} does {friend} have?", "-"),
    ("{name} wants {a} {things} and has {b}. How many more {things} does {name} need?", "-"),
    ("Of {a} {things}, {b} are new. How many of the {things} are old?", "-"),
    ("{name} has {a} boxes with {b} {things} in each box. How many {things} does {name} have?", "*"),
    (
        "{name} buys {a} bags of {things}. Each bag holds {b}. How many {things} does {name} buy?",
        "*",
    ),
    ("{a} children have {b} {things} each. How many {things} do they have in all?", "*"),
    ("{name} finds {b} {things} every day. How many {things} does {name} find in {a} days?", "*"),
    ("There are {a} rows of {things} with {b} in each row. How many {things} are there?", "*"),
    ("{name} gives {b} {things} to each of {a} friends. How many {things} does {name} give away?", "*"),
]
STEPS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


def problem(rng: random.Random, pattern: str, step: str) -> dict[str, str]:
    a = rng.randint(3, 9)
    b = rng.randint(2, a - 1 if step == "-" else 9)
    name, friend = rng.sample(NAMES, 2)
    question = pattern.format(name=name, friend=friend, things=rng.choice(THINGS), a=a, b=b)
    return {"question": question, "answer": str(STEPS[step](a, b))}


def main() -> None:
    rng = random.Random(0)
    rows: dict[str, dict[str, str]] = {}
    while len(rows) < COUNT:
        row = problem(rng, *PATTERNS[len(rows) % len(PATTERNS)])
        rows.setdefault(row["question"], row)
    text = "".join(json.dumps(row) + "\n" for row in rows.values())
    Path(__file__).with_name("arithmetic.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
