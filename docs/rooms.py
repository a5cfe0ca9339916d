"""The rooms of the code and the imports between them: `python docs/rooms.py` draws docs/rooms.svg.

A room may import rooms of lower levels only. tests/project/test_rooms.py checks that, and that the figure is current.
"""

import ast
from collections.abc import Iterator
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FIGURE = ROOT / "docs" / "rooms.svg"

LEVELS: tuple[tuple[str, ...], ...] = (
    ("files", "repositories", "allocator"),
    ("image", "metrics", "models"),
    ("rigs",),
    ("data", "pipelines", "explain"),
    ("evaluation", "training", "video", "volumes"),
    ("hub",),
    ("downstream",),
    ("cli", "space"),
    ("train", "examples", "benchmarks"),
)
"""From the ground up. `data` includes the synthetic pairs, `pipelines` the table of bundled checkpoints."""

CONTENTS = {
    "files": "whole-or-absent writes",
    "repositories": "ids and downloads of the Hub",
    "allocator": "memory of servers",
    "image": "pictures as luminance pairs",
    "metrics": "EN, VIF, Qabf, SSIM ...",
    "models": "DiffFuseNet, RED",
    "rigs": "two cameras, aligned",
    "data": "pairs, layouts, crops",
    "pipelines": "one call, checkpoints",
    "explain": "inside a network",
    "evaluation": "baselines, statistics, reports",
    "training": "one trainer, losses",
    "video": "pairs by time, steady range",
    "volumes": "CT, MR, PET in space",
    "hub": "upload, cards",
    "downstream": "detection, segmentation",
    "cli": "fusion-hub",
    "space": "the page",
    "train": "launch scripts",
    "examples": "start here",
    "benchmarks": "speed, memory",
}
FACADES = {"pretrained", "image_processor", "leaderboard", "onnx"}
"""Modules at the top of the package that only re-export public names."""

ACROSS = {"downstream": 0.6, "hub": 0.25, "data": 0.2, "allocator": 0.9}
"""Horizontal positions in the figure, as a share of its width, where even spacing would hide arrows behind rooms."""

LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str | None:
    """The room of a module of the package; None for other packages and for names at the top of `fusion_hub`."""
    package, _, rest = module.partition(".")
    room = rest.split(".")[0]
    ours = package == "fusion_hub" and room and not room.startswith("__")
    return room if ours and room not in FACADES else None


def public_homes() -> dict[str, str]:
    """The module behind each public name of `fusion_hub`, from its stub."""
    homes = {}
    for node in ast.parse((ROOT / "fusion_hub" / "__init__.pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                homes[alias.name] = f"fusion_hub.{node.module or alias.name}"
    homes["pretrained"] = homes["PretrainedInfo"] = homes["list_models"] = "fusion_hub.pipelines.checkpoints"
    homes["leaderboard"] = "fusion_hub.evaluation.leaderboard"
    return homes


def imported_modules(node: ast.Import | ast.ImportFrom, homes: dict[str, str]) -> Iterator[str]:
    """Full names of the modules of ours that an import statement asks for."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif node.module == "fusion_hub":
        yield from (homes.get(alias.name, f"fusion_hub.{alias.name}") for alias in node.names)
    elif node.module in ("fusion_hub.pretrained", "fusion_hub.leaderboard"):
        yield homes[node.module.split(".")[1]]
    else:
        yield node.module or ""


def sources() -> list[Path]:
    folders = ("fusion_hub", "space", "train", "examples", "benchmarks")
    return sorted(
        path for folder in folders for path in (ROOT / folder).rglob("*.py") if "pretrained" not in path.parts
    )


def arrows() -> set[tuple[str, str]]:
    """Pairs of rooms of which the first imports the second."""
    homes, found = public_homes(), set()
    for path in sources():
        importer = path.relative_to(ROOT).parts[0]
        if importer == "fusion_hub":
            importer = room_of(module_name(path)) or ""
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if importer and isinstance(node, ast.Import | ast.ImportFrom):
                for module in imported_modules(node, homes):
                    if (imported := room_of(module)) and imported != importer:
                        found.add((importer, imported))
    return found


def essential(found: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The arrows that no longer path of arrows implies."""
    reached = {room: {imported for importer, imported in found if importer == room} for room in LEVEL}
    for level in LEVELS:  # from the ground up, so that whatever a room imports is complete
        for room in level:
            reached[room] |= {below for imported in set(reached[room]) for below in reached[imported]}
    return {
        (importer, imported)
        for importer, imported in found
        if not any(imported in reached[other] for one, other in found if one == importer)
    }


def draw(found: set[tuple[str, str]]) -> str:
    """The figure as SVG: high levels at the top, arrows to what a room imports, without those that others imply."""
    width, box, high, step = 980, 168, 46, 92
    height = step * len(LEVELS) + 24
    center = {}
    for number, rooms in enumerate(LEVELS):
        for index, room in enumerate(rooms):
            across = ACROSS.get(room, (index + 1) / (len(rooms) + 1))
            center[room] = (width * across, height - 24 - step * number - high / 2)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="DejaVu Sans, Helvetica, Arial, sans-serif" role="img" aria-labelledby="title">',
        '  <title id="title">Rooms of the code. An arrow points to what a room imports. '
        "Arrows that a longer path implies are left out.</title>",
        '  <defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="6" markerHeight="6" orient="auto">'
        '<path d="M0 0 L10 5 L0 10 z" fill="#64748b"/></marker></defs>',
        "  <style>text { text-anchor: middle } .room { font-size: 15px; font-weight: 700; fill: #0f172a } "
        ".holds { font-size: 11px; fill: #475569 }</style>",
        f'  <rect width="{width}" height="{height}" rx="10" fill="#f8fafc"/>',
    ]
    for importer, imported in sorted(essential(found)):
        (x1, y1), (x2, y2) = center[importer], center[imported]
        y1, y2 = y1 + high / 2, y2 - high / 2
        bend = (y2 - y1) / 2
        lines.append(
            f'  <path d="M{x1:.0f} {y1:.0f} C{x1:.0f} {y1 + bend:.0f} {x2:.0f} {y2 - bend:.0f} {x2:.0f} {y2:.0f}" '
            f'fill="none" stroke="#64748b" stroke-width="1.3" marker-end="url(#tip)"/>'
        )
    for room, (x, y) in center.items():
        lines += [
            f'  <rect x="{x - box / 2:.0f}" y="{y - high / 2:.0f}" width="{box}" height="{high}" rx="7" fill="#fff" '
            'stroke="#94a3b8" stroke-width="1.4"/>',
            f'  <text class="room" x="{x:.0f}" y="{y - 4:.0f}">{room}</text>',
            f'  <text class="holds" x="{x:.0f}" y="{y + 14:.0f}">{escape(CONTENTS[room])}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    FIGURE.write_text(draw(arrows()), encoding="utf-8")
    print(f"wrote {FIGURE.relative_to(ROOT)}")
