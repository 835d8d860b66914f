"""Beam counters: counted on every runner, and read from its metrics."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import grpc
from apache_beam.metrics import Metrics, MetricsFilter

from pipeline.counters import PROCESS

NAMESPACE = "densecast"


def count(name: str, amount: int = 1) -> None:
    """Adds to a counter of Beam (for all runners) and of this process (for the local runner)."""
    _counter(name).inc(amount)
    PROCESS.add(name, amount)


@functools.cache
def _counter(name: str) -> Any:
    """Returns a counter; it adds to that of the stage that runs in the calling thread."""
    return Metrics.counter(NAMESPACE, name)


def counters(result: Any) -> dict[str, int] | None:
    """Returns the counters that a runner reports; None if it reports none.

    Work that was done twice counts twice.

    Args:
        result: Beam's result of a run that has ended.
    """
    try:
        return totals(result.metrics()) or None
    except (NotImplementedError, grpc.RpcError):
        return None


def totals(metrics: Any) -> dict[str, int]:
    """Returns densecast's counters from Beam's MetricResults, summed over all steps."""
    sums: Counter[str] = Counter()
    for counter in metrics.query(MetricsFilter().with_namespace(NAMESPACE))["counters"]:
        sums[counter.key.metric.name] += counter.attempted if counter.committed is None else counter.committed
    return dict(sums)
