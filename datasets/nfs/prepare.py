"""Manifest of the Need for Speed corpus: see README.md."""

from fpsgan.training.corpora import Corpus, run

SEQUENCES = 100
FEWEST = 169  # frames of the shortest sequence


def prepare(corpus: Corpus) -> None:
    """NfS (Kiani Galoogahi et al., ICCV 2017): ROOT holds a folder for each video, frames in NAME/240/NAME."""
    for name in corpus.folders(".", SEQUENCES):
        frames = corpus.pictures(f"{name}/240/{name}")
        if 0 < len(frames) < FEWEST:
            corpus.missing.append(f"{name}/240/{name}: {len(frames)} frames found, at least {FEWEST} expected")
        corpus.sequence(name, "train", frames, rate=240)


if __name__ == "__main__":
    print(run(prepare, "terms unstated (Kiani Galoogahi et al. 2017); for research"))
