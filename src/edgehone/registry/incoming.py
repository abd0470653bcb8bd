"""Bundle and delta files on their way into a registry: opened, checked, hashed."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgehone.errors import InputError
from edgehone.registry.names import check_member, check_task
from edgehone.registry.release import NewBundle, NewDelta
from edgehone_agent.errors import BundleError

Apply = Callable[[Path, Path, Path, str], None]


def read_bundles(files: Sequence[Path]) -> tuple[NewBundle, ...]:
    """Open every bundle and check that they make one release; the order given is kept.

    Raises:
        BundleError: a file is no sound bundle.
        InputError: no file at all, or bundles of several tasks or versions.
    """
    if not files:
        raise InputError("there is no bundle to publish", do="give at least one .bundle file")
    bundles = tuple(map(_read, files))
    first = bundles[0]
    for file, bundle in zip(files, bundles, strict=True):
        if (bundle.task, bundle.version) != (first.task, first.version):
            raise InputError(
                f"this is {bundle.task!r} version {bundle.version}, but {files[0].name} is {first.task!r} version"
                f" {first.version}",
                where=str(file),
                do="publish one version of one task at a time",
            )
    return bundles


def match_deltas(
    files: Sequence[Path], old: Mapping[str, Path], new: Mapping[str, Path], apply: Apply | None = None
) -> tuple[NewDelta, ...]:
    """Find out what each delta leads from and to, by applying it: what is published was seen to work.

    Args:
        files: the delta files.
        old: live bundles by sha256.
        new: bundles of this release by sha256.
        apply: makes the new file from (old, delta, new, sha256) and raises BundleError when it cannot.

    Raises:
        InputError: a delta fits no pair.
    """
    if not files:
        return ()
    if apply is None:
        from edgehone_agent.delta import apply_delta

        apply = apply_delta
    return tuple(_match(file, old, new, apply) for file in files)


def _match(file: Path, old: Mapping[str, Path], new: Mapping[str, Path], apply: Apply) -> NewDelta:
    digest, size_bytes = _digest(file)
    with tempfile.TemporaryDirectory() as folder:
        for from_sha256, source in old.items():
            for to_sha256 in new:
                try:
                    apply(source, file, Path(folder) / "new", to_sha256)
                except BundleError:
                    continue
                return NewDelta(from_sha256, to_sha256, digest, size_bytes)
    raise InputError(
        "the delta makes none of these bundles out of any live one",
        where=str(file),
        do="make it with `edgehone bundle diff` from a bundle that is live in this registry",
    )


def _read(file: Path) -> NewBundle:
    from edgehone_agent.bundle import open_bundle

    with open_bundle(file) as bundle:
        bundle.verify()
        manifest = bundle.manifest
        return NewBundle(
            check_task(manifest.task),
            manifest.version,
            check_member(manifest.member),
            _whole(manifest.to_json()["fit"]),
            bundle.digest,
            bundle.size_bytes,
        )


def _whole(value: Any) -> Any:
    """The same JSON with fractions rounded up: signed JSON knows whole numbers only, and these are upper bounds."""
    if isinstance(value, Mapping):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    return math.ceil(value) if isinstance(value, float) else value


def _digest(file: Path) -> tuple[str, int]:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest(), file.stat().st_size
    except OSError as error:
        raise InputError(error.strerror or str(error), where=str(file), do="give the path of a delta file") from error
