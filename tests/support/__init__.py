"""Helpers of the tests: data with known answers, and stand-ins for tools, nights and clusters."""

from pathlib import Path

#: Root of the repository.
REPO = Path(__file__).resolve().parents[2]
