"""No secret of a recipe or the environment appears in a run, its report or the terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import StartFakeServer
from tests.e2e.runs import retort, write_recipe

pytestmark = pytest.mark.slow

IN_BODY, IN_ENVIRONMENT = "tpcwfkey0123456789", "kqzvbkey9876543210"


def test_a_run_its_report_and_the_output_hold_no_secret(fake_server: StartFakeServer, tmp_path: Path) -> None:
    env = {"A_KEY": IN_ENVIRONMENT}
    server = fake_server("--key-env", "A_KEY", env=env)
    recipe = write_recipe(tmp_path, server.url, count=8)
    words = (f'teacher.extra_body={{ api_key = "{IN_BODY}" }}', "teacher.api_key_env=A_KEY")
    commands = [(stage, str(recipe), *words) for stage in ("ingest", "generate", "filter", "select")]
    commands += [("status", "test"), ("report", "test"), ("publish", "test", "--to", str(tmp_path / "out"))]
    commands += [("generate", str(recipe), *words, "generate.temperature=0.1")]
    done = [retort(tmp_path / "runs", *command, env=env) for command in commands]
    assert [each.returncode for each in done] == [0] * 7 + [2], [each.stderr for each in done]
    files = [p for folder in ("runs", "out") for p in (tmp_path / folder).rglob("*") if p.is_file()]
    assert len(files) > 10
    for secret in (IN_BODY, IN_ENVIRONMENT):
        assert not [each.args for each in done if secret in each.stdout + each.stderr]
        assert not [path for path in files if secret.encode() in path.read_bytes()]
