"""Durations on the wire."""

from google.protobuf.duration_pb2 import Duration


def seconds_of(duration: Duration) -> float:
    """Return a duration from the wire in seconds."""
    return duration.ToNanoseconds() / 1e9
