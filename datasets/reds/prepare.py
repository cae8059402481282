"""Manifest of the REDS corpus: see README.md."""

from fpsgan.training.corpora import Corpus, run

CLIPS = {"train": 240, "val": 30}
SHARP, HIGH = 100, 500  # frames of a clip at 24 and at 120 fps


def prepare(corpus: Corpus) -> None:
    """REDS (Nah et al., CVPRW 2019): ROOT holds train and val with {split}_sharp, _blur (24 fps), _orig (120 fps)."""
    corpus.one_of(*(f"{split}/{split}_{kind}" for kind in ("sharp", "orig") for split in CLIPS))
    for split, clips in CLIPS.items():
        sharp, blur, high = (f"{split}/{split}_{kind}" for kind in ("sharp", "blur", "orig"))
        if corpus.has(sharp):
            for folder in corpus.folders(sharp, clips):
                source = f"{split}/{folder.removeprefix(f'{sharp}/')}"
                frames = corpus.pictures(folder, SHARP)
                partners = folder.replace(sharp, blur) if corpus.has(blur) else ""
                corpus.sequence(
                    f"{source}/24fps", split, frames, rate=24, source=source, subset="24fps", blurred=partners
                )
        if corpus.has(high):
            for folder in corpus.folders(high, clips):
                source = f"{split}/{folder.removeprefix(f'{high}/')}"
                frames = corpus.pictures(folder, HIGH)
                corpus.sequence(f"{source}/120fps", split, frames, rate=120, source=source, subset="120fps")


if __name__ == "__main__":
    print(run(prepare, "CC BY 4.0, Nah et al. 2019"))
