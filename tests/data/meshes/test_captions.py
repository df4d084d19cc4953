"""Captions from file names and from tables."""

import os

import pytest

from im3d_jax.data.meshes.captions import caption_of_path, read_table, tidy
from im3d_jax.errors import InputError


@pytest.mark.parametrize(
    ("path", "caption"),
    [
        ("barrel_A_02.glb", "barrel"),
        ("SM_WoodenCrate_v2.obj", "wooden crate"),
        ("props/ArmChair01.glb", "arm chair"),
        ("Tree2_Snow.fbx.glb", "tree snow"),
        ("low_poly_car_final(1).glb", "car"),
        ("low-table.glb", "low table"),
        ("baked_potato.glb", "baked potato"),
        ("jar_A_large.gltf", "jar large"),
        ("jack_in_a_box.glb", "jack in a box"),
        ("plan_B.glb", "plan"),
        ("barrel-large-LOD0.glb", "barrel large"),
        ("HTTPServer.glb", "http server"),
        ("models/ice-cream-truck/model.gltf", "ice cream truck"),
        ("kit/Old_Boat_03/scene.gltf", "old boat"),
        ("kaykit/Mug_full-transformed.glb", "mug full"),
        ("watermelon_watermelon.glb", "watermelon"),
        ("chairs/3f2a9b8c7d6e5f40.glb", "chairs"),
        ("models/model.glb", "object"),
        ("scene.gltf", "object"),
        ("Übung_Stuhl.glb", "übung stuhl"),
        ("椅子_02.glb", "椅子"),
    ],
)
def test_caption_of_path(path, caption):
    assert caption_of_path(path) == caption


def test_tidy():
    assert tidy("  a red\tmug\u0000 . ") == "a red mug"
    assert tidy("watermelon crop crop") == "watermelon crop"
    assert tidy("space_connector transformed") == "space connector"
    assert len(tidy("word " * 100 + "other " * 100)) <= 200


def test_table(tmp_path):
    table = tmp_path / "table.tsv"
    table.write_text('path\tcaption\tlicence\na/b.glb\tred  mug\tCC0\nc.glb\t\tMIT "x"\n', "utf-8")
    rows = read_table(table)
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\n", b"\r\n"))
    assert read_table(table) == rows, "a table from Windows"
    assert rows == {"a/b.glb": {"caption": "red mug", "licence": "CC0"}, "c.glb": {"caption": "", "licence": 'MIT "x"'}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"path\tname\na\tb\n", "path and caption"),
        (b"", "path and caption"),
        (b"path\tcaption\na\tb\na\tc\n", "line 3: a comes twice"),
        (b"path\tcaption\n\tb\n", "line 2: no path"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_wrong_tables(tmp_path, content, words):
    table = tmp_path / "table.tsv"
    table.write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_table(table)
    with pytest.raises(InputError, match="No such file"):
        read_table(tmp_path / "other.tsv")


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="of Unix")
def test_a_table_without_end_is_refused(monkeypatch):
    monkeypatch.setattr("im3d_jax.data.meshes.captions._MOST_BYTES", 1 << 20)
    with pytest.raises(InputError, match="table /dev/zero: more than 1 MiB"):
        read_table("/dev/zero")
