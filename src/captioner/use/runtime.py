"""Captions by an exported captioner. It needs NumPy, Pillow and ONNX Runtime, but not PyTorch or the package captioner.

`captioner export` copies this file into its folder as caption.py, with the modules that it imports.

The folder's files
    captioner.json    "tokens": the words in the order of their ids; "language": that of the captions; "max_length": the
                      most words of a caption; "image": how a photo becomes a square, {"size": pixels, "fit": "squash"
                      or "crop"}; "search": the default options, {"beam": int, "length_penalty": float, "consensus":
                      float}
    encode.onnx       photos uint8 [B, size, size, 3], RGB -> state float32 [N, B, 1, W]; features float32 [B, D],
                      averaged over the grid; and with attention keys and values, float32 [B, H, P, W / H]
    step.onnx         words int64 [B, K], the last word of each beam; state [N, B, K, W]; keys and values as above
                      -> log_p float32 [B, K, V], of each next word; next_state [N, B, K, W]
    examples.npz      of the training images: features float16 [M, D]; captions int32 [M, C, L], token ids, the end, 0.
                      Missing if the model has no training captions

Dimensions: B images, K beams, V words, N LSTM states, W their width, H attention heads, P grid positions, D features,
T the most words of a caption.
"""

import json
import os
import sys
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime

from captioner.base.streams import tolerant_streams
from captioner.captions.tokens import join_tokens
from captioner.model.consensus import Consensus
from captioner.vision.photos import load_photo

PAD, BOS, EOS, UNK = range(4)  # ids of the special tokens


class OnnxCaptioner:
    """The captioner in an exported folder, on the CPU."""

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        settings = json.loads((folder / "captioner.json").read_text(encoding="utf-8"))
        self.tokens: list[str] = settings["tokens"]
        self.language: str = settings["language"]
        self.max_length: int = settings["max_length"]
        self.image: dict = settings["image"]
        self.settings: dict = settings["search"]
        self._examples = folder / "examples.npz"
        self._encode, self._step = (
            onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
            for name in ("encode.onnx", "step.onnx")
        )

    @cached_property
    def _consensus(self) -> Consensus | None:
        if not self._examples.exists():
            return None
        with np.load(self._examples) as examples:
            return Consensus(examples["features"], examples["captions"])

    def __call__(self, photos: np.ndarray, **settings: float) -> list[str]:
        """Return the caption of each of the photos, uint8 [B, size, size, 3].

        `settings` replace the default options: `beam` (1 is greedy search), `length_penalty` and `consensus`, the
        weight of the agreement with captions of similar training images (0: the likeliest caption). Without
        examples.npz every caption is the likeliest.
        """
        chosen = self.settings | settings
        if chosen["beam"] < 1:
            raise ValueError(f"beam: is {chosen['beam']}, expected 1 or more")
        weight = chosen.pop("consensus")
        return self.choose(*self.search(photos, **chosen), weight=weight)

    def choose(self, tokens: np.ndarray, scores: np.ndarray, features: np.ndarray, *, weight: float) -> list[str]:
        """Return the caption of each photo from the result of `search`."""
        places = [0] * len(tokens)
        if weight and tokens.shape[1] > 1 and self._consensus:
            places = self._consensus.choose(features, tokens, scores, weight=weight)
        return [self.words(beams[place]) for beams, place in zip(tokens, places, strict=True)]

    def words(self, ids: np.ndarray) -> str:
        """Return the words of a caption, from its token ids [T]."""
        words = ids.tolist()
        ended = words[: words.index(EOS) if EOS in words else None]
        return join_tokens((self.tokens[word] for word in ended), self.language)

    def search(
        self, photos: np.ndarray, *, beam: int, length_penalty: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Search as `captioner.model.search.beam_search` does.

        Returns the tokens int64 [B, K, T] and scores float32 [B, K] of each photo's beams, best first, and the photos'
        features, float32 [B, D].
        """
        state, features, *memory = self._encode.run(None, {"photos": photos})
        grid = dict(zip(("keys", "values"), memory, strict=False))
        images = len(photos)
        tokens = np.full((images, 1, self.max_length), PAD)
        log_p = np.zeros((images, 1), np.float32)
        lengths = np.zeros((images, 1), np.float32)
        finished = np.zeros((images, 1), bool)
        last = np.full((images, 1), BOS)
        for step in range(self.max_length):
            words, state = self._step.run(None, {"words": last, "state": state, **grid})
            words[..., [PAD, BOS, UNK]] = -np.inf
            words[finished] = -np.inf
            words[finished, PAD] = 0  # a finished caption stays as it is
            candidates = log_p[..., None] + words  # [B, K, V]
            grown = lengths + ~finished
            every = (candidates / grown[..., None] ** np.float32(length_penalty)).reshape(images, -1)  # [B, K * V]
            # sort only the candidates that can be among the best, by score; of equal scores, the first
            best = np.sort(np.argpartition(-every, min(beam, every.shape[1]) - 1, axis=1)[:, :beam], axis=1)
            order = np.argsort(-np.take_along_axis(every, best, 1), axis=1, kind="stable")
            chosen = np.take_along_axis(best, order, 1)
            parent, last = np.divmod(chosen, words.shape[-1])

            scores = np.take_along_axis(every, chosen, 1)
            log_p = np.take_along_axis(candidates.reshape(images, -1), chosen, 1)
            lengths = np.take_along_axis(grown, parent, 1)
            tokens = np.take_along_axis(tokens, parent[..., None], 1)
            tokens[..., step] = last
            state = np.take_along_axis(state, parent[None, ..., None], 2)
            finished = np.take_along_axis(finished, parent, 1) | (last == EOS)
            if finished.all():
                break
        return tokens, scores, features


def main(paths: list[str]) -> int:
    """Print a line for each photo: path, tab, caption. Return the exit code: 1 for an error, 2 without photos."""
    if not paths or paths[0] in ("-h", "--help"):
        print("usage: python caption.py PHOTO...", file=sys.stderr)
        return 0 if paths else 2
    tolerant_streams()
    broken = 0
    try:
        describe = OnnxCaptioner(Path(__file__).parent)
        for path in paths:
            try:
                pixels = load_photo(Path(path).read_bytes(), **describe.image)
            except (OSError, ValueError) as error:
                reason = error if isinstance(error, ValueError) else f"cannot be read ({error.strerror or error})"
                print(f"error: {path}: {reason}", file=sys.stderr)
                broken += 1
                continue
            print(path, describe(pixels[None])[0], sep="\t", flush=True)
    except OSError as error:
        if error.filename is not None:
            print(f"error: {error}", file=sys.stderr)
            return 1
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain as it ends
        if isinstance(error, BrokenPipeError):  # as in `| head`
            return 141
        print(f"error: stdout: cannot be written ({error.strerror})", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
