"""A flux scale that rests on what may vary is said of all that is made with it."""

from dsa110_contimg import anchors

STEADY = {"group": "a", "calibrator": "3C48", "flux_anchor": "Perley-Butler 2017", "steady": True}
LISTED = {"group": "b", "calibrator": "2253+161", "flux_anchor": "VLA list", "steady": False}


def test_one_unsteady_part_makes_the_whole_unsteady():
    steady, listed = anchors.anchor_of(STEADY), anchors.anchor_of(LISTED)
    assert anchors.merged([steady, None, steady]) == steady
    both = anchors.merged([steady, listed, steady])
    assert both == {
        "calibrators": ["2253+161", "3C48"],
        "anchors": ["Perley-Butler 2017", "VLA list"],
        "steady": False,
    }
    assert anchors.warning(steady) is None
    assert "2253+161" in anchors.warning(both)
    assert anchors.cards(both)["CALSTEAD"][0] is False
    assert anchors.cards(steady)["CALSTEAD"][0] is True


def test_nothing_is_said_where_nothing_is_known():
    assert anchors.anchor_of(None) is None
    assert anchors.anchor_of({"group": "20260121T000000"}) is None
    assert anchors.merged([None]) is None
    assert anchors.warning(None) is None
    assert anchors.cards(None) == {}
