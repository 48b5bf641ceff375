"""Count the installed packages that captioner and each of its extras need, and their sizes.

`python -m dev.distributions` writes dev/distributions.json: the number of packages and the megabytes of their files,
for the base and for each extra in addition to the base. It counts the files that the packages' records list in this
environment, with compiled bytecode. So the figures hold for this platform and these versions.
"""

import platform
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from captioner.base.files import write_json

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest requires it there

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "dev" / "distributions.json"
CUDA = ("nvidia-", "cuda-", "triton")  # beginnings of names


def project() -> dict[str, Any]:
    """Return the table `project` of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements_of(extra: str, table: dict[str, Any]) -> list[str]:
    """Return the requirements of an extra, with those of the extras that it names."""
    requirements = []
    for text in table["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if requirement.name == table["name"]:
            for name in sorted(requirement.extras):
                requirements += requirements_of(name, table)
        else:
            requirements.append(text)
    return requirements


def closure(requirements: Iterable[str]) -> dict[str, Distribution]:
    """Return the installed distributions, by name, that `requirements` need directly or indirectly.

    Distributions that only an unused extra requires, or that are not installed, are left out.
    """
    distributions: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()  # names with the extra whose requirements were followed
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        try:
            distributions[name] = distribution(name)
        except PackageNotFoundError:
            continue
        for each in {"", *requirement.extras}:
            if (name, each) not in seen:
                seen.add((name, each))
                waiting += [(Requirement(text), each) for text in distributions[name].requires or []]
    return distributions


def modules_of(names: Iterable[str]) -> set[str]:
    """Return the top-level modules that only these distributions contain."""
    wanted = set(names)
    return {
        module
        for module, owners in packages_distributions().items()
        if {canonicalize_name(owner) for owner in owners} <= wanted
    }


def megabytes(distributions: Iterable[Distribution]) -> float:
    """Return the size of the distributions' files."""
    paths = {Path(str(file.locate())) for each in distributions for file in each.files or []}
    return round(sum(path.stat().st_size for path in paths if path.is_file()) / 1e6, 1)


def sizes() -> dict[str, Any]:
    """Return the packages and megabytes of the base, and of each extra in addition to it."""
    table = project()
    base = closure(table["dependencies"])
    cuda = [base[name] for name in base if name.startswith(CUDA)]
    results: dict[str, Any] = {
        "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "torch": base["torch"].version,
        "base": {"packages": len(base), "MB": megabytes(base.values())},
        "of it torch": {"packages": 1, "MB": megabytes([base["torch"]])},
        "of it CUDA and Triton": {"packages": len(cuda), "MB": megabytes(cuda)},
    }
    for extra in table["optional-dependencies"]:
        needed = closure(table["dependencies"] + requirements_of(extra, table))
        more = [needed[name] for name in needed if name not in base]
        results[extra] = {"packages": len(more), "MB": megabytes(more)}
    return results


if __name__ == "__main__":
    write_json(RESULTS, sizes())
    print(RESULTS.read_text(encoding="utf-8"), end="")
