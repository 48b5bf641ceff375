"""Evaluate a captioner on the dev split, and collect its examples of the training images."""

from dataclasses import dataclass, field

import torch

from captioner.base.device import to_device
from captioner.base.distributed import from_first, gather, processes, share
from captioner.captions.vocabulary import Vocabulary
from captioner.model.captioner import Captioner, Examples
from captioner.model.generate import generate
from captioner.scoring.scores import Cider, score
from captioner.training.batches import CaptionSet
from captioner.training.objectives import next_word_losses

DEV_BATCH = 100  # images
DEV_BEAM = 3  # for scores that are compared across stages


@dataclass
class DevEvaluation:
    """Evaluates a captioner on the dev split; `beam` is that of the search for its captions."""

    dev: CaptionSet
    vocabulary: Vocabulary
    beam: int
    device: torch.device
    scorer: Cider = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.scorer = Cider(self.dev.references, self.vocabulary.language)

    @torch.inference_mode()
    def __call__(self, captioner: Captioner) -> dict[str, float]:
        """Return "dev loss", nats a word, and "dev CIDEr"; all processes share the work and get the same figures.

        The loss is that of the photos as they are. The captions are of all views of a photo, as those of `validate`.
        """
        captioner.eval()
        total, words = 0.0, 0
        for batch in self.dev.batches(torch.arange(len(self.dev)), DEV_BATCH * processes(), self.device):
            if batch:
                loss, _ = next_word_losses(captioner, batch)
                total, words = total + loss.item() * batch.words, words + batch.words
        total, words = map(sum, zip(*gather((total, words)), strict=True))
        captions = dev_captions(captioner, self.dev, self.vocabulary, self.beam, self.device)
        return from_first(
            lambda: {"dev loss": round(total / words, 5), "dev CIDEr": round(self.scorer.score(captions)[0], 5)}
        )


def dev_captions(
    captioner: Captioner, dev: CaptionSet, vocabulary: Vocabulary, beam: int, device: torch.device
) -> dict[str, str]:
    """Return a caption of each dev image, found by beam search; each process searches for its share of the images."""
    mine = share(torch.arange(len(dev)))
    captions = (
        {}
        if not len(mine)
        else generate(
            captioner,
            [dev.images[at] for at in mine.tolist()],
            lambda chosen: [dev.read(rows) for rows in dev.views[mine[chosen]].unbind(1)],
            vocabulary,
            beam=beam,
            length_penalty=1.0,
            device=device,
        )
    )
    return {image: caption for part in gather(captions) for image, caption in part.items()}


def dev_scores(captioner: Captioner, dev: CaptionSet, vocabulary: Vocabulary, device: torch.device) -> dict[str, float]:
    """Return BLEU-4 and CIDEr (fractions of 1) of dev captions from a beam of 3.

    Recipes and settings are chosen by them, so that the test split stays unseen.
    """
    captions = dev_captions(captioner, dev, vocabulary, DEV_BEAM, device)
    corpus, _ = score(dev.references, captions, language=vocabulary.language)
    return {name: round(corpus[name], 5) for name in ("BLEU-4", "CIDEr")}


@torch.inference_mode()
def examples_of(captioner: Captioner, training: CaptionSet, device: torch.device) -> Examples:
    """Return the examples of a captioner: mean features of the unmirrored training views, and their captions."""
    captioner.to(device).eval()
    features = [
        captioner.features(to_device(training.read(rows), device)).float().mean(1).half().cpu()
        for rows in training.views[:, 0].split(DEV_BATCH)
    ]
    return Examples(torch.cat(features), training.ids[:, :, 1:].int())
