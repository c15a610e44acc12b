"""What a run's cards say, gathered from its manifests and its recipe.

What a stage was really made under stands in its manifest; licences, terms and names stand in the recipe.
Nothing is taken that names a machine: no address, no folder, no environment, no text sent with requests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config import Recipe
from pipeline.config.sources import GymSource, Source
from pipeline.errors import UserError
from pipeline.evaluate import metrics
from pipeline.evaluate.metrics import Comparison, Summary
from pipeline.filter.funnel import Funnel
from pipeline.ingest import sources
from pipeline.inspect.run import Run
from pipeline.rows import Row, Score

LINKS = {"select": "filter", "train": "select", "evaluate": "train"}  # stage -> what it was made from
NOT_STATED = "not stated"


class Licensed(Row):
    """A model or a source, with what the recipe says of its licence."""

    name: str
    licence: str | None
    terms: str | None = None
    made_of: str = ""  # of a source: where its problems come from
    problems: int = 0


class Decontamination(Row):
    against: tuple[str, ...]
    ngrams: tuple[int, ...]  # words
    hits: int  # traces


class Facts(Row):
    run: str
    recipe: str  # hash of all settings and inputs of the examples
    teachers: tuple[Licensed, ...]
    student: Licensed | None
    sources: tuple[Licensed, ...]
    sampling: dict[str, str]
    teacher_prompt: tuple[str, str]  # name, text
    student_prompt: tuple[str, str]
    rules: dict[str, str]  # "name@version" -> its parameters
    decontamination: Decontamination | None
    funnel: Funnel
    selection: dict[str, str]
    scored: dict[str, str]  # how the models were asked in evaluate
    summaries: tuple[Summary, ...]  # none before the run is evaluated, as with the next
    comparisons: tuple[Comparison, ...]
    trained_on: dict[str, int]  # set -> problems of it that the student learned from


def public(name: str) -> str:
    """A model's name without this machine's folders: of a path only its last part is left."""
    is_path = name.startswith(("/", "./", "../", "~")) or name.endswith((".gguf", "/")) or Path(name).is_dir()
    if not is_path or name.startswith("package:"):
        return name
    return Path(name).name or "model"


def on_the_hub(name: str) -> bool:
    """Whether a model's name is one of the hub, so that a card may link to it."""
    return public(name) == name and name.count("/") == 1 and ":" not in name


def check_lineage(run: Run) -> None:
    """Raise UserError where a stage was made anew and one that was made from it was not."""
    for stage, reads in LINKS.items():
        made, given = run.output(stage).manifest(), run.output(reads).manifest()
        if made and given and run.output(stage).complete and made.inputs.get(reads) != given.content_id:
            raise UserError(f"{run.path}: {reads} was made anew after {stage}: run `retort {stage}` first")


def missing(recipe: Recipe, trained: bool) -> Iterator[str]:
    """What the recipe should say of licences and does not."""
    for i, teacher in enumerate(recipe.teacher):
        where = "teacher" if len(recipe.teacher) == 1 else f"teacher.{i}"
        yield from (
            f"{where}.{key} is not stated" for key in ("licence", "terms") if not getattr(teacher, key)
        )
    for i, source in enumerate(recipe.ingest.sources):
        if not source.licence:
            yield f"ingest.sources.{i}.licence is not stated ({sources.name_of(source)})"
    if trained and recipe.student and not recipe.student.licence:
        yield "student.licence is not stated"


def gather(run: Run) -> Facts:
    """All that the cards say of a run whose examples are complete."""
    recipe = run.recipe
    generate, filtered, select = (_manifest(run, stage) for stage in ("generate", "filter", "select"))
    rules = dict(filtered["settings"]["rules"])
    funnel = Funnel.model_validate(filtered["report"])
    scores = list(_scores(run))
    return Facts(
        run=run.path.name,
        recipe=select["identity"],
        teachers=tuple(
            Licensed(name=public(t.display_name), licence=t.licence, terms=t.terms) for t in recipe.teacher
        ),
        student=Licensed(name=public(recipe.student.model), licence=recipe.student.licence)
        if recipe.student
        else None,
        sources=tuple(_sources(recipe, _manifest(run, "ingest"))),
        sampling=_sampling(generate["settings"], generate["report"].get("not_sent", {})),
        teacher_prompt=(generate["settings"]["prompt"]["name"], generate["settings"]["prompt"]["text"]),
        student_prompt=(Path(recipe.select.prompt).stem, select["settings"]["prompt"]),
        decontamination=_decontamination(recipe, rules.pop("contamination", None), funnel),
        rules=_rules(rules | _duplicates(filtered["settings"])),
        funnel=funnel,
        selection=_shown(select["settings"], leave_out=("prompt", "seed")),
        scored=_scored(run),
        summaries=tuple(metrics.summarise(scores)),
        comparisons=tuple(metrics.comparisons(scores)),
        trained_on=run.report("evaluate").get("trained_on", {}),
    )


def _manifest(run: Run, stage: str) -> dict[str, Any]:
    manifest = run.output(stage).manifest()
    if manifest is None:
        raise UserError(f"{run.path}: {stage} was not run; a run is published with its whole history")
    return {**manifest.model_dump(mode="json"), "identity": manifest.identity}


def _sources(recipe: Recipe, manifest: Mapping[str, Any]) -> Iterator[Licensed]:
    content, counts = manifest["settings"]["content"], manifest["report"]["by_source"]
    for source, fingerprint in zip(recipe.ingest.sources, content, strict=True):
        name = sources.name_of(source)
        made_of = _made_of(source, fingerprint)
        yield Licensed(
            name=name,
            licence=source.licence,
            made_of=made_of,
            problems=counts.get(name, {}).get("problems", 0),
        )


def _made_of(source: Source, fingerprint: Mapping[str, Any]) -> str:
    """Where problems come from, for people: never a path."""
    if isinstance(source, GymSource):
        return f"reasoning-gym {fingerprint['reasoning_gym']}, task {source.task}, {source.size} drawn"
    if "dataset" in fingerprint:
        revision = fingerprint.get("revision") or "not pinned"
        subset = f"{fingerprint['subset']}, " if fingerprint.get("subset") else ""
        return f"{fingerprint['dataset']} ({subset}split {fingerprint['split']}, revision {revision})"
    if "folder" in fingerprint:
        return f"a data set in a local folder, sha256 {fingerprint['sha256'][:16]}"
    digests = list(fingerprint["files"].values())
    files = "1 local file" if len(digests) == 1 else f"{len(digests)} local files"
    return f"{files}, sha256 {', '.join(digest[:16] for digest in digests[:3])}"


def _decontamination(recipe: Recipe, rule: Any, funnel: Funnel) -> Decontamination | None:
    table = recipe.filter.contamination
    if rule is None or table is None:
        return None
    named = zip(table.against, rule["against"], strict=True)
    hits = funnel.rules["contamination"].fails if "contamination" in funnel.rules else 0
    against = tuple(f"{sources.name_of(source)}: {_made_of(source, given)}" for source, given in named)
    return Decontamination(against=against, ngrams=tuple(rule["ngrams"]), hits=hits)


def _duplicates(settings: Mapping[str, Any]) -> dict[str, Any]:
    given = dict(settings.get("duplicates", {}))
    versions = given.pop("versions", {})
    return {name: {"version": version, **given} for name, version in versions.items()}


def _rules(rules: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    return {
        f"{name}@{given['version']}": ", ".join(f"{k} = {v}" for k, v in given.items() if k != "version")
        for name, given in rules.items()
    }


def _sampling(settings: Mapping[str, Any], not_sent: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """How the teacher was asked, and what of that it was not sent.

    Texts sent along with requests are left out: one may be a key.
    """
    said = _shown(settings, leave_out=("teachers", "prompt", "rules", "split"))
    for teacher in settings["teachers"]:
        extra = {k: v for k, v in teacher["extra_body"].items() if isinstance(v, bool | int | float)}
        said |= {f"{public(teacher['name'])}: {k}": str(v) for k, v in extra.items()}
    return said | {f"{public(name)}: not sent": ", ".join(fields) for name, fields in not_sent.items()}


def _scored(run: Run) -> dict[str, str]:
    manifest = run.output("evaluate").manifest()
    settings = manifest.settings if manifest else {}
    return {name: str(settings[name]) for name in ("temperature", "top_p", "max_tokens") if name in settings}


def _shown(settings: Mapping[str, Any], leave_out: Sequence[str]) -> dict[str, str]:
    return {k: str(v) for k, v in settings.items() if k not in leave_out and v is not None}


def _scores(run: Run) -> Iterator[Score]:
    if run.output("evaluate").complete:
        for score in run.scores:
            yield score.model_copy(update={"model": public(score.model)})
