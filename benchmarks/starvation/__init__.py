"""How long an accelerator starved, and for what: the measurement, its page, its controls."""

from benchmarks.starvation.monitor import StarvationMonitor

__all__ = ["StarvationMonitor"]
