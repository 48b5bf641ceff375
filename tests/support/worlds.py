"""Tiny photos, archives in Flickr8k's layout and models, for the tests to build and to break."""

import io
import tarfile
import zipfile
from dataclasses import replace

import torch
from PIL import Image

from captioner.captions.formats import CAPTION_FILES, SPLIT_FILES
from captioner.captions.vocabulary import EOS, PAD, SPECIAL, Vocabulary
from captioner.model.captioner import Captioner, Examples, Metadata, save_model
from captioner.model.decoder import Decoder
from captioner.vision.encoder import END, Encoder

PHOTO_FOLDER = "Flicker8k_Dataset"  # so spelt in the archive
WORDS = Vocabulary(words=("a", "dog", "cat", "runs", "sleeps"), max_length=6)


def encoded(picture, kind="PNG", **options):
    """Return a picture as the bytes of an image file."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def jpeg(width=8, height=8, colour="red", mode="RGB", **options):
    """Return a JPEG of one colour."""
    return encoded(Image.new(mode, (width, height), colour), "JPEG", **options)


def zipped(path, members, compression=zipfile.ZIP_DEFLATED):
    """Write a zip of (name or ZipInfo, bytes or text) pairs, a dict or a list; return its path."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items() if isinstance(members, dict) else members:
            archive.writestr(name, content)
    return path


def tarred(path, members, mode="w"):
    """Write a tar of {name: bytes}; return its path."""
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def joined(lines):
    """Return lines as a file's text; bytes or text that is given whole stays as it is."""
    return lines if isinstance(lines, bytes | str) else "".join(f"{line}\n" for line in lines)


def flickr_archives(folder, photos, captions, splits, lemma=None):
    """Write images.zip and captions.zip into `folder`, return their paths.

    `photos` is {name: bytes}, `splits` {split: [name, ...]}; `captions` and `lemma` are lists of lines (or a
    file's whole content). Without `lemma` its file is left out.
    """
    folder.mkdir(exist_ok=True)
    texts = {CAPTION_FILES["raw"]: captions} | ({} if lemma is None else {CAPTION_FILES["lemma"]: lemma})
    texts |= {SPLIT_FILES[split]: names for split, names in splits.items()}
    return (
        zipped(folder / "images.zip", {f"{PHOTO_FOLDER}/{name}": content for name, content in photos.items()}),
        zipped(folder / "captions.zip", {name: joined(lines) for name, lines in texts.items()}),
    )


def some_examples(vocabulary, *, images=7, features=512):
    """Return training images of random features, each with two captions of random words; the last has one."""
    captions = torch.randint(len(SPECIAL), len(vocabulary), (images, 2, 4), dtype=torch.int32)
    captions[:, :, -1] = EOS
    captions[-1, 1] = PAD
    return Examples(torch.randn(images, features).half(), captions)


def captioner_file(path, *, encoder=True, attention=True, mean=False, seed=None, provenance=None, language="en"):
    """Write a model file of random weights that knows WORDS, with an encoder for photos or without; return its path."""
    if seed is None:
        seed = 0 if attention else 2  # with these, noise gets captions of different words
    torch.manual_seed(seed)
    shape = {"vocabulary": len(WORDS), "features": 512, "width": 16, "heads": 2}
    shape |= {"attention": attention, "tied": True, "dropout": 0.0}
    captioner = Captioner(Decoder(**shape), Encoder() if encoder else None, "layer4" if encoder else END)
    with torch.no_grad():  # loud, so that photos get different captions, and with some words before the end
        captioner.decoder.image.weight *= 100
        captioner.decoder.embedding.weight *= 5
        captioner.decoder.output.bias[EOS] -= 3
    captioner.examples = some_examples(WORDS)
    image = {"size": 64, "fit": "squash"}
    provenance = provenance or {"params": {}}
    words = replace(WORDS, language=language)
    save_model(path, captioner, Metadata("hash", captioner.start, image, shape, words, provenance, mean))
    return path
