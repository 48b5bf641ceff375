"""Stage download: provides the archives of photos and captions; those of `shapes` are drawn here."""

from dataclasses import dataclass

from captioner.base.stage import run
from captioner.base.files import write_json
from captioner.sources.download import dvc_cache, obtain, provenance
from captioner.sources.own_data import provide_own
from captioner.sources.shapes import write_archives

IMAGES = "data/raw/images"  # a folder of one archive or more
CAPTIONS = "data/raw/captions.zip"


@dataclass(frozen=True)
class Dataset:
    name: str


@dataclass(frozen=True)
class Own:
    folder: str
    captions: str | list[str] | None


@dataclass(frozen=True)
class Shapes:
    train: int
    dev: int
    test: int
    size: int
    seed: int


@dataclass(frozen=True)
class Params:
    dataset: Dataset
    own: Own
    shapes: Shapes


def main(params: Params) -> None:
    if params.dataset.name == "shapes":
        drawn = f"{IMAGES}/shapes.zip"
        write_archives(
            images=drawn,
            captions=CAPTIONS,
            train=params.shapes.train,
            dev=params.shapes.dev,
            test=params.shapes.test,
            size=params.shapes.size,
            seed=params.shapes.seed,
        )
        images = provenance(None, drawn, source="drawn")
        captions = provenance(None, CAPTIONS, source="drawn")
    elif params.dataset.name == "own":
        images = provide_own(params.own.folder, params.own.captions, images=IMAGES, captions=CAPTIONS)
        captions = provenance(None, CAPTIONS, source="own")
    else:
        cache = dvc_cache()
        # the small one first: a bad address shows at once
        captions = obtain("Flickr8k_text.zip", CAPTIONS, cache=cache)
        images = obtain("Flickr8k_Dataset.zip", f"{IMAGES}/Flickr8k_Dataset.zip", cache=cache)
    record = {"dataset": params.dataset.name, "images": images, "captions": captions}
    write_json("metrics/download.json", record)


if __name__ == "__main__":
    run(main, Params)
