"""The pins of .constraints can be installed on every Python and are complete."""

import pytest
from packaging.utils import canonicalize_name

from tests import pins


@pytest.mark.slow
@pytest.mark.parametrize("python", pins.PYTHONS)
@pytest.mark.parametrize("name", pins.KINDS)
def test_the_pins_equal_the_resolution_of_uv(name: str, python: str) -> None:
    file = pins.path(name)
    try:
        found = pins.resolve(pins.KINDS[name], python, "--constraints", str(file))
    except pins.Unreachable as e:
        pytest.skip(f"the package index does not answer: {str(e).splitlines()[0]}")
    except ValueError as e:
        pytest.fail(f"{file}: cannot be installed with Python {python}\n{e}")
    assert found == pins.read(file.read_text()), f"run `python -m tests.pins --write {name}`"


@pytest.mark.parametrize("name", pins.KINDS)
def test_every_requirement_of_the_project_is_pinned_within_its_bounds(name: str) -> None:
    kind, pinned = pins.KINDS[name], pins.read(pins.path(name).read_text())
    wanted = [r for r in pins.required(kind) if r.name not in kind.without]
    assert len(wanted) > (5 if kind.alone else 20)
    for requirement in wanted:
        version = pinned.get(canonicalize_name(requirement.name), "none")
        assert version in requirement.specifier, f"{requirement} is wanted, pinned is {version}"
