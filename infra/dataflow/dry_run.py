"""Runs main.py without a cloud: Beam's Dataflow runner creates the job, which stays in a folder.

    python infra/dataflow/dry_run.py FOLDER FLAGS...

With `--dry_run` the runner stops before it creates a client. This program creates the client, which takes the last step
as in a launch of the template: it describes the job and, because of `--template_location`, stores the description. Only
its `stage_file` differs: it writes below FOLDER instead of to a bucket.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import IO

from apache_beam.options.pipeline_options import GoogleCloudOptions
from apache_beam.runners.dataflow.internal.apiclient import DataflowApplicationClient

MAIN = Path(__file__).with_name("main.py")


class Client(DataflowApplicationClient):
    """A client whose buckets are folders."""

    folder: Path

    def stage_file(self, gcs_or_local_path: str, file_name: str, stream: IO[bytes], *_: object, **__: object) -> None:
        """Stores `gs://bucket/a/name` at `FOLDER/bucket/a/name`."""
        target = self.folder / gcs_or_local_path.removeprefix("gs://") / file_name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(stream.read())


def main(folder: Path, flags: list[str]) -> None:
    """Stores the job of these flags in the folder."""
    program = runpy.run_path(str(MAIN))
    pipeline = program["build"](*program["parse"]([*flags, "--dry_run=True"]))
    job = pipeline.run().job
    if not job.options.view_as(GoogleCloudOptions).template_location:
        sys.exit("--template_location is missing: without it the job would be sent")
    client = Client(job.options, job.root_staging_location)
    client.folder = folder
    client.create_job(job)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
