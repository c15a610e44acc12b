"""What tokens cost."""

from __future__ import annotations

from pipeline.config.endpoints import Endpoint


def price(endpoint: Endpoint, prompt_tokens: int, completion_tokens: int) -> float | None:
    """The price of these tokens; None if the endpoint has no price."""
    if endpoint.price_per_mtok_in is None and endpoint.price_per_mtok_out is None:
        return None
    return (
        prompt_tokens * (endpoint.price_per_mtok_in or 0)
        + completion_tokens * (endpoint.price_per_mtok_out or 0)
    ) / 1e6
