"""Gymnasium environments spread over worker processes.

Why not gymnasium.vector.AsyncVectorEnv: with a killed worker its close() never returns, with a stopped one step() never
does (measured with 1.4.0). Here a dead worker is named as soon as its socket closes, one that does not answer at the
timeout, and close() takes a second. Workers share nothing with their parent but two sockets: one for arrays of fixed
sizes, and one that nothing is ever sent over, whose end the kernel reports when the parent is gone, however it went.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence

import numpy as np

from envs import group as program
from envs.group import HEADER, EnvError, Group, Recipe, Rows

START_SECONDS = 60  # a worker's first answer may take as long at least: it imports the environment


class Workers:
    """As `Group`, over `workers` processes, each with a share of the environments.

    timeout: seconds that a worker may take for an answer. After any EnvError, all workers are gone.
    Raises ValueError where an environment cannot be made.
    """

    def __init__(self, recipe: Recipe, num_envs: int, workers: int, timeout: float) -> None:
        probe = Group(dataclasses.replace(recipe, render=False), 1)
        probe.close()
        self.leaves, self.texts, self.action_space = probe.leaves, probe.texts, probe.action_space
        self.max_steps, self.reward_threshold = probe.max_steps, probe.reward_threshold
        self.action_names = probe.action_names
        self.num_envs, self.timeout = num_envs, timeout
        self.rows = Rows.empty(self.leaves, num_envs)
        edges = np.linspace(0, num_envs, min(workers, num_envs) + 1).astype(int).tolist()
        self.shares = [slice(a, b) for a, b in itertools.pairwise(edges)]
        self.processes, self.sockets, lifelines = [], [], []
        self._finalize = weakref.finalize(self, _stop, self.processes, self.sockets, lifelines)
        self._selector = selectors.DefaultSelector()
        for number, share in enumerate(self.shares):
            self._start(number, lifelines)
            setup = {"path": sys.path, "recipe": dataclasses.asdict(recipe), "count": share.stop - share.start}
            self._send(number, b"I", json.dumps(setup | {"first": share.start}).encode())
        self._gather(max(timeout, START_SECONDS))

    def step(self, actions: np.ndarray, restart: np.ndarray, seeds: np.ndarray) -> Rows:
        for number, share in enumerate(self.shares):
            parts = actions[share].astype(np.int64), restart[share], seeds[share].astype(np.int64)
            self._send(number, b"S", b"".join(part.tobytes() for part in parts))
        for share, data in zip(self.shares, self._gather(self.timeout), strict=True):
            at = 0
            for array in self.rows.arrays:
                part = array[share]
                part[...] = np.frombuffer(data, array.dtype, part.size, at).reshape(part.shape)
                at += part.nbytes
        return self.rows

    def render(self, index: Sequence[int]) -> list[np.ndarray]:
        return [self._frame(i) for i in index]

    def _frame(self, index: int) -> np.ndarray:
        number = next(n for n, share in enumerate(self.shares) if index < share.stop)
        self._send(number, b"R", struct.pack("<q", index - self.shares[number].start))
        data = self._receive(number, time.monotonic() + self.timeout)
        return np.frombuffer(data, np.uint8, offset=24).reshape(struct.unpack_from("<3q", data)).copy()

    def close(self) -> None:
        """Ends all workers, at most about a second after the call whatever they are doing."""
        self._finalize()

    def _start(self, number: int, lifelines: list[socket.socket]) -> None:
        (ours, theirs), (held, watched) = socket.socketpair(), socket.socketpair()
        with theirs, watched:
            fds = theirs.fileno(), watched.fileno()
            process = subprocess.Popen(
                [sys.executable, "-P", program.__file__, *map(str, fds)], pass_fds=fds, stdin=subprocess.DEVNULL,
                stdout=2, env={"OMP_NUM_THREADS": "1", **os.environ},
            )  # fmt: skip
        self.processes.append(process)
        self.sockets.append(ours)
        lifelines.append(held)
        self._selector.register(ours, selectors.EVENT_READ, number)

    def _send(self, number: int, kind: bytes, payload: bytes) -> None:
        if not self._finalize.alive:
            raise EnvError("the environment's workers are closed")
        self.sockets[number].settimeout(self.timeout)
        try:
            self.sockets[number].sendall(HEADER.pack(kind, len(payload)) + payload)
        except TimeoutError:
            self._hung(number)
        except OSError:
            self._dead(number)

    def _gather(self, seconds: float) -> list[bytearray]:
        """One answer of every worker."""
        deadline, answers = time.monotonic() + seconds, {}
        while len(answers) < len(self.shares):
            ready = self._selector.select(max(deadline - time.monotonic(), 0))
            if not ready:
                self._hung(next(n for n in range(len(self.shares)) if n not in answers))
            for key, _ in ready:  # of one that has answered there is only its end to hear
                answers[key.data] = self._receive(key.data, deadline)
        return [answers[number] for number in range(len(self.shares))]

    def _receive(self, number: int, deadline: float) -> bytearray:
        kind, size = HEADER.unpack(self._read(number, HEADER.size, deadline))
        data = self._read(number, size, deadline)
        if kind == b"E":
            self._fail(f"{self._name(number)}: {data.decode()}")
        return data

    def _read(self, number: int, size: int, deadline: float) -> bytearray:
        data, at, sock = bytearray(size), 0, self.sockets[number]
        try:
            while at < size:
                sock.settimeout(max(deadline - time.monotonic(), 1e-3))
                got = sock.recv_into(memoryview(data)[at:])
                if not got:
                    self._dead(number)
                at += got
        except TimeoutError:
            self._hung(number)
        except OSError:
            self._dead(number)
        return data

    def _name(self, number: int) -> str:
        first, last = self.shares[number].start, self.shares[number].stop - 1
        return f"worker {number} (environment{f' {first}' if first == last else f's {first} to {last}'})"

    def _dead(self, number: int) -> None:
        try:
            status = self.processes[number].wait(1)
        except subprocess.TimeoutExpired:
            self._fail(f"{self._name(number)} closed its connection")
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        self._fail(f"{self._name(number)} is dead: {how}")

    def _hung(self, number: int) -> None:
        self._fail(f"{self._name(number)} did not answer within {self.timeout:g} seconds")

    def _fail(self, message: str) -> None:
        self.close()
        raise EnvError(message)


def _stop(processes: list[subprocess.Popen], sockets: list[socket.socket], lifelines: list[socket.socket]) -> None:
    """Asks the workers to leave, kills those that have not after a second. Also at the interpreter's exit."""
    for sock in sockets:
        with contextlib.suppress(OSError):
            sock.setblocking(False)
            sock.sendall(HEADER.pack(b"Q", 0))
    deadline = time.monotonic() + 1
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(deadline - time.monotonic(), 0))
    for process in processes:
        process.kill()  # nothing, where it has left
        process.wait()
    for sock in (*sockets, *lifelines):
        sock.close()
