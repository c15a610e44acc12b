"""Connects to a Ray cluster, or starts one on this machine that nobody else can use."""

from __future__ import annotations

import atexit
import importlib.util
import logging
import os
import secrets
import shutil
import signal
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from pipeline import install_hints
from pipeline.errors import Stopped, UserError, one_line

NAMESPACE = "retort"
# With Ray's own settings a frozen node is noticed after a minute, and its workers after seven. Each process
# of a cluster reads them when it starts; docs/cluster.md says where to set them.
QUICK = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_grpc_client_keepalive_time_ms": "5000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
}
STORE_BYTES = 100 * 2**20  # of shared memory; only a job's settings pass through it


@cache
def connect(address: str) -> None:
    """Connects this process to a cluster: "local" starts one, "auto" finds one; once for all stages.

    Raises UserError without Ray, Stopped if there is no such cluster.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError(f"--ray needs ray, which is not installed: {install_hints.extra('ray')}")
    for name, value in QUICK.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    settings: dict[str, Any] = _private() if address == "local" else {}
    import ray  # reads its variables

    if ray.is_initialized():  # by a program that uses Ray itself
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        ray.init(address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR, **settings)
    except (ConnectionError, ValueError, RuntimeError) as e:
        raise Stopped(f"--ray {address}: cannot connect: {one_line(e)}") from None
    finally:
        for number, handler in handlers.items():  # Ray replaces them, and would end without saving
            signal.signal(number, handler)


def _private() -> dict[str, Any]:
    """Settings of a cluster for this process alone: with a token, since Ray listens on all interfaces."""
    folder = Path(tempfile.mkdtemp(prefix="retort-ray-"))  # mode 0700; Ray's sockets need a short path
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    return {
        "include_dashboard": False,
        "object_store_memory": STORE_BYTES,
        "_temp_dir": str(folder),
    }
