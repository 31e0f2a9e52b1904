"""Tables in a terminal that is too narrow for them."""

import pytest
from rich.console import Console

from flows.commands.markdown_tables import FittedMarkdown

HEAD = ["System", "Held-out loss ↓ (nats/token)", "Accuracy ↑ (%)", "Seeds", "Whole compute"]
ROWS = [
    ["Self-Instruct", "1.138 ± 0.087", "25.2 ± 4.4", "5", "6.1 s"],
    ["Montessori-Instruct, iteration 3", "**0.445 ± 0.165**", "67.2\\* ± 7.3", "5", "2 min"],
]
TABLE = "\n".join(f"| {' | '.join(row)} |" for row in [HEAD, ["---", *["---:"] * 4], *ROWS])


def shown(width: int) -> str:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(FittedMarkdown(f"# micro\n\n{TABLE}\n\nMean ± one standard error."))
    return captured.get()


@pytest.mark.parametrize("width", [45, 60, 80, 200])
def test_every_number_is_whole_on_one_line_beside_its_system(width: int):
    text = shown(width)
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    for row in ROWS:
        beginning = row[0].partition(",")[0]
        beside = " ".join(line for line in text.splitlines() if line.strip().startswith(beginning))
        assert all(cell.strip("*").replace("\\", "") in beside for cell in row[1:])


def test_with_room_enough_no_head_is_wrapped():
    assert "Held-out loss ↓ (nats/token)" in shown(200)


def test_a_table_is_in_as_few_parts_as_fit():
    assert [shown(width).count("System") for width in (200, 60, 45)] == [1, 2, 3]
