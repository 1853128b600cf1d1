"""A tick ends at its time budget, with what is at work; the next one goes on from there."""

import pytest

from support.night import Operations, raw_groups


@pytest.fixture
def night(tmp_path):
    operations = Operations.make(tmp_path / "work")
    operations.receive(raw_groups(tmp_path / "raw", tiles=2))
    return operations


def ends(night):
    return [job for kind, job in night.ledger() if kind == "end"]


def test_a_tick_ends_at_its_budget_and_the_next_goes_on(night, monkeypatch):
    command = night.command("tick", "--cores", "1")
    monkeypatch.setattr(
        Operations,
        "command",
        lambda *_, **__: [word.replace("{close", "{budget_s: 15, close") for word in command],
    )
    status, output = night.call(STUB_SECONDS="5")
    assert (status, "time budget spent" in output) == (0, True), output
    assert not list(night.results.rglob("failure*.json"))
    begun = [job for kind, job in night.ledger() if kind == "begin"]
    assert begun and begun == ends(night), "what was at work has ended in peace"
    monkeypatch.undo()
    status, output = night.call("tick")
    assert status == 0, output
    assert len(ends(night)) == len(set(ends(night))), "nothing was done twice"
    assert list(night.results.glob("nights/*/closed.json"))
