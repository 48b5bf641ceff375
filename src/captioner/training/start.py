"""Start a decoder from another model file (`train.start`)."""

import logging
from pathlib import Path

import torch
from torch import Tensor

from captioner.base.errors import CaptionerError
from captioner.captions.vocabulary import SPECIAL, Vocabulary
from captioner.model.captioner import load_model
from captioner.model.decoder import Decoder
from captioner.vision.encoder import fingerprint

log = logging.getLogger(__name__)

SHAPE = ("attention", "width", "heads", "tied", "features")  # what both decoders must share
BY_WORD = ("embedding.weight", "output.weight", "output.bias")  # tensors with a row for each word


@torch.no_grad()
def start_decoder(
    decoder: Decoder, vocabulary: Vocabulary, shape: dict[str, object], encoder: str, model: str | Path
) -> None:
    """Copy a model's decoder into `decoder`, which knows the words of `vocabulary`.

    A word that both vocabularies have keeps its embedding and its row of the output layer. A new word starts at the
    mean of the shared words' rows. The mean and scale that standardise image features are the model's. `shape` has the
    arguments that made `decoder`, and `encoder` is the fingerprint of the encoder that computed the features.

    Nothing checks whether the model was trained on photos of the new dev or test split. Such scores are too high.

    Raises CaptionerError if the shapes differ (it lists both), if the features are of another encoder, if no word is
    shared, or if the model file cannot be read.
    """
    captioner, metadata = load_model(model)
    differences = [
        f"decoder.{key} is {shape[key]} here and {metadata.decoder[key]} there"
        for key in SHAPE
        if shape[key] != metadata.decoder[key]
    ]
    if differences:
        raise CaptionerError(
            f"train.start: {model}: {', '.join(differences)}; set the params to the model's, or train.start to null"
        )
    encoder_of_model = metadata.encoder if captioner.encoder is None else fingerprint(captioner.encoder)
    if encoder_of_model != encoder:
        raise CaptionerError(
            f"train.start: {model}: its decoder was trained on features of another encoder than data/features has; "
            "set encoder.weights to the weights of that encoder, or train.start to null"
        )
    rows, sources = _shared_words(vocabulary, metadata.vocabulary)
    if len(rows) == len(SPECIAL):
        raise CaptionerError(
            f"train.start: {model}: its vocabulary shares no word with data/vocabulary.json; "
            f"it has {', '.join(metadata.vocabulary.words[:5])}, the data has {', '.join(vocabulary.words[:5])}"
        )
    words = slice(len(SPECIAL), None)
    state = captioner.decoder.state_dict()
    for name in BY_WORD:
        old = state[name]
        new = old[sources[words]].mean(0, keepdim=True).repeat(len(vocabulary), *[1] * (old.ndim - 1))
        new[rows] = old[sources]
        state[name] = new
    decoder.load_state_dict(state)
    log.info(
        "started from %s: it knows %d of %d words, and %d are new; image features are standardised as in the model",
        model,
        len(rows) - len(SPECIAL),
        len(vocabulary.words),
        len(vocabulary) - len(rows),
    )


def _shared_words(vocabulary: Vocabulary, other: Vocabulary) -> tuple[Tensor, Tensor]:
    """Return the ids of the special tokens and the shared words in both vocabularies, each int64 [n]."""
    ids = {word: id for id, word in enumerate(other.words, len(SPECIAL))}
    pairs = [(id, id) for id in range(len(SPECIAL))]
    pairs += [(id, ids[word]) for id, word in enumerate(vocabulary.words, len(SPECIAL)) if word in ids]
    rows, sources = torch.tensor(pairs).unbind(1)
    return rows, sources
