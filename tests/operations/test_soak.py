"""Days of an operator's life with a fault at every turn end as calm ones do.

`--soak-days 30` is the whole of it; what is shorter shows that it can be run. Steps only pretend in
the first test: it shows what scanning, planning, Snakemake, locks and records do, not what a tool
does that is killed; the second has real steps.
"""

import pytest

from dsa110_contimg.simulation import season as simulation
from support import soak
from support.night import Operations, assert_same_science, raw_groups, science

pytestmark = pytest.mark.slow

#: Room for the results, MB.
STUB_DISK_MB, REAL_DISK_MB = 200, 4000


def bursts(groups):
    """Return the files of some groups in bursts: the last file of one group is late."""
    *first, last = groups
    late = first[0][5]
    return [[f for files in first for f in files if f != late], [late, *last]]


def report(world, story):
    """Say what it took, and see that it is bounded."""
    ticks = [call for call in world.calls if call.command == "tick"]
    half = len(ticks) // 2
    early, lately = (max(c.peak_mb for c in part) for part in (ticks[:half], ticks[half:]))
    print(f"{len(story)} faults, {len(ticks)} ticks of {sum(c.seconds for c in ticks):.0f} s")
    print(f"greatest memory {early:.0f} MB in the first half, {lately:.0f} MB in the second")
    assert lately < 1.3 * early + 20


def untold(story):
    """Return what befell and was told nowhere."""
    return [f"day {b.day}: {b.name}" for b in story if b.told is None]


def test_a_month_of_faults_ends_as_a_calm_one(tmp_path, request):
    days = int(request.config.getoption("--soak-days"))
    raw = [bursts(raw_groups(tmp_path / "raw", 3, day)) for day in range(days)]
    calm, rough = (soak.World.of(Operations.make(tmp_path / name)) for name in ("calm", "rough"))
    soak.live(calm, raw, faults=(), seed=0)
    with soak.disk(rough, STUB_DISK_MB):
        story = soak.live(rough, raw, faults=sorted(soak.FAULTS), seed=days)
        report(rough, story)
        assert science(rough.products()) == science(calm.products())
        assert rough.call("verify")[0] == 0, rough.calls[-1].output
        assert not rough.processes()
        assert not list(rough.results.rglob(".tmp-*"))
        assert rough.files() < 1.5 * calm.files() + 100
    assert untold(story) == []


def test_two_days_of_real_steps_with_faults(tmp_path):
    options = simulation.PRESETS["test"].model_copy(update={"tiles": 2, "nights": 2})
    truth = simulation.simulate(options, tmp_path / "sky")
    files = sorted((truth.folder / "incoming").glob("*.hdf5"))
    groups = [files[i : i + 16] for i in range(0, len(files), 16)]
    raw = [bursts(groups[i : i + 2]) for i in range(0, len(groups), 2)]
    worlds = []
    for name in ("calm", "rough"):
        (tmp_path / name / "incoming").mkdir(parents=True)
        world = soak.World.of(Operations(tmp_path / name))
        world.configfile = truth.folder / "config.yaml"
        worlds.append(world)
    calm, rough = worlds
    soak.live(calm, raw, faults=(), seed=0)
    with soak.disk(rough, REAL_DISK_MB):
        faults = sorted(set(soak.FAULTS) - soak.OF_STUBS)
        story = soak.live(rough, raw, faults=faults, seed=2, each=4)
        report(rough, story)
        assert_same_science(rough.results, calm.results)
        assert rough.call("verify", "--deep")[0] == 0, rough.calls[-1].output
        assert not rough.processes()
    assert untold(story) == []
