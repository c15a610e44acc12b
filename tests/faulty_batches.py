"""Batches with faults: each is played by one attempt to create a batch, in the order given."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from pipeline.fake_server.batches import Batches, Line

# "before" and "after": the attempt is never answered, and the batch is not created or is
# "created": the batch is created and the attempt is answered with 500
# "expired": half of the requests are answered; "failed", "too_much": the batch is refused
# "missing": half of the good results are left out; "strange": other lines stand between the results
CREATION = ("429", "500", "before", "after", "created")
ENDS = ("expired", "failed", "too_much", "missing", "strange")
FAULTS = ("", *CREATION, *ENDS)
REFUSED = ("failed", "too_much")
NEVER = 3600  # seconds


class FaultyBatches(Batches):
    def __init__(self, server: Any, faults: list[str]) -> None:
        super().__init__(server)
        self.faults = list(faults)
        self.of_batch: dict[str, str] = {}

    async def create(self, http: web.Request) -> web.StreamResponse:
        fault = self.faults.pop(0) if self.faults else ""
        if fault in ("429", "500"):
            return self.server.error(int(fault), f"played fault {fault}")
        if fault == "before":
            await asyncio.sleep(NEVER)
        created = await super().create(http)
        self.of_batch[id := next(reversed(self.batches))] = fault
        if fault in REFUSED:
            self.ends[id] = self.server.now()
        if fault == "after":
            await asyncio.sleep(NEVER)
        return self.server.error(500, "played fault created") if fault == "created" else created

    def end(self, batch: dict[str, Any], status: str, answered: float = 1) -> None:
        fault = self.of_batch.get(batch["id"])
        if fault == "expired":
            return super().end(batch, "expired", answered=0.5)
        if fault in REFUSED:
            code = "token_limit_exceeded" if fault == "too_much" else "invalid_request"
            batch["errors"] = {"object": "list", "data": [{"code": code, "message": f"played {fault}"}]}
            batch["status"] = "failed"
            return None
        return super().end(batch, status, answered)

    def write(self, batch: dict[str, Any], good: list[Line], bad: list[Line]) -> None:
        fault = self.of_batch.get(batch["id"])
        if fault == "missing":
            good = good[::2]
        if fault == "strange":
            unknown = good[0] | {"custom_id": "../../unknown"}
            nameless: Line = {"response": None}
            good = [unknown, nameless, *reversed(good), *good[:2]]
        super().write(batch, good, bad)
