"""What datasets/<corpus>/prepare.py have in common: look for the parts of a corpus, count them, write our manifest.

A prepare.py says in `prepare(corpus)` what should be there, by the methods of `Corpus`; `run` is its command line.
Nothing is copied or converted: the manifest points at the corpus' own pictures.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

from fpsgan.errors import FpsganError, InputError, OptionError
from fpsgan.training.data import PICTURES
from fpsgan.training.manifest import SPLITS, Clip, write_manifest
from fpsgan.video.photo import size_of

__all__ = ["Corpus", "run"]

SHOWN = 20  # missing things told one by one


class Corpus:
    """A corpus on the disk: what was found of it (`clips`) and, one line each, what was not (`missing`).

    All paths given to its methods are relative to `root`, with forward slashes.
    """

    def __init__(self, root: Path, output: Path, licence: str) -> None:
        self.root, self.output, self.licence = root.resolve(), output.resolve(), licence
        self.clips: list[Clip] = []
        self.missing: list[str] = []

    def has(self, path: str) -> bool:
        return (self.root / path).exists()

    def one_of(self, *paths: str) -> str:
        """The first of the paths that is there; the first, noted as missing, if none is."""
        found = next((path for path in paths if self.has(path)), None)
        if found is None:
            self.missing.append(f"{' or '.join(paths)}: not in {self.root}")
        return found or paths[0]

    def folders(self, path: str, expected: int | None = None) -> list[str]:
        """The folders in a folder, sorted; notes it if they are not as many as expected."""
        place = self.root / path
        found = (
            sorted(f"{path}/{p.name}".removeprefix("./") for p in place.iterdir() if p.is_dir())
            if place.is_dir()
            else []
        )
        self.expect(f"{path}: folders", len(found), expected)
        return found

    def pictures(self, path: str, expected: int | None = None) -> list[str]:
        """The pictures in a folder, by name; notes a missing folder, empty files and another number than expected."""
        place = self.root / path
        if not place.is_dir():
            self.missing.append(f"{path}: no such folder in {self.root}")
            return []
        found = []
        for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
            if entry.name.lower().endswith(PICTURES) and not entry.name.startswith("."):
                if entry.stat().st_size:
                    found.append(f"{path}/{entry.name}")
                else:
                    self.missing.append(f"{path}/{entry.name}: an empty file")
        self.expect(f"{path}: pictures", len(found), expected)
        return found

    def expect(self, what: str, found: int, expected: int | None) -> None:
        """Note it if a number is not the expected one (None: none at all is wrong)."""
        if found != expected and (expected is not None or not found):
            self.missing.append(f"{what}: {found} found, {'at least one' if expected is None else expected} expected")

    def lines(self, *paths: str, expected: int) -> list[str]:
        """Of the first of these text files that is there, the lines that are not blank; notes another number."""
        path = self.one_of(*paths)
        if not self.has(path):
            return []
        found = [line.strip() for line in (self.root / path).read_text(encoding="utf-8").splitlines() if line.strip()]
        self.expect(f"{path}: lines", len(found), expected)
        return found

    def sequence(
        self, name: str, split: str, frames: Sequence[str], *, rate: Fraction | int = 0, source: str = "",
        subset: str = "", blurred: str = "",
    ) -> None:  # fmt: skip
        """Add consecutive frames, numbered in their names; where a number is missing, the sequence is parted.

        blurred: the folder with the blurred pictures, of the same names. Frames without one are noted and left out.
        """
        if blurred:
            there = {Path(path).name for path in self.pictures(blurred)}
            alone = [path for path in frames if Path(path).name not in there]
            if alone:
                self.missing.append(f"{blurred}: no partner there for {alone[0]} ({len(alone)} such)")
            frames = [path for path in frames if Path(path).name in there]
        parts: list[list[str]] = []
        before = -2
        for path in frames:
            number = int((re.findall(r"\d+", Path(path).stem) or ["-2"])[-1])
            if number != before + 1:
                parts.append([])
            parts[-1].append(path)
            before = number
        for k, part in enumerate(parts):
            partners = [f"{blurred}/{Path(path).name}" for path in part] if blurred else []
            suffix = f"+{k}" if k else ""
            self.clip(f"{name}{suffix}", split, part, rate=rate, source=source or name, subset=subset, blurred=partners)

    def triplet(self, name: str, split: str, frames: Sequence[str], *, source: str = "", subset: str = "") -> None:
        """Add frame0, truth, frame1; if one is not there, note it and add nothing."""
        gone = [path for path in frames if not (self.root / path).is_file()]
        self.missing += [f"{path}: not in {self.root}" for path in gone]
        if not gone:
            self.clip(name, split, frames, source=source or name, subset=subset)

    def clip(
        self, name: str, split: str, frames: Sequence[str], *, rate: Fraction | int = 0, source: str,
        subset: str = "", blurred: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Add frames that are there, all of the first one's size."""
        size = picture_size(self.root / frames[0])
        if size is None:
            self.missing.append(f"{frames[0]}: not a readable picture")
            return
        paths, partners = ([self._relative(path) for path in given] for given in (frames, blurred))
        self.clips.append(
            Clip(
                name=name, source=source, split=split, count=len(frames), width=size[0], height=size[1],
                rate=Fraction(rate), licence=self.licence, subset=subset, frames=tuple(paths), blurred=tuple(partners),
            )
        )  # fmt: skip

    def _relative(self, path: str) -> str:
        place = self.root / path
        try:
            return Path(os.path.relpath(place, self.output)).as_posix()
        except ValueError:  # another drive
            return place.as_posix()

    def write(self, *, partial: bool = False, val: float = 0.0) -> Path:
        """Write the manifest and return its path.

        val: the share of the training sources to validate on, where the corpus has no such split of its own. InputError
        if something is missing and `partial` does not allow it, or if nothing at all was found.
        """
        if self.missing and not partial:
            more = f" (and {len(self.missing) - 1} more)" if len(self.missing) > 1 else ""
            raise InputError(f"{self.missing[0]}{more}; --partial takes what is there")
        if not self.clips:
            raise InputError(f"{self.root}: nothing of this corpus is there; its README.md shows the layout")
        if (self.output / "build.jsonl").exists():
            raise InputError(f"{self.output}: holds a set of `fpsgan dataset build`; -o names another folder")
        sources = sorted(
            {clip.source for clip in self.clips if clip.split == "train"},
            key=lambda source: hashlib.sha256(source.encode()).digest(),
        )
        if val and len(sources) > 1 and not any(clip.split == "val" for clip in self.clips):
            chosen = set(sources[: max(1, round(val * len(sources)))])
            self.clips = [dataclasses.replace(c, split="val") if c.source in chosen else c for c in self.clips]
        return write_manifest(self.output, self.clips)


def picture_size(path: Path) -> tuple[int, int] | None:
    """(width, height) of a picture, from its header; None if it cannot be read."""
    try:
        return size_of(path)
    except InputError:
        return None


def run(prepare: Callable[[Corpus], None], licence: str, arguments: Sequence[str] | None = None) -> str:
    """The command line of a prepare.py: `ROOT [-o DIR] [--partial] [--val SHARE]`. Returns what to print.

    Ends the program, with a line for each thing that is missing, if it cannot be done.
    """
    parser = argparse.ArgumentParser(description=prepare.__doc__)
    parser.add_argument(
        "root", type=Path, help="the folder of the corpus; README.md beside this file shows what is in it"
    )
    parser.add_argument("-o", "--output", type=Path, help="folder for manifest.jsonl; by default ROOT")
    parser.add_argument("--partial", action="store_true", help="take what is there, though something is missing")
    parser.add_argument(
        "--val",
        type=float,
        default=0.1,
        help="share of the training sources to validate on, if the corpus has none (0.1)",
    )
    given = parser.parse_args(arguments)
    try:
        if not given.root.is_dir():
            raise InputError(f"{given.root}: no such folder")
        if not 0 <= given.val < 1:
            raise OptionError(f"--val {given.val}: must be a share from 0 to below 1")
        corpus = Corpus(given.root, given.output or given.root, licence)
        prepare(corpus)
        told = [f"missing: {line}" for line in corpus.missing[:SHOWN]]
        if len(corpus.missing) > SHOWN:
            told.append(f"missing: {len(corpus.missing) - SHOWN} more things")
        try:
            path = corpus.write(partial=given.partial, val=given.val)
        except InputError as error:
            raise SystemExit("\n".join([*told, str(error)])) from error
    except FpsganError as error:
        raise SystemExit(str(error)) from error
    counts = {split: sum(clip.split == split for clip in corpus.clips) for split in SPLITS}
    parts = ", ".join(f"{count} {split}" for split, count in counts.items() if count)
    return "\n".join([*told, f"{path}: {len(corpus.clips)} clips ({parts})"])
