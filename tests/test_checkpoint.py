"""Checkpoints: exact round trips, and no way of dying or of damaging a file that loads something wrong."""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import checkpoint
from agents.checkpoint import CheckpointError, flatten, list_checkpoints, load, newest_intact, save, unflatten


def state(step: int) -> dict[str, torch.Tensor]:
    return {"w": torch.arange(6.0).reshape(2, 3) + step, "n": torch.tensor(step), "rng": torch.get_rng_state()[:64]}


def is_state(tensors: dict[str, torch.Tensor], step: int) -> bool:
    return all(torch.equal(tensors[k], v) for k, v in state(step).items()) and set(tensors) == set(state(step))


def names(run: Path) -> list[str]:
    return [p.name for p in list_checkpoints(run)]


def leftovers(run: Path) -> list[str]:
    return [p.name for p in (run / "checkpoints").glob(".tmp*")] if (run / "checkpoints").is_dir() else []


def refused(call, *arguments, match: str | None = None, **options) -> str:
    with pytest.raises(CheckpointError, match=match) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- exactness -------------------------------------------------------------------------------------------------------


def test_every_dtype_shape_and_layout_comes_back(tmp_path):
    base = torch.randn(4, 6, dtype=torch.float64)
    tensors = {
        "f32": torch.randn(3, 2), "f64": base, "view": base[1:3, ::2], "transposed": base.T, "again": base,
        "bool": torch.tensor([True, False]), "u8": torch.get_rng_state(), "i64": torch.tensor(2**62 + 1),
        "scalar": torch.tensor(float("nan")), "inf": torch.tensor([float("inf"), -0.0]), "empty": torch.zeros(0, 5),
        "bf16": torch.randn(3).bfloat16(), "expanded": torch.ones(1).expand(4), 
        "grad": torch.ones(2, requires_grad=True),
    }
    save(tmp_path, tensors, {}, 1, 1)
    back, _, _ = load(tmp_path)
    assert set(back) == set(tensors)
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype and back[name].shape == tensor.shape
        assert back[name].contiguous().view(-1).numpy(force=True).tobytes() == \
            tensor.detach().contiguous().view(-1).numpy(force=True).tobytes() if tensor.dtype != torch.bfloat16 \
            else torch.equal(back[name], tensor)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3)
    | st.tuples(inner, inner), max_leaves=8)


@settings(max_examples=60, deadline=None)
@given(PLAIN)
def test_plain_structures_survive_json_with_their_types(nested):
    tensors, structure = flatten("x", nested)
    assert not tensors
    assert repr(unflatten({}, json.loads(json.dumps(structure, allow_nan=False)))) == repr(nested)


def test_meta_keeps_floats_tuples_keys_and_dollars(tmp_path):
    meta = {"lr": 0.1 + 0.2, "best": float("-inf"), "t": (1, 2.0), 3: True, "$tensor": "w", "deep": {"$x": [None]},
            "structure": flatten("o", {0: torch.ones(1)})[1], "big": 2**70}
    save(tmp_path, state(1), meta, 1, 1)
    assert load(tmp_path)[1] == meta


@pytest.mark.parametrize("make", [lambda p: torch.optim.Adam(p, lr=1e-3, betas=(0.9, 0.98)),
                                  lambda p: torch.optim.RMSprop(p, lr=7e-4, momentum=0.9, centered=True)])
def test_optimisers_continue_bit_equal(tmp_path, make):
    def train(net, optimiser, steps, generator):
        for _ in range(steps):
            optimiser.zero_grad()
            net(torch.randn(8, 5, generator=generator)).square().sum().backward()
            optimiser.step()

    def fresh():
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 1))
        return net, make(net.parameters()), torch.Generator().manual_seed(3)

    net, optimiser, generator = fresh()
    train(net, optimiser, 5, generator)
    tensors, structure = flatten("all", {"net": net.state_dict(), "optimiser": optimiser.state_dict(),
                                         "rng": generator.get_state()})
    save(tmp_path, tensors, {"structure": structure}, 5, 1)
    train(net, optimiser, 5, generator)

    again, other, stream = fresh()
    tensors, meta, _ = load(tmp_path)
    nested = unflatten(tensors, meta["structure"])
    again.load_state_dict(nested["net"])
    other.load_state_dict(nested["optimiser"])
    stream.set_state(nested["rng"])
    train(again, other, 5, stream)
    for a, b in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    left, right = flatten("o", optimiser.state_dict()), flatten("o", other.state_dict())
    assert left[1] == right[1] and all(torch.equal(t, right[0].pop(k)) for k, t in left[0].items()) and not right[0]


def test_flatten_refuses_and_unflatten_reports(tmp_path):
    refused(flatten, "x", {"a": [object()]}, match="x/a/0.*object")
    refused(unflatten, {}, {"$tensor": "w"}, match="lacks")
    for foreign in ({"$import": "os"}, {1: 2}, {"$dict": [[[], 1]]}):
        refused(unflatten, {}, foreign, match="unknown structure|lacks")
    tensors, structure = flatten("x", {1: torch.ones(1), "1": torch.zeros(1)})
    assert len(tensors) == 2 and unflatten(tensors, structure)["1"] == 0
    for meta in ({"a": torch.ones(1)}, {"a": object()}, {"a": {1, 2}}):
        refused(save, tmp_path, {}, meta, 1, 1)
    for tensors in ({1: torch.ones(1)}, {"a": 3}):
        refused(save, tmp_path, tensors, {}, 1, 1)
    for step, keep in ((-1, 1), (True, 1), (1.0, 1), (1, 0)):
        refused(save, tmp_path, {}, {}, step, keep)
    assert not list(tmp_path.iterdir())


# --- which one is loaded ---------------------------------------------------------------------------------------------


def test_keep_latest_and_choice(tmp_path):
    for step in (10, 20, 30, 40):
        path = save(tmp_path, state(step), {"step": step}, step, 3)
        assert path.name == f"{step:012d}"
    assert names(tmp_path) == ["000000000020", "000000000030", "000000000040"]
    assert is_state(load(tmp_path)[0], 40)
    assert is_state(load(tmp_path, 20)[0], 20) and is_state(load(tmp_path, "000000000030")[0], 30)
    assert is_state(load(tmp_path / "checkpoints" / "000000000030")[0], 30)
    assert "000000000020" in refused(load, tmp_path, 10, match="no checkpoint")


def test_saving_a_step_again_and_rewinding(tmp_path):
    for step in (10, 20, 30):
        save(tmp_path, state(step), {}, step, 5)
    save(tmp_path, state(30), {"again": 1}, 30, 5)
    assert load(tmp_path)[1] == {"again": 1} and names(tmp_path)[-1] == "000000000030-1" and len(names(tmp_path)) == 3
    save(tmp_path, state(15), {}, 15, 2)  # resumed from 10: the later ones are another history
    assert names(tmp_path) == ["000000000010", "000000000015"] and is_state(load(tmp_path)[0], 15)


def test_no_silent_fallback(tmp_path):
    refused(load, tmp_path / "none", match="no such run")
    assert "no intact" in refused(load, tmp_path)
    for step in (10, 20):
        save(tmp_path, state(step), {}, step, 3)
    folder = tmp_path / "checkpoints"
    (folder / "000000000020" / "meta.json").write_text("{}")
    assert "000000000010" in refused(load, tmp_path, match="newest intact one is")
    assert newest_intact(tmp_path).name == "000000000010"
    (folder / "latest").unlink()
    assert "000000000010" in refused(load, tmp_path, match="no 'latest'")
    for text in ("", "000000000010", "\n",
                 "../../etc " + "0" * 64 + "\n", "000000000010 " + "0" * 64 + "\n", "\x00\xff" * 40):
        (folder / "latest").write_text(text)
        refused(load, tmp_path)


# --- dying -----------------------------------------------------------------------------------------------------------

CALLS = ("open", "write", "fsync", "close", "mkdir", "rename", "replace", "unlink", "rmdir")


def count_calls(monkeypatch, at: int, action) -> list[int]:
    """Patch the system calls of a save: before the `at`-th one, `action()`; returns the running count."""
    count = [0]
    for name in CALLS:
        original = getattr(os, name)

        def patched(*arguments, _original=original, **options):
            count[0] += 1
            if count[0] == at:
                action()
            return _original(*arguments, **options)

        monkeypatch.setattr(os, name, patched)
    return count


def total_calls(folder: Path) -> int:
    save(folder, state(1), {}, 1, 1)
    with pytest.MonkeyPatch.context() as patch:
        count = count_calls(patch, -1, None)
        save(folder, state(2), {}, 2, 1)
    return count[0]


def killed_save(run: Path, step: int, at: int) -> int:
    """Save in a real process that is really killed before its `at`-th system call; its wait status."""
    child = os.fork()
    if child == 0:
        count_calls(pytest.MonkeyPatch(), at, lambda: os.kill(os.getpid(), signal.SIGKILL))
        save(run, state(step), {"step": step}, step, 1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def test_killed_at_every_system_call(tmp_path):
    total = total_calls(tmp_path / "count")
    assert total > 25
    outcomes = set()
    for at in range(1, total + 1):
        run = tmp_path / str(at)
        save(run, state(1), {"step": 1}, 1, 1)
        assert os.WIFSIGNALED(killed_save(run, 2, at))
        tensors, meta, _ = load(run)
        assert is_state(tensors, meta["step"])
        outcomes.add(meta["step"])
        save(run, state(2), {"step": 2}, 2, 1)  # resumed: gets there again, and clears up
        assert is_state(load(run)[0], 2) and not leftovers(run) and len(names(run)) == 1
    assert outcomes == {1, 2}


def test_first_save_killed_at_every_system_call(tmp_path):
    for at in range(1, total_calls(tmp_path / "count") + 1):
        run = tmp_path / str(at)
        killed_save(run, 1, at)
        with contextlib.suppress(CheckpointError):  # nothing before it, so nothing may load; but nothing wrong
            assert is_state(load(run)[0], 1)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failing_at_every_system_call(tmp_path, error):
    total = total_calls(tmp_path / "count")
    for at in range(1, total + 1):
        run = tmp_path / str(at)
        save(run, state(1), {"step": 1}, 1, 1)

        def fail():
            raise error

        failed = None
        with pytest.MonkeyPatch.context() as patch:
            count_calls(patch, at, fail)
            try:
                save(run, state(2), {"step": 2}, 2, 1)
            except (CheckpointError, KeyboardInterrupt) as caught:
                failed = caught
        tensors, meta, path = load(run)
        assert is_state(tensors, meta["step"])
        if failed is None:  # only what happens after the new one is complete may fail in silence
            assert meta["step"] == 2
        elif isinstance(failed, CheckpointError):
            assert "No space left" in str(failed) and "\n" not in str(failed)
            assert not leftovers(run) and set(names(run)) <= {"000000000001", path.name}


def test_everything_is_synced_before_it_is_named(tmp_path, monkeypatch):
    """What a power cut needs: contents, then the folder, then its name, then `latest`, then the old one's end."""
    save(tmp_path, state(1), {}, 1, 1)
    events, paths = [], {}
    original = {name: getattr(os, name) for name in ("open", "fsync", "rename", "replace")}

    def opened(path, *arguments, **options):
        descriptor = original["open"](path, *arguments, **options)
        paths[descriptor] = Path(path).name
        return descriptor

    def moved(kind):
        def call(source, target):
            events.append(f"{kind} {Path(target).name[:8]}")
            return original[kind](source, target)
        return call

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "fsync", lambda d: (events.append(f"sync {paths[d][:8]}"), original["fsync"](d)))
    for kind in ("rename", "replace"):
        monkeypatch.setattr(os, kind, moved(kind))
    save(tmp_path, state(2), {}, 2, 1)
    assert events == ["sync tensors.", "sync meta.jso", "sync manifest", "sync .tmp-000", "rename 00000000",
                      "sync checkpoi", "sync .tmp-lat", "replace latest", "sync checkpoi", "rename .tmp-old"]


def test_file_size_limit_as_a_full_disk(tmp_path):
    save(tmp_path, state(1), {}, 1, 1)
    before = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        refused(save, tmp_path, {"big": torch.zeros(100_000)}, {}, 2, 1, match="cannot write a checkpoint")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == before
    assert is_state(load(tmp_path)[0], 1)


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    refused(save, tmp_path / "file", state(1), {}, 1, 1, match="cannot write")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("")
    refused(save, tmp_path / "run", state(1), {}, 1, 1, match="cannot write")
    refused(save, Path("/proc/nothing"), state(1), {}, 1, 1, match="cannot write")


# --- damaged and hostile ---------------------------------------------------------------------------------------------


def test_any_flipped_bit_or_cut_is_noticed(tmp_path):
    save(tmp_path, state(1), {"a": 1}, 1, 3)
    save(tmp_path, state(3), {"a": 1}, 3, 3)
    folder = tmp_path / "checkpoints" / "000000000003"
    rng = random.Random(0)
    for path in [*sorted(folder.iterdir()), tmp_path / "checkpoints" / "latest"]:
        good = path.read_bytes()
        bits = range(8 * len(good)) if len(good) < 120 else rng.sample(range(8 * len(good)), 100)
        for bit in bits:
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << bit % 8
            path.write_bytes(bad)
            refused(load, tmp_path)
            if path.parent == folder:  # found without `latest`, which knows the manifest's hash
                refused(load, folder)
        for bad in (b"", good[:-1], good + b" ", good[: len(good) // 2], b"\x80\x05cos\nsystem\n", os.urandom(100)):
            path.write_bytes(bad)
            refused(load, tmp_path)
        path.unlink()
        refused(load, tmp_path)
        path.mkdir()
        refused(load, tmp_path)
        path.rmdir()
        os.mkfifo(path)  # opening it would wait for ever
        refused(load, tmp_path)
        path.unlink()
        path.write_bytes(good)
        assert is_state(load(tmp_path)[0], 3)


def rehash(folder: Path) -> None:
    contents = {n: (folder / n).read_bytes() for n in checkpoint.FILES}
    (folder / "manifest.json").write_bytes(checkpoint._manifest_bytes(1, contents))


def test_hostile_contents_with_right_hashes(tmp_path):
    folder = save(tmp_path, state(1), {"a": 1}, 1, 3)
    good = {p.name: p.read_bytes() for p in folder.iterdir()}
    rng = random.Random(1)
    header = int.from_bytes(good["tensors.safetensors"][:8], "little")
    for _ in range(150):
        bad = bytearray(good["tensors.safetensors"])
        for _ in range(rng.randint(1, 8)):
            bad[rng.randrange(8 + header)] = rng.randrange(256)
        (folder / "tensors.safetensors").write_bytes(bad)
        rehash(folder)
        try:
            load(folder)  # may parse, where only a name changed
        except CheckpointError as error:
            assert "\n" not in str(error)
    (folder / "tensors.safetensors").write_bytes(good["tensors.safetensors"])
    for meta in (b"[" * 100_000, b'{"a":' * 50_000, b"[]", b'"x"', b"1" * 10_000, b"\xff", b'{"$float":1}',
                 b'{"$tensor":"w"}', b'{"$dict":[[{"a":1},2]]}', b'{"$tuple":3}', b'{"$dict":7}', b'{"$number":"x"}'):
        (folder / "meta.json").write_bytes(meta)
        rehash(folder)
        refused(load, folder)
    (folder / "meta.json").write_bytes(good["meta.json"])
    for manifest in (b"[]", b"{}", b"[" * 60_000, b'{"format":"gatemaze-checkpoint","version":[]}',
                     checkpoint._canonical({"format": checkpoint.FORMAT, "version": 2}),
                     checkpoint._canonical({"format": checkpoint.FORMAT, "version": 1}),
                     checkpoint._canonical({"format": checkpoint.FORMAT, "version": 1, "files": {"../../x": {}}}),
                     checkpoint._canonical({"format": checkpoint.FORMAT, "version": 1,
                                            "files": {n: {"bytes": "9" * 99} for n in checkpoint.FILES}})):
        (folder / "manifest.json").write_bytes(manifest)
        refused(load, folder)


def test_foreign_folders(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04")
    refused(load, tmp_path)
    refused(load, tmp_path / "model.pt")
    refused(load, Path("nul\0"))
    (tmp_path / "checkpoints" / "notes").mkdir(parents=True)
    (tmp_path / "checkpoints" / "notes" / "x").write_text("mine")
    for step in (1, 2):
        save(tmp_path, state(step), {}, step, 1)
    assert (tmp_path / "checkpoints" / "notes" / "x").read_text() == "mine"  # what is not ours stays
    moved = shutil.copytree(tmp_path / "checkpoints" / "000000000002", tmp_path / "moved")
    assert is_state(load(moved)[0], 2)


def test_a_module_never_unpickles():
    source = Path(checkpoint.__file__).read_text()
    assert not any(word in source for word in ("pickle.", "import pickle", "torch.load", "eval(", "exec("))
