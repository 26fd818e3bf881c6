"""Real servers for the tests: S3 over a folder, by rclone."""

from benchmarks.s3_server import (
    ACCESS_KEY,
    REGION,
    SECRET_KEY,
    S3Server,
    kill,
    serve_s3,
    started_again,
)

__all__ = [
    "ACCESS_KEY",
    "REGION",
    "SECRET_KEY",
    "S3Server",
    "kill",
    "serve_s3",
    "started_again",
]
