"""Segments made by several processes and by a Ray cluster: the same frames, also where a process or a node is lost."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeClip

from fpsgan import cli, rendering, segments, spread
from fpsgan.errors import InputError, SetupError
from fpsgan.job import Progress, enhance
from fpsgan.options import Options
from fpsgan.segments import unfinished
from fpsgan.video.codecs import EncodeOptions
from fpsgan.video.ffmpeg import ffmpeg_path

FAST = {"deblur": "off", "weights": "interpolator-fast", "half": False}


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "LENGTH", 0.5)


def checksum(path: Path) -> str:
    """Of every frame with its time, and of the sound."""
    found = subprocess.run(
        [ffmpeg_path(), "-v", "error", "-i", str(path), "-map", "0", "-f", "framemd5", "-"], capture_output=True
    )
    return hashlib.md5(found.stdout).hexdigest()


@pytest.fixture
def clip(make_clip: MakeClip) -> Path:
    return make_clip("c.mkv", rate="12", seconds=3, video="testsrc2=s=96x64")


class Stop(Exception):
    """Ends a job as a crash would, but for this process."""


def stop_after(frames: int) -> Any:
    def on_progress(now: Progress) -> None:
        if now.done >= frames:
            raise Stop

    return on_progress


def test_an_ended_job_goes_on_and_comes_out_the_same(clip: Path, tmp_path: Path) -> None:
    options = Options(**FAST)
    whole = enhance(clip, tmp_path / "whole.mkv", options=options)
    target, notes = tmp_path / "o.mkv", list[str]()
    with pytest.raises(Stop):
        enhance(clip, target, options=options, on_progress=stop_after(40))
    assert not target.exists()
    (left,) = unfinished(tmp_path)
    assert (left.target, left.segments >= 2, left.size > 0, left.age < 60) == (target, True, True, True)
    seen: list[Progress] = []
    result = enhance(clip, target, options=options, on_note=notes.append, on_progress=seen.append)
    assert any(note.startswith("resuming: ") and " of 6 segments" in note for note in notes)
    assert seen[0].done > 12 and seen[-1].done == 72
    assert checksum(target) == checksum(tmp_path / "whole.mkv")
    for name in ("frames_in", "frames_out", "generated", "untouched", "held", "cuts", "duration_in", "duration_out"):
        assert getattr(result, name) == getattr(whole, name)
    assert {path.name for path in tmp_path.iterdir()} == {clip.name, "whole.mkv", "o.mkv"}


def test_without_resume_nothing_is_kept(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        enhance(clip, tmp_path / "o.mkv", options=Options(**FAST, resume=False), on_progress=stop_after(40))
    assert {path.name for path in tmp_path.iterdir()} == {clip.name}


def test_other_settings_begin_anew_and_the_work_is_set_aside(clip: Path, tmp_path: Path) -> None:
    target, notes = tmp_path / "o.mkv", list[str]()
    with pytest.raises(Stop):
        enhance(clip, target, options=Options(**FAST), on_progress=stop_after(40))
    with pytest.raises(Stop):
        other = Options(**FAST, multi=Fraction(3))
        enhance(clip, target, options=other, on_progress=stop_after(40), on_note=notes.append)
    assert any("set aside" in note for note in notes) and not any("resuming" in note for note in notes)
    enhance(clip, target, options=Options(**FAST), on_note=notes.append)  # the first ones are still there
    assert any("resuming" in note for note in notes)
    assert {path.name for path in tmp_path.iterdir()} == {clip.name, "o.mkv"}


def test_a_changed_source_begins_anew(clip: Path, tmp_path: Path) -> None:
    target, notes = tmp_path / "o.mkv", list[str]()
    with pytest.raises(Stop):
        enhance(clip, target, options=Options(**FAST), on_progress=stop_after(40))
    os.utime(clip, (1, 1))
    enhance(clip, target, options=Options(**FAST), on_note=notes.append)
    assert not any("resuming" in note for note in notes)


@pytest.mark.parametrize("damage", ["manifest", "record", "pictures"])
def test_damaged_state_is_not_trusted(clip: Path, tmp_path: Path, damage: str) -> None:
    enhance(clip, tmp_path / "whole.mkv", options=Options(**FAST))
    target, notes = tmp_path / "o.mkv", list[str]()
    with pytest.raises(Stop):
        enhance(clip, target, options=Options(**FAST), on_progress=stop_after(40))
    (folder,) = (tmp_path / ".o.mkv.fpsgan").glob("segments-*")
    if damage == "manifest":
        (folder / "job.json").write_text('{"version": "0.0.1"}')
    elif damage == "record":
        (folder / "000000.json").write_text('{"pictures": ')
    else:
        (folder / "000000.nut").unlink()
    enhance(clip, target, options=Options(**FAST), on_note=notes.append)
    assert any("not used" in note for note in notes) == (damage == "manifest")
    assert checksum(target) == checksum(tmp_path / "whole.mkv")


def test_the_length_of_segments_changes_no_frame(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(**FAST, fps=Fraction(30))
    sums = set()
    for length in (0.4, 1.0, 10.0):
        monkeypatch.setattr(segments, "LENGTH", length)
        target = tmp_path / f"{length}.mkv"
        enhance(clip, target, options=Options(**{**vars(options), "encode": EncodeOptions("ffv1")}))
        sums.add(checksum(target))
    assert len(sums) == 1


def test_two_processes_make_the_same(clip: Path, tmp_path: Path) -> None:
    enhance(clip, tmp_path / "one.mkv", options=Options(**FAST))
    seen: list[Progress] = []
    enhance(clip, tmp_path / "two.mkv", options=Options(**FAST, workers=2), on_progress=seen.append)
    assert checksum(tmp_path / "one.mkv") == checksum(tmp_path / "two.mkv") and seen[-1].done == 72


def test_a_lost_process_is_said_and_what_is_finished_is_kept(clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "o.mkv"

    def kill_one(now: Progress) -> None:
        if now.done == 20:
            os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)

    with pytest.raises(SetupError, match="a worker process ended"):
        enhance(clip, target, options=Options(**FAST, workers=2), on_progress=kill_one)
    assert not target.exists()
    enhance(clip, target, options=Options(**FAST))
    enhance(clip, tmp_path / "whole.mkv", options=Options(**FAST))
    assert checksum(target) == checksum(tmp_path / "whole.mkv")


def test_an_error_names_its_part(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = rendering._encode

    def broken(job: Any, segment: Any, *rest: Any) -> Any:
        if segment.number == 2:
            raise InputError("the picture cannot be decoded")
        return encode(job, segment, *rest)

    monkeypatch.setattr(rendering, "_encode", broken)
    with pytest.raises(InputError, match=r"cannot be decoded \(segment from 1\.000 s to 1\.500 s\)"):
        enhance(clip, tmp_path / "o.mkv", options=Options(**FAST))
    assert not (tmp_path / "o.mkv").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Ray's test cluster runs on Linux and macOS")
def test_a_cluster_loses_a_node_and_the_result_is_the_same(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="pip install 'fpsgan[cluster]'")
    from ray.cluster_utils import Cluster

    enhance(clip, tmp_path / "one.mkv", options=Options(**FAST))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # for the nodes' processes
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    lost = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        killed = threading.Event()

        def kill_one(now: Progress) -> None:
            if now.done >= 12 and not killed.is_set():  # the first segment has come back
                killed.set()
                cluster.remove_node(lost, allow_graceful=False)

        began = time.monotonic()
        target = tmp_path / "two.mkv"
        enhance(clip, target, options=Options(**FAST, cluster=cluster.address), on_progress=kill_one)
        assert killed.is_set() and time.monotonic() - began < 240
        assert checksum(tmp_path / "one.mkv") == checksum(target)
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_a_node_that_has_no_source_is_sent_it(clip: Path, tmp_path: Path) -> None:
    """As `_on_node` does it, on the files themselves: the job is made from what was sent, the source is gone."""
    enhance(clip, tmp_path / "one.mkv", options=Options(**FAST))
    seen: list[Any] = []

    def on_node(job: Any, missing: Any, store: Any, on_frame: Any, note: Any) -> Any:
        known, content = segments.fingerprint(clip), clip.read_bytes()
        away = clip.rename(clip.with_suffix(".away"))
        assert not spread._is_here(clip, known)
        seen.append(spread._with_source(job, {clip: content}, tmp_path))
        yield from rendering.make_segments(seen[0], missing, store, on_frame, note)
        away.rename(clip)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fpsgan.job.make_segments", on_node)
        enhance(clip, tmp_path / "two.mkv", options=Options(**FAST))
    assert seen[0].info.path == tmp_path / "source" / clip.name
    assert checksum(tmp_path / "one.mkv") == checksum(tmp_path / "two.mkv")


def test_no_cluster_is_one_line(clip: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(SetupError, match="no Ray cluster there"):
        enhance(clip, tmp_path / "o.mkv", options=Options(**FAST, cluster="127.0.0.1:1"))
    assert not (tmp_path / "o.mkv").exists()


def test_unfinished_jobs_are_listed_and_removed(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Stop):
        enhance(clip, tmp_path / "o.mkv", options=Options(**FAST), on_progress=stop_after(40))

    def said(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["fpsgan", "jobs", *words])
        with pytest.raises(SystemExit) as code:
            cli.main()
        assert code.value.code == 0
        return capsys.readouterr().out

    assert "o.mkv: " in said("--in", str(tmp_path)) and "segments finished" in said("--in", str(tmp_path))
    assert "segments removed" in said("clean", "--in", str(tmp_path))
    assert "no unfinished job" in said("--in", str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {clip.name}
