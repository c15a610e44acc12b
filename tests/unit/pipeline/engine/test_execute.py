"""Results whose settings or inputs changed, with small stages that read a recipe's seed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Recipe
from pipeline.engine import previous
from pipeline.engine.changed_settings import check_settings
from pipeline.engine.execute import DONE, execute
from pipeline.engine.options import Options
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job, Stage
from pipeline.errors import UserError
from pipeline.rows import Problem
from tests.unit.pipeline.engine.test_shard import problem

RECIPE = {
    "run": "test",
    "ingest": {"sources": [{"kind": "file", "path": "none.jsonl"}]},
    "teacher": {"model": "m", "base_url": "http://localhost:1/v1"},
    "generate": {"prompt": "plain"},
}


def recipe(seed: int = 0, **changed: Any) -> Recipe:
    return Recipe.model_validate({**RECIPE, **changed, "seed": seed})


def settings(given: Recipe) -> dict[str, Any]:
    return {"seed": given.seed}


def samples(given: Recipe) -> dict[str, Any]:
    return {"samples": given.generate.samples}


def no_settings(given: Recipe) -> dict[str, Any]:
    return {}


def nothing(given: Recipe) -> None:
    pass


def one_row(job: Job, shards: Iterable[Shard]) -> None:
    for shard in shards:
        shard.write([problem(f"{job.stage.name}-{job.recipe.seed}").model_dump()])


FREE = Stage(
    name="free", version=1, row=Problem, settings=settings, check=nothing, shards=("only",), work=one_row,
    free=True,
)  # fmt: skip
AFTER = replace(FREE, name="after", settings=no_settings, reads=(FREE,), shards_from="free", shards=None)
PAID = replace(FREE, name="paid", free=False)


def rows(stage: Stage, run: Path) -> list[str]:
    return [row.id for row in stage.output(run).rows()]


def test_a_free_stage_runs_again_when_settings_changed_and_keeps_the_old_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 2):
        assert execute(FREE, recipe(seed), tmp_path) == DONE
        assert rows(FREE, tmp_path) == [f"free-{seed}"]
    (before,) = previous.earlier_outputs(tmp_path, FREE.name, FREE.row)
    assert [row.id for row in before.rows()] == ["free-1"]
    assert f"free: seed: 1 -> 2, so it runs again; the result before is in {before.folder}" in (
        capsys.readouterr().err
    )


def test_a_result_of_the_same_settings_is_restored(tmp_path: Path) -> None:
    for seed in (1, 2):
        execute(FREE, recipe(seed), tmp_path)
    execute(replace(FREE, work=None), recipe(1), tmp_path)  # the stage cannot run
    assert rows(FREE, tmp_path) == ["free-1"]
    (other,) = previous.earlier_outputs(tmp_path, FREE.name, FREE.row)
    assert [row.id for row in other.rows()] == ["free-2"]


@pytest.mark.parametrize("stage", [FREE, PAID])
def test_a_setting_that_a_newer_version_has_is_no_change_until_it_is_set(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(stage, recipe(1), tmp_path)
    capsys.readouterr()

    def newer(given: Recipe) -> dict[str, Any]:
        return {**settings(given), "sources": [{"entry_point": None}]}

    assert execute(replace(stage, settings=newer, work=None), recipe(1), tmp_path) == DONE
    assert "again" not in capsys.readouterr().err
    assert not list(previous.earlier_outputs(tmp_path, stage.name, stage.row))


def test_only_the_newest_results_of_a_free_stage_are_kept(tmp_path: Path) -> None:
    for seed in range(6):
        execute(FREE, recipe(seed), tmp_path)
    kept = [
        row.id for output in previous.earlier_outputs(tmp_path, FREE.name, FREE.row) for row in output.rows()
    ]
    assert kept == ["free-4", "free-3"]


def test_the_folder_of_a_nested_stage_is_no_earlier_result(tmp_path: Path) -> None:
    execute(FREE, recipe(1), tmp_path)
    (tmp_path / "previous" / "free" / "24game" / "0001").mkdir(parents=True)
    assert execute(FREE, recipe(2), tmp_path) == DONE
    (before,) = previous.earlier_outputs(tmp_path, FREE.name, FREE.row)
    assert before.folder.name == "0001"


def test_a_set_cannot_be_named_like_the_folder_of_an_earlier_result() -> None:
    sets = [{"name": "2024", "sources": [{"kind": "file", "path": "none.jsonl"}]}]
    with pytest.raises(ValueError, match="cannot be four digits: call it set-2024"):
        recipe(evaluate={"sets": sets})


def test_a_free_input_is_brought_up_to_date_first(tmp_path: Path) -> None:
    execute(FREE, recipe(1), tmp_path)
    execute(AFTER, recipe(1), tmp_path)
    assert execute(AFTER, recipe(2), tmp_path) == DONE
    assert (rows(FREE, tmp_path), rows(AFTER, tmp_path)) == (["free-2"], ["after-2"])


def test_a_change_reaches_a_stage_through_all_free_stages_before_it(tmp_path: Path) -> None:
    last = replace(AFTER, name="last", reads=(AFTER,), shards_from="after")
    for stage in (FREE, AFTER, last):
        execute(stage, recipe(1), tmp_path)
    assert execute(last, recipe(2), tmp_path) == DONE
    assert [rows(stage, tmp_path) for stage in (FREE, AFTER, last)] == [["free-2"], ["after-2"], ["last-2"]]


def test_the_results_before_are_those_before_the_last_change_alone(tmp_path: Path) -> None:
    filter_ = replace(FREE, name="filter")
    select = replace(AFTER, name="select", reads=(filter_,), shards_from="filter", settings=samples)

    def before() -> dict[str, list[str]]:
        found = previous.results_before(tmp_path)
        return {name: found[name].shards()[0].column("id") for name in found}

    for seed, n in ((1, 1), (2, 1)):
        execute(filter_, recipe(seed), tmp_path)
        execute(select, recipe(seed, generate={"prompt": "plain", "samples": n}), tmp_path)
    assert before() == {"select": ["select-1"], "filter": ["filter-1"]}
    execute(select, recipe(2, generate={"prompt": "plain", "samples": 2}), tmp_path)
    assert before() == {"select": ["select-2"], "filter": ["filter-2"]}
    execute(filter_, recipe(3), tmp_path)  # select is not made again yet
    assert before() == {"select": ["select-2"], "filter": ["filter-2"]}
    assert rows(filter_, tmp_path) == ["filter-3"]


def test_an_input_that_was_never_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="after needs free, which is not made yet: run `retort free` first"):
        execute(AFTER, recipe(), tmp_path)


def test_a_paid_stage_with_contradicting_settings_is_refused_before_any_write(
    tmp_path: Path,
) -> None:
    execute(PAID, recipe(1), tmp_path)
    files = sorted(path for path in tmp_path.rglob("*"))
    for refuse in (check_settings, execute):
        with pytest.raises(UserError, match=r"paid was made with other settings: seed: 1 -> 2; give the run"):
            refuse(PAID, recipe(2), tmp_path)
    assert sorted(path for path in tmp_path.rglob("*")) == files


def test_again_repeats_a_contradicting_stage_and_keeps_the_old_result(tmp_path: Path) -> None:
    execute(PAID, recipe(1), tmp_path)
    assert execute(PAID, recipe(2), tmp_path, Options(again=True)) == DONE
    (before,) = previous.earlier_outputs(tmp_path, PAID.name, PAID.row)
    assert (rows(PAID, tmp_path), [row.id for row in before.rows()]) == (["paid-2"], ["paid-1"])


def test_a_folder_of_another_version_is_refused_or_made_again(tmp_path: Path) -> None:
    for stage in (FREE, PAID):
        execute(stage, recipe(), tmp_path)
    assert execute(replace(FREE, version=2), recipe(), tmp_path) == DONE
    with pytest.raises(UserError, match="was made by version 1 of the stage paid, but this release has vers"):
        execute(replace(PAID, version=2), recipe(), tmp_path)


@pytest.mark.parametrize("moved", range(3))
def test_an_interrupted_move_is_finished_by_the_next_command(tmp_path: Path, moved: int) -> None:
    stage = replace(FREE, shards=("a", "b"))
    execute(stage, recipe(1), tmp_path)
    aside = tmp_path / "previous" / "free" / "0001"
    aside.mkdir(parents=True)
    for path in sorted((tmp_path / "free").glob("*.parquet"))[:moved]:
        path.rename(aside / path.name)
    if moved < 2:
        assert execute(stage, recipe(2), tmp_path) == DONE
        assert rows(stage, tmp_path) == ["free-2", "free-2"]
    previous.set_aside(replace(stage, free=False), tmp_path)
    assert not list((tmp_path / "free").glob("*.parquet"))


@pytest.mark.parametrize("moved", range(1, 3))
@pytest.mark.parametrize("seed", [1, 2])
def test_paid_rows_survive_an_interrupted_move(tmp_path: Path, moved: int, seed: int) -> None:
    stage = replace(PAID, shards=("a", "b"))
    execute(stage, recipe(1), tmp_path)
    aside = tmp_path / "previous" / "paid" / "0001"
    aside.mkdir(parents=True)
    for path in sorted((tmp_path / "paid").glob("*.parquet"))[:moved]:
        path.rename(aside / path.name)
    execute(replace(stage, work=one_row if seed == 2 else None), recipe(seed), tmp_path, Options(again=True))
    assert rows(stage, tmp_path) == [f"paid-{seed}"] * 2
    before = previous.earlier_outputs(tmp_path, PAID.name, PAID.row)
    assert [[row.id for row in output.rows()] for output in before] == [["paid-1", "paid-1"]] * (seed - 1)


def test_a_part_goes_on_after_an_interrupted_move(tmp_path: Path) -> None:
    stage = replace(PAID, shards=("a", "b"))
    execute(stage, recipe(1), tmp_path)
    aside = tmp_path / "previous" / "paid" / "0001"
    aside.mkdir(parents=True)
    moved = next((tmp_path / "paid").glob("*.parquet"))
    moved.rename(aside / moved.name)
    for part in range(2):
        assert execute(replace(stage, work=None), recipe(1), tmp_path, Options(part=(part, 2))) == DONE
    assert rows(stage, tmp_path) == ["paid-1"] * 2
    assert not aside.exists()


def test_the_first_part_sets_aside_what_other_settings_made(tmp_path: Path) -> None:
    stage = replace(PAID, shards=("a", "b"), contradiction=lambda found, wanted: "")
    execute(stage, recipe(1), tmp_path)
    for part in range(2):
        assert execute(stage, recipe(2), tmp_path, Options(part=(part, 2))) == DONE
    assert rows(stage, tmp_path) == ["paid-2", "paid-2"]
    [before] = previous.earlier_outputs(tmp_path, PAID.name, PAID.row)
    assert [row.id for row in before.rows()] == ["paid-1", "paid-1"]
    with stage.output(tmp_path).lock(shared=True), pytest.raises(UserError, match="once without --part"):
        execute(stage, recipe(3), tmp_path, Options(part=(0, 2)))


def test_parts_share_the_shards_and_the_last_one_finishes(tmp_path: Path) -> None:
    stage = replace(FREE, shards=tuple(f"shard-{i}" for i in range(5)))
    assert execute(stage, recipe(), tmp_path, Options(part=(0, 2))) == DONE
    assert [shard.sealed for shard in stage.output(tmp_path).shards()] == [True, False, True, False, True]
    assert execute(stage, recipe(), tmp_path, Options(part=(1, 2))) == DONE
    assert stage.output(tmp_path).complete
