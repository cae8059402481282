"""Manifest of the GoPro corpus: see README.md."""

from fpsgan.training.corpora import Corpus, run

SEQUENCES = {"train": 22, "test": 11}
PAIRS = {"train": 2103, "test": 1111}
BLUR = {"blur": "linear", "blur_gamma": "gamma"}  # folder → subset


def prepare(corpus: Corpus) -> None:
    """GoPro (Nah et al., CVPR 2017): ROOT holds GOPRO_Large, GOPRO_Large_all or both."""
    corpus.one_of("GOPRO_Large", "GOPRO_Large_all")
    if corpus.has("GOPRO_Large"):
        for split, sequences in SEQUENCES.items():
            pairs = 0
            for folder in corpus.folders(f"GOPRO_Large/{split}", sequences):
                sharp = corpus.pictures(f"{folder}/sharp")
                pairs += len(sharp)
                source = folder.removeprefix("GOPRO_Large/")
                for blur, subset in BLUR.items():
                    corpus.sequence(
                        f"{source}/{subset}", split, sharp, source=source, subset=subset, blurred=f"{folder}/{blur}"
                    )
            corpus.expect(f"GOPRO_Large/{split}: sharp pictures", pairs, PAIRS[split])
    if corpus.has("GOPRO_Large_all"):
        for split, sequences in SEQUENCES.items():
            for folder in corpus.folders(f"GOPRO_Large_all/{split}", sequences):
                source = folder.removeprefix("GOPRO_Large_all/")
                frames = corpus.pictures(folder)
                corpus.sequence(f"{source}/240fps", split, frames, rate=240, source=source, subset="240fps")


if __name__ == "__main__":
    print(run(prepare, "CC BY 4.0, Nah, Kim and Lee 2017"))
