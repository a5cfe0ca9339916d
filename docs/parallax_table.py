"""The table of parallax in docs/rigs.md: `python docs/parallax_table.py` prints it."""

from fusion_hub.rigs import focal_in_pixels, parallax

DISTANCES = (1, 2, 5, 10, 20, 50, 100)  # meters
SETUPS = ((0.02, 10), (0.05, 10), (0.05, 50), (0.15, 50))  # baseline and calibrated distance, meters


def table() -> str:
    focal = focal_in_pixels(640, 60)
    lines = [
        "| lenses apart | calibrated at | " + " | ".join(f"{distance} m" for distance in DISTANCES) + " |",
        "|---|---|" + "---|" * len(DISTANCES),
    ]
    for baseline, calibrated in SETUPS:
        shifts = [parallax(baseline, focal, distance, calibrated) for distance in DISTANCES]
        cells = " | ".join(f"{shift:.1f} px" for shift in shifts)
        lines.append(f"| {100 * baseline:.0f} cm | {calibrated} m | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
