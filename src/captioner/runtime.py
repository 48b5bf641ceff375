"""Captions by an exported captioner, with NumPy, Pillow and ONNX Runtime: no PyTorch, no other module of the package.

`captioner export` copies this file into the folder that it makes, as caption.py, with photos.py beside it.

The folder's files
    captioner.json    "tokens": every word by its id; "max_length": the most words of a caption; "image": how a photo
                      becomes a square, {"size": pixels, "fit": "squash" or "crop"}
    encode.onnx       photos uint8 [B, size, size, 3], RGB -> state float32 [N, B, 1, W], and with attention
                      keys and values, float32 [B, H, P, W / H]
    step.onnx         words int64 [B, K], the last of each beam; state [N, B, K, W]; keys and values as above
                      -> log_p float32 [B, K, V], of each word as the next; next_state [N, B, K, W]

Dimensions: B images, K beams, V words, N LSTM states, W their width, H attention heads, P grid positions, T the most
words of a caption.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

PAD, BOS, EOS, UNK = range(4)  # ids of the special tokens


class OnnxCaptioner:
    """The captioner in an exported folder, on the CPU."""

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        settings = json.loads((folder / "captioner.json").read_text(encoding="utf-8"))
        self.tokens: list[str] = settings["tokens"]
        self.max_length: int = settings["max_length"]
        self.image: dict = settings["image"]
        self._encode, self._step = (
            onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
            for name in ("encode.onnx", "step.onnx")
        )

    def __call__(self, photos: np.ndarray, *, beam: int = 4, length_penalty: float = 1.0) -> list[str]:
        """Return the best caption of each of the photos, uint8 [B, size, size, 3]; a beam of 1 is greedy search."""
        found, _ = self.search(photos, beam=beam, length_penalty=length_penalty)
        return [self.words(ids) for ids in found[:, 0]]

    def words(self, ids: np.ndarray) -> str:
        """Return a caption's words, of its token ids [T]."""
        words = ids.tolist()
        return " ".join(self.tokens[word] for word in words[: words.index(EOS) if EOS in words else None])

    def search(self, photos: np.ndarray, *, beam: int, length_penalty: float) -> tuple[np.ndarray, np.ndarray]:
        """Search as `captioner.search.beam_search` does.

        Returns the beams of each photo, best first: tokens int64 [B, K, T] and scores float32 [B, K].
        """
        state, *memory = self._encode.run(None, {"photos": photos})
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
            words[finished, PAD] = 0  # the one way on for a finished caption: as it is
            candidates = log_p[..., None] + words  # [B, K, V]
            grown = lengths + ~finished
            every = (candidates / grown[..., None] ** np.float32(length_penalty)).reshape(images, -1)  # [B, K * V]
            chosen = np.argsort(-every, axis=1, kind="stable")[:, :beam]
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
        return tokens, scores


def main() -> None:
    """Print a line a photo: path, tab, caption."""
    from photos import load_photo  # beside this file in an exported folder

    if len(sys.argv) < 2:
        sys.exit("usage: python caption.py PHOTO...")
    describe = OnnxCaptioner(Path(__file__).parent)
    for path in sys.argv[1:]:
        try:
            pixels = load_photo(Path(path).read_bytes(), **describe.image)
        except (OSError, ValueError) as error:
            sys.exit(f"error: {path}: {getattr(error, 'strerror', None) or error}")
        print(path, describe(pixels[None])[0], sep="\t")


if __name__ == "__main__":
    main()
