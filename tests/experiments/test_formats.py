"""The comparison of formats: one row for each, better ones above worse ones."""

import json

from experiments.benchmarks.formats import PROGRAM
from im3d_jax.exports.kinds import GAUSSIANS
from tests.exports.runs import write_run


def test_every_format_is_measured(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    assert PROGRAM([f"--source={run}", "--size=24", "--views=2"]) == 0
    rows = {row["format"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert set(rows) == {*GAUSSIANS, "html"} and "psnr" not in rows["html"]
    assert rows["ply"]["psnr"] == 100.0 and rows["ply"]["bytes"] == (run / "asset.ply").stat().st_size
    assert all(row["psnr"] > 30 for kind, row in rows.items() if kind != "html")
    assert rows["glb"]["psnr"] > rows["spz"]["psnr"]
    assert PROGRAM([f"--source={run}", "--size=24", "--views=2", "--table", "--nopage"]) == 0
    table = capsys.readouterr().out
    assert table.startswith("60 gaussians of degree 0") and table.count("\n| `") == 1 + len(GAUSSIANS)
    assert PROGRAM([]) == 2 and "--source is missing" in capsys.readouterr().err
