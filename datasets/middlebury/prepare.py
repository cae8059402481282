"""Manifest of the Middlebury Other benchmark: see README.md."""

from fpsgan.training.corpora import Corpus, run

SCENES = ("Beanbags", "Dimetrodon", "DogDance", "Grove2", "Grove3", "Hydrangea", "MiniCooper", "RubberWhale", "Urban2",
          "Urban3", "Venus", "Walking")  # fmt: skip


def prepare(corpus: Corpus) -> None:
    """Middlebury Other (Baker et al., IJCV 2011): ROOT holds other-data and other-gt-interp."""
    for scene in SCENES:
        frame0, frame1 = (f"other-data/{scene}/frame{k}.png" for k in (10, 11))
        corpus.triplet(scene, "test", [frame0, f"other-gt-interp/{scene}/frame10i11.png", frame1])


if __name__ == "__main__":
    print(run(prepare, "terms unstated (Baker et al. 2011); for research"))
