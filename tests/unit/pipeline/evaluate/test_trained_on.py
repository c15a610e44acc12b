"""Which problems a student was trained on before it is evaluated on them."""

from __future__ import annotations

from pathlib import Path

from pipeline.chain import step_recipe
from pipeline.engine import checksums
from pipeline.engine.manifest import Manifest
from pipeline.engine.stage import Job
from pipeline.engine.store import Output
from pipeline.evaluate.stage import EVALUATE, _trained_on
from pipeline.rows import Example
from tests import tiny_student
from tests.unit.pipeline.test_chain import rounds, score, train


def test_a_training_that_goes_on_was_trained_on_the_examples_before(tmp_path: Path) -> None:
    for start, problems in (("base", 1), ("last", 2)):
        given, runs = rounds(start=start), tmp_path / start
        for i in range(2):
            step = step_recipe(given, i, runs)
            selected = Output(runs / step.run / "select", Example)
            selected.save(Manifest(stage="select", version=1, settings={}, inputs={}))
            selected.write("shard-00000", [tiny_student.example(i)])
            selected.finish()
            content = checksums.document(step.model_dump_json().encode())
            (runs / step.run / "recipe.json").write_bytes(content)
            train(runs / step.run)
        scores = [score("student", i, 1).model_copy(update={"problem_id": f"p{i}"}) for i in range(3)]
        job = Job(EVALUATE, step, runs / step.run)
        assert _trained_on(job, scores) == {"held_out": problems}
