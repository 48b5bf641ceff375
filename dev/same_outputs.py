"""Compare the outputs of the pipeline on drawn pictures before and after a change that should not change them.

    python -m dev.same_outputs save before.json       in the tree before the change
    python -m dev.same_outputs compare before.json    in the tree after it

Each call runs the whole pipeline in a temporary workspace. A fingerprint leaves out provenance only: the names and
hashes of the code in a model's metadata, in the report and in the model card. The exit code is 1 if any output differs.
"""

import argparse
import hashlib
import json
import re
import sys
import tempfile
from pathlib import Path

from demo.run import dvc, make_workspace
from tests.support.workspaces import TINY

SMALL = TINY | {"decoder.standardise": False}
VARIANTS = {
    "attention": {},
    "pooled": {"decoder.attention": False, "decoder.tied": False, "image.fit": "crop", "captions.form": "lemma"},
    "next word": {"finetune.objective": "cross-entropy", "finetune.scheduled_sampling": 0.5, "finetune.crop": 1.0},
}
FOLDERS = ("data", "models", "metrics", "pictures")
CODE = re.compile(r"^.*\b(?:src/captioner|stages)/.*$", re.MULTILINE)
HASH = re.compile(r"\b(?:[0-9a-f]{64}|[0-9a-f]{32})\b|sha256-[A-Za-z0-9+/=]+")


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file's content without provenance."""
    content = path.read_bytes()
    if path.suffix == ".safetensors":
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        metadata = json.loads(header.pop("__metadata__", {}).get("captioner", "{}"))
        for key in ("made", "provenance"):
            metadata.pop(key, None)
        content = json.dumps([header, metadata], sort_keys=True).encode() + content[8 + length :]
    elif path.suffix in (".md", ".html"):
        content = HASH.sub("#", CODE.sub("", content.decode())).encode()
        content = re.sub(rb"\n\s*\n+", b"\n", content)
    return hashlib.sha256(content).hexdigest()


def outputs() -> dict[str, str]:
    """Run every variant, return the fingerprint of each output."""
    hashes = {}
    for name, changes in VARIANTS.items():
        with tempfile.TemporaryDirectory() as folder:
            make_workspace(Path(folder), SMALL | changes)
            dvc(Path(folder), "repro", "--quiet")
            for top in FOLDERS:
                for path in sorted(Path(folder, top).rglob("*")):
                    if path.is_file() and path.name != ".gitignore":
                        hashes[f"{name}: {path.relative_to(folder).as_posix()}"] = fingerprint(path)
    return hashes


def main() -> None:
    """Save the fingerprints, or compare them with saved ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("save", "compare"))
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    hashes = outputs()
    if options.action == "save":
        options.file.write_text(json.dumps(hashes, indent=2) + "\n", encoding="utf-8")
        return
    before = json.loads(options.file.read_text(encoding="utf-8"))
    different = sorted(name for name in before.keys() | hashes.keys() if before.get(name) != hashes.get(name))
    print(*(f"differs: {name}" for name in different), f"{len(hashes)} outputs, {len(different)} differ", sep="\n")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
