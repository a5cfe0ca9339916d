"""Fixtures of the training tests."""

from tests.support.training_runs import accelerate_on_cpu, drawn_pairs  # noqa: F401
