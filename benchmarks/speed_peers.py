"""Our networks beside those of other methods, timed in turn in one process: `speed.py --peers`.

Peers run as published (float32, eager, contiguous) and as ours do (bfloat16, channels_last, batch norms folded into the
convolutions). Ours run eager, and folded as in the pipelines, in both types. With `--compile` all run compiled, too.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import common
import networks
import torch
from peers import PEERS, fold_batch_norms

from fusion_hub.evaluation.report import markdown_table

ONCE_ABOVE = 10.0  # seconds: slower calls are timed once
CONVOLUTION = "64-to-64 3x3 convolution"


@dataclass(frozen=True)
class Entry:
    """One row: a network in one form.

    Attributes:
        network: name of the network.
        dtype: "fp32" or "bf16".
        form: how it is run.
        call: fuses one pair.
        parameters: how many the network has.
        flops: of one call.
    """

    network: str
    dtype: str
    form: str
    call: Callable[[], Any]
    parameters: int = 0
    flops: int = 0


def our_entries(name: str, compiled: bool, device: str, height: int, width: int) -> list[Entry]:
    """A network of ours: eager in float32 and bfloat16, folded, compiled."""
    entries = []
    for dtype in networks.DTYPES:
        model = networks.build_model(name, device, networks.DTYPES[dtype])
        pair = networks.luminance_pair(height, width, device, networks.DTYPES[dtype])
        counts = (sum(parameter.numel() for parameter in model.parameters()), networks.count_flops(model, *pair))
        forms = {"eager, channels_last": model, "folded": networks.inference_form(model)}
        if compiled and dtype == "bf16":
            forms["compiled"] = networks.build_model(name, device, networks.DTYPES[dtype])
            forms["compiled"].compile()
        entries += [
            Entry(name, dtype, form, partial(network, *pair), *counts)
            for form, network in forms.items()
            if network is not None
        ]
    return entries


def peer_entries(name: str, compiled: bool, device: str, height: int, width: int) -> list[Entry]:
    """A peer as published, as ours run, compiled."""
    torch.manual_seed(0)
    published = PEERS[name].build().eval().to(device)
    quick = fold_batch_norms(PEERS[name].build().eval())
    quick.to(device, torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
    forms: list[tuple[str, str, Any]] = [("fp32", "as published", published), ("bf16", "channels_last", quick)]
    if compiled:
        forms.append(("bf16", "compiled", torch.compile(quick)))
    parameters = sum(parameter.numel() for parameter in published.parameters())
    with torch.device("meta"):  # counts without computing
        flops = networks.count_flops(PEERS[name].build().eval(), *torch.empty(2, 1, 1, height, width))
    entries = []
    for dtype, form, network in forms:
        pair = networks.luminance_pair(height, width, device, networks.DTYPES[dtype])
        entries.append(Entry(name, dtype, form, partial(network, *pair), parameters, flops))
    return entries


def compare(
    ours: Sequence[str],
    peers: Sequence[str],
    *,
    compiled: bool = False,
    device: str = "cpu",
    threads: int = 2,
    repeats: int = 10,
    warm_up: int = 3,
    height: int,
    width: int,
) -> list[dict[str, Any]]:
    """A row for each network and form, seconds. `ratio` is to the first of `ours` in bfloat16, eager.

    `unit` is the ratio to the convolution in the same type. Both are of the fastest runs.
    """
    torch.set_num_threads(threads)
    size = (height, width)
    entries = [
        Entry(CONVOLUTION, dtype, "", networks.plain_convolution(*size, device, networks.DTYPES[dtype]))
        for dtype in networks.DTYPES
    ]
    for name in ours:
        entries += our_entries(name, compiled, device, *size)
    for name in peers:
        entries += peer_entries(name, compiled, device, *size)
    with torch.no_grad():
        timings = common.time_in_turn([entry.call for entry in entries], repeats, warm_up, once_above=ONCE_ABOVE)
    seconds = {
        (entry.network, entry.dtype, entry.form): min(walls) for entry, (walls, _) in zip(entries, timings, strict=True)
    }
    reference = seconds[ours[0], "bf16", "eager, channels_last"]
    return [
        {
            "network": entry.network,
            "dtype": entry.dtype,
            "form": entry.form,
            "parameters": entry.parameters,
            "flops": entry.flops,
            "minimum": min(walls),
            "median": statistics.median(walls),
            "processor": min(processors),
            "runs": len(walls),
            "unit": min(walls) / seconds[CONVOLUTION, entry.dtype, ""],
            "ratio": min(walls) / reference,
        }
        for entry, (walls, processors) in zip(entries, timings, strict=True)
    ]


def table(rows: Sequence[dict[str, Any]], reference: str) -> str:
    """All rows as Markdown; `reference`: the name of our first network."""
    head = ("network", "", "parameters", "GFLOPs", "s", "CPU s", "x convolution", f"x {reference}")
    lines = []
    for row in rows:
        form = row["dtype"] + (", " + row["form"] if row["form"] else "")
        parameters = f"{row['parameters'] / 1e6:.3f} M" if row["parameters"] else ""
        flops = f"{row['flops'] / 1e9:.1f}" if row["flops"] else ""
        times = [f"{row[name]:.3g}" for name in ("minimum", "processor")]
        lines.append((row["network"], form, parameters, flops, *times, f"{row['unit']:.1f}", f"{row['ratio']:.2f}"))
    return markdown_table(head, lines)
