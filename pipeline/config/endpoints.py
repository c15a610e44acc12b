"""[teacher], [student], [judge]: models and the servers that they are reached through."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from pipeline.config.base import EnvName, Fraction, Name, NotIdentity, RecipeTable, Scalar, TopP

Port = Annotated[int, Field(ge=0, le=65535)]
LayersBy = Literal["spacing", "block_influence"]
BatchRequests = Annotated[int, Field(ge=1, le=50_000)]  # what OpenAI takes in one file


class Endpoint(RecipeTable):
    """A model behind an OpenAI-compatible server: a local vLLM server that retort starts, or any other."""

    # What of `vllm` and `omit` changes the samples enters the identity in pipeline/inference/fingerprint.py.
    model: str
    """Name on the hub, local folder, GGUF file, or package:DIST/FILE.gguf for a file of an installed package.
    With `base_url`: the model's name on that server."""
    serve: NotIdentity[Literal["vllm"] | None] = None
    """Set to "vllm" to serve the model on this machine while it is needed. Set either this or `base_url`."""
    base_url: NotIdentity[str | tuple[str, ...] | None] = None
    """URL of a running server, up to and including /v1. A list spreads the requests over several servers."""
    api_key_env: NotIdentity[EnvName | None] = None
    """Name of the environment variable that holds the API key for `base_url`."""
    port: NotIdentity[Port] = 0
    """Port of the server that retort starts; 0 takes any free port."""
    vllm: NotIdentity[dict[str, Scalar | dict[str, Any] | list[Any]]] = {}
    """Engine arguments of vLLM, such as { max_model_len = 4096, tensor_parallel_size = 2 }. Those that change
    how weights are read, such as `quantization`, cannot change within a run."""
    env: NotIdentity[dict[EnvName, str]] = {}
    """Extra environment variables of the server that retort starts."""
    start_timeout: NotIdentity[PositiveFloat] = 900
    """Seconds that the server may take to start. Raise it for models that take long to download or load."""
    stream: NotIdentity[bool] = True
    """Stream tokens, so that a slow response differs from a dead one. Turn it off where a server cannot
    stream."""
    stall_timeout: NotIdentity[PositiveFloat] = 300
    """Seconds without new text after which a request is retried. Raise it for servers that hide the
    reasoning."""
    unavailable_timeout: NotIdentity[PositiveFloat] = 600
    """Seconds without any successful response after which the stage stops with exit code 3."""
    max_retries: NotIdentity[NonNegativeInt] = 5
    """Retries of a request after an error that may be transient, with exponential backoff."""
    requests_per_minute: NotIdentity[PositiveFloat | None] = None
    """Rate limit of the account in requests per minute. Default: no limit on this side."""
    tokens_per_minute: NotIdentity[PositiveFloat | None] = None
    """Rate limit of the account in tokens per minute, prompt and completion together. Default: no limit."""
    price_per_mtok_in: NotIdentity[NonNegativeFloat | None] = None
    """Price of a million prompt tokens, in any currency. With prices set, `retort status` shows the cost."""
    price_per_mtok_out: NotIdentity[NonNegativeFloat | None] = None
    """Price of a million completion tokens, in the same currency."""
    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Request field for the maximum number of tokens. OpenAI's reasoning models need the second."""
    extra_body: dict[str, Any] = {}
    """Fields added to each request, such as { top_k = 20 }."""
    omit: NotIdentity[tuple[Literal["temperature", "top_p", "seed", "stream_options"], ...]] = ()
    """Fields to leave out of each request, for a server that rejects them."""
    continue_by: NotIdentity[
        Literal["continue_final_message", "completions", "prefix", "reasoning_content"]
    ] = "continue_final_message"
    """How the server is asked to continue a truncated response; docs/servers.md compares the ways, and says
    which chat templates cannot continue one."""

    @model_validator(mode="after")
    def _either_served_or_reached(self) -> Endpoint:
        if self.by_files:
            if self.serve or self.base_url:
                raise ValueError('batch = "file" asks no server: remove serve and base_url')
        elif (self.serve is None) == (not self.base_urls):
            raise ValueError('set either serve = "vllm" or base_url')
        return self

    @property
    def by_files(self) -> bool:
        """Whether no server is asked: requests and responses are files."""
        return False

    @property
    def base_urls(self) -> tuple[str, ...]:
        return (self.base_url,) if isinstance(self.base_url, str) else self.base_url or ()


class Teacher(Endpoint):
    """A model whose reasoning is distilled. Several teachers are an array of tables, [[teacher]]."""

    licence: NotIdentity[str | None] = None
    """Licence of the model, such as "apache-2.0", for the cards that `retort publish` writes."""
    terms: NotIdentity[str | None] = None
    """What the licence or the provider says about training on outputs, or its URL; printed on the cards."""
    name: Name | None = None
    """Name of the teacher in every trace. Default: `model`."""
    generation: NonNegativeInt | None = None
    """How often the model, or those it learned from, was trained on texts of models: 0 for an original model,
    1 for its student. Default: as a folder that retort made says, else unknown."""
    share: PositiveFloat | None = None
    """Weight among the teachers that share out the problems. Default: this teacher gets every problem."""
    batch: NotIdentity[bool | Literal["file"]] = False
    """Ask through OpenAI's Batch API (files of requests, answered within a day, usually at half the price)
    in place of single requests. Give the prices of batches in `price_per_mtok_in` and `price_per_mtok_out`.
    `concurrency`, `stream` and the rate limits have no effect then. "file" asks no server: the stage writes
    the requests for `vllm run-batch`, and the same command collects its results."""
    batch_requests: NotIdentity[BatchRequests] = 50_000
    """Maximum requests of one batch. Lower it if the account may have few tokens in batches at once."""

    @model_validator(mode="after")
    def _batches_have_one_server(self) -> Teacher:
        if self.batch is True and len(self.base_urls) != 1:
            raise ValueError("batch = true needs one base_url")
        if self.batch and self.continue_by == "completions":
            raise ValueError('batches cannot be used with continue_by = "completions"')
        return self

    @property
    def by_files(self) -> bool:
        return self.batch == "file"

    @property
    def display_name(self) -> str:
        return self.name or self.model


class Student(Endpoint):
    """The model to fine-tune. It is served on this machine for its evaluation before and after training."""

    serve: NotIdentity[Literal["vllm"]] = "vllm"
    """The only way to serve a student."""
    licence: NotIdentity[str | None] = None
    """Licence of the model before training, for the card that `retort publish` writes."""
    generation: NotIdentity[NonNegativeInt | None] = None
    """Generation of the model before training, written as `teacher.generation`. Default: as a folder that
    retort made says, else unknown."""
    layers: PositiveInt | None = None
    """Keep only this many of the model's layers before training. Default: all."""
    layers_by: LayersBy = "spacing"
    """Which layers stay: evenly spaced ones with the first and the last, or those with the most block
    influence (Men et al. 2024), measured on training examples."""
    heads: PositiveInt | None = None
    """Keep only this many attention heads of each layer, those that are most active on training examples
    (Muralidharan et al. 2024). Heads that share a key-value head stay or go together. Default: all."""
    intermediate_size: PositiveInt | None = None
    """Keep only this many channels of each layer's MLP, those that are most active on training examples.
    Default: all."""

    @model_validator(mode="after")
    def _a_way_to_choose_needs_a_choice(self) -> Student:
        if self.layers is None and self.layers_by != "spacing":
            raise ValueError("layers_by needs layers, the number of layers that stay")
        return self


class Judge(Endpoint):
    """The LLM that compares free-text answers with their references (`answer_type = "free"`)."""

    prompt: str = "judge"
    """Name of a file in prompts/ without .txt, or a path that ends in .txt."""
    temperature: NonNegativeFloat = 0
    """Sampling temperature; 0 is greedy decoding."""
    top_p: TopP = 1
    """Nucleus sampling: only the likeliest tokens whose probabilities add up to this are sampled."""
    max_tokens: PositiveInt = 4096
    """Maximum tokens of one verdict, reasoning included. A truncated verdict counts as undecided."""
    concurrency: NotIdentity[PositiveInt] = 64
    """Maximum requests in flight."""
    max_failed_fraction: NotIdentity[Fraction] = 0
    """Fraction of the verdicts that may fail for good while the stage still goes on."""
