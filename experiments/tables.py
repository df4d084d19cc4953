"""Results of `experiments.evaluate` as Markdown tables, and the page that holds them."""

from __future__ import annotations

import pathlib
from typing import Any

from experiments.report import MEASURES


_HEADER = "| PSNR, dB | foreground PSNR, dB | SSIM | perceptual distance |"
_DIGITS = {"psnr": 2, "foreground_psnr": 2, "ssim": 4, "perceptual": 4, "residual": 2}
_BEGIN, _END = "<!-- evaluation: generated -->", "<!-- end of evaluation -->"


def _cell(figure: dict[str, float], measure: str, sign: str = "") -> str:
    digits = _DIGITS[measure]
    mean = f"{figure['mean']:{sign}.{digits}f}"
    if figure["n"] == 1:
        return mean
    return f"{mean} ± {figure['standard_error']:.{digits}f} ({figure['std']:.{digits}f})"


def _row(name: str, figures: dict, path: str, sign: str = "") -> str:
    return f"| {name} | " + " | ".join(_cell(figures[f"{path}/{m}"], m, sign) for m in MEASURES) + " |"


def to_markdown(summary: dict[str, Any]) -> str:
    """The tables, in Markdown, of what `Results.write` returned."""
    figures, differences, settings = summary["figures"], summary["differences"], summary["settings"]
    rounds = sorted(str(number) for number in settings["rounds"])
    error, views = figures["elevation_deg/error"], figures["views/seconds"]
    lines = [
        *_heading(summary),
        "",
        "| | measured | bar | met |",
        "|---|---|---|---|",
        *(
            f"| {bar['what']} | {bar['measured']:.2f} | {bar['bar'].replace('>=', '≥').replace('<=', '≤')} "
            f"| {'yes' if bar['met'] else 'no'} |"
            for bar in summary["bars"]
        ),
        "",
        "Mean ± standard error (standard deviation over objects):",
        "",
        "| " + _HEADER,
        "|---" * 5 + "|",
        _row("views", figures, "views"),
        _row("first frame repeated", figures, "repeat"),
        _row("difference", differences, "views_over_repeat", "+"),
    ]
    for r in rounds:
        name, path = f"asset, {r} rounds", f"assets/{r}"
        lines += [
            _row(f"{name}: 15 cameras", figures, f"{path}/estimated/cameras"),
            _row(f"{name}: 16 in between", figures, f"{path}/estimated/between"),
            _row(f"{name}: 15 cameras, true elevation", figures, f"{path}/true/cameras"),
            _row(f"{name}: 16 in between, true elevation", figures, f"{path}/true/between"),
            _row(f"{name}: the views it was fitted to last", figures, f"{path}/targets"),
        ]
    for r in rounds[1:]:
        name, path = f"refinement, {r} rounds against {rounds[0]}", f"assets/{r}/refined/estimated"
        lines += [
            _row(f"{name}: 15 cameras", differences, f"{path}/cameras", "+"),
            _row(f"{name}: 16 in between", differences, f"{path}/between", "+"),
        ]
    header = "| rounds | consistency, dB | change | gaussians | network evaluations | median seconds |"
    lines += ["", header, "|---" * 6 + "|"]
    for r in rounds:
        path = f"assets/{r}"
        refined = differences.get(f"{path}/refined/residual")
        cells = [
            r,
            _cell(figures[f"{path}/residual/psnr"], "residual"),
            "" if refined is None else _cell(refined, "residual", "+"),
            f"{figures[f'{path}/gaussians']['mean']:.0f}",
            f"{figures[f'{path}/network_evaluations']['mean']:.0f}",
            f"{figures[f'{path}/seconds']['median']:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"Elevation: off by {error['mean']:.2f}° in the mean (standard deviation {error['std']:.2f}°, median "
        f"{error['median']:.2f}°). Views alone: {figures['views/network_evaluations']['mean']:.0f} network "
        f"evaluations, median {views['median']:.1f} s.",
    ]
    return "\n".join(lines) + "\n"


def _heading(summary: dict[str, Any]) -> list[str]:
    settings = summary["settings"]
    refine = settings["refine"]
    versions = ", ".join(f"{name} {version}" for name, version in settings["versions"].items())
    return [
        f"`{summary['command']}`",
        "",
        f"- objects: {summary['objects']}, quality `{settings['quality']}`",
        f"- machine: {settings['machine']}",
        f"- versions: {versions}",
        f"- weights: `{settings['model']}`, SHA-256 `{settings['weights_sha256']}`",
        f"- refinement: from t = {refine['start']:g}, {refine['steps']} steps, guidance {refine['image']:g} "
        f"(image) and {refine['prompt']:g} (prompt)",
    ]


def write_tables(page: pathlib.Path, text: str) -> None:
    """Puts the tables between the two marks of the page, or at its end where it has none."""
    before = page.read_text() if page.exists() else "# Results\n"
    section = f"{_BEGIN}\n\n{text}\n{_END}\n"
    start, stop = before.find(_BEGIN), before.find(_END)
    if start >= 0 and stop > start:
        after = before[stop + len(_END) :].removeprefix("\n")
        before, section = before[:start], section + after
    else:
        before = before.rstrip("\n") + "\n\n"
    page.write_text(before + section)
