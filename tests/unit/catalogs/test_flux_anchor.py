"""A flux scale that rests on what may vary is said of all that is made with it."""

from dsa110_contimg.catalogs import flux_anchor
from dsa110_contimg.core.figures import AppliedCalibration, FluxAnchor
from support.figures import example

STEADY = example(
    AppliedCalibration, calibrator="3C48", flux_anchor="Perley-Butler 2017", steady=True
)
LISTED = example(AppliedCalibration, calibrator="2253+161", flux_anchor="VLA list", steady=False)


def test_one_unsteady_part_makes_the_whole_unsteady():
    steady, listed = flux_anchor.anchor_of(STEADY), flux_anchor.anchor_of(LISTED)
    assert flux_anchor.merged([steady, None, steady]) == steady
    both = flux_anchor.merged([steady, listed, steady])
    assert both == FluxAnchor(
        calibrators=["2253+161", "3C48"],
        anchors=["Perley-Butler 2017", "VLA list"],
        steady=False,
    )
    assert flux_anchor.warning(steady) is None
    assert "2253+161" in flux_anchor.warning(both)
    assert flux_anchor.cards(both)["CALSTEAD"][0] is False
    assert flux_anchor.cards(steady)["CALSTEAD"][0] is True


def test_nothing_is_said_where_nothing_is_known():
    assert flux_anchor.anchor_of(None) is None
    assert flux_anchor.anchor_of(example(AppliedCalibration)) is None
    assert flux_anchor.merged([None]) is None
    assert flux_anchor.warning(None) is None
    assert flux_anchor.cards(None) == {}
