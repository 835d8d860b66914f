"""What a job on a cluster fails of."""

from __future__ import annotations

import pytest

from conversion.errors import ModelError
from pipeline.errors import JobError, TableError, WorkerError
from pipeline.jobs.submit import failure, worker_error
from pipeline.storage.errors import StorageError
from pipeline.table.commit import ConflictError

JAVA = """java.util.concurrent.ExecutionException: java.lang.RuntimeException: Error received from SDK harness \
for instruction {number}: Traceback (most recent call last):
  File "apache_beam/runners/worker/sdk_worker.py", line 310, in _execute
    response = task()
{raised}

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "apache_beam/runners/worker/bundle_processor.py", line 5, in process
{raised} [while running 'Score images/Decode, infer, write']

\tat java.base/java.util.concurrent.CompletableFuture.reportGet(CompletableFuture.java:396)
\tat org.apache.beam.runners.flink.FlinkExecutableStageFunction.mapPartition(FlinkExecutableStageFunction.java:269)
Caused by: java.lang.RuntimeException: Error received from SDK harness for instruction {number}: \
Traceback (most recent call last):
  File "apache_beam/runners/worker/sdk_worker.py", line 310, in _execute
    response = task()
RuntimeError: {raised} [while running 'Score images/Decode, infer, write']

\tat org.apache.beam.runners.fnexecution.control.FnApiControlClient$Observer.onNext(FnApiControlClient.java:180)
\tat java.base/java.util.concurrent.ThreadPoolExecutor.runWorker(ThreadPoolExecutor.java:1136)
\t... 1 more
"""
MODEL = "conversion.errors.ModelError: models/a: the SavedModel cannot be loaded\n  what to do: convert it"
TABLE = "pipeline.errors.TableError: maps: is not a table"
CONFLICT = "pipeline.table.commit.ConflictError: maps: another run"
PRUNED = "pipeline.errors.JobError: too many images would be marked"
STORAGE = "pipeline.StorageError: s3://maps: cannot be read"
KILLED = "java.util.concurrent.ExecutionException: CANCELLED: client cancelled\n\tat a.B.c(B.java:1)\n"


def java(raised: str, number: int = 4) -> str:
    return JAVA.format(raised=raised, number=number)


def test_the_frames_of_java_are_no_part_of_the_message() -> None:
    message = "models/a: the SavedModel cannot be loaded\n  what to do: convert it"
    assert worker_error(java(MODEL)) == (ModelError, message)
    kind, told = worker_error(KILLED)
    assert kind is WorkerError
    assert "CANCELLED" in told
    assert "B.java" not in told


@pytest.mark.parametrize(
    ("failures", "ended", "kind"),
    [
        ([], False, None),
        ([], True, None),
        ([java(MODEL)] * 2, False, None),
        ([java(MODEL, 1), KILLED, java(MODEL, 2), java(MODEL, 3)], False, ModelError),
        ([java(MODEL), java(TABLE), java(MODEL)], False, None),
        ([java(STORAGE)] * 9, False, None),
        ([KILLED] * 9, False, None),
        ([java(TABLE), KILLED], True, TableError),
        ([java(STORAGE)], True, StorageError),
        ([KILLED, java(TABLE)], True, WorkerError),
        ([java(CONFLICT)] * 3, False, ConflictError),
        ([java(PRUNED)] * 3, False, JobError),
    ],
)
def test_what_will_not_mend_is_not_tried_for_ever(failures: list[str], ended: bool, kind: type | None) -> None:
    told = failure(failures, ended=ended)
    assert (told and told[0]) is kind
