"""Who owns a shard, without Ray; the workers themselves are in tests/e2e/test_ray.py."""

import pytest

from pipeline.engine import ray_cluster
from pipeline.engine.ray_executor import MAX_LOSSES, Arbiter, Losses
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


def test_workers_that_add_no_row_end_the_run_whatever_they_held() -> None:
    losses = Losses()
    ended = [losses.add({} if n == 2 else {f"shard-{n}": 0}, sealed=0) for n in range(MAX_LOSSES)]
    assert ended == [None] * (MAX_LOSSES - 1) + [""]


def test_a_shard_that_takes_its_workers_with_it_is_named_though_others_go_on() -> None:
    losses = Losses()
    ended = [losses.add({"shard-3": 7}, sealed=n) for n in range(1 + MAX_LOSSES)]
    assert ended == [None] * MAX_LOSSES + ["shard-3"]


def test_no_number_of_losses_ends_a_run_whose_workers_add_rows_in_between() -> None:
    losses = Losses()
    for rows in range(10 * MAX_LOSSES):
        held = {"long": rows // (MAX_LOSSES - 1), "waiting": 0, f"new-{rows}": 0}
        assert losses.add(held, sealed=0) is None


def test_without_ray_the_option_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="--ray needs ray, which is not installed"):
        ray_cluster.connect("auto")
