"""Are the packages there that pyproject.toml asks for, in versions it allows?"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement

import roiseg
from roiseg.cli.diagnosis.finding import Finding

_SHOWN = ("torch", "lightning", "onnx", "onnxruntime-gpu", "onnxruntime", "numpy", "hydra-core")


def packages() -> list[Finding]:
    """Versions, packages that are absent or do not fit, and which extras are installed."""
    try:
        wanted = [Requirement(line) for line in metadata.requires("roiseg") or []]
    except metadata.PackageNotFoundError:
        todo = "pip install -e . in the checkout"
        return [Finding("packages", "warning", "roiseg is not installed, its versions are not checked", todo)]
    shown = [f"{name} {version}" for name in _SHOWN if (version := installed(name))]
    versions = [f"roiseg {roiseg.__version__}", f"python {platform.python_version()}", *shown]
    return [Finding("versions", "ok", ", ".join(versions)), *_required(wanted), *_extras(wanted)]


def installed(name: str) -> str | None:
    """Version of a distribution; None where it is not there."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _required(wanted: list[Requirement]) -> Iterator[Finding]:
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = installed(requirement.name)
        if version is None and (other := _other_runtime(requirement.name)):
            version = installed(other)
        if version is None:
            yield Finding("packages", "error", f"{requirement.name} is not installed", _install(requirement))
        elif not requirement.specifier.contains(version, prereleases=True):
            text = f"{requirement.name} {version} is installed, roiseg needs {requirement.specifier}"
            yield Finding("packages", "warning", text, _install(requirement))


def _install(requirement: Requirement) -> str:
    return f"pip install '{requirement.name}{requirement.specifier}'"


def _other_runtime(name: str) -> str | None:
    """The same runtime under the name of its other build."""
    return {"onnxruntime-gpu": "onnxruntime", "onnxruntime": "onnxruntime-gpu"}.get(name)


def _extras(wanted: list[Requirement]) -> Iterator[Finding]:
    """One line for all extras: which are whole, which are not."""
    extras: dict[str, list[Requirement]] = {}
    for name in metadata.metadata("roiseg").get_all("Provides-Extra") or []:
        members = [r for r in wanted if r.marker is not None and r.marker.evaluate({"extra": name})]
        extras[name] = [r for r in members if not r.marker.evaluate({"extra": ""})]  # type: ignore[union-attr]
    whole = [name for name, members in extras.items() if all(installed(r.name) for r in members)]
    absent = [name for name in extras if name not in whole]
    if whole:
        yield Finding("extras", "ok", f"installed: {', '.join(whole)}")
    if absent:
        todo = f"if you want one: pip install -e '.[{absent[0]}]'"
        yield Finding("extras", "note", f"not installed: {', '.join(absent)}", todo)
