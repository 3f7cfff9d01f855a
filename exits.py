"""How every script ends: one line for what went wrong, and an exit status."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from agents.checkpoint import CheckpointError
from agents.film import FilmError
from agents.learner import NonFiniteError
from agents.runlog import RunError
from configs.errors import ConfigError, one_line
from envs.group import EnvError


def exit_status(work: Callable[[], int], interrupted: str = "interrupted", begun: Sequence[Path] = ()) -> int:
    """What `work` returns, or 2 for a mistake of the caller's, 1 for what went wrong while it ran, 130 for Ctrl-C.

    interrupted: the line that Ctrl-C leaves behind. begun: where `work` puts the folder of the run that it has begun.
    """
    kept = lambda: f"; what was saved is intact, go on with: --resume {quoted(begun[0])}" if begun else ""  # noqa: E731
    try:
        status = work()
        if sys.stdout:
            sys.stdout.flush()  # here, where a reader that has gone away or a full disk can be told of
        return status
    except (ConfigError, RunError, CheckpointError, FilmError) as error:
        return _say(2, error)
    except NonFiniteError as error:
        return _say(1, f"{error}; training stopped before the step, the last checkpoint is intact; resumed it most "
                       f"likely ends here again, a new run with a smaller agent.learning_rate may go further")  # fmt: skip
    except EnvError as error:
        return _say(1 if begun else 2, f"{error}{kept()}")
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EDQUOT):
            raise
        try:
            sys.stdout.flush()
        except OSError:  # or Python complains once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        where = error.filename or ("standard output" if error.errno == errno.EPIPE else "standard output or a file")
        return _say(1, f"cannot write to {where}: {error.strerror}{kept()}")
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        told = one_line(error, 150) or "no more to be had"
        return _say(1 if begun else 2, f"out of memory ({told}); expected smaller sizes{kept()}")


def quoted(path: object) -> str:
    """`path` as a shell takes it."""
    return shlex.quote(str(path))


def _say(status: int, message: object) -> int:
    with contextlib.suppress(OSError):
        print(f"error: {message}", file=sys.stderr)
    return status


def _out_of_memory(error: Exception) -> bool:
    told = str(error)
    return (isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in told
            or "not enough memory" in told or "Storage size calculation overflowed" in told)  # fmt: skip
