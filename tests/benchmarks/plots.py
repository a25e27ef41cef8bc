# SPDX-License-Identifier: Apache-2.0
"""The pictures of the report, as SVG and PNG."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path
from typing import Any

import matplotlib as mpl
from measure import Section
from wasted import cost

mpl.use("Agg")
from matplotlib import pyplot as plt

_OURS, _OTHERS = "#0b6e4f", ["#c44536", "#e09f3e", "#6a4c93", "#3d5a80", "#98c1d9", "#7f7f7f", "#bc6c25"]


def draw(sections: list[Section], out: Path) -> None:
    """What can be drawn of these sections."""
    for section in sections:
        match section.name:
            case "mint":
                raw = section.raw["ES256, API request"]
                _bars(raw, "ES256 proofs for an API: rate against a bare signature", out / "mint")
            case "verify":
                _bars(section.raw["known"], "Verifying ES256 proofs: rate against a bare check", out / "verify")
            case "wasted":
                _wasted(section.raw, out / "wasted")
            case "refresh":
                _refresh(section.raw, out / "refresh")
            case "hardware":
                _sessions(section.raw, out / "hardware")
            case "scale":
                _scale(section.raw, out / "scale")


def _bars(raw: dict[str, list[float]], title: str, path: Path) -> None:
    bare = next(iter(raw.values()))
    rates = {
        name: statistics.median(b / one for b, one in zip(bare, taken, strict=True))
        for name, taken in list(raw.items())[1:]
    }
    figure, axes = plt.subplots(figsize=(7.5, 0.45 * len(rates) + 1.2))
    names = list(rates)[::-1]
    axes.barh(names, [rates[n] for n in names], color=[_OURS if n == "dpop-toolkit" else "#9aa5b1" for n in names])
    axes.axvline(1, color="black", linewidth=0.8)
    for place, name in enumerate(names):
        axes.text(rates[name] + 0.01, place, f"{rates[name]:.2f}", va="center", fontsize=9)
    axes.set_xlim(0, max(1.1, *rates.values()) * 1.05)
    axes.set_title(title, fontsize=11, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _wasted(raw: dict[str, dict[str, Any]], path: Path) -> None:
    """A panel per discipline: wasted round trips by the number of workers, at the higher latency measured."""
    cells: dict[str, dict[int, dict[str, float]]] = {}
    highest = max(name.rpartition(", ")[2] for name in raw)
    for name, by_client in raw.items():
        front, _, latency = name.rpartition(", ")
        discipline, _, workers = front.rpartition(", ")
        if latency == highest and discipline != "none":
            cells.setdefault(discipline, {})[int(workers.split()[0])] = {c: cost(r) for c, r in by_client.items()}
    most = max(value for workers in cells.values() for by_client in workers.values() for value in by_client.values())
    figure, panels = plt.subplots(1, len(cells), figsize=(3.1 * len(cells), 3.6), sharey=True, squeeze=False)
    for axes, (discipline, by_workers) in zip(panels[0], cells.items(), strict=True):
        workers = sorted(by_workers)
        clients = list(by_workers[workers[0]])
        others = iter(_OTHERS)
        for client in clients:
            ours = client.startswith("dpop-toolkit")
            values = [by_workers[w][client] for w in workers]
            axes.plot(
                range(len(workers)),
                values,
                marker="o",
                markersize=4,
                linewidth=2.4 if ours else 1.2,
                color=_OURS if ours else next(others),
                linestyle="--" if ours and "async" in client else "-",
                label=client,
                zorder=3 if ours else 2,
            )
        axes.set_xticks(range(len(workers)), [str(w) for w in workers])
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(0, 1.4 * most)
        axes.set_title(discipline, fontsize=10)
        axes.set_xlabel("workers", fontsize=9)
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("wasted or failed, per 1,000 requests", fontsize=9)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, fontsize=8, frameon=False)
    figure.suptitle(f"Wasted round trips, {highest} away", fontsize=11, x=0.02, ha="left")
    figure.tight_layout(rect=(0, 0.12, 1, 0.97))
    _save(figure, path, tight=False)


def _refresh(raw: dict[str, dict[str, Any]], path: Path) -> None:
    """Refreshes per expiry, by who calls."""
    by_client: dict[str, dict[str, float]] = {}
    for name, result in raw.items():
        callers, _, client = name.partition(", ")
        by_client.setdefault(client, {})[callers] = statistics.fmean(result["refreshes"])
    figure, axes = plt.subplots(figsize=(7.5, 3.2))
    width = 0.8 / len(by_client)
    for place, (client, values) in enumerate(by_client.items()):
        color = _OURS if client == "dpop-toolkit" else "#9aa5b1"
        spots = [spot + place * width for spot in range(len(values))]
        axes.bar(spots, list(values.values()), width, label=client, color=color)
        for spot, value in zip(spots, values.values(), strict=True):
            axes.text(spot, value, f"{value:.0f}", ha="center", va="bottom", fontsize=8)
    callers = list(next(iter(by_client.values())))
    axes.set_xticks([spot + width * (len(by_client) - 1) / 2 for spot in range(len(callers))], callers)
    axes.set_xlabel("processes x threads that call when the token has expired", fontsize=9)
    axes.set_title("Refreshes per expiry", fontsize=11, loc="left")
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _sessions(raw: dict[str, dict[str, float]], path: Path) -> None:
    """Proofs per second against one session, by the number of sessions."""
    figure, axes = plt.subplots(figsize=(7.5, 3.4))
    for (name, rates), color in zip(raw.items(), ["#7f7f7f", "#98c1d9", "#3d5a80", _OURS, "#c44536"], strict=False):
        gains = [rate / rates["1"] for rate in rates.values()]
        axes.plot(range(len(rates)), gains, marker="o", markersize=4, label=name, color=color)
    sessions = list(next(iter(raw.values())))
    axes.set_xticks(range(len(sessions)), sessions)
    axes.set_xlabel("PKCS#11 sessions", fontsize=9)
    axes.set_title("Proofs per second, against one session", fontsize=11, loc="left")
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _scale(raw: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Time of each operation against that with the fewest, by how many there are."""
    figure, axes = plt.subplots(figsize=(7.5, 3.8))
    looks = itertools.product(["-", "--"], [_OURS, *_OTHERS])
    for what, taken in raw.items():
        for operation, fewest in taken[0]["micros"].items():
            ratios = [one["micros"][operation] / fewest for one in taken]
            sizes = [one["size"] for one in taken]
            style, color = next(looks)
            label = f"{what}: {operation}"
            axes.plot(sizes, ratios, marker="o", markersize=4, linestyle=style, color=color, label=label)
    axes.axhline(2, color="black", linewidth=0.8, linestyle="--")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("how many there are; dashed: the goal", fontsize=9)
    axes.set_title("Time of one operation, against that with the fewest", fontsize=11, loc="left")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _save(figure: Any, path: Path, *, tight: bool = True) -> None:
    if tight:
        figure.tight_layout()
    mpl.rcParams["svg.hashsalt"] = "dpop"
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=130)
    plt.close(figure)
