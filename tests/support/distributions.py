"""The installed packages that captioner needs, by its pyproject.toml or by a wheel."""

from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(requirements: Iterable[str], extra: str = "") -> dict[str, Distribution]:
    """Return by name the installed distributions that `requirements` need, with what those need in turn.

    `extra` decides about the markers of `requirements` themselves. Requirements that are not installed are left out.
    """
    found: dict[str, Distribution] = {}
    waiting = [(Requirement(text), extra) for text in requirements]
    while waiting:
        requirement, wanted = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": wanted}):
            continue
        name = canonicalize_name(requirement.name)
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue
        new = name not in found
        found[name] = installed
        for each in ["", *requirement.extras] if new else requirement.extras:
            waiting += [(Requirement(text), each) for text in installed.requires or []]
    return found


def modules_of(names: Iterable[str]) -> set[str]:
    """Return the top-level modules of distributions."""
    wanted = set(names)
    return {
        module
        for module, owners in packages_distributions().items()
        if {canonicalize_name(owner) for owner in owners} <= wanted
    }


def size_of(installed: Distribution) -> int:
    """Return the bytes of a distribution's files."""
    files = (file.locate() for file in installed.files or [])
    return sum(file.stat().st_size for file in files if file.is_file())
