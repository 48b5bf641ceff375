"""Sample plots: test images with the frozen caption, the fine-tuned one and the references."""

from dataclasses import dataclass

from captioner.base.stage import run
from captioner.results.pictures import draw_samples


@dataclass(frozen=True)
class Image:
    size: int
    fit: str


@dataclass(frozen=True)
class Pictures:
    each: int


@dataclass(frozen=True)
class Params:
    image: Image
    pictures: Pictures


def main(params: Params) -> None:
    draw_samples(
        "pictures/samples.png",
        images="data/raw/images",
        captions="data/captions.jsonl",
        generated="metrics/test_captions.csv",
        size=params.image.size,
        fit=params.image.fit,
        each=params.pictures.each,
    )


if __name__ == "__main__":
    run(main, Params)
