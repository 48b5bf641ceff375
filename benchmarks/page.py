"""Write the tables of docs/performance.md from the records: `python -m benchmarks.page`."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.pairs import PAIRS
from captioner.base.errors import CaptionerError
from captioner.base.files import read_json, write_text

FOLDER = Path(__file__).parent
COMMANDS = {  # that write the records, but for those of `make bench`
    "results_plain": "make bench-plain",
    "stages": "python -m benchmarks stages",
    "stages_plain": "python -m benchmarks stages --plain",
}
PAGE = FOLDER.parent / "docs" / "performance.md"


def with_tables(text: str, folder: Path = FOLDER) -> str:
    """Return the page with the table of NAME.json between `<!-- NAME -->` and `<!-- end of NAME -->`."""

    def filled(match: re.Match) -> str:
        name = match[1]
        path = folder / f"{name}.json"
        command = COMMANDS.get(name, "make bench")
        shown = TABLES[name](read_json(path)) if path.exists() else f"Not measured yet: `{command}`."
        return f"<!-- {name} -->\n{shown}\n<!-- end of {name} -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end of \1 -->", filled, text, flags=re.DOTALL)


def update() -> None:
    """Write the page's tables."""
    write_text(PAGE, with_tables(PAGE.read_text(encoding="utf-8")))


def put(page: Path, name: str, shown: str) -> None:
    """Write `shown` between the two marks of `name` in a page; raises CaptionerError if it does not have them."""
    old = page.read_text(encoding="utf-8")
    new, count = re.subn(
        rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)",
        lambda match: f"{match[1]}{shown}\n{match[2]}",
        old,
        flags=re.DOTALL,
    )
    if count != 1:
        raise CaptionerError(f"{page}: expected one part between <!-- {name} --> and <!-- end of {name} -->")
    write_text(page, new)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _duration(seconds: float) -> str:
    for unit, scale in (("s", 1), ("ms", 1e3)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def _on(machines: set[str]) -> str:
    return f"\n\nOn {'; '.join(sorted(machines))}."


def _results(records: dict[str, Any], *, plain: bool = False) -> str:
    rows = []
    for name, record in records.items():
        pair = PAIRS[name]
        value = pair.plain_goal if plain else pair.goal
        goal = "" if value is None else f"{value:g}"
        ours, baseline = _duration(record["ours"]), _duration(record["baseline"])
        ratio = f"**{record['ratio']:.3g}** ({record['lowest']:.3g} to {record['highest']:.3g})"
        unit = record["unit"].removeprefix("s per ")
        rows.append([f"`{name}`", f"{pair.ours}: {ours}", f"{pair.baseline}: {baseline}", unit, ratio, goal])
    head = ["name", "ours", "baseline", "per", "ratio (of single rounds)", "goal"]
    return table(head, rows) + _on({record["machine"] for record in records.values()})


def _parts(shown: Callable[[float], str], head: list[str]) -> Callable[[dict[str, Any]], str]:
    def shown_parts(record: dict[str, Any]) -> str:
        rows = []
        for part, forms in record.items():
            if part != "machine":
                rows += [
                    [part if at == 0 else "", form, shown(value)] for at, (form, value) in enumerate(forms.items())
                ]
        return table(head, rows) + _on({record["machine"]})

    return shown_parts


def _scaling(record: dict[str, Any]) -> str:
    rows = []
    for what, result in record.items():
        points = zip(result["images"], result["seconds"], strict=True)
        rows.append([what, ", ".join(f"{n} images {_duration(s)}" for n, s in points), f"{result['growth']:.2f}"])
    return table(["what", "time", "4x, as a multiple of four times 1x"], rows)


def _neighbour(record: dict[str, Any]) -> str:
    rows = []
    for way, result in record.items():
        if way != "machine":
            alone, beside = result.values()
            rows.append([way, _duration(alone), _duration(beside), f"{beside / alone:.2f}"])
    return table(["how threads wait", "a step alone", "beside a busy program", "ratio"], rows) + _on(
        {record["machine"]}
    )


def _stages(record: dict[str, Any]) -> str:
    rows = []
    for stage, taken in record["stages"].items():
        epochs = " + ".join(f"{seconds} s" for seconds in taken["epochs"])
        rows.append([f"`{stage}`", f"{taken['all epochs'] / 60:.1f}", epochs, f"{taken['MiB']:,.0f}"])
    total = sum(taken["all epochs"] for taken in record["stages"].values())
    rows.append(["all", f"{total / 60:.0f}", "", ""])
    head = [f"stage, {record['images']:,} images", "minutes", "of which an epoch", "most resident memory, MiB"]
    return table(head, rows) + _on({record["machine"]})


TABLES: dict[str, Callable[[Any], str]] = {
    "results": _results,
    "results_plain": partial(_results, plain=True),
    "variants": _parts(_duration, ["what", "form", "time"]),
    "profiling": _parts(lambda share: f"{100 * share:.1f}%", ["what", "part", "share"]),
    "scaling": _scaling,
    "neighbour": _neighbour,
    "stages": _stages,
    "stages_plain": _stages,
}

if __name__ == "__main__":
    update()
