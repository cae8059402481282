"""Manifest of the SNU-FILM benchmark: see README.md."""

from fpsgan.training.corpora import Corpus, run

TRIPLETS = 310  # of each level


def prepare(corpus: Corpus) -> None:
    """SNU-FILM (Choi et al., AAAI 2020): ROOT holds test and eval_modes (or its lists themselves)."""
    for level in ("easy", "medium", "hard", "extreme"):
        for line in corpus.lines(f"eval_modes/test-{level}.txt", f"test-{level}.txt", expected=TRIPLETS):
            # the lists name data/SNU-FILM/test/…: the authors' own place
            frames = [f"test/{path.partition('test/')[2]}" for path in line.split()]
            if len(frames) != 3:
                corpus.missing.append(f"test-{level}.txt: three pictures in line {line!r}")
                continue
            name = frames[1].removeprefix("test/").rpartition(".")[0]
            corpus.triplet(f"{level}/{name}", "test", frames, source=name.rpartition("/")[0], subset=level)


if __name__ == "__main__":
    print(run(prepare, "terms unstated (Choi et al. 2020); for research"))
