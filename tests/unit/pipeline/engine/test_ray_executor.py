"""Who owns a shard, without Ray; the workers themselves are in tests/e2e/test_ray.py."""

import pytest

from pipeline.engine import ray_cluster
from pipeline.engine.ray_executor import Arbiter
from pipeline.errors import UserError


def test_a_shard_has_one_owner_until_it_is_handed_out_again() -> None:
    arbiter = Arbiter(["a", "b", "c"])
    assert [arbiter.next_shard("one"), arbiter.next_shard("two")] == ["a", "b"]
    assert arbiter.state() == (1, {"one", "two"})
    held = arbiter.lose("one")
    assert arbiter.next_shard("one") is None
    assert arbiter.next_shard("two") == "c"
    arbiter.put_back(held)
    assert arbiter.state() == (1, {"two"})
    assert [arbiter.next_shard("three"), arbiter.next_shard("three")] == ["a", None]


def test_without_ray_the_option_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="--ray needs ray, which is not installed"):
        ray_cluster.connect("auto")
