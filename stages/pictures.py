"""Sample plots: test images with the frozen caption, the fine-tuned one and the references."""

from captioner.base.stage import run
from captioner.results.pictures import draw_samples


def main(params):
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
    run(main)
