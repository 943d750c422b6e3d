"""A junction of the scenario: where its supervisor is, what it calls its parts, and what it is made of."""

from typing import Annotated, Literal

import msgspec

from protocols.rsmp.messages import Core
from sim.junction_design import JunctionDesign

_Seconds = Annotated[float, msgspec.Meta(gt=0, le=3600)]
_Code = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class JunctionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A signal controller, an RSMP site that connects to its supervisor.

    Attributes:
        name: as the scenario calls it.
        host: of the supervisor.
        port: of the supervisor, which listens.
        prefix: of all component ids: `<prefix>TC000` is the controller, `SG001` … its groups, `DL001` … its
            detectors.
        site_id: None is the controller's component id.
        sxl: version of the traffic-light list.
        versions: of the RSMP core that it offers; none for all that are spoken here.
        reconnect_s: between two attempts to reach the supervisor.
        ack_timeout_s: without an acknowledgement for so long it gives the connection up.
        watchdog_s: between two watchdogs.
        security_codes: of level 1 and level 2.
        design: groups, stages, intergreens, plans, detectors, limits.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 12111
    prefix: Annotated[str, msgspec.Meta(min_length=1, max_length=32)] = "LU+DJ0001=001"
    site_id: str | None = None
    sxl: Literal["1.1.0", "1.2.0", "1.2.1"] = "1.2.1"
    versions: tuple[Core, ...] = ()
    reconnect_s: _Seconds = 10.0
    ack_timeout_s: _Seconds = 30.0
    watchdog_s: _Seconds = 60.0
    security_codes: tuple[_Code, _Code] = ("1111", "2222")
    design: JunctionDesign = JunctionDesign()

    @property
    def main(self) -> str:
        """Component id of the controller."""
        return f"{self.prefix}TC000"

    @property
    def site(self) -> str:
        """The site's id."""
        return self.main if self.site_id is None else self.site_id

    def group(self, number: int) -> str:
        """Component id of a signal group."""
        return f"{self.prefix}SG{number:03d}"

    def detector(self, number: int) -> str:
        """Component id of a detector."""
        return f"{self.prefix}DL{number:03d}"

    def group_number(self, component: str) -> int | None:
        """Return the number of the signal group with a component id; None if there is none."""
        numbers = range(1, len(self.design.groups) + 1)
        return next((number for number in numbers if self.group(number) == component), None)
