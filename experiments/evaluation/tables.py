"""Results of objects as Markdown tables, and the page that holds them."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.evaluation.results import SIMILARITIES, measures


_NAMES = {
    "psnr": "PSNR, dB", "foreground_psnr": "foreground PSNR, dB", "ssim": "SSIM", "perceptual": "perceptual distance",
    "lpips": "LPIPS",
}  # fmt: skip
_DIGITS = {"psnr": 2, "foreground_psnr": 2, "residual": 2}  # of decimals; 4 of all others
COLUMNS = 2  # of a table: lines of a page have at most 120 columns
_BEGIN, _END = "<!-- evaluation: generated -->", "<!-- end of evaluation -->"


def _cell(figure: dict[str, float], measure: str, sign: str = "") -> str:
    digits = _DIGITS.get(measure, 4)
    mean = f"{figure['mean']:{sign}.{digits}f}"
    if figure["n"] == 1:
        return mean
    return f"{mean} ± {figure['standard_error']:.{digits}f} ({figure['std']:.{digits}f})"


def _row(name: str, figures: dict, path: str, columns: Sequence[str], sign: str = "") -> str:
    return f"| {name} | " + " | ".join(_cell(figures[f"{path}/{m}"], m, sign) for m in columns) + " |"


def to_markdown(summary: Mapping[str, Any]) -> str:
    """The tables of an evaluation.

    Args:
        summary: From `Results.write`.
    """
    figures, differences, settings = summary["figures"], summary["differences"], summary["settings"]
    rounds = sorted(str(number) for number in settings["rounds"])
    columns = measures(figures)
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
    ]
    for start in range(0, len(columns), COLUMNS):
        lines += [*_comparisons(summary, columns[start : start + COLUMNS]), ""]
    del lines[-1]
    lines += _similarities(summary, rounds)
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
        f"{error['median']:.2f}°).",
        f"Views alone: {figures['views/network_evaluations']['mean']:.0f} network evaluations, median "
        f"{views['median']:.1f} s.",
    ]
    return "\n".join(lines) + "\n"


def _comparisons(summary: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """The table of some measures: views, assets and refinement."""
    figures, differences = summary["figures"], summary["differences"]
    rounds = sorted(str(number) for number in summary["settings"]["rounds"])
    lines = [
        f"| | {' | '.join(_NAMES[m] for m in columns)} |",
        "|---" * (len(columns) + 1) + "|",
        _row("views", figures, "views", columns),
        _row("first frame repeated", figures, "repeat", columns),
        _row("difference", differences, "views_over_repeat", columns, "+"),
    ]
    for r in rounds:
        name, path = f"asset, {r} rounds", f"assets/{r}"
        lines += [
            _row(f"{name}: 15 cameras", figures, f"{path}/estimated/cameras", columns),
            _row(f"{name}: 16 in between", figures, f"{path}/estimated/between", columns),
            _row(f"{name}: 15 cameras, true elevation", figures, f"{path}/true/cameras", columns),
            _row(f"{name}: 16 in between, true elevation", figures, f"{path}/true/between", columns),
            _row(f"{name}: the views it was fitted to last", figures, f"{path}/targets", columns),
        ]
    for r in rounds[1:]:
        name, path = f"refinement, {r} rounds against {rounds[0]}", f"assets/{r}/refined/estimated"
        lines += [
            _row(f"{name}: 15 cameras", differences, f"{path}/cameras", columns, "+"),
            _row(f"{name}: 16 in between", differences, f"{path}/between", columns, "+"),
        ]
    return lines


def _similarities(summary: Mapping[str, Any], rounds: Sequence[str]) -> list[str]:
    """The table of CLIP's similarities, if any: the columns of table 1 of IM-3D (arXiv 2402.08682), as cosines."""
    figures, differences = summary["figures"], summary["differences"]
    if "views/clip_text" not in figures:
        return []
    lines = [
        "",
        f"Similarity by {summary['settings']['clip']}, views and renders without the first:",
        "",
        "| | to the caption | to the given picture |",
        "|---" * 3 + "|",
        _row("true turntable", figures, "truth", SIMILARITIES),
        _row("synthesised views", figures, "views", SIMILARITIES),
    ]
    for r in rounds:
        lines.append(_row(f"re-rendered views, {r} rounds", figures, f"assets/{r}/rerendered", SIMILARITIES))
    for r in rounds[1:]:
        name, path = f"refinement, {r} rounds against {rounds[0]}", f"assets/{r}/refined/rerendered"
        lines.append(_row(name, differences, path, SIMILARITIES, "+"))
    return lines


def _heading(summary: Mapping[str, Any]) -> list[str]:
    settings = summary["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in settings["versions"].items())
    return [
        f"`{summary['command']}`",
        "",
        f"- objects: {summary['objects']} from object {summary['records'][0]['index']} on, "
        f"quality `{settings['quality']}`",
        f"- machine: {settings['machine']}",
        f"- versions: {versions}",
        f"- weights: `{settings['model']}`, SHA-256 `{settings['weights']['sha256']}`",
        *_refinement(settings["sampling"].get("refine")),
        *([f"- LPIPS: VGG16, SHA-256 `{settings['lpips_sha256']}`"] if "lpips_sha256" in settings else []),
    ]


def _refinement(refine: Mapping[str, Any] | int | None) -> list[str]:
    """The line on how renders were drawn anew: a bundle's sampling, or another model's number of steps."""
    if refine is None:
        return []
    if not isinstance(refine, Mapping):
        return [f"- refinement: {refine} steps"]
    return [
        f"- refinement: from t = {refine['start']:g}, {refine['steps']} steps, guidance {refine['image']:g} "
        f"(image) and {refine['prompt']:g} (prompt)"
    ]


def write_tables(page: pathlib.Path, text: str) -> None:
    """Puts tables between the two marks of a page, or at its end where it has none.

    Args:
        page: The Markdown file; made if absent.
        text: The tables.
    """
    before = page.read_text(encoding="utf-8") if page.exists() else "# Results\n"
    section = f"{_BEGIN}\n\n{text}\n{_END}\n"
    start, stop = before.find(_BEGIN), before.find(_END)
    if start >= 0 and stop > start:
        after = before[stop + len(_END) :].removeprefix("\n")
        before, section = before[:start], section + after
    else:
        before = before.rstrip("\n") + "\n\n"
    page.write_text(before + section, encoding="utf-8")
