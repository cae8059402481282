"""datasets/<corpus>/prepare.py on miniature corpora: what comes out, and what is said of each thing missing."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from fpsgan.training.corpora import Corpus, run
from fpsgan.training.manifest import Clip, read_manifest

DATASETS = Path(__file__).parents[1] / "datasets"


@functools.cache
def code(value: int, suffix: str) -> bytes:
    return cv2.imencode(suffix, np.full((24, 32, 3), value, np.uint8))[1].tobytes()


def put(root: Path, *paths: str) -> None:
    """Pictures of one grey each, by the number in their name."""
    for path in paths:
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        digits = "".join(c for c in place.stem if c.isdigit())
        place.write_bytes(code(int(digits or 0) % 256, place.suffix))


def write(root: Path, path: str, *lines: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text("\n".join(lines) + "\n\n")


def numbered(folder: str, count: int, first: int = 0, digits: int = 6, suffix: str = ".png") -> list[str]:
    return [f"{folder}/{first + k:0{digits}d}{suffix}" for k in range(count)]


def gopro(root: Path) -> dict[str, object]:
    for split, sequences in (("train", ("GOPR0001_01_00", "GOPR0002_01_00")), ("test", ("GOPR0003_01_00",))):
        for name in sequences:
            for kind in ("sharp", "blur", "blur_gamma"):
                put(root, *numbered(f"GOPRO_Large/{split}/{name}/{kind}", 3, 1))
            put(root, *numbered(f"GOPRO_Large_all/{split}/{name}", 5, 1))
    return {"SEQUENCES": {"train": 2, "test": 1}, "PAIRS": {"train": 6, "test": 3}}


def dvd(root: Path) -> dict[str, object]:
    for name in ("IMG_0001", "IMG_0002", "IMG_0003"):
        for kind in ("input", "GT"):
            put(root, *numbered(f"quantitative_datasets/{name}/{kind}", 4, 0, 5, ".jpg"))
    return {"VIDEOS": 3, "PAIRS": 12, "TEST": ("IMG_0003",)}


def nfs(root: Path) -> dict[str, object]:
    for name in ("airboard_1", "ball"):
        put(root, *numbered(f"{name}/240/{name}", 6, 1, 5, ".jpg"), *numbered(f"{name}/30/{name}", 1, 1, 5, ".jpg"))
    return {"SEQUENCES": 2, "FEWEST": 6}


def reds(root: Path) -> dict[str, object]:
    for split in ("train", "val"):
        for kind, count in (("sharp", 4), ("blur", 4), ("orig", 9)):
            put(root, *numbered(f"{split}/{split}_{kind}/000", count, 0, 8))
    return {"CLIPS": {"train": 1, "val": 1}, "SHARP": 4, "HIGH": 9}


def vimeo90k(root: Path) -> dict[str, object]:
    write(root, "tri_trainlist.txt", "00001/0001", "00001/0002", "00002/0001")
    write(root, "tri_testlist.txt", "00003/0007")
    for name in ("00001/0001", "00001/0002", "00002/0001", "00003/0007"):
        put(root, *(f"sequences/{name}/im{k}.png" for k in (1, 2, 3)))
    return {"TRIPLETS": {"train": 3, "test": 1}}


def snu_film(root: Path) -> dict[str, object]:
    put(root, *numbered("test/GOPRO_test/GOPR0384_11_00", 20), *numbered("test/YouTube_test/0001", 3))
    for level, gap in (("easy", 1), ("medium", 2), ("hard", 4), ("extreme", 8)):
        folder = "data/SNU-FILM/test/GOPRO_test/GOPR0384_11_00"
        write(root, f"eval_modes/test-{level}.txt", " ".join(f"{folder}/{k * gap:06d}.png" for k in range(3)))
    return {"TRIPLETS": 1}


def ucf101(root: Path) -> dict[str, object]:
    for k in (1, 11, 21):
        put(
            root,
            *(
                f"ucf101_interp_ours/{k}/{name}.png"
                for name in ("frame_00", "frame_01_gt", "frame_01_ours", "frame_02")
            ),
        )
    return {"TRIPLETS": 3}


def middlebury(root: Path) -> dict[str, object]:
    for scene in load("middlebury").SCENES:
        put(root, f"other-data/{scene}/frame10.png", f"other-data/{scene}/frame11.png")
        put(root, f"other-gt-interp/{scene}/frame10i11.png")
    return {}


def xtest(root: Path) -> dict[str, object]:
    for kind in (1, 2, 3):
        put(root, *numbered(f"test/Type{kind}/TEST0{kind}", 33, 0, 4))
    for clip in ("002/occ008.320_f2881", "002/occ008.322_f2881", "003/occ000.100_f0001"):
        put(root, *numbered(f"train/{clip}", 65, 0, 4))
    return {"TEST_CLIPS": 1, "TRAIN_CLIPS": 3}


CORPORA: dict[str, Callable[[Path], dict[str, object]]] = {
    make.__name__: make for make in (gopro, dvd, nfs, reds, vimeo90k, snu_film, ucf101, middlebury, xtest)
}


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"prepare_{name}", DATASETS / name / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def corpus(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ModuleType, Path]:
    """(the corpus' prepare.py, expecting as much as there is; a miniature of the corpus)."""
    module, root = load(request.param), tmp_path / request.param
    for name, value in CORPORA[request.param](root).items():
        assert type(getattr(module, name)) is type(value)
        setattr(module, name, value)
    return module, root


def prepared(module: ModuleType, root: Path, *words: str) -> list[Clip]:
    run(module.prepare, "a licence", [str(root), *words])
    return read_manifest(root)


@pytest.mark.parametrize("corpus", CORPORA, indirect=True)
def test_frames_are_where_the_manifest_says(corpus: tuple[ModuleType, Path]) -> None:
    module, root = corpus
    for clip in prepared(module, root):
        assert (clip.width, clip.height, clip.licence) == (32, 24, "a licence")
        for k, path in enumerate(clip.frames):
            assert not Path(path).is_absolute()
            digits = int("".join(c for c in Path(path).stem if c.isdigit()) or 0)
            assert abs(int(clip.read(k).mean()) - digits % 256) <= 2
            if clip.blurred:
                assert Path(clip.blurred[k]).name == Path(path).name
                assert clip.read_blurred(k).shape == (24, 32, 3)


SPLITS = {
    "gopro": {"train": 3, "val": 3, "test": 3},
    "dvd": {"train": 1, "val": 1, "test": 1},
    "nfs": {"train": 1, "val": 1},
    "reds": {"train": 2, "val": 2},
    "vimeo90k": {"train": 2, "val": 1, "test": 1},
    "snu_film": {"test": 4},
    "ucf101": {"test": 3},
    "middlebury": {"test": 12},
    "xtest": {"train": 2, "val": 1, "test": 3},
}


@pytest.mark.parametrize("corpus", CORPORA, indirect=True)
def test_splits_part_no_source(corpus: tuple[ModuleType, Path]) -> None:
    module, root = corpus
    clips = prepared(module, root)
    counts = {split: sum(clip.split == split for clip in clips) for split in ("train", "val", "test")}
    expected = SPLITS[root.name]
    if root.name in ("vimeo90k", "xtest"):  # which of two sources of two clips and of one validates is up to a hash
        assert {counts["train"], counts["val"]} == {1, 2}
        assert counts["test"] == expected["test"]
    else:
        assert {split: count for split, count in counts.items() if count} == expected
    assert all(len({c.split for c in clips if c.source == source}) == 1 for source in {c.source for c in clips})
    without = {clip.split for clip in prepared(module, root, "--val", "0")}
    assert without == (set(expected) if root.name == "reds" else set(expected) - {"val"})  # REDS has its own


def test_what_the_clips_are(tmp_path: Path) -> None:
    facts = {}
    for name, make in CORPORA.items():
        module = load(name)
        for constant, value in make(tmp_path / name).items():
            setattr(module, constant, value)
        clips = prepared(module, tmp_path / name)
        facts[name] = {(c.subset, c.count, c.rate, bool(c.blurred)) for c in clips}
    assert facts["gopro"] == {("linear", 3, 0, True), ("gamma", 3, 0, True), ("240fps", 5, 240, False)}
    assert facts["dvd"] == {("", 4, 30, True)}
    assert facts["nfs"] == {("", 6, 240, False)}
    assert facts["reds"] == {("24fps", 4, 24, True), ("120fps", 9, 120, False)}
    assert facts["vimeo90k"] == facts["ucf101"] == facts["middlebury"] == {("", 3, 0, False)}
    assert facts["snu_film"] == {(level, 3, 0, False) for level in ("easy", "medium", "hard", "extreme")}
    assert facts["xtest"] == {(f"Type{k}", 9, Fraction(250), False) for k in (1, 2, 3)} | {("", 65, 1000, False)}
    test = next(c for c in read_manifest(tmp_path / "xtest") if c.split == "test")
    assert [Path(path).stem for path in test.frames] == [f"{4 * k:04d}" for k in range(9)]
    hard = next(c for c in read_manifest(tmp_path / "snu_film") if c.subset == "hard")
    assert [Path(path).stem for path in hard.frames] == ["000000", "000004", "000008"]
    ucf = read_manifest(tmp_path / "ucf101")[0]
    assert [Path(path).stem for path in ucf.frames] == ["frame_00", "frame_01_gt", "frame_02"]
    middlebury = read_manifest(tmp_path / "middlebury")[0]
    assert [Path(path).stem for path in middlebury.frames] == ["frame10", "frame10i11", "frame11"]


MISSING = [
    ("gopro", "GOPRO_Large/train/GOPR0001_01_00", "GOPRO_Large/train: folders: 1 found, 2 expected"),
    ("gopro", "GOPRO_Large/test/GOPR0003_01_00/sharp/000002.png", "test: sharp pictures: 2 found, 3 expected"),
    ("gopro", "GOPRO_Large/train/GOPR0001_01_00/blur/000002.png", "blur: no partner there for GOPRO_Large/train"),
    ("gopro", "GOPRO_Large/train/GOPR0001_01_00/blur_gamma", "GOPR0001_01_00/blur_gamma: no such folder in"),
    ("gopro", "GOPRO_Large_all/test", "GOPRO_Large_all/test: folders: 0 found, 1 expected"),
    ("dvd", "quantitative_datasets/IMG_0001/GT/00003.jpg", "pictures in GT: 11 found, 12 expected"),
    ("dvd", "quantitative_datasets/IMG_0003", "quantitative_datasets/IMG_0003: a test video"),
    ("nfs", "ball", "folders: 1 found, 2 expected"),
    ("nfs", "ball/240", "ball/240/ball: no such folder in"),
    ("nfs", "ball/240/ball/00002.jpg", "ball/240/ball: 5 frames found, at least 6 expected"),
    ("reds", "val/val_sharp/000/00000002.png", "val/val_sharp/000: pictures: 3 found, 4 expected"),
    ("reds", "train/train_orig/000/00000008.png", "train/train_orig/000: pictures: 8 found, 9 expected"),
    ("reds", "val/val_blur/000", "val/val_blur/000: no such folder in"),
    ("vimeo90k", "tri_testlist.txt", "tri_testlist.txt: not in"),
    ("vimeo90k", "sequences/00001/0002/im2.png", "sequences/00001/0002/im2.png: not in"),
    ("snu_film", "eval_modes/test-hard.txt", "eval_modes/test-hard.txt or test-hard.txt: not in"),
    ("snu_film", "test/GOPRO_test/GOPR0384_11_00/000016.png", "GOPR0384_11_00/000016.png: not in"),
    ("ucf101", "ucf101_interp_ours/11", "ucf101_interp_ours: folders: 2 found, 3 expected"),
    ("ucf101", "ucf101_interp_ours/11/frame_01_gt.png", "ucf101_interp_ours/11/frame_01_gt.png: not in"),
    ("middlebury", "other-gt-interp/Venus", "other-gt-interp/Venus/frame10i11.png: not in"),
    ("xtest", "test/Type2/TEST02/0032.png", "test/Type2/TEST02: pictures: 32 found, 33 expected"),
    ("xtest", "train/003", "train: clips: 2 found, 3 expected"),
    ("xtest", "train/003/occ000.100_f0001/0064.png", "0001: pictures: 64 found, 65 expected"),
]  # fmt: skip


@pytest.mark.parametrize(("corpus", "gone", "said"), MISSING, indirect=["corpus"])
def test_each_thing_missing_is_told(corpus: tuple[ModuleType, Path], gone: str, said: str) -> None:
    module, root = corpus
    shutil.rmtree(root / gone) if (root / gone).is_dir() else (root / gone).unlink()
    with pytest.raises(SystemExit) as caught:
        prepared(module, root)
    told = str(caught.value).splitlines()
    assert any(line.startswith("missing: ") and said in line for line in told), told
    assert told[-1].endswith("--partial takes what is there")
    assert not (root / "manifest.jsonl").exists()
    some = prepared(module, root, "--partial")
    assert some
    assert all(clip.read(clip.count - 1).shape == (24, 32, 3) for clip in some)


def test_a_gap_in_the_numbers_parts_a_sequence(tmp_path: Path) -> None:
    module = load("nfs")
    module.SEQUENCES, module.FEWEST = 1, 1
    put(tmp_path, *numbered("ball/240/ball", 4, 1, 5, ".jpg"), *numbered("ball/240/ball", 3, 9, 5, ".jpg"))
    clips = prepared(module, tmp_path)
    assert [(clip.name, clip.count, clip.source) for clip in clips] == [("ball", 4, "ball"), ("ball+1", 3, "ball")]


def test_one_half_of_a_corpus_will_do(tmp_path: Path) -> None:
    for name, half, whole in (("gopro", "GOPRO_Large_all", "GOPRO_Large"), ("xtest", "test", "train")):
        module = load(name)
        for constant, value in CORPORA[name](tmp_path / name).items():
            setattr(module, constant, value)
        shutil.rmtree(tmp_path / name / half)
        assert prepared(module, tmp_path / name)
        shutil.rmtree(tmp_path / name / whole)
        with pytest.raises(SystemExit, match=f"{whole}"):
            prepared(module, tmp_path / name)


def test_the_manifest_may_lie_elsewhere(tmp_path: Path) -> None:
    module = load("middlebury")
    middlebury(tmp_path / "corpora" / "middlebury")
    told = run(
        module.prepare, "a licence", [str(tmp_path / "corpora" / "middlebury"), "-o", str(tmp_path / "sets" / "mb")]
    )
    assert told == f"{tmp_path / 'sets' / 'mb' / 'manifest.jsonl'}: 12 clips (12 test)"
    clip = read_manifest(tmp_path / "sets" / "mb", "test")[0]
    assert clip.frames[0] == "../../corpora/middlebury/other-data/Beanbags/frame10.png"
    assert clip.read(0).mean() == 10


def test_empty_and_unreadable_pictures_are_told(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, tmp_path, "")
    put(tmp_path, "a/1.png", "a/2.png", "b/1.png")
    (tmp_path / "a/2.png").write_bytes(b"")
    (tmp_path / "b/1.png").write_bytes(b"no picture")
    corpus.sequence("a", "train", corpus.pictures("a"))
    corpus.sequence("b", "train", corpus.pictures("b"))
    assert corpus.missing == ["a/2.png: an empty file", "b/1.png: not a readable picture"]
    assert [clip.name for clip in corpus.clips] == ["a"]


def test_other_folders_are_refused(tmp_path: Path) -> None:
    module = load("ucf101")
    with pytest.raises(SystemExit, match="no such folder"):
        prepared(module, tmp_path / "none")
    with pytest.raises(SystemExit, match="nothing of this corpus is there"):
        prepared(module, tmp_path, "--partial")
    ucf101(tmp_path)
    module.TRIPLETS = 3
    with pytest.raises(SystemExit, match=r"--val 1.0: must be a share"):
        prepared(module, tmp_path, "--val", "1")
    (tmp_path / "build.jsonl").write_text("{}")
    with pytest.raises(SystemExit, match="holds a set of `fpsgan dataset build`"):
        prepared(module, tmp_path)


def test_the_script_itself_runs(tmp_path: Path) -> None:
    middlebury(tmp_path)
    command = [sys.executable, str(DATASETS / "middlebury" / "prepare.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path / 'manifest.jsonl'}: 12 clips (12 test)\n"
    (tmp_path / "other-data" / "Venus" / "frame11.png").unlink()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("missing: other-data/Venus/frame11.png: not in")


def test_every_corpus_has_its_readme() -> None:
    folders = {path.name for path in DATASETS.iterdir() if path.is_dir() and not path.name.startswith(("_", "."))}
    assert folders == {*CORPORA, "own_footage"}
    for name in folders:
        text = (DATASETS / name / "README.md").read_text()
        command = f"datasets/{name}/prepare.py" if name in CORPORA else "fpsgan dataset build"
        assert command in text
        assert "icence" in text
    assert not list(DATASETS.rglob("__init__.py"))
