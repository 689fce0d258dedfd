#!/opt/unsee/bin/python
"""Ends with 0 if the server in this container serves; asks its health port, ``UNSEE_HEALTH_PORT``."""

import os
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_S = 4.0


def main() -> None:
    """Exit with 0 if the server answers SERVING, else with 1 and a line that says why."""
    target = f"127.0.0.1:{os.environ['UNSEE_HEALTH_PORT']}"
    with grpc.insecure_channel(target) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            sys.exit(f"{target}: {error.code().name if isinstance(error, grpc.Call) else error}")
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    if status != "SERVING":
        sys.exit(f"{target}: {status}")


if __name__ == "__main__":
    main()
