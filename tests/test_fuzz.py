"""Forty damaged files of all containers and kinds of damage; `tools/fuzz_media.py --cases 1000` is the long form."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import fuzz_media
import pytest


def test_whatever_is_in_a_file_nothing_is_lost_and_nothing_goes_unsaid() -> None:
    # a step of five goes through all fourteen seeds and all six kinds
    cases = fuzz_media.run([5 * k for k in range(40)], seed=7, jobs=2)
    assert len({case.seed_name for case in cases}) == len(fuzz_media.SEEDS)
    assert {case.damage for case in cases} == set(fuzz_media.DAMAGE)
    assert [(case.number, case.broken) for case in cases if case.broken] == []
    assert {case.outcome for case in cases} == {"done", "concealed", "refused"}


def test_a_broken_promise_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks themselves: a product that loses frames, says nothing and leaves files fails them."""
    seeds = fuzz_media.make_seeds(tmp_path)
    content = seeds["mp4 h264+aac"].read_bytes()
    folder = tmp_path / "case"
    folder.mkdir()

    def careless(source: Path, target: Path, options: object) -> object:
        fuzz_media.ffmpeg("-y", "-i", str(source), "-frames:v", "9", str(target))
        (folder / ".left").write_text("behind")
        (folder / "other.txt").write_text("overwritten")
        return fuzz_media.Result(source=str(source), target=str(target), frames_in=9, frames_out=10)

    monkeypatch.setattr(fuzz_media, "enhance", careless)
    case = fuzz_media.examine(fuzz_media.Case(1, "mp4 h264+aac", "none"), content, folder)
    assert [text.split(":")[0] for text in case.broken] == [
        "a file beside the output was changed",
        "left behind",
        "the output",
        "9 frames used, 0 left out, ffmpeg shows 30",
    ]
