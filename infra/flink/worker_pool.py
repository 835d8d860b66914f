"""Beam's pool of Python workers, listening on one address; Beam's own program listens on all addresses of the machine.

Flink requests a worker from it (`--environment_type=EXTERNAL`), and it starts Beam's boot program, like the pool of a
worker image.
"""

from __future__ import annotations

import argparse

import grpc
from apache_beam.portability.api import beam_fn_api_pb2_grpc
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer
from apache_beam.utils.thread_pool_executor import shared_unbounded_instance


def main() -> None:
    """Serves until the process is terminated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=50000)
    parser.add_argument("boot", help="The program that starts a worker: Beam's boot program")
    arguments = parser.parse_args()
    server = grpc.server(shared_unbounded_instance())
    pool = BeamFnExternalWorkerPoolServicer(use_process=True, container_executable=arguments.boot)
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    server.add_insecure_port(f"{arguments.host}:{arguments.port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
