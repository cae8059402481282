"""The command line as a person meets it: one clear line for every mistake, exit codes, JSON, Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import pytest
import typer
from conftest import MakeClip, ffmpeg, video_times
from rich.console import Console

from fpsgan import cli
from fpsgan.cli import options, progress
from fpsgan.errors import OptionError
from fpsgan.options import Options


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of `fpsgan words…`, in this process."""
    monkeypatch.setattr(sys, "argv", ["fpsgan", *map(str, words)])
    before = signal.getsignal(signal.SIGTERM)
    code = 0
    try:
        cli.main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        signal.signal(signal.SIGTERM, before)
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize(
    ("text", "value"),
    [("60", Fraction(60)), ("59.94", Fraction(60000, 1001)), ("23.976", Fraction(24000, 1001)),
     ("60000/1001", Fraction(60000, 1001)), ("2.5", Fraction(5, 2))],
)  # fmt: skip
def test_rates(text: str, value: Fraction) -> None:
    assert cli.parse_rate(text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("12.5", Fraction(25, 2)), ("1:02:03.5", Fraction(7447, 2)), ("0:30", Fraction(30))]
)
def test_times(text: str, value: Fraction) -> None:
    assert cli.parse_time(text) == value


@pytest.mark.parametrize("text", ["fast", "1/0", "", "NaN"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(OptionError):
        cli.parse_rate(text)


@pytest.mark.parametrize("text", ["soon", "-1", "1:2:3:4", ""])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(OptionError):
        cli.parse_time(text)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["enhance"], 2, "no input"),
        (["enhance", "{clip}"], 2, "no output"),
        (["enhance", "{dir}/nothing.mp4", "-o", "{dir}/o.mp4"], 1, "nothing.mp4: no such file"),
        (["enhance", "{text}", "-o", "{dir}/o.mp4"], 1, "not a video"),
        (["enhance", "{empty}", "-o", "{dir}/o.mp4"], 1, "not a video"),
        (["enhance", "{sound}", "-o", "{dir}/o.mp4"], 1, "no video stream"),
        (["enhance", "{folder}", "-o", "{dir}/o.mp4"], 1, "without images"),
        (["enhance", "{clip}", "-o", "{clip}", "-y"], 1, "is the input itself"),
        (["enhance", "{clip}", "-o", "{text}.xyz"], 1, "unknown kind"),
        (["enhance", "{clip}", "-o", "{there}"], 1, "exists already; -y"),
        (["enhance", "{clip}", "-o", "{dir}/no/where/o.mp4"], 1, "no folder"),
        (["enhance", "{clip}", "-o", "{dir}/o.mp4", "--fps", "0"], 2, "above 0"),
        (["enhance", "{clip}", "-o", "{dir}/o.mp4", "--fps", "1e9"], 2, "the most is"),
        (["enhance", "{clip}", "-o", "{dir}/o.mp4", "--fps", "banana"], 2, "not a number"),
        (["enhance", "{clip}", "-o", "{dir}/o.mp4", "--start", "yesterday"], 2, "not a time"),
        (["enhance", "{clip}", "-o", "{dir}/o.mp4", "--on-error", "pray"], 2, "must be stop or conceal"),
        (["enhance", "{clip}", "-o", "{dir}/o.mp4", "--codec", "divx"], 2, "unknown; known are"),
        (["enhance", "{clip}", "-o", "{dir}/o.mp4", "--weights", "{text}"], 1, "not a readable safetensors file"),
        (["enhance", "{clip}", "-o", "{dir}/o.mp4", "--weights", "deblur-mobilenet"], 1, "interpolator weights are"),
        (["enhance", "{clip}", "-o", "{dir}/o.mp4", "--stream", "7"], 1, "no video stream with index 7"),
        (["enhance", "{clip}", "-o", "{dir}/o.mp4", "--device", "cuda:9"], 1, "not there"),
        (["deblur", "{clip}", "{clip}", "-o", "{dir}/o.mp4"], 2, "several inputs go into a folder"),
        (["probe", "{text}"], 1, "not a video"),
        (["weights", "show", "nope"], 1, "neither a weights file"),
        (["enhance", "{clip}", "-o", "{dir}/o.mp4", "--no-such-flag"], 2, "No such option"),
    ],
)  # fmt: skip
def test_every_mistake_is_one_clear_line(
    words: list[str], code: int, message: str, make_clip: MakeClip, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    places = {name: tmp_path / name for name in ("text", "empty", "there.mp4", "folder")}
    places["text"].write_text("no video in here\n" * 20)
    places["empty"].touch()
    places["there.mp4"].write_bytes(b"precious")
    places["folder"].mkdir()
    clip = make_clip("clip.mp4", seconds=0.2)
    sound = tmp_path / "sound.m4a"
    ffmpeg("-i", str(clip), "-map", "0:a", "-c", "copy", str(sound))
    kept = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    names = {"clip": clip, "sound": sound, "dir": tmp_path, "there": places["there.mp4"],
             **{name: places[name] for name in ("text", "empty", "folder")}}  # fmt: skip
    given = [word.format(**names) for word in words]
    got, out, err = run(capsys, monkeypatch, *given)
    assert got == code, err
    assert message in " ".join(re.sub(r"[│╭╮╰╯─]", " ", err).split())
    assert "Traceback" not in err and not out
    if message != "No such option":
        assert len(err.strip().splitlines()) == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == kept


def test_json_result_and_estimate(
    make_clip: MakeClip, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, target = make_clip(seconds=0.5), tmp_path / "o.mp4"
    code, out, _ = run(capsys, monkeypatch, "interpolate", clip, "-o", target, "--fps", 60, "--dry-run", "--json")
    assert code == 0 and json.loads(out)["frames_out"] == 30 and not target.exists()
    code, out, err = run(
        capsys, monkeypatch, "interpolate", "-i", clip, "-o", target, "--fps", 60, "--json", "--benchmark"
    )
    record = json.loads(out)
    assert code == 0 and (record["frames_in"], record["frames_out"]) == (12, 30) == (12, len(video_times(target)))
    assert record["av_offset_in"] == pytest.approx(record["av_offset_out"], abs=1e-3)
    assert "networks" in err and "30/30 frames" in err


def test_probe_weights_and_doctor(
    make_clip: MakeClip, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(capsys, monkeypatch, "probe", make_clip(rate="24000/1001", seconds=0.5))
    assert code == 0 and "23.976 (24000/1001) fps" in out and "aac" in out
    for words, expected in ((["weights", "list"], "interpolator-base"), (["weights", "verify"], "ok"),
                            (["doctor"], "all is well"), (["--version"], "fpsgan 0.")):  # fmt: skip
        code, out, _ = run(capsys, monkeypatch, *words)
        assert code == 0 and expected in out
        if words == ["doctor"]:
            assert all(
                said in out for said in ("--engine auto takes", "decoding h264 on ", "memory of ", "h264_nvenc: ")
            )


def test_fpsgan_alone_says_what_it_is_for(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = run(capsys, monkeypatch)
    assert code == 0 and not err and len(out.splitlines()) <= 24
    for command in ("enhance", "interpolate", "deblur", "--help"):
        assert f"fpsgan {command}" in out


@pytest.mark.parametrize(
    ("words", "ends"),
    [(["--version"], 0), (["--help"], 0), (["enhance", "--help"], 0), (["probe", "{clip}"], 0),
     (["enhance"], 2), (["enhance", "{clip}", "-o", "o.mp4", "--deblur", "maybe"], 2)],
)  # fmt: skip
def test_what_is_quick_loads_neither_torch_nor_numba(words: list[str], ends: int, make_clip: MakeClip) -> None:
    words = [word.format(clip=make_clip(seconds=0.2)) for word in words]
    code = (
        "import sys; from fpsgan.cli import main\n"
        "try: main()\n"
        f"except SystemExit as end: assert (end.code or 0) == {ends}, end.code\n"
        "sys.exit(', '.join({'torch', 'numba'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0 and (done.stdout or done.stderr), done.stderr


def test_an_option_says_the_same_in_every_command() -> None:
    said: dict[str, set[tuple[object, ...]]] = {}
    commands = [typer.main.get_command(cli.app).commands[name] for name in ("enhance", "interpolate", "deblur")]
    for command in commands:
        for parameter in command.params:
            said.setdefault(parameter.name, set()).add((*parameter.opts, parameter.help, parameter.default))
    assert {"fps", "device", "codec", "deblur", "json"} <= said.keys()
    assert {name for name, ways in said.items() if len(ways) > 1} == set()


def test_defaults_are_those_of_the_library() -> None:
    groups = options.Deblurring, options.RateOrSlowmo, options.Interpolation, options.Job
    assert options.job_options(*(group() for group in groups)) == Options()


def test_quiet_says_nothing_but_errors(
    make_clip: MakeClip, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, target = make_clip(seconds=0.2), tmp_path / "o.mp4"
    assert run(capsys, monkeypatch, "deblur", clip, "-o", target, "--quiet") == (0, "", "")
    code, out, err = run(capsys, monkeypatch, "deblur", clip, "-o", target, "-q")
    assert code == 1 and not out and "exists already" in err


def test_meter_on_a_terminal_is_rewritten_in_place_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, width=100, markup=False, soft_wrap=True)
    monkeypatch.setattr(progress, "CONSOLE", console)
    with progress.Meter(lambda done: progress.Line(done / 4, f"{done}/4 frames"), title="clip.mp4") as meter:
        for done in range(1, 5):
            meter(done)
        meter.say("a note")
    shown = terminal.getvalue()
    assert "clip.mp4" in shown and "4/4 frames" in shown and "100%" in shown
    assert "a note\n" in shown and shown.endswith("\x1b[?25h\r\x1b[1A\x1b[2K")  # cursor shown, the bar's line cleared


def test_several_inputs_share_one_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, make_clip: MakeClip, tmp_path: Path
) -> None:
    """The second of three cannot be read: its part of the bar is passed over, the third goes on where it would be."""
    short, long = make_clip(seconds=0.2), make_clip(seconds=1)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(bytes(short.stat().st_size))
    for name, clip in (("a.mp4", short), ("c.mp4", long)):
        (tmp_path / name).write_bytes(clip.read_bytes())
    shares: list[tuple[str, float]] = []
    terminal = io.StringIO()
    monkeypatch.setattr(progress, "CONSOLE", Console(file=terminal, force_terminal=True, width=100, markup=False))
    update = progress.Progress.update

    def seen(bar: progress.Progress, task: int, **fields: object) -> None:
        update(bar, task, **fields)
        shares.append((bar.tasks[0].description, bar.tasks[0].percentage))

    monkeypatch.setattr(progress.Progress, "update", seen)
    inputs = tmp_path / "a.mp4", broken, tmp_path / "c.mp4"
    code, _, err = run(capsys, monkeypatch, "interpolate", *inputs, "-o", tmp_path / "made", "--multi", "2")
    assert code == 1 and "1 of 3 inputs failed" in err
    assert "broken.mp4" in terminal.getvalue()
    assert [share for _, share in shares] == sorted(share for _, share in shares) and shares[-1][1] == 100
    sizes = [path.stat().st_size + 1 for path in inputs]
    for title, part in (("1/3 a.mp4", (0, 1)), ("2/3 broken.mp4", (1, 1)), ("3/3 c.mp4", (2, 3))):
        here = [share for name, share in shares if name == title]
        assert here[0] == pytest.approx(100 * sum(sizes[: part[0]]) / sum(sizes))
        assert here[-1] == pytest.approx(100 * sum(sizes[: part[1]]) / sum(sizes))


def test_meter_elsewhere_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.0, 4.0, 8.0, 12.0, 12.0, 13.0, 13.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.Meter(lambda done: progress.Line(done / 5, f"{done}/5")) as meter:
        for done in range(1, 6):
            meter(done)
    assert capsys.readouterr().err.split() == ["1/5", "4/5", "5/5"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)])
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_ends_within_two_seconds_and_leaves_nothing(make_clip: MakeClip, tmp_path: Path, number: int) -> None:
    clip = make_clip(seconds=30, rate="30", video="testsrc2=s=320x240")
    target = tmp_path / "o.mp4"
    job = subprocess.Popen(
        [sys.executable, "-m", "fpsgan", "interpolate", str(clip), "-o", str(target), "--fps", "60"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},  # two frames at once
    )  # fmt: skip
    partial = ".o.mp4.fpsgan/segments-*/part-*.nut"
    began = time.monotonic()
    while not any(tmp_path.glob(partial)) and time.monotonic() - began < 60:
        time.sleep(0.05)
    assert any(tmp_path.glob(partial))
    time.sleep(1)
    sent = time.monotonic()
    job.send_signal(number)
    _, err = job.communicate(timeout=20)
    assert time.monotonic() - sent < 2
    assert job.returncode == 130 and "Traceback" not in err
    assert {path.name for path in tmp_path.iterdir()} == {clip.name}
