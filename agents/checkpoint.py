"""Checkpoints: atomic, free of pickle, exact.

    RUN/checkpoints/000000128000/tensors.safetensors   every tensor, bit for bit
                                 meta.json             everything else
                                 manifest.json         sizes and SHA-256 of the two; written last
    RUN/checkpoints/latest                             "<folder> <SHA-256 of its manifest>"

A save writes a new folder under a temporary name, syncs every file and the folder, renames it, syncs the parent, and
only then replaces `latest`; older checkpoints go last. So at any moment of death `latest` names a whole checkpoint: the
one before or the new one. A run folder tells one history: a save also removes checkpoints of later steps, which were
left by a run that has since been resumed from an earlier one.

Nothing that is read here is ever executed: JSON and safetensors only, hashes compared before either is parsed.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
import stat
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as serialise_tensors
from torch import Tensor

FORMAT, VERSION = "gatemaze-checkpoint", 1
FILES = ("tensors.safetensors", "meta.json")
TEMPORARY = ".tmp-"
MAX_MANIFEST_BYTES = 65536


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, found, or trusted; the message is one line."""

    def __init__(self, message: object) -> None:
        super().__init__(" ".join(str(message).split())[:600])


# --- writing ---------------------------------------------------------------------------------------------------------


def save(run_dir: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], step: int, keep: int) -> Path:
    """Write a checkpoint and return its folder.

    tensors: any dtype, device and strides; stored on the CPU. meta: plain data as in `flatten`, without tensors.
    step: >= 0, names the folder. keep: >= 1, how many of the newest to leave.
    Raises CheckpointError where something cannot be stored or the disk refuses; then the earlier checkpoints are
    intact and nothing of this one is left.
    """
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 10**12 or keep < 1:
        raise CheckpointError(f"cannot save a checkpoint with step={step!r}, keep={keep!r}")
    contents: dict[str, bytes] = dict(zip(FILES, (_tensor_bytes(tensors), _json_bytes(meta))))
    manifest = _manifest_bytes(step, contents)
    parent = Path(run_dir) / "checkpoints"
    temporary = parent / f"{TEMPORARY}{step:012d}-{uuid.uuid4().hex}"
    final: Path | None = None
    try:
        if not parent.is_dir():
            parent.mkdir(parents=True)
            _sync_folder(parent.parent)
        _remove_leftovers(parent)
        temporary.mkdir()
        for name, data in contents.items():
            _write_synced(temporary / name, data)
        _write_synced(temporary / "manifest.json", manifest)
        _sync_folder(temporary)
        target = _free_name(parent, step)
        os.rename(temporary, target)
        final = target
        _sync_folder(parent)
        write_atomic(parent / "latest", f"{final.name} {_sha256(manifest)}\n".encode())
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if final is not None and not _is_latest(final):  # the last sync may fail with `latest` already replaced
            shutil.rmtree(final, ignore_errors=True)
        if isinstance(error, OSError):
            raise CheckpointError(f"cannot write a checkpoint to {parent}: {error.strerror or error}; "
                                  f"earlier checkpoints are intact") from error
        raise
    _prune(parent, final, step, keep)
    return final


def make_latest(folder: Path) -> None:
    """What is resumed from now on is the checkpoint `folder`. Raises CheckpointError."""
    try:
        write_atomic(folder.parent / "latest", f"{folder.name} {_sha256((folder / 'manifest.json').read_bytes())}\n".encode())
    except OSError as error:
        raise CheckpointError(f"cannot write {folder.parent / 'latest'}: {error.strerror or error}") from error


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the file `path` by one with `data`, so that at any moment the old or the new one is there in full.
    Raises OSError; then the old one is intact and no temporary file is left."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{uuid.uuid4().hex}")
    try:
        _write_synced(temporary, data)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _write_synced(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        view = memoryview(data)
        while view:  # a full disk or RLIMIT_FSIZE may first write a part, and raise only at the next call
            view = view[os.write(descriptor, view):]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_latest(folder: Path) -> bool:
    try:
        return _read_latest(folder.parent)[0] == folder
    except CheckpointError:
        return False


def _free_name(parent: Path, step: int) -> Path:
    """The step's folder, or a sibling `-1`, `-2`: one that `latest` may point to is never written over."""
    path, again = parent / f"{step:012d}", 0
    while path.exists():
        again += 1
        path = parent / f"{step:012d}-{again}"
    return path


def _remove_leftovers(parent: Path) -> None:
    """Remove what killed saves left. A folder that will not go is no reason to stop a run."""
    for path in parent.glob(TEMPORARY + "*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _prune(parent: Path, current: Path, step: int, keep: int) -> None:
    """Leave `current` and the keep - 1 newest of earlier steps. The new one is complete, so trouble here is no error:
    the next save tries again. Each goes by a rename first, so that no half of a checkpoint has a checkpoint's name."""
    older = [p for p in list_checkpoints(parent.parent) if p != current and _order(p)[0] < step]
    kept = {current, *older[::-1][: keep - 1]}
    for path in list_checkpoints(parent.parent):
        if path not in kept:
            doomed = parent / f"{TEMPORARY}old-{uuid.uuid4().hex}"
            try:
                os.rename(path, doomed)
            except OSError:
                continue
            shutil.rmtree(doomed, ignore_errors=True)


def _tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    ready = {}
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"cannot store {name!r}: expected a name and a tensor, got {type(tensor).__name__}")
        # a copy of its own: safetensors refuses tensors that share memory
        ready[name] = tensor.detach().to("cpu", copy=True).clone(memory_format=torch.contiguous_format)
    try:
        return serialise_tensors(ready)
    except Exception as error:
        raise CheckpointError(f"cannot store tensors: {error}") from error


def _json_bytes(meta: Mapping[str, Any]) -> bytes:
    stray, structure = flatten("meta", dict(meta))
    if stray:
        raise CheckpointError(f"cannot store {next(iter(stray))}: a tensor belongs into tensors, see flatten()")
    return (json.dumps(structure, allow_nan=False, separators=(",", ":")) + "\n").encode()


def _manifest_bytes(step: int, contents: Mapping[str, bytes]) -> bytes:
    return _canonical({"format": FORMAT, "version": VERSION, "step": step,
                       "files": {n: {"bytes": len(d), "sha256": _sha256(d)} for n, d in contents.items()}})


def _canonical(manifest: Mapping[str, Any]) -> bytes:
    """The one spelling of a manifest, which carries a hash of itself: any changed byte shows."""
    body = {k: v for k, v in manifest.items() if k != "sha256"}
    text = json.dumps(body, sort_keys=True)
    return (json.dumps({**body, "sha256": _sha256(text.encode())}, sort_keys=True, indent=1) + "\n").encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- reading ---------------------------------------------------------------------------------------------------------


def load(path: Path, which: str | int = "latest", device: str | torch.device = "cpu"
         ) -> tuple[dict[str, Tensor], dict[str, Any], Path]:
    """(tensors, meta, folder) of a run folder's checkpoint, or of the checkpoint folder `path` itself.

    which: "latest", a step, or a folder's name. device: where the tensors go; generator states belong on the CPU, and
    load_state_dict copies across by itself, so the default is mostly right.
    Raises CheckpointError for anything missing, damaged or foreign. It never falls back to another checkpoint; the
    message names the newest intact one.
    """
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"no such run or checkpoint folder: {path}")
    parent = path / "checkpoints"
    is_checkpoint = os.path.lexists(path / "manifest.json") or path.resolve().parent.name == "checkpoints"
    if is_checkpoint and not os.path.isdir(parent):
        return (*_read(path, None, device), path)
    try:
        if which == "latest":
            folder, digest = _read_latest(parent)
        else:
            folder, digest = _find(parent, which), None
        return (*_read(folder, digest, device), folder)
    except CheckpointError as error:
        hint = f"the newest intact one is {found}" if (found := newest_intact(path)) else "there is no intact one in this run"
        raise CheckpointError(f"{error}; {hint}") from error


def list_checkpoints(run_dir: Path) -> list[Path]:
    """The checkpoint folders of a run, oldest step first, whether intact or not."""
    try:
        found = [p for p in (Path(run_dir) / "checkpoints").iterdir() if _order(p)[0] >= 0 and p.is_dir()]
    except OSError:
        return []
    return sorted(found, key=_order)


def newest_intact(run_dir: Path) -> Path | None:
    """The newest checkpoint folder of a run that passes every check, or None."""
    for path in reversed(list_checkpoints(run_dir)):
        try:
            _read(path, None, "cpu")
        except CheckpointError:
            continue
        return path
    return None


def _order(path: Path) -> tuple[int, int]:
    step, _, again = path.name.partition("-")
    ok = step.isascii() and step.isdigit() and len(step) <= 20 and (again or "0").isdecimal()
    return (int(step), int(again[:20] or 0)) if ok else (-1, 0)


def _read_latest(parent: Path) -> tuple[Path, str]:
    if not os.path.lexists(parent / "latest"):
        hint = "" if parent.is_dir() else ": a run that was kept as a record has no checkpoints"
        raise CheckpointError(f"{parent} has no 'latest' file{hint}")
    words = _bytes(parent / "latest", 1024).decode("ascii", "replace").split(" ")
    if len(words) != 2 or _order(Path(words[0]))[0] < 0 or "/" in words[0] or len(words[1]) != 65:
        raise CheckpointError(f"{parent / 'latest'} is damaged")
    return parent / words[0], words[1].removesuffix("\n")


def _find(parent: Path, which: str | int) -> Path:
    want = f"{which:012d}" if isinstance(which, int) else str(which)
    names = [p.name for p in list_checkpoints(parent.parent)]
    matches = [n for n in names if n == want] or [n for n in names if n.split("-")[0] == want.zfill(12)]
    if not matches:
        there = ", ".join(names) or "none"
        raise CheckpointError(f"no checkpoint {str(which)[:40]!r} in {parent} (there are: {there})")
    return parent / matches[-1]


def _bytes(path: Path, limit: int | None, exact: int | None = None) -> bytes:
    """Contents of a regular file of at most `limit`, or exactly `exact` bytes."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path} is not a regular file")
        if status.st_size != exact if exact is not None else status.st_size > (limit or 0):
            raise CheckpointError(f"{path} is damaged: {status.st_size} bytes, expected "
                                  f"{exact if exact is not None else f'at most {limit}'}")
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (OSError, MemoryError) as error:
        raise CheckpointError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


def _json(data: bytes, path: Path) -> Any:
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path} is damaged: not JSON") from None


def _read(folder: Path, digest: str | None, device: str | torch.device) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and meta of one checkpoint folder; `digest` is what `latest` says of its manifest."""
    path = folder / "manifest.json"
    raw = _bytes(path, MAX_MANIFEST_BYTES)
    manifest = _json(raw, path)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(f"{folder} is not a checkpoint of this project (format is not {FORMAT!r})")
    if manifest.get("version") != VERSION:
        raise CheckpointError(f"{folder} has format version {str(manifest.get('version'))[:20]}, "
                              f"this program reads {VERSION}")
    files = manifest.get("files")
    try:
        sound = raw == _canonical(manifest)
    except (ValueError, RecursionError):
        sound = False
    if not sound or digest not in (None, _sha256(raw)):
        raise CheckpointError(f"{path} is damaged: its hash differs")
    if not isinstance(files, dict) or set(files) != set(FILES) or not all(isinstance(f, dict) for f in files.values()):
        raise CheckpointError(f"{path} does not list {' and '.join(FILES)}")
    contents = {}
    for name in FILES:
        size = files[name].get("bytes")
        contents[name] = _bytes(folder / name, None, size if isinstance(size, int) else -1)
        if _sha256(contents[name]) != files[name].get("sha256"):
            raise CheckpointError(f"{folder / name} is damaged: its SHA-256 differs")
    try:
        meta = unflatten({}, _json(contents["meta.json"], folder / "meta.json"))
        tensors = {k: t.to(device) for k, t in parse_tensors(contents["tensors.safetensors"]).items()}
    except CheckpointError:
        raise
    except Exception as error:  # a hostile file with right hashes; safetensors raises errors of many kinds
        raise CheckpointError(f"{folder} cannot be read: {type(error).__name__}: {error}") from None
    if not isinstance(meta, dict):
        raise CheckpointError(f"{folder / 'meta.json'} is not a JSON object")
    return tensors, meta


# --- nested states ---------------------------------------------------------------------------------------------------


def flatten(prefix: str, nested: Any) -> tuple[dict[str, Tensor], Any]:
    """Split a nest of dicts, lists, tuples, tensors and JSON scalars, such as `optimizer.state_dict()`, into tensors
    named `prefix/...` and a structure of pure JSON. `unflatten` gives the nest back exactly: types of numbers and keys
    included, non-finite floats too; only an OrderedDict comes back as dict and a NamedTuple as tuple.

    Raises CheckpointError for anything else inside (numpy scalars, objects).
    """
    tensors: dict[str, Tensor] = {}

    def walk(value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            if name in tensors:  # {1: a, "1": b}
                name = f"{name}#{len(tensors)}"
            tensors[name] = value
            return {"$tensor": name}
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"$number": repr(value)}
        if isinstance(value, Mapping):
            if all(type(k) is str and not k.startswith("$") for k in value):
                return {k: walk(v, f"{name}/{k}") for k, v in value.items()}
            return {"$dict": [[walk(k, name), walk(v, f"{name}/{k}")] for k, v in value.items()]}
        if isinstance(value, (list, tuple)):
            items = [walk(v, f"{name}/{i}") for i, v in enumerate(value)]
            return items if isinstance(value, list) else {"$tuple": items}
        raise CheckpointError(f"cannot store {name}: {type(value).__name__} is neither tensor nor plain data")

    return tensors, walk(nested, prefix)


def unflatten(tensors: Mapping[str, Tensor], structure: Any) -> Any:
    """The nest that `flatten` took apart. Raises CheckpointError for a missing tensor or a foreign structure."""
    if isinstance(structure, list):
        return [unflatten(tensors, v) for v in structure]
    if not isinstance(structure, dict):
        return structure
    key = next(iter(structure), "")
    if isinstance(key, str) and not key.startswith("$"):
        return {k: unflatten(tensors, v) for k, v in structure.items()}
    value = structure[key]
    try:
        if key == "$tensor":
            return tensors[value]
        if key == "$number":
            return float(value)
        if key == "$tuple":
            return tuple(unflatten(tensors, v) for v in value)
        if key == "$dict":
            return {unflatten(tensors, k): unflatten(tensors, v) for k, v in value}
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"the checkpoint lacks what {str(structure)[:80]} names") from None
    raise CheckpointError(f"the checkpoint holds an unknown structure: {str(structure)[:80]}")
