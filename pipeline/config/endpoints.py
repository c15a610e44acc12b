"""[teacher], [student], [judge]: models, and how they are reached."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.config.base import EnvName, Name, Scalar, Share, Table


class Endpoint(Table):
    """A model behind an OpenAI-compatible server: one started here, or one that is already there."""

    EXECUTION: ClassVar[frozenset[str]] = frozenset(
        {
            "serve",
            "base_url",
            "api_key_env",
            "port",
            "vllm",
            "env",
            "start_timeout",
            "stream",
            "stall_timeout",
            "unavailable_timeout",
            "max_retries",
            "requests_per_minute",
            "tokens_per_minute",
            "price_per_mtok_in",
            "price_per_mtok_out",
            "continue_by",
            "omit",  # what is drawn otherwise for it is in `drawing.not_sent`
        }
    )
    model: str  # hub name, local folder, GGUF file, or package:DIST/FILE.gguf from an installed package
    serve: Literal["vllm"] | None = None  # start a local vLLM server for it
    base_url: str | tuple[str, ...] | None = None  # or use this one, or several that share the load
    api_key_env: EnvName | None = None  # name of the environment variable with the key for base_url
    port: Annotated[int, Field(ge=0, le=65535)] = 0  # of the server started here; 0: any free one
    vllm: dict[str, Scalar | dict[str, Any] | list[Any]] = {}  # engine arguments: { max_model_len = 4096 }
    env: dict[EnvName, str] = {}  # environment of the server started here
    start_timeout: Annotated[float, Field(gt=0)] = 900  # seconds to wait until it answers
    stream: bool = True  # have tokens sent as they come, so that a slow answer is told from a dead one
    stall_timeout: Annotated[float, Field(gt=0)] = 300  # seconds without text until an answer is given up
    unavailable_timeout: Annotated[float, Field(gt=0)] = (
        600  # seconds without any good answer until the run stops
    )
    max_retries: Annotated[int, Field(ge=0)] = (
        5  # of a request that failed or broke off, as a second try may not
    )
    requests_per_minute: Annotated[float, Field(gt=0)] | None = None
    tokens_per_minute: Annotated[float, Field(gt=0)] | None = None  # prompt and completion together
    price_per_mtok_in: Annotated[float, Field(ge=0)] | None = (
        None  # per million prompt tokens, in any currency
    )
    price_per_mtok_out: Annotated[float, Field(ge=0)] | None = None  # per million completion tokens
    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"  # as the server calls it
    extra_body: dict[str, Any] = {}  # sent along with each request, e.g. { top_k = 20 }
    # Names of fields to leave out of each request, for a server that refuses them
    omit: tuple[Literal["temperature", "top_p", "seed", "stream_options"], ...] = ()
    # How the server is asked to go on with a cut answer; servers.md tells the ways
    continue_by: Literal["continue_final_message", "completions", "prefix", "reasoning_content"] = (
        "continue_final_message"
    )

    @model_validator(mode="after")
    def _one_way_to_reach_it(self) -> Endpoint:
        if (self.serve is None) == (self.base_url is None):
            raise ValueError('set either serve = "vllm" or base_url')
        return self

    @property
    def base_urls(self) -> tuple[str, ...]:
        return (self.base_url,) if isinstance(self.base_url, str) else self.base_url or ()


class Teacher(Endpoint):
    """Several teachers are an array of tables, [[teacher]]."""

    EXECUTION: ClassVar[frozenset[str]] = Endpoint.EXECUTION | {"licence", "terms"}
    licence: str | None = None  # of the model, as "apache-2.0"; for the cards that publish writes
    terms: str | None = None  # what they say of training on its answers, or the URL where they stand
    name: Name | None = None  # what its traces call it; default: the model
    share: Annotated[float, Field(gt=0)] | None = None  # of the problems, in proportion; None: all of them

    @property
    def display_name(self) -> str:
        return self.name or self.model


class Student(Endpoint):
    """The model to fine-tune; served the same way for its evaluation, before and after."""

    EXECUTION: ClassVar[frozenset[str]] = Endpoint.EXECUTION | {"licence"}
    serve: Literal["vllm"] = "vllm"
    licence: str | None = None  # of the model before training; for the card that publish writes
    layers: Annotated[int, Field(ge=1)] | None = None  # keep so many of its layers, evenly spread; None: all


class Judge(Endpoint):
    """The model that compares answers with the reference where answer_type is "free"."""

    EXECUTION: ClassVar[frozenset[str]] = Endpoint.EXECUTION | {"concurrency", "max_failed_fraction"}
    prompt: str = "judge"  # a file of prompts/ without .txt, or a path to one
    temperature: Annotated[float, Field(ge=0)] = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1
    max_tokens: Annotated[int, Field(ge=1)] = 4096  # an answer cut there tells nothing
    concurrency: Annotated[int, Field(ge=1)] = 64  # requests in flight, at most
    max_failed_fraction: Share = 0  # share of the judge_verdicts that may be failures for the stage to go on
