"""Placeholder."""

from typing import Any


def write_contact_sheet(output: str, dataset: Any, plan: Any) -> None:
    """Write."""
