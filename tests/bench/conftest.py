"""Fixtures of other folders that several of these tests use."""

from tests.cost.conftest import tiny_split

__all__ = ["tiny_split"]
