"""The Dask cluster that fills the stores of a run."""

from __future__ import annotations

import logging
import socket
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from wsikd.core.errors import ConfigError, WsikdError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack

    from wsikd.tiles.jobs import TileJob

_CONNECT_S = 10


def on_cluster(
    jobs: Sequence[TileJob], scheduler: str | None, workers: int | None, stack: ExitStack
) -> list[TileJob]:
    """The jobs with the address of the cluster that fills their blocks, if there is to be one."""
    address = _answering(scheduler) if scheduler else None
    if workers:
        from distributed import LocalCluster

        # Dask logs every step at "info", and its own closing as an error. Real errors are raised.
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        cluster = LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",  # or two runs would quarrel over its usual port
            scheduler_kwargs={"dashboard": False},
            silence_logs=logging.CRITICAL,
        )
        address = stack.enter_context(cluster).scheduler_address
    if address is None:
        return list(jobs)
    return [_elsewhere(job, address) for job in jobs]


def _answering(address: str) -> str:
    """The address of a scheduler, once something listens there; logged once, not for every
    slide."""
    whole = address if "://" in address else f"tcp://{address}"
    try:
        place = urlsplit(whole)
        host, port = place.hostname, place.port
    except ValueError:
        host = port = None
    if host is None or port is None:
        raise ConfigError(
            "--scheduler", f"'{address}' is not an address", "give it as tcp://host:port"
        )
    try:
        socket.create_connection((host, port), timeout=_CONNECT_S).close()
    except OSError as error:
        fault = f"no Dask scheduler answers there ({error.strerror or error})"
        raise WsikdError(
            whole, fault, "start one with dask scheduler, or correct the address"
        ) from error
    return whole


def _elsewhere(job: TileJob, address: str) -> TileJob:
    """A job whose paths mean the same in every folder."""
    entry = replace(job.entry, path=job.entry.path.absolute())
    return replace(job, entry=entry, out=job.out.absolute(), scheduler=address)
