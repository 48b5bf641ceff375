"""Stage download: provides the two archives, photos and captions; those of `shapes` are drawn here."""

from typing import Any

from captioner.download import obtain, provenance
from captioner.files import write_json
from captioner.shapes import write_archives
from captioner.stage import run

IMAGES = "data/raw/images.zip"
CAPTIONS = "data/raw/captions.zip"


def main(params: Any) -> None:
    if params.dataset.name == "shapes":
        write_archives(
            images=IMAGES,
            captions=CAPTIONS,
            train=params.shapes.train,
            dev=params.shapes.dev,
            test=params.shapes.test,
            size=params.shapes.size,
            seed=params.shapes.seed,
        )
        images = provenance(None, IMAGES, source="drawn") | {"official": True}  # as the program defines it
        captions = provenance(None, CAPTIONS, source="drawn") | {"official": True}
    else:
        captions = obtain("Flickr8k_text.zip", CAPTIONS)  # the small one first: a bad address shows at once
        images = obtain("Flickr8k_Dataset.zip", IMAGES)
    record = {"dataset": params.dataset.name, "images": images, "captions": captions}
    write_json("metrics/download.json", record)


if __name__ == "__main__":
    run(main)
