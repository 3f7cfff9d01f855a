"""The one error of this layer: a ConfigError is always a single printable line."""


def one_line(text: object, limit: int = 600) -> str:
    """`text` with every run of white space as one space, unprintable characters escaped, at most `limit` characters."""
    line = " ".join(str(text).split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in line)
    return line if len(line) <= limit else line[: limit - 3] + "..."


def show(value: object, limit: int = 80) -> str:
    """A short one-line repr of a value somebody typed, for use inside a message."""
    text = repr(value)
    return one_line(text if len(text) <= limit else text[: limit - 3] + "...", limit)


class ConfigError(ValueError):
    """What is wrong, where (file and line, or command line), the nearest valid choice and what was expected."""

    def __init__(self, message: object) -> None:
        super().__init__(one_line(message))
