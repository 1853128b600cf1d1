"""Files that arrive while ticks run give what one run over the final folder gives."""

import random
import threading
import time

import pytest

from support.night import Operations, arrive, raw_groups, science

#: How long a group waits for absent subbands in these tests, s; late files are late by less.
WAIT_S = 12.0


def schedule(raw, rng):
    """Return (time s, file, name, bytes kept) of each arrival, in order of time.

    The second group lacks a subband; one file of the third is truncated; two of the first come
    late, after the next group; one of the last comes twice.
    """
    events = []
    for index, files in enumerate(raw):
        for file in files:
            at = 3.0 * index + rng.uniform(0, 2)
            subband = int(file.stem[-2:])
            if index == 0 and subband in (3, 11):
                at += 6.0
            if index == 1 and subband == 5:
                continue
            events.append((at, file, file.name, 900 if (index, subband) == (2, 8) else None))
    twice = raw[-1][4]
    # Some seconds apart, as two hosts that both write a subband would name it.
    name = twice.name.replace(twice.name[17:19], f"{(int(twice.name[17:19]) + 5) % 60:02d}", 1)
    events.append((3.0 * len(raw) + 1.0, twice, name, None))
    return sorted(events, key=lambda event: event[0])


def deliver(events, incoming):
    began = time.monotonic()
    for at, file, name, keep in events:
        time.sleep(max(0.0, began + at - time.monotonic()))
        arrive(file, incoming, name)
        if keep:
            with open(incoming / name, "r+b") as raw:
                raw.truncate(keep)


def live(folder, raw, seed):
    """Let files arrive and ticks run at random times until there is nothing left to do."""
    rng = random.Random(seed)
    operations = Operations.make(folder)
    arrivals = threading.Thread(target=deliver, args=(schedule(raw, rng), operations.incoming))
    arrivals.start()
    outputs = []
    while arrivals.is_alive():
        time.sleep(rng.uniform(0, 3))
        outputs.append(operations.call("tick", wait_s=WAIT_S))
    time.sleep(WAIT_S)
    for _ in range(4):
        outputs.append(operations.call("tick", wait_s=WAIT_S))
    return operations, outputs


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_live_night_gives_the_products_of_one_run(tmp_path, seed):
    raw = raw_groups(tmp_path / "raw", tiles=4)
    operations, outputs = live(tmp_path / "live", raw, seed)
    story = "\n".join(f"{status}: {output}" for status, output in outputs)
    assert all(status == 0 for status, _ in outputs), story
    batch = Operations.make(tmp_path / "batch")
    for file in sorted(operations.incoming.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        (batch.incoming / file.name).hardlink_to(file)
    status, output = batch.call("run", wait_s=WAIT_S)
    assert status == 0, output
    products = science(batch.products())
    assert science(operations.products()) == products, story
    tiles = [path for path in products if path.endswith("photometry.csv") and "groups" in path]
    assert len(tiles) == 4
    assert list(operations.results.glob("nights/*/closed.json")), story
    # Nothing left to do: a tick leaves at once, and says nothing.
    assert operations.call("tick", wait_s=WAIT_S) == (0, "")
