"""Manifest of the UCF101 triplets of Deep Voxel Flow: see README.md."""

from fpsgan.training.corpora import Corpus, run

TRIPLETS = 379


def prepare(corpus: Corpus) -> None:
    """UCF101 (DVF's 379 triplets, Liu et al., ICCV 2017): ROOT holds ucf101_interp_ours, or is it."""
    top = "ucf101_interp_ours" if corpus.has("ucf101_interp_ours") else "."
    for folder in corpus.folders(top, TRIPLETS):
        frames = [f"{folder}/{name}.png" for name in ("frame_00", "frame_01_gt", "frame_02")]
        corpus.triplet(folder.removeprefix(f"{top}/"), "test", frames)


if __name__ == "__main__":
    print(run(prepare, "terms unstated (UCF101, Soomro et al. 2012; Liu et al. 2017); for research"))
