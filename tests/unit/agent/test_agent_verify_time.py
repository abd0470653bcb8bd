"""What a node believes when its clock is wrong, stands still, or the publisher's was wrong."""

from __future__ import annotations

import datetime
import json
import shutil
from pathlib import Path

import pytest

from edgehone.testing.trust import SITE_NOW_S as NOW_S
from edgehone.testing.trust import Site
from edgehone_agent import _tuf
from edgehone_agent.errors import HostError, TrustError
from edgehone_agent.transport import FolderSource
from edgehone_agent.verify import BUILT_S, Checked

DAY_S, YEAR_S = 86400.0, 365.25 * 86400.0


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def versions(checked: Checked) -> list[int]:
    return [release.version for release in checked.releases]


def flags(checked: Checked) -> set[str]:
    return {flag.name for flag in checked.flags}


# Time


@pytest.mark.parametrize("years", [-60, -10, -1, -0.01, 0, 0.001])
def test_a_clock_that_is_behind_or_right_does_not_stop_updates(site: Site, years: float) -> None:
    site.clocks.now_s += years * YEAR_S
    checked = site.check()
    assert checked.fresh and versions(checked) == [1]
    assert flags(checked) == ({"clock_behind"} if years < 0 else set())


@pytest.mark.parametrize("years", [0.01, 0.5, 2, 10, 1e6, 1e300])
def test_a_clock_ahead_offers_nothing_says_so_and_heals(site: Site, years: float) -> None:
    verifier = site.verifier()
    assert verifier.check("gauge").fresh
    site.clocks.now_s += years * YEAR_S
    checked = verifier.check("gauge")
    assert not checked.fresh and checked.releases == () and flags(checked) == {"stale_metadata"}
    site.repository.write_timestamp()
    checked = verifier.check("gauge")
    root_is_good = years < 1
    assert flags(checked) == ({"stale_metadata", "clock_ahead"} if root_is_good else {"stale_metadata"})
    last = verifier.last("gauge")
    assert last is not None and versions(last) == [1]  # still known, not offered
    site.clocks.now_s = NOW_S
    assert verifier.check("gauge") == Checked(last.releases, (), True, 1)


def test_metadata_that_is_out_of_date_is_offered_by_no_clock_that_stands_still(site: Site) -> None:
    """A freeze: the registry shows the same timestamp for ever, and the node's clock is at its epoch."""
    site.clocks.now_s = 0.0
    verifier = site.verifier()
    for _ in range(23):
        assert verifier.check("gauge").fresh
        site.clocks.up_s += 3600
    site.clocks.up_s += 2 * 3600
    checked = verifier.check("gauge")
    assert not checked.fresh and flags(checked) == {"stale_metadata", "clock_behind"}


def test_the_time_that_passed_survives_a_restart(site: Site) -> None:
    site.clocks.now_s = 0.0
    for _ in range(4):  # four starts, eight hours each
        verifier = site.verifier()
        checked = verifier.check("gauge")
        for _ in range(8):
            site.clocks.up_s += 3600
            checked = verifier.check("gauge")
    assert not checked.fresh and flags(checked) == {"stale_metadata", "clock_behind"}


def test_a_clock_set_back_does_not_open_an_older_state(site: Site) -> None:
    site.check()
    old = site.keep("old")
    site.advance(30)
    site.repository.commit()
    assert site.check().fresh
    site.clocks.now_s = NOW_S
    shutil.rmtree(site.state / "tuf")
    floors = json.loads((site.state / "floor.json").read_text())["floors"]
    assert floors["time_s"] == pytest.approx(NOW_S + 30 * DAY_S, abs=2)
    site.show(old)
    with pytest.raises(TrustError):
        site.check()


def test_the_age_of_the_package_counts_where_nothing_else_is_known(tmp_path: Path) -> None:
    """A wiped node without a clock is not shown what had expired when its software was built."""
    site = Site(tmp_path, states_periods=False)
    site.repository.now_s = BUILT_S - 2 * DAY_S
    site.repository.commit()
    site.clocks.now_s = 0.0
    assert flags(site.check()) == {"stale_metadata", "clock_behind"}
    site.repository.now_s = BUILT_S
    site.repository.commit()
    assert site.check().fresh


def test_the_embedded_root_is_a_date_too(site: Site) -> None:
    """Signed 400 days after the package was built: a timestamp of the day before is no news."""
    site.repository.now_s = NOW_S - 3 * DAY_S
    site.repository.commit()
    site.clocks.now_s = 0.0
    assert flags(site.check()) == {"stale_metadata", "clock_behind"}


def test_an_expired_snapshot_is_found_by_the_date_of_the_timestamp(site: Site) -> None:
    """Wiped node, no clock: the timestamp itself tells that the snapshot is past its date."""
    site.repository.now_s += 30 * DAY_S
    site.repository.write_timestamp()
    site.clocks.now_s = 0.0
    checked = site.check()
    assert not checked.fresh and checked.releases == ()
    assert "snapshot metadata is expired" in checked.flags[0].text


def test_an_expired_replay_is_a_replay(site: Site) -> None:
    site.check()
    old = site.keep("old")
    site.advance(3)
    site.repository.commit()
    assert site.check().fresh
    shutil.rmtree(site.state / "tuf")
    site.show(old)
    with pytest.raises(TrustError, match="seen before"):
        site.check()


def test_a_registry_that_nobody_signed_is_flagged_and_goes_on_when_signed(site: Site) -> None:
    site.check()
    site.advance(5)
    checked = site.check()
    assert not checked.fresh and "4.0 days ago" in checked.flags[0].text
    site.repository.commit()
    assert site.check().fresh


def test_a_shorter_life_of_the_timestamp_does_not_move_the_floor_ahead(site: Site) -> None:
    """A root that states one day, seen together with a timestamp that was signed for seven."""
    site.repository.periods_days["timestamp"] = 7
    site.repository.root_role.unrecognized_fields["x-edgehone"]["expiry_days"]["timestamp"] = "7"
    site.repository.write_root()
    site.repository.write_timestamp()
    assert site.check().fresh
    site.repository.root_role.unrecognized_fields["x-edgehone"]["expiry_days"]["timestamp"] = "1"
    site.repository.write_root()
    assert site.check() == Checked(site.check().releases, (), True, 1)
    site.repository.periods_days["timestamp"] = 1
    site.repository.write_timestamp()
    assert site.check().fresh


def test_a_publisher_from_the_future_is_healed_by_a_new_online_key(site: Site) -> None:
    site.repository.now_s += 100 * DAY_S
    site.repository.commit()
    assert flags(site.check()) == {"clock_behind"}
    site.repository.now_s -= 100 * DAY_S
    site.repository.commit()
    assert not site.check().fresh
    site.repository.rotate_online()
    assert site.check() == Checked(site.check().releases, (), True, 1)


def test_time_is_put_into_python_tuf_and_a_version_that_lost_the_place_is_refused(site: Site) -> None:
    """Our one look behind python-tuf's curtain: both sides of it."""
    site.state.mkdir()
    source = FolderSource(site.repository.folder)
    inside = _tuf.refresh(site.state / "tuf", site.repository.root, source, "gauge", NOW_S)
    outside = _tuf.refresh(site.state / "tuf", site.repository.root, source, "gauge", NOW_S + 2 * DAY_S)
    assert isinstance(inside, _tuf.Verified) and isinstance(outside, _tuf.Expired)
    with pytest.raises(HostError, match="takes its time from elsewhere"):
        _tuf._set_time(object(), 0.0)


def test_the_day_of_building_is_past() -> None:
    assert datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC).timestamp() < BUILT_S
    assert datetime.datetime.now(datetime.UTC).timestamp() > BUILT_S
