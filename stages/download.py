"""Stage download: provides the archives of photos and captions; those of `shapes` are drawn here."""

from typing import Any

from captioner.download import obtain, provenance
from captioner.files import write_json
from captioner.own import provide_own
from captioner.shapes import write_archives
from captioner.stage import run

IMAGES = "data/raw/images"  # a folder of one archive or more
CAPTIONS = "data/raw/captions.zip"


def main(params: Any) -> None:
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
        captions = obtain("Flickr8k_text.zip", CAPTIONS)  # the small one first: a bad address shows at once
        images = obtain("Flickr8k_Dataset.zip", f"{IMAGES}/Flickr8k_Dataset.zip")
    record = {"dataset": params.dataset.name, "images": images, "captions": captions}
    write_json("metrics/download.json", record)


if __name__ == "__main__":
    run(main)
