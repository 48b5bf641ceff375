"""The start of training: a torchvision ResNet-18 state dict, and a model file (`train.start`).

Format: what `torch.save` writes for `resnet18().state_dict()`; keys and shapes are those of torchvision's
ResNet-18. The classifier (`fc.*`) may be missing or of any shape, since the encoder has none, and
`num_batches_tracked` may be missing, as in files of old versions.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torchvision.models import resnet18

from captioner.base.errors import CaptionerError
from captioner.base.files import atomic_write, write_json
from captioner.sources.download import obtain, provenance
from captioner.sources.models import FILE, local_model

ENCODER = "encoder."  # before the names of the encoder's tensors in a model file


def provide_start(start: str | None, folder: str | Path) -> Path | None:
    """Make `folder` anew and copy the model that `train.start` names into it; return the copy's path.

    `start` is what `captioner.sources.models.local_model` takes. Without a start the folder has no model and the result
    is None. start.json says what `start` was, so that the folder, an output of DVC, is never empty. Raises
    CaptionerError as `local_model`.
    """
    folder = Path(folder)
    try:
        source = local_model(start) if start else None
    except CaptionerError as error:
        raise CaptionerError(f"train.start: {error}") from None
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    write_json(folder / "start.json", {"train.start": start})
    if source is None:
        return None
    with atomic_write(folder / FILE) as beside:
        shutil.copyfile(source, beside)
    return folder / FILE


def weights_of_model(model: str | Path) -> dict[str, Tensor]:
    """Return the state dict of a fine-tuned model's encoder; it is empty for a model without an encoder.

    The stage train reads the rest of the file and compares its checksums. Raises CaptionerError that names the file if
    it is no safetensors file.
    """
    try:
        with safe_open(model, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(ENCODER)]  # noqa: SIM118 - it is not iterable
            return {name.removeprefix(ENCODER): file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise CaptionerError(f"train.start: {model}: not a whole model file ({error}); get or make it again") from None


def provide_weights(
    weights: str, seed: int, destination: str | Path, model: str | Path | None = None
) -> dict[str, Any]:
    """Write the weights named by `weights` to `destination`; return their record (captioner.sources.download).

    `imagenet`: torchvision's, or the mirror's resnet18.pth; `random`: torchvision's initialisation from
    `seed`; all else is the path of a state dict. A fine-tuned `model` brings its own encoder, which is then written
    instead. Raises CaptionerError if the weights are not a ResNet-18's.
    """
    started = weights_of_model(model) if model else {}
    if started:
        if weights == "random":
            raise CaptionerError(
                "encoder.weights: random, but train.start names a fine-tuned model, which brings its own encoder; "
                "set encoder.weights to imagenet or train.start to null"
            )
        with atomic_write(destination) as beside:
            torch.save(started, beside)
        read_weights(destination)
        return provenance(None, destination, source="start")
    if weights == "imagenet":
        record = obtain("resnet18.pth", destination)
        read_weights(destination)  # a mirror may hold another network under this name
        return record
    if weights == "random":
        with atomic_write(destination) as beside:
            torch.save(_random_weights(seed), beside)
        return provenance(None, destination, source="random")
    read_weights(weights)
    with atomic_write(destination) as beside:
        shutil.copyfile(weights, beside)
    return provenance("resnet18.pth", destination, source="file")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a ResNet-18 state dict, on the CPU and without its `fc.*`.

    Raises CaptionerError that names the missing keys, the unexpected ones and those of a wrong shape.
    """
    path = Path(path)
    if not path.is_file():
        raise CaptionerError(
            f"encoder.weights: {path}: no such file; give imagenet, random or the path of a state dict"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types for what is not its file
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CaptionerError(f"{path}: torch cannot read it as plain weights: {reason[0]}") from None
    if not isinstance(state, dict):
        raise CaptionerError(f"{path}: holds a {type(state).__name__}, expected a ResNet-18 state dict")
    state = {key: value for key, value in state.items() if not str(key).startswith("fc.")}
    problems = _differences(state)
    if problems:
        raise CaptionerError(f"{path}: not a ResNet-18 state dict: {'; '.join(problems)}")
    return state


def _differences(state: dict[str, Any]) -> list[str]:
    with torch.device("meta"):  # shapes only
        expected = {key: tuple(value.shape) for key, value in resnet18().state_dict().items()}
    expected = {key: shape for key, shape in expected.items() if not key.startswith("fc.")}
    missing = [key for key in expected if key not in state and not key.endswith(".num_batches_tracked")]
    unexpected = [str(key) for key in state if key not in expected]
    shapes = {key: tuple(getattr(value, "shape", ())) for key, value in state.items()}
    misshapen = [
        f"{key} ({shapes[key]}, expected {expected[key]})"
        for key, value in state.items()
        if key in expected and (not isinstance(value, Tensor) or shapes[key] != expected[key])
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of a wrong shape": misshapen}
    return [f"{what}: {_few(keys)}" for what, keys in problems.items() if keys]


def _few(keys: list[str], most: int = 5) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more


def _random_weights(seed: int) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return resnet18(weights=None).state_dict()
