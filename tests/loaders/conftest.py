"""Hypothesis without a deadline: the machines that run these tests are shared."""

from hypothesis import settings

settings.register_profile("loaders", deadline=None)
settings.load_profile("loaders")
