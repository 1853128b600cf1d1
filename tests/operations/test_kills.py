"""A night during which everything is killed, again and again."""

import random
import time
from collections import Counter

import pytest

from support.night import Operations, kill_tree, raw_groups, science

CORES = 2


def lose_a_product(operations, rng):
    """Delete one tile's measurements, and open its night, so that there is something to do."""
    rng.choice(sorted(operations.results.glob("nights/*/groups/*/*.photometry.csv"))).unlink()
    for closed in operations.results.glob("nights/*/closed.json"):
        closed.unlink()


def harass(operations, kills, rng):
    """Kill so many ticks at work; return how often all was done and a product was taken away."""
    killed = lost = 0
    while killed < kills:
        tick = operations.start("tick", "--cores", str(CORES), STUB_SECONDS="0.4")
        time.sleep(rng.uniform(0.2, 9.0))
        if tick.poll() is None:
            killed += 1
            kill_tree(tick)
        else:
            tick.communicate()
            lose_a_product(operations, rng)
            lost += 1
    return lost


def begun(operations):
    return Counter(kind for kind, _ in operations.ledger())["begin"]


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_kills_neither_lose_nor_spoil_nor_waste_anything(tmp_path, kills):
    raw = raw_groups(tmp_path / "raw", tiles=3)
    calm, rough = (Operations.make(tmp_path / name) for name in ("calm", "rough"))
    for operations in (calm, rough):
        operations.receive(raw)
    rng = random.Random(kills)
    status, output = calm.call("tick")
    assert status == 0, output
    products, needed = science(calm.products()), begun(calm)
    lose_a_product(calm, rng)
    assert calm.call("tick")[0] == 0
    mending = begun(calm) - needed

    lost = harass(rough, kills, rng)
    status, output = rough.call("tick")
    assert status == 0, output
    assert science(rough.products()) == products
    assert list(rough.results.glob("nights/*/closed.json"))
    assert not list(rough.results.rglob("*.cal.ms"))
    assert not list(rough.results.rglob("failure*.json")), "being killed is no failure"
    # A kill costs the jobs in flight, and those that ended but were not known to have ended.
    wasted = begun(rough) - needed - lost * mending
    assert wasted <= kills * (CORES + 1), rough.ledger()
