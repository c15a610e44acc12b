"""Remote objects and serialization: values cross unchanged, and hostile messages do no harm."""

import collections
import datetime
import decimal
import fractions
import json
import os
import threading

import pytest

from filters.sandbox.peer import OF_ASSERTIONS, OF_PROGRAM, Ended, Peer, Remote
from filters.sandbox.wire import Malformed, Writer, parse, read


class Point:
    def __init__(self, x):
        self.x = x

    def twice(self):
        return 2 * self.x


def there_and_back(*values):
    line = Writer({Point: "Point"}, lambda value: ["mine", 0]).text(list(values), {}, {})
    return read(parse(line), {"Point": Point}, lambda entry: "a number")[0]


@pytest.mark.parametrize(
    "value",
    [
        None, True, -7, 2.5, "text\n\u2028\ud800", b"\0\xff", 10**5000, 1 + 2j, float("inf"), range(3, 9, 2),
        [1, [2.0, (3, None)]], {1: {"a": [2]}}, {(1, 2), 3}, frozenset({1}), int, type(None),
        fractions.Fraction(1, 3), decimal.Decimal("1E+99999"), datetime.date(2024, 2, 29),
        datetime.datetime(2024, 2, 29, 1, 2, 3, 4), datetime.timedelta(-1, 2, 3),
        collections.deque([1]), collections.Counter("aab"), collections.OrderedDict(b=1, a=2),
    ],
    ids=lambda value: str(type(value).__name__),
)  # fmt: skip
def test_a_value_crosses_unchanged(value):
    (found,) = there_and_back(value)
    assert (type(found), found) == (type(value), value)


def test_shared_parts_and_cycles_are_preserved():
    shared = [1]
    cycle = [shared, shared]
    cycle.append(cycle)
    (found,) = there_and_back(cycle)
    assert found[0] is found[1]
    assert found[2] is found


def test_deep_values_cross_and_deeper_ones_are_refused():
    for depth, crosses in ((4000, True), (6000, False)):
        deep = []
        for _ in range(depth):
            deep = [deep]
        if crosses:
            (found,) = there_and_back(deep)
            for _ in range(depth):
                (found,) = found
        else:
            with pytest.raises(ValueError, match="too deeply"):
                there_and_back(deep)


def test_objects_that_only_look_plain_cross_by_number():
    class Sly(list):
        pass

    assert there_and_back(Sly([1]), object(), Malformed, len) == ["a number"] * 4


HOSTILE = [
    b"", b"[]", b"null", b"{", b'{"kind": 1}', b"[" * 100_000, b'{"table": 1, "values": [], "was": []}',
    *(
        json.dumps({"table": [entry], "values": values, "was": was}).encode()
        for entry, values, was in (
            (["list", {"at": 5}], [{"at": 0}], []),
            (["tuple", {"at": 0}], [], []),
            (["tuple", {"at": -9}], [], []),
            (["object", "Other"], [], []),
            (["object", "Point", "twice", 1], [], []),
            (["object", "Point", "__class__", 1], [], []),
            (["type", "Point"], [], []),
            (["global", "os", "system"], [], []),
            (["set", [1]], [], []),
            (["dict", 1], [], []),
            (["int", "0x" + "z"], [], []),
            (["Fraction", "1", "0"], [], []),
            (["Decimal", "x"], [], []),
            (["bytes", 5], [], []),
            (["list"], [[1]], []),
            (["list"], [], [[0, 0]]),
            (["dict"], [], [[0, 1]]),
            ("list", [], []),
            ([], [], []),
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("line", HOSTILE, ids=lambda line: line[:60].decode())
def test_an_invalid_message_is_malformed(line):
    def numbered(entry):
        raise Malformed(entry[0])

    with pytest.raises(Malformed):
        read(parse(line), {"Point": Point}, numbered, [{}, [1]])


@pytest.fixture
def peers():
    """The peers of the assertions and of the program, connected by two pipes."""
    (to_program, from_tests), (to_tests, from_program) = os.pipe(), os.pipe()
    tests = Peer(to_tests, from_tests, OF_ASSERTIONS)
    space = {}
    program = Peer(to_program, from_program, {**OF_PROGRAM, "find": space.__getitem__})
    thread = threading.Thread(target=program.serve)
    thread.start()
    yield tests, space
    os.close(from_tests)
    thread.join()
    for file in (to_program, to_tests, from_program):
        os.close(file)


def test_operations_on_a_remote_object_run_in_its_process(peers):
    tests, space = peers
    space["Point"] = Point
    point = tests.ask("find", "Point")(4)
    assert isinstance(point, Remote)
    assert (point.twice(), point.x) == (8, 4)
    point.x = 5
    assert point.twice() == 10
    assert isinstance(point, tests.ask("find", "Point"))
    assert not isinstance(5, tests.ask("find", "Point"))


def test_plain_data_is_never_passed_to_a_remote_comparison(peers):
    tests, space = peers
    seen = []

    class Sly:
        def __eq__(self, other):
            seen.append(other)
            return True

        __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __add__ = __sub__ = __eq__

        def __iter__(self):
            return iter([1])

    class Kind(list, Sly):
        __eq__ = Sly.__eq__

    space.update(sly=Sly(), kind=Kind([1, 2]))
    sly, kind = tests.ask("find", "sly"), tests.ask("find", "kind")
    assert sly != 3
    assert "secret" not in sly
    assert sly not in ["secret"]
    for operation in (lambda: sly < 3, lambda: sly - 3, lambda: 3 - sly, lambda: abs(sly - 3)):
        with pytest.raises(TypeError):
            operation()
    assert kind == [1, 2]
    assert kind != [1, 3]
    assert seen == []
    assert sly == kind
    assert len(seen) == 1


def test_the_program_may_only_call_objects_of_the_assertions(peers):
    tests, space = peers
    space["call"] = lambda function: function(20)
    space["look"] = lambda function: function.__code__
    assert tests.ask("find", "call")(lambda x: x + 1) == 21
    with pytest.raises(Ended):
        tests.ask("find", "look")(lambda x: "expected")
    assert tests.ended


def test_a_mutated_argument_is_updated_in_the_calling_process(peers):
    tests, space = peers

    def change(a, b, c, d):
        a[0].append(9)
        b["k"] = a
        c.add(1)
        d.extend(b"x")
        return a[0]

    space["change"] = change
    a, b, c, d = [[1]], {}, set(), bytearray()
    inner = a[0]
    assert tests.ask("find", "change")(a, b, c, d) is inner
    assert (a, b["k"] is a, c, d) == ([[1, 9]], True, {1}, b"x")
