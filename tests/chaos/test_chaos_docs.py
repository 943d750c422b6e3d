"""What the run says and does is documented."""

from pathlib import Path

from tests.chaos.broken import KINDS
from tests.chaos.report import Report
from tests.faults.proxy import WayFault

PAGE = Path(__file__).parents[2] / "docs" / "chaos.md"


def test_every_key_of_the_last_line_every_cut_and_every_planted_fault_is_documented() -> None:
    text = PAGE.read_text(encoding="utf-8")
    words = [*Report.__struct_fields__, *WayFault, *KINDS]
    assert [word for word in words if f"`{word}`" not in text] == []
    assert all(variable in text for variable in ("CHAOS_SECONDS", "CHAOS_SEED", "CHAOS_BROKEN"))
