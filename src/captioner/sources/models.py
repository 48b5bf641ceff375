"""Find a model file by a path, a name on the Hugging Face Hub or a web address.

    models/captioner.safetensors          a file
    hf:owner/name, hf:owner/name@v1       captioner.safetensors of a repository of the Hub, of a branch, tag or commit
    https://host/file#sha256=HEXADECIMAL  a file with this checksum

Downloaded files are cached. Cached files need no network.
"""

import contextlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from captioner.base.errors import CaptionerError

FILE = "captioner.safetensors"  # in a repository of the Hub


def local_model(name: str | Path, *, beside: Sequence[str] = ()) -> Path:
    """Return the path of the model file `name`, downloaded if necessary.

    From a repository, the files `beside` it are downloaded too if they exist.
    Raises CaptionerError that names what is wrong: no such file, repository, revision or address, no network, another
    checksum, a missing package.
    """
    text = str(name)
    if text.startswith("hf:"):
        return _of_hub(text, beside)
    if re.match(r"https?://", text, re.IGNORECASE):
        return _of_web(text)
    path = Path(name)
    if path.is_dir():
        raise CaptionerError(f"{text!r}: is a folder; expected the model file, such as {path / FILE}")
    if not path.exists():
        raise CaptionerError(
            f"{name}: not found; `dvc repro` makes {Path('models') / FILE}, and `make demo` a model of drawn shapes, "
            f".demo/models/{FILE}"
        )
    return path


def cache_folder() -> Path | None:
    """Return the user's cache folder, which may not exist yet; None where there is none."""
    setting = os.environ.get("CAPTIONER_CACHE")
    if setting is not None:
        return Path(setting).expanduser().absolute() if setting else None
    from platformdirs import user_cache_path

    try:
        folder = user_cache_path("captioner")
    except RuntimeError:  # neither HOME nor an entry of the user
        return None
    return folder if folder.is_absolute() else None  # without a home it is not


def _of_hub(name: str, beside: Sequence[str]) -> Path:
    owner_and_name, _, revision = name.removeprefix("hf:").partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", owner_and_name):
        raise CaptionerError(f"{name}: expected hf:owner/name or hf:owner/name@revision")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
        from huggingface_hub.utils import disable_progress_bars, logging
    except ImportError:
        raise CaptionerError(
            f"{name}: needs huggingface_hub, which comes with the extra `hub`: `pip install 'captioner[hub]'`"
        ) from None
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        path = Path(hf_hub_download(owner_and_name, FILE, revision=revision or None))
        for other in beside:
            with contextlib.suppress(EntryNotFoundError):
                hf_hub_download(owner_and_name, other, revision=revision or None)
        return path
    except RepositoryNotFoundError:
        raise CaptionerError(f"{name}: no such repository on the Hub, or a private one: `hf auth login`") from None
    except RevisionNotFoundError:
        raise CaptionerError(f"{name}: the repository has no revision {revision}") from None
    except LocalEntryNotFoundError:  # a kind of EntryNotFoundError
        raise CaptionerError(f"{name}: not in the cache, and the Hub cannot be reached; is there a network?") from None
    except EntryNotFoundError:
        raise CaptionerError(f"{name}: the repository has no {FILE}; expected what `hf upload` puts there") from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise CaptionerError(f"{name}: {str(error).strip().splitlines()[0]}") from None


def _of_web(name: str) -> Path:
    address, _, fragment = name.partition("#")
    checksum = re.fullmatch(r"sha256=([0-9a-f]{64})", fragment.lower())
    if checksum is None:
        raise CaptionerError(
            f"{name}: expected its checksum at the end, #sha256= and 64 hexadecimal digits (`sha256sum {FILE}`)"
        )
    folder = cache_folder()
    if folder is None:
        raise CaptionerError(f"{name}: no folder to keep it in; set CAPTIONER_CACHE to one, or download it yourself")
    expected = checksum[1]
    path = folder / "models" / f"{expected}.safetensors"
    if not path.exists():
        try:
            from captioner.sources.download import fetch
        except ModuleNotFoundError as error:
            raise CaptionerError(
                f"{name}: needs {error.name}, which comes with the extra `web`: `pip install 'captioner[web]'`"
            ) from None
        try:
            fetch(expected, address, path, expected=expected, algorithm="sha256", partial_folder=folder / "downloads")
        except CaptionerError as error:  # its advice is about the pipeline's own downloads
            raise CaptionerError(re.split(r"[.;]? Without a network", str(error))[0]) from None
    return path
