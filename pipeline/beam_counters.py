"""Counters for Beam: counted on every runner, and read from what a runner reports."""

from __future__ import annotations

from collections import Counter
from typing import Any

import grpc
from apache_beam.metrics import Metrics, MetricsFilter

from pipeline.counters import PROCESS

NAMESPACE = "densecast"


def count(name: str, amount: int = 1) -> None:
    """Counts for Beam (all runners) and for this process (the local runner)."""
    Metrics.counter(NAMESPACE, name).inc(amount)
    PROCESS.add(name, amount)


def counters(result: Any) -> dict[str, int] | None:
    """Returns what a run counted, as its runner reports it; None where it reports nothing.

    Work that was done twice counts twice.

    Args:
        result: Beam's result of a run that has ended.
    """
    try:
        return totals(result.metrics()) or None
    except (NotImplementedError, grpc.RpcError):
        return None


def totals(metrics: Any) -> dict[str, int]:
    """Returns our counters among Beam's MetricResults, summed over all steps that count."""
    sums: Counter[str] = Counter()
    for counter in metrics.query(MetricsFilter().with_namespace(NAMESPACE))["counters"]:
        sums[counter.key.metric.name] += counter.attempted if counter.committed is None else counter.committed
    return dict(sums)
