"""Benchmarks: medians of repeated, interleaved measurements, in the units of the metrics table."""

from .compilation import bench_compile
from .crowd import bench_crowd
from .inference import bench_inference
from .learn import bench_learn
from .match import bench_match
from .ray_local import bench_ray
from .rules import bench_rules
from .search import bench_search
from .selfplay import bench_selfplay
from .server import bench_server
from .store import bench_store
from .workers import bench_workers

__all__ = [
    "bench_compile",
    "bench_crowd",
    "bench_inference",
    "bench_learn",
    "bench_match",
    "bench_ray",
    "bench_rules",
    "bench_search",
    "bench_selfplay",
    "bench_server",
    "bench_store",
    "bench_workers",
]
