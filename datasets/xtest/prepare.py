"""Manifest of X4K1000FPS, X-TEST and X-TRAIN: see README.md."""

from fpsgan.training.corpora import Corpus, run

TEST_CLIPS, TRAIN_CLIPS = 5, 4408  # of each of the three types; in all


def prepare(corpus: Corpus) -> None:
    """X4K1000FPS (Sim, Oh and Kim, ICCV 2021): ROOT holds test (X-TEST), train (X-TRAIN) or both."""
    corpus.one_of("test", "train")
    if corpus.has("test"):
        for kind in ("Type1", "Type2", "Type3"):
            for folder in corpus.folders(f"test/{kind}", TEST_CLIPS):
                frames = corpus.pictures(folder, 33)
                if len(frames) == 33:  # every fourth: frame0, seven truths at t = k/8, frame1
                    name = folder.removeprefix("test/")
                    corpus.clip(name, "test", frames[::4], rate=250, source=name, subset=kind)
    if corpus.has("train"):
        folders = [folder for scene in corpus.folders("train") for folder in corpus.folders(scene)]
        corpus.expect("train: clips", len(folders), TRAIN_CLIPS)
        for folder in folders:
            scene = folder.rpartition("/")[0]  # its clips overlap in time: never parted
            corpus.sequence(folder, "train", corpus.pictures(folder, 65), rate=1000, source=scene)


if __name__ == "__main__":
    print(run(prepare, "terms unstated (Sim, Oh and Kim 2021); for research"))
