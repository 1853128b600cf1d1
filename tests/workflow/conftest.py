"""Fixtures of the tests of the graph."""

import pytest

from support.dag_folder import DagFolder


@pytest.fixture
def dag_folder(tmp_path):
    return DagFolder.make(tmp_path)
