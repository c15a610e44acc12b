"""Stops a stage when it has cost as much as the recipe allows: `max_cost` and `max_tokens_total`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.config import Recipe
from pipeline.config.endpoints import Endpoint
from pipeline.errors import UserError
from pipeline.generate.price import price
from pipeline.generate.usage import EndpointUsage


@dataclass(frozen=True)
class Limits:
    """The most that a stage may use in all attempts together; None is no limit."""

    max_cost: float | None = None
    max_tokens_total: int | None = None
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)  # teacher -> its prices
    most_tokens: int = 0  # of one response

    @property
    def given(self) -> bool:
        return self.max_cost is not None or self.max_tokens_total is not None

    def cost(self, usages: Iterable[EndpointUsage]) -> float:
        """The money spent, at the prices of each attempt."""
        return sum(self._cost(usage, self.endpoints.get(usage.teacher)) for usage in usages)

    def tokens(self, usages: Iterable[EndpointUsage]) -> int:
        """Prompt and completion tokens."""
        return sum(u.prompt_tokens + u.completion_tokens + self._uncounted(u) for u in usages)

    def reached(self, usages: Sequence[EndpointUsage]) -> str | None:
        """Returns why nothing more may be requested, and what to do; None while the limits allow more."""
        if not self.given:
            return None
        counted = any(u.prompt_tokens + u.completion_tokens for u in usages)
        if not counted and any(u.uncounted for u in usages):
            return (
                "the server reports no token counts, so no limit can be kept: remove generate.max_cost and "
                "generate.max_tokens_total, or set a limit at the provider"
            )
        advice = "what is finished is kept; raise the limit and run the same command to go on"
        if self.max_cost is not None and (cost := self.cost(usages)) >= self.max_cost:
            return f"generate.max_cost is reached: {cost:.4g} of {self.max_cost:g} spent; {advice}"
        if self.max_tokens_total is not None and (tokens := self.tokens(usages)) >= self.max_tokens_total:
            return f"generate.max_tokens_total is reached: {tokens:,} of {self.max_tokens_total:,}; {advice}"
        return None

    def _cost(self, usage: EndpointUsage, endpoint: Endpoint | None) -> float:
        counted = usage.spend
        if endpoint is None:  # a teacher that the recipe no longer names
            return counted or 0
        if counted is None:  # the attempt had no prices, or nothing was counted
            counted = price(endpoint, usage.prompt_tokens, usage.completion_tokens) or 0
        return counted + (price(endpoint, 0, self._uncounted(usage)) or 0)

    def _uncounted(self, usage: EndpointUsage) -> int:
        """The most tokens that responses without counts may have had."""
        return usage.uncounted * self.most_tokens


def limits_of(recipe: Recipe) -> Limits:
    table, endpoints = recipe.generate, {teacher.display_name: teacher for teacher in recipe.teacher}
    return Limits(table.max_cost, table.max_tokens_total, endpoints, table.max_tokens)


def check_limits(recipe: Recipe) -> None:
    """Raises UserError if the cost is limited and a teacher has no price."""
    for teacher in recipe.teacher:
        prices = (teacher.price_per_mtok_in, teacher.price_per_mtok_out)
        if recipe.generate.max_cost is not None and None in prices:
            raise UserError(
                f"generate.max_cost needs the prices of {teacher.display_name}: set price_per_mtok_in and "
                "price_per_mtok_out, or limit generate.max_tokens_total instead"
            )
