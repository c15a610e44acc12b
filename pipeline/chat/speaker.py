"""The model that `retort chat` and `retort serve` use: a run's student, or any model by its name.

`student_of` and `model_of` find it and refuse what cannot work, before anything is started.
`reach` yields its server.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import prompts
from pipeline.compress import serving
from pipeline.compress.models import compressed_models, export_path
from pipeline.compress.schemes import SCHEMES
from pipeline.config import Recipe
from pipeline.config.compress import SchemeName
from pipeline.config.endpoints import Endpoint
from pipeline.config.evaluate import Evaluate
from pipeline.engine.manifest import Manifest
from pipeline.engine.previous import earlier_outputs
from pipeline.engine.progress import say
from pipeline.errors import UserError
from pipeline.inference import endpoint as endpoints
from pipeline.inference import model_files, vllm_server
from pipeline.inference.vllm_server import HOST, Server
from pipeline.inspect.run import Run
from pipeline.rows import Example, Sampling
from pipeline.train.stage import model_folder
from prompts import Prompt

LOG = "chat.log"


@dataclass(frozen=True)
class Speaker:
    name: str  # by which clients of its server know it
    weights: str  # hub name, folder or GGUF file
    endpoint: Endpoint
    prompt: Prompt
    sampling: Sampling
    seed: int
    logs: Path | None = None  # the folder of its server's log; None: one of its own until it ends well
    scheme: SchemeName | None = None  # by which it was compressed
    recipe: Recipe | None = None  # of its run


def student_of(
    run: Run, scheme: str | None = None, base_url: str | None = None, api_key_env: str | None = None
) -> Speaker:
    """Returns a run's student, with the prompt it was trained on and the sampling settings of evaluate.

    `scheme`: its compressed form. `base_url`: another program serves it, as `retort serve` does. Raises
    UserError if it cannot be served.
    """
    run.recipe.check_single()
    recipe = run.recipe
    if recipe.student is None:
        raise UserError(f"{run.path}: its recipe has no [student]; `retort chat --model` takes any model")
    folder = model_folder(run.path).absolute()
    if not run.output("train").complete or not (folder / "config.json").is_file():
        raise UserError(f"{run.path}: there is no trained student yet; `retort train` makes it")
    if (taught := _taught(run)) is None:
        raise UserError(f"{run.path}: select was made again after train: run `retort train` first")
    found = Speaker(
        name=f"{model_files.label(run.path.name)}-student" + (f"-{scheme}" if scheme else ""),
        weights=str(folder),
        endpoint=recipe.student,
        prompt=Prompt(Path(recipe.select.prompt).stem, taught.settings["prompt"]),
        sampling=_sampling(recipe.evaluate),
        seed=recipe.seed,
        logs=run.path / "logs",
        recipe=recipe,
    )
    if base_url:
        endpoint = Endpoint(model=found.name, base_url=base_url, api_key_env=api_key_env)
        vllm_server.check(endpoint)
        return replace(found, endpoint=endpoint)
    if scheme:
        return _compressed(found, run, scheme)
    vllm_server.check(found.endpoint)
    return found


def _taught(run: Run) -> Manifest | None:
    """The manifest of the examples that the student was trained on, which may have been set aside since."""
    trained = run.output("train").manifest()
    found = (run.output("select"), *earlier_outputs(run.path, "select", Example))
    content = trained.inputs.get("select") if trained else None
    return next((m for output in found if (m := output.manifest()) and m.content_id == content), None)


def _compressed(whole: Speaker, run: Run, name: str) -> Speaker:
    """The compressed form of a student. Raises UserError if the run does not have it, or cannot serve it."""
    made = [row.id for row in compressed_models(run.path)]
    scheme = next((scheme for scheme in SCHEMES if scheme == name and name in made), None)
    if scheme is None:
        raise UserError(
            f"{run.path}: it has no {name!r}; made by `retort compress`: {', '.join(made) or 'none'}"
        )
    if why := serving.cannot_serve(scheme):
        raise UserError(f"{scheme}: {why}")
    serving.check(scheme, run.recipe)
    return replace(whole, scheme=scheme, weights=str(export_path(run.path, scheme)))


def model_of(model: str, base_url: str | None, api_key_env: str | None, prompt: str | None) -> Speaker:
    """Returns a model by its name, sampled as evaluate does by default. Raises UserError for a mistake."""
    if base_url:
        endpoint = Endpoint(model=model, base_url=base_url, api_key_env=api_key_env)
    else:
        endpoint = Endpoint(model=model, serve="vllm")
    endpoints.check(endpoint)
    loaded = prompts.load(prompt or "plain")
    name = model if base_url else model_files.label(model)
    return Speaker(name, model, endpoint, loaded, _sampling(Evaluate()), seed=0)


@contextmanager
def reach(speaker: Speaker, port: int = 0, host: str = HOST) -> Iterator[Server]:
    """Yields the speaker's server: vLLM, started for the time of the block, or one that runs elsewhere."""
    endpoint = speaker.endpoint
    if endpoint.base_urls:
        yield Server(endpoint.base_urls, endpoint.model)
        return
    if speaker.scheme and speaker.recipe and speaker.logs:
        made, log = Path(speaker.weights), speaker.logs / LOG
        given = (speaker.scheme, made, speaker.name, speaker.recipe, log, say, port, host)
        with serving.serving(*given) as server:
            yield server
        return
    path = model_files.resolve(speaker.weights, say)
    arguments = {"stream_interval": 1} | endpoints.vllm_arguments(endpoint, say)  # to read word by word
    endpoint = endpoint.model_copy(update={"vllm": arguments, "port": port})
    with (
        _logs(speaker.logs) as logs,
        vllm_server.serving(endpoint, path, speaker.name, logs / LOG, say, host) as server,
    ):
        yield server


@contextmanager
def _logs(folder: Path | None) -> Iterator[Path]:
    """Yields the folder of logs. A temporary one stays after an error, whose message names the log."""
    if folder:
        yield folder
        return
    temporary = Path(tempfile.mkdtemp(prefix="retort-"))
    yield temporary
    shutil.rmtree(temporary)


def _sampling(table: Evaluate) -> Sampling:
    return Sampling(temperature=table.temperature, top_p=table.top_p, max_tokens=table.max_tokens)
