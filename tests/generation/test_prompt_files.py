"""Files of prompts: what a line says, what is refused, and the parts of several processes."""

import json

import pytest

from im3d_jax import AssetRequest, InputError
from im3d_jax.generation.prompt_files import read_lines
from im3d_jax.generation.shards import parse_shard
from im3d_jax.images.files import encode_png
from tests.fake_model import disc


def fields(request):
    return {name: getattr(request, name) for name in ("prompt", "image", "seed", "quality", "rounds", "elevation_deg")}


def test_lines_of_a_file(tmp_path):
    (tmp_path / "disc.png").write_bytes(encode_png(disc(0, 0)))
    objects = {"prompt": "a\u2028b"}, {"image": "disc.png", "prompt": None, "seed": 7}
    texts = "\n".join(json.dumps(one, ensure_ascii=False) for one in objects)
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n" + texts + "\n  \n", encoding="utf-8")
    first, second = read_lines(file, seed=9, quality="draft", rounds=1, elevation_deg=10.0)
    shared = {"quality": "draft", "rounds": 1, "elevation_deg": 10.0}
    assert (first.number, first.name) == (2, "00002") and (second.number, second.name) == (3, "00003")
    assert fields(first.request) == fields(AssetRequest("a\u2028b", seed=9, **shared))
    assert fields(second.request) == fields(AssetRequest(image=str(tmp_path / "disc.png"), seed=7, **shared))


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"prompt": "mug"}\r\n{"prompt": "box"}\r\n')
    assert [line.request.prompt for line in read_lines(file)] == ["mug", "box"]


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"prompt": "mug"}\n{"prompt": mug}\n', "line 2 of .* is not JSON"),
        ("[1]", r"line 1 of .* holds \[1\]; expected an object"),
        ('{"seed": 3}', "line 1 of .* has neither prompt nor image"),
        ('{"promt": "mug"}', "line 1 of .*unknown field 'promt'; did you mean 'prompt'"),
        ('{"x": 1}', "unknown field 'x'; known are prompt, image, seed"),
        ('{"prompt": "a", "seed": 1, "seed": 2}', "line 1 of .*'seed' is given twice"),
        ('{"prompt": " "}', "the prompt is empty"),
        ('{"prompt": 3}', "prompt is 3; expected text"),
        ('{"prompt": "a", "seed": true}', "seed is true; expected a whole number"),
        ('{"prompt": "a", "seed": 1.5}', "seed is 1.5; expected"),
        ('{"prompt": "a", "seed": -1}', "seed is -1; expected a whole number from 0 to 4294967295"),
        ('{"image": "none.png"}', "no picture .*none.png; paths are relative to"),
        ('{"image": "%s"}' % ("x" * 5000), "line 1 of .*: no picture .*xxx; paths are relative to"),
        ('{"prompt": "\\ud800"}', "line 1 of .*: the prompt holds bytes that are no UTF-8"),
        ("\n \n", "has no lines"),
    ],
)
def test_wrong_lines_are_one_line(text, message, tmp_path):
    (tmp_path / "prompts.jsonl").write_text(text)
    with pytest.raises(InputError, match=message) as raised:
        read_lines(tmp_path / "prompts.jsonl")
    assert "\n" not in str(raised.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="--prompts=.*none.jsonl: cannot be read"):
        read_lines(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "caf\xe9"}')
    with pytest.raises(InputError, match="not UTF-8 text"):
        read_lines(tmp_path / "latin.jsonl")


def test_parts_of_the_work():
    assert parse_shard("0/1") == (0, 1) and parse_shard("3/4") == (3, 4)
    for wrong in ("2/2", "-1/2", "1", "a/b", "1/0", ""):
        with pytest.raises(InputError, match=f"--shard={wrong}: expected i/n"):
            parse_shard(wrong)
