"""Manifest of the Vimeo-90K triplets: see README.md."""

from fpsgan.training.corpora import Corpus, run

TRIPLETS = {"train": 51312, "test": 3782}


def prepare(corpus: Corpus) -> None:
    """Vimeo-90K triplets (Xue et al., IJCV 2019): ROOT holds sequences, tri_trainlist.txt and tri_testlist.txt."""
    for split, triplets in TRIPLETS.items():
        for line in corpus.lines(f"tri_{split}list.txt", expected=triplets):
            frames = [f"sequences/{line}/im{k}.png" for k in (1, 2, 3)]
            corpus.triplet(line, split, frames, source=line.split("/")[0])  # one folder is of few films: never parted


if __name__ == "__main__":
    print(run(prepare, "terms unstated (Xue et al. 2019); for research"))
