"""Manifest of the Deep Video Deblurring corpus: see README.md."""

from fpsgan.training.corpora import Corpus, run

VIDEOS, PAIRS = 71, 6708
# as the authors have it: https://github.com/shuochsu/DeepVideoDeblurring/issues/2
TEST = ("720p_240fps_2", "IMG_0003", "IMG_0021", "IMG_0030", "IMG_0031", "IMG_0032", "IMG_0033", "IMG_0037", "IMG_0039",
        "IMG_0049")  # fmt: skip


def prepare(corpus: Corpus) -> None:
    """DVD (Su et al., CVPR 2017): ROOT holds quantitative_datasets, with input and GT for each video."""
    folders = corpus.folders("quantitative_datasets", VIDEOS)
    pairs = 0
    for folder in folders:
        video = folder.removeprefix("quantitative_datasets/")
        sharp = corpus.pictures(f"{folder}/GT")
        pairs += len(sharp)
        corpus.sequence(video, "test" if video in TEST else "train", sharp, rate=30, blurred=f"{folder}/input")
    corpus.expect("quantitative_datasets: pictures in GT", pairs, PAIRS)
    found = {folder.removeprefix("quantitative_datasets/") for folder in folders}
    corpus.missing += [f"quantitative_datasets/{video}: a test video" for video in TEST if video not in found]


if __name__ == "__main__":
    print(run(prepare, "terms unstated (Su et al. 2017); for research"))
