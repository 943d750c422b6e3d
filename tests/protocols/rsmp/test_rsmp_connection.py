"""Communication establishment, acknowledgements and watchdogs (core 3.2.2, Transport of data)."""

import pytest

from protocols.rsmp.exchange import Ready, Stage
from protocols.rsmp.messages import Core
from protocols.rsmp.site_terms import HEALTHY
from tests.protocols.rsmp.ends import Ends, settings


@pytest.mark.parametrize("core", Core)
def test_both_ends_of_every_version_come_to_free_exchange(core: Core) -> None:
    ends = Ends(settings(core))
    ends.site.aggregate(HEALTHY, ends.now)
    ends.connect()
    assert ends.supervisor.stage is Stage.OPEN
    assert ends.site.open
    assert ends.of(Ready) == [Ready(core, "1.2.1", ("KK+AG0503=001TC000",))]


def test_a_site_says_version_watchdog_aggregated_status_and_all_alarms_in_this_order() -> None:
    ends = Ends()
    ends.site.aggregate(HEALTHY, ends.now)
    ends.connect()
    kinds = [type(message).__name__ for message in ends.heard()]
    assert kinds == ["Watchdog", "AggregatedStatus", "Alarm", "Alarm", "Alarm"]
