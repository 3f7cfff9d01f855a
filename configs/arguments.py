"""Command lines with options beside the settings: wrong ones are told as wrong settings are, in one line."""

import argparse
import difflib
import os
import sys

from configs.errors import ConfigError


def show_help(text: str) -> None:
    """Prints it; that its reader has seen enough, as `head` has, is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Parser(argparse.ArgumentParser):
    """Raises ConfigError, which for an unknown option names the one that is spelt most like it."""

    def __init__(self, description: str | None):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

    def print_help(self, file=None) -> None:
        show_help(self.format_help())

    def error(self, message: str):
        unknown, options = message.removeprefix("unrecognized arguments: "), sorted(self._option_string_actions)
        if unknown != message:
            near = difflib.get_close_matches(unknown.split()[0], options, 1)
            message = f"unknown option {unknown}; " + (f"did you mean {near[0]}?" if near else f"known: {', '.join(options)}")
        raise ConfigError(message)
