"""Results of objects: kept through kills and apart by settings, summarised in pairs, shown as tables."""

import dataclasses
import math

import numpy as np
import pytest

from experiments.evaluation import results, tables
from im3d_jax.errors import InputError
from im3d_jax.pipelines import bundle, svd


def record_of(index):
    """Figures that differ by object, with known differences: refinement gains `index` dB."""

    def figures(psnr):
        return {"psnr": psnr, "foreground_psnr": psnr - 3, "ssim": 0.9, "perceptual": 0.1 + 0.01 * index}

    def asset(gain, cost):
        at = {"cameras": figures(20.0 + gain), "between": figures(19.5 + gain)}
        return {
            "estimated": at, "true": at, "targets": figures(21.0), "residual": figures(30.0 + 2 * gain),
            "gaussians": 5000 + index, "seconds": 60.0, "network_evaluations": cost,
        }  # fmt: skip

    return {
        "caption": "a cup",
        "elevation_deg": {"true": 10.0, "estimated": 10.0 + index, "error": float(index)},
        "views": figures(21.0) | {"seconds": 18.0, "network_evaluations": 30},
        "repeat": figures(14.0 + index),
        "assets": {"0": asset(0.0, 30), "2": asset(float(index), 60)},
    }


def judged_record(index):
    """`record_of` as the judges extend it: refinement gains `index` hundredths."""
    record = record_of(index)
    comparisons = [record["views"], record["repeat"]]
    for rounds, asset in record["assets"].items():
        comparisons += [*asset["estimated"].values(), asset["targets"], asset["residual"]]
        gain = 0.01 * index if rounds == "2" else 0.0
        asset["rerendered"] = {"clip_text": 0.3 + gain, "clip_image": 0.8 - gain}
    for figures in comparisons:
        figures["lpips"] = 0.2
    record["views"] |= {"clip_text": 0.31, "clip_image": 0.85}
    return record | {"truth": {"clip_text": 0.33, "clip_image": 0.9}}


def settings_of(rounds=(0, 2), sampling=bundle.QUALITIES["draft"]):
    return {
        "model": "tiny", "weights": {"name": "tiny", "sha256": "0" * 64}, "machine": "2 cores",
        "versions": {"jax": "0"}, "quality": "draft", "rounds": list(rounds), "sampling": dataclasses.asdict(sampling),
    }  # fmt: skip


def test_summary_is_paired():
    summary = results.summarise([{"index": i, **record_of(i)} for i in (0, 1, 5)])
    gain = summary["differences"]["assets/2/refined/estimated/cameras/psnr"]
    assert gain["mean"] == pytest.approx(2.0) and gain["n"] == 3
    assert gain["std"] == pytest.approx(np.std([0, 1, 5], ddof=1))
    assert gain["standard_error"] == pytest.approx(np.std([0, 1, 5], ddof=1) / math.sqrt(3))
    assert summary["differences"]["assets/2/refined/residual"]["mean"] == pytest.approx(4.0)
    measured = [(round(bar["measured"], 6), bar["met"]) for bar in summary["bars"]]
    assert measured == [(21.0, True), (5.0, False), (-1.0, True), (-0.5, True), (2.0, True)]
    assert "index" not in summary["figures"]


def test_results_survive_a_kill_and_keep_settings_apart(tmp_path):
    kept = results.Results(tmp_path, "command", settings_of())
    kept.add(0, record_of(0))
    kept.add(1, record_of(1))
    lines = tmp_path / "results.jsonl"
    lines.write_text(lines.read_text()[:-40])  # killed while it wrote the second line
    again = results.Results(tmp_path, "command", settings_of())
    assert again.has(0) and not again.has(1)
    again.add(1, record_of(1))
    assert len(lines.read_text().splitlines()) == 2
    other = results.Results(tmp_path, "command", settings_of(rounds=(0, 1)))
    assert not other.has(0)
    assert results.Results(tmp_path, "command", settings_of()).write(range(5))["objects"] == 2
    assert results.Results(tmp_path, "command", settings_of()).write(range(1))["objects"] == 1
    lines.write_text("{nonsense\n")
    with pytest.raises(InputError, match="line 1"):
        results.Results(tmp_path, "command", settings_of())
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot use --out=.*file"):
        results.Results(tmp_path / "file", "command", settings_of())


def test_tables_grow_with_the_judges(tmp_path):
    settings = settings_of() | {"clip": "CLIP of ones", "lpips_sha256": "1" * 64}
    kept = results.Results(tmp_path, "command", settings)
    kept.add(0, judged_record(0))
    kept.add(1, judged_record(2))
    text = tables.to_markdown(kept.write(range(2)))
    assert "Similarity by CLIP of ones" in text and f"SHA-256 `{'1' * 64}`" in text
    for header in ("| | PSNR, dB | foreground PSNR, dB |", "| | SSIM | perceptual distance |", "| | LPIPS |"):
        assert header in text.splitlines()
    assert "| true turntable | 0.3300 ± 0.0000 (0.0000) | 0.9000 ± 0.0000 (0.0000) |" in text
    assert "| re-rendered views, 2 rounds | 0.3100 ± 0.0100 (0.0141) | 0.7900 ± 0.0100 (0.0141) |" in text
    assert "refinement, 2 rounds against 0 | +0.0100 ± 0.0100 (0.0141) | -0.0100" in text
    plain = results.Results(tmp_path / "plain", "command", settings_of())
    plain.add(0, record_of(0))
    assert not {"Similarity", "LPIPS", "CLIP"} & set(tables.to_markdown(plain.write(range(1))).split())


def test_tables_replace_their_own_section_only(tmp_path):
    kept = results.Results(tmp_path, "python -m experiments.evaluate", settings_of())
    kept.add(0, record_of(0))
    kept.add(1, record_of(1))
    text = tables.to_markdown(kept.write(range(2)))
    assert "+0.50 ± 0.50 (0.71)" in text and "python -m experiments.evaluate" in text and "0" * 64 in text
    assert "refinement: from t = 0.15, 3 steps, guidance 1 (image) and 1 (prompt)" in text
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 4 and all(len({row.count("|") for row in rows}) == 1 for rows in blocks)
    assert max(map(len, text.splitlines())) <= 120
    page = tmp_path / "page.md"
    page.write_text("# Results\n\nbefore\n\n<!-- evaluation: generated -->\nold\n<!-- end of evaluation -->\n\nafter\n")
    tables.write_tables(page, text)
    once = page.read_text()
    tables.write_tables(page, text)
    assert page.read_text() == once
    assert once.startswith("# Results\n\nbefore\n") and once.endswith("\nafter\n") and "old" not in once
    tables.write_tables(tmp_path / "new.md", text)
    assert text in (tmp_path / "new.md").read_text()


def test_tables_of_a_foreign_model(tmp_path):
    kept = results.Results(tmp_path, "command", settings_of(sampling=svd.QUALITIES["draft"]))
    kept.add(0, record_of(0))
    assert "- refinement: 5 steps\n" in tables.to_markdown(kept.write(range(1)))
