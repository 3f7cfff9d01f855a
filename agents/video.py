"""Drawing and encoding a film: the two cue values side by side, each with the maze, the policy, and, over the time of
the episode, the value, the memory and the gates of the units that tell the cue best. MP4 for browsers, GIF for pages.

Everything over time is drawn once for the whole episode and uncovered from left to right.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.spatial import cKDTree

from agents.film import Episode, FilmError, Pair, rank_units

WIDTH, HEIGHT, SIDE = 1280, 944, 640  # even, as H.264 needs; SIDE: width of one episode's column
UNITS = 24  # shown at most
MAZE = (0, 88, 640, 280)  # all boxes are (x0, y0, x1, y1) within a column
ROWS = {"value": (446, 498), "memory": (530, 698), "keep": (730, 802), "write": (834, 906)}  # y0, y1 of the strips
LEFT, RIGHT = 32, 608  # x of the strips
GIF_SCALE, GIF_FRAMES = 0.75, 200  # a GIF skips frames rather than have more than this
HOLD_FIRST, HOLD_LAST = 0.7, 1.5  # seconds that the first and the last frame of an episode stay on the screen

PAGE, CARD, EMPTY, INK, SOFT = "#f1f4f9", "#ffffff", "#f6f8fc", "#1f2a44", "#76819b"
TRACK, PALE, FADED = "#e9eef7", "#c3ceff", "#dbe2ff"
BLUE, AMBER, GOOD, BAD = "#4355f0", "#f5a524", "#17a673", "#e0526b"
SIGNED = ("#1d2f9e", "#4355f0", "#aab6fb", "#f7f8fc", "#fbc98f", "#ee7d1f", "#a63f06")  # -1 .. 1
SHARE = ("#f4f6fb", "#b9e3d6", "#4fb79b", "#17806a", "#0a3f3d")  # 0 .. 1


def strip_box(name: str, side: int) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) in the frame of "value", "memory", "keep" or "write", on side 0 (left) or 1 (right)."""
    y0, y1 = ROWS[name]
    return LEFT + side * SIDE, y0, RIGHT + side * SIDE, y1


class Scene:
    """One pair of episodes. `draw(t)` is the frame of row t; a shorter episode holds its last row.

    units: the rows of the strips; limit: the memory that gets the darkest colour; values: range of the value's axis.
    """

    def __init__(self, pair: Pair, units: Sequence[int], limit: float, values: tuple[float, float],
                 action_names: Sequence[str], title: tuple[str, str], note: str):  # fmt: skip
        self.pair, self.rows, self.action_names = pair, max(e.rows for e in pair), action_names
        self.edges = np.linspace(LEFT, RIGHT, self.rows + 1).round().astype(int)  # row t: pixels edges[t]:edges[t+1]
        self.strips: list[dict[str, Image.Image]] = []
        self.points: list[np.ndarray] = []  # of the value's curve, (rows, 2)
        for episode in pair:
            points = np.stack((_middle(self.edges)[: episode.rows], _heights(episode.value.numpy(), values)), 1)
            strips = {"value": _curve(points, self.edges[episode.rows], float(_heights(np.zeros(1), values)[0]))}
            memory = episode.memory[:, units].numpy() / limit
            strips["memory"] = _heat((memory + 1) / 2, SIGNED, "memory", self.edges)
            for name in ("keep", "write"):
                gate = getattr(episode, name)
                if gate is not None:
                    strips[name] = _heat(gate[:, units].numpy(), SHARE, name, self.edges)
            self.points.append(points)
            self.strips.append(strips)
        self.base = self._base(len(units), limit, values, title, note)

    def _base(self, units: int, limit: float, values: tuple[float, float], title: tuple[str, str], note: str):
        image = Image.new("RGB", (WIDTH, HEIGHT), PAGE)
        draw = ImageDraw.Draw(image)
        name, about = title
        _text(draw, (24, 20), name, 25, INK, bold=True)
        _text(draw, (24 + _font(25, True).getlength(name) + 16, 26), about, 18, SOFT)
        _text(draw, (WIDTH - 24, 28), note, 15, SOFT, "ra")
        for side, episode in enumerate(self.pair):
            x = side * SIDE
            for y0, y1 in ((284, 406), (414, HEIGHT - 8)):
                _blend(image, (x + 8, y0 + 2, x + 632, y1 + 2), 16, "#e4e8f0")
                _blend(image, (x + 8, y0, x + 632, y1), 16, CARD)
            titles = {"memory": "memory" if episode.keep is not None else "output", "value": "value"}
            titles |= {"keep": "keep gate", "write": "write gate"}
            label = f"cue {_signed(episode.cue.tolist())}"
            _blend(image, (x + 24, 62, x + 44 + int(_font(15, True).getlength(label)), 86), 12, AMBER)
            _text(draw, (x + 34, 74), label, 15, CARD, "lm", bold=True)
            _text(draw, (x + 32, 298), "policy", 13, SOFT)
            for name, (y0, y1) in ROWS.items():
                _blend(image, (x + LEFT, y0, x + RIGHT, y1), 3, EMPTY)
                _text(draw, (x + LEFT, y0 - 8), titles[name], 13, INK, "ls", bold=True)
                if name == "value":
                    span = f"axis {values[0]:.2g} to {values[1]:.2g}".replace("-", "−")
                    _text(draw, (x + RIGHT, y0 - 8), span, 12, SOFT, "rs")
                elif name not in self.strips[side]:
                    _text(draw, (x + SIDE // 2, (y0 + y1) // 2), "no gate", 15, SOFT, "mm")
                else:
                    _legend(image, draw, x + RIGHT, y0, name, limit)
                if name == "memory":
                    H = episode.memory.shape[1]
                    few = f"the {units} of {H} units that tell the cue best"
                    at = x + LEFT + _font(13, True).getlength(titles[name]) + 10
                    _text(draw, (at, y0 - 8), few if units < H else f"all {H} units", 12, SOFT, "ls")
            for step in _ticks(self.rows):
                at = x + _middle(self.edges)[step]
                draw.line((at, 909, at, 912), SOFT)
                _text(draw, (at, 922), f"step {step}" if step == 0 else str(step), 12, SOFT, "mm")
        return image

    def draw(self, t: int) -> Image.Image:
        image = self.base.copy()
        draw = ImageDraw.Draw(image)
        for side, episode in enumerate(self.pair):
            x, now = side * SIDE, min(t, episode.rows - 1)
            image.paste(_fit(episode.frames[now], MAZE), (x + MAZE[0], MAZE[1]))
            self._policy(image, draw, x, episode, now)
            self._numbers(image, draw, x, episode, now)
            reached = int(self.edges[now + 1])
            for name, strip in self.strips[side].items():
                edge = reached if name != "value" else int(self.points[side][now, 0]) + 1
                image.paste(strip.crop((0, 0, edge - LEFT, strip.height)), (x + LEFT, ROWS[name][0]))
            if now < episode.rows - 1:
                for name in self.strips[side]:
                    if name != "value":
                        y0, y1 = ROWS[name]
                        draw.rectangle((x + reached, y0, x + reached + 1, y1 - 1), INK)
            px, py = self.points[side][now].round().astype(int)
            _blend(image, (x + px - 5, py - 5, x + px + 5, py + 5), 5, CARD)
            _blend(image, (x + px - 4, py - 4, x + px + 4, py + 4), 4, BLUE)
        return image

    def _policy(self, image: Image.Image, draw: ImageDraw.ImageDraw, x: int, episode: Episode, now: int) -> None:
        """Bars of the action probabilities, the chosen one dark; all pale on the last row, which takes no action."""
        over = now == episode.rows - 1
        height = min(20.0, 80 / len(self.action_names))
        size = max(min(14, int(height * 0.72)), 8)
        for k, (name, p) in enumerate(zip(self.action_names, episode.probs[now].tolist(), strict=True)):
            y, chosen = round(318 + k * height), episode.action[now] == k
            middle, thick = y + height / 2, max(round(height * 0.6), 3)
            bar = round(middle - thick / 2)
            ink = INK if chosen else "#c2c9d8" if over else SOFT
            _text(draw, (x + 96, middle), name, size, ink, "rm", bold=bool(chosen))
            _blend(image, (x + 106, bar, x + 286, bar + thick), thick // 2, TRACK)
            mask = _mask(180, thick, thick // 2).crop((0, 0, round(180 * p), thick))
            image.paste(BLUE if chosen else FADED if over else PALE, (x + 106, bar), mask)
            _text(draw, (x + 294, middle), f"{p:.2f}", size, ink, "lm", bold=bool(chosen))

    def _numbers(self, image: Image.Image, draw: ImageDraw.ImageDraw, x: int, episode: Episode, now: int) -> None:
        steps = episode.rows - 1
        figures = (
            (362, "step", str(now), f" / {steps}"),
            (486, "return", _number(episode.reward[: now + 1].double().sum().item()), ""),
        )
        for at, name, number, rest in figures:
            _text(draw, (x + at, 298), name, 13, SOFT)
            _text(draw, (x + at, 343), number, 25, INK, "ls", bold=True)
            _text(draw, (x + at + _font(25, True).getlength(number), 343), rest, 15, SOFT, "ls")
        if now < steps:
            _text(draw, (x + 362, 380), f"value {_number(episode.value[now].item())}", 14, SOFT, "lm")
            return
        label, colour = ("correct", GOOD) if episode.success else ("wrong", BAD)
        _blend(image, (x + 362, 360, x + 462, 390), 15, colour)
        _text(draw, (x + 412, 375), label, 16, CARD, "mm", bold=True)


def scenes(film: Sequence[Pair], action_names: Sequence[str], title: tuple[str, str], note: str) -> list[Scene]:
    """A scene for each pair, with the same units, colours and axes. title: what stands bold, and what beside it."""
    units = rank_units(film, UNITS)
    episodes = [episode for pair in film for episode in pair]
    shown = np.concatenate([e.memory[:, units].abs().numpy().ravel() for e in episodes])
    limit = max(float(np.quantile(shown, 0.95)), 1e-3)
    value = np.concatenate([e.value.numpy() for e in episodes])
    values = (min(float(value.min()), 0.0), max(float(value.max()), 0.0))
    if values[0] == values[1]:
        values = (0.0, 1.0)
    count = [f" · episode {k + 1} of {len(film)}" if len(film) > 1 else "" for k in range(len(film))]
    return [Scene(p, units.tolist(), limit, values, action_names, title, note + c) for p, c in zip(film, count)]


# Drawing.


def _legend(image: Image.Image, draw: ImageDraw.ImageDraw, right: int, y0: int, name: str, limit: float) -> None:
    low, high, stops = (f"−{limit:.2g}", f"+{limit:.2g}", SIGNED) if name == "memory" else ("0", "1", SHARE)
    _text(draw, (right, y0 - 8), high, 12, SOFT, "rs")
    right -= round(_font(12).getlength(high))
    image.paste(Image.fromarray(_colours(np.linspace(0, 1, 72)[None].repeat(8, 0), stops)), (right - 78, y0 - 16))
    _text(draw, (right - 84, y0 - 8), low, 12, SOFT, "rs")


def _middle(edges: np.ndarray) -> np.ndarray:
    return (edges[:-1] + edges[1:]) / 2


def _heights(value: np.ndarray, values: tuple[float, float]) -> np.ndarray:
    """y of the value's curve; 6 pixels stay free above and below."""
    y0, y1 = ROWS["value"]
    return y1 - 6 - (value - values[0]) / (values[1] - values[0]) * (y1 - y0 - 12)


def _curve(points: np.ndarray, right: int, zero: float) -> Image.Image:
    """The value's strip: a line, and a pale area between it and the y of zero.

    Drawn at four times the size, for smooth edges.
    """
    y0, y1 = ROWS["value"]
    image = Image.new("RGB", (4 * (right - LEFT), 4 * (y1 - y0)), EMPTY)
    draw = ImageDraw.Draw(image)
    at = [(4 * (px - LEFT), 4 * (py - y0)) for px, py in points.tolist()]
    floor = 4 * (zero - y0)
    draw.polygon([(at[0][0], floor), *at, (at[-1][0], floor)], "#e4e9ff")
    draw.line(at, BLUE, 8, joint="curve")
    return image.reduce(4)


def _heat(share: np.ndarray, stops: Sequence[str], name: str, edges: np.ndarray) -> Image.Image:
    """The strip of (rows, units) in [0, 1]; where rows are narrower than a pixel, a pixel shows their mean."""
    colours = _colours(share.T, stops)  # (units, rows, 3)
    y0, y1 = ROWS[name]
    lines = np.linspace(0, len(colours), y1 - y0, endpoint=False).astype(int)
    width = int(edges[share.shape[0]]) - LEFT
    if (np.diff(edges) > 0).all():
        pixels = np.repeat(np.arange(share.shape[0]), np.diff(edges[: share.shape[0] + 1]))
        return Image.fromarray(np.ascontiguousarray(colours[lines][:, pixels]))
    narrow = Image.fromarray(colours).resize((max(width, 1), len(colours)), Image.Resampling.BOX)
    return Image.fromarray(np.ascontiguousarray(np.asarray(narrow)[lines]))


def _colours(share: np.ndarray, stops: Sequence[str]) -> np.ndarray:
    table = np.array([_hex(code) for code in stops], float)
    at = np.clip(np.nan_to_num(share), 0, 1) * (len(stops) - 1)
    return np.stack([np.interp(at, np.arange(len(stops)), table[:, c]) for c in range(3)], -1).round().astype(np.uint8)


def _hex(code: str) -> tuple[int, ...]:
    return tuple(int(code[i : i + 2], 16) for i in (1, 3, 5))


def _fit(frame: np.ndarray, box: tuple[int, int, int, int]) -> Image.Image:
    """The environment's frame, scaled into the box and centred."""
    image, size = Image.fromarray(frame), (box[2] - box[0], box[3] - box[1])
    if image.size == size:
        return image
    scale = min(size[0] / image.width, size[1] / image.height)
    image = image.resize((max(round(image.width * scale), 1), max(round(image.height * scale), 1)))
    page = Image.new("RGB", size, PAGE)
    page.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return page


@lru_cache(maxsize=512)
def _mask(width: int, height: int, radius: int) -> Image.Image:
    mask = Image.new("L", (4 * width, 4 * height))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * width - 1, 4 * height - 1), 4 * radius, 255)
    return mask.reduce(4)


def _blend(image: Image.Image, box: tuple[int, int, int, int], radius: int, colour: str) -> None:
    """A rectangle with round, smooth corners."""
    image.paste(colour, (box[0], box[1]), _mask(box[2] - box[0], box[3] - box[1], radius))


@lru_cache(maxsize=64)
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def _text(draw: ImageDraw.ImageDraw, at, text: str, size: int, colour: str, anchor: str = "la", bold: bool = False):
    draw.text(at, text, colour, _font(size, bold), anchor)


def _number(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def _signed(cue: list[float]) -> str:
    return " ".join(f"{v:+g}".replace("-", "−") for v in cue)


def _ticks(rows: int) -> range:
    """At most nine round step numbers from 0."""
    unit = 1
    while rows / (step := unit * next((m for m in (1, 2, 5) if rows / (m * unit) <= 9), 10)) > 9:
        unit *= 10
    return range(0, rows, step)


# Encoding.


def write(film: Sequence[Scene], mp4: Path, gif: Path, fps: float | None = None) -> int:
    """Writes both files, each under a temporary name first, so that a failure leaves nothing. Returns the frames.

    The MP4 has the frame of every row; its first and last frame of a pair last longer than 1 / fps. None: a rate at
    which a pair takes about six seconds, within 8 and 30. The GIF skips frames of long films.
    Raises FilmError where a file cannot be written.
    """
    if fps is None:
        fps = min(max(max(scene.rows for scene in film) / 6, 8.0), 30.0)
    drafts = [path.with_name(f".{path.name}.{os.getpid()}") for path in (mp4, gif)]
    try:
        for path, draft in zip((mp4, gif), drafts):
            if path.is_dir():
                raise FilmError(f"cannot write {path}: it is a folder")
            draft.open("wb").close()  # before the long work
        frames = _encode(film, *drafts, fps)
        for path, draft in zip((mp4, gif), drafts):
            os.replace(draft, path)
        return frames
    except OSError as error:  # FFmpeg's errors are OSErrors too
        raise FilmError(f"cannot write {mp4}: {error.strerror or error}") from error
    finally:
        for draft in drafts:
            with contextlib.suppress(OSError):
                draft.unlink()


def _timed(film: Sequence[Scene], fps: float) -> Iterator[tuple[Image.Image, int, int]]:
    """Every frame, with its number and how many frames' time it stays."""
    number = 0
    for scene in film:
        for t in range(scene.rows):
            hold = HOLD_FIRST if t == 0 else HOLD_LAST if t == scene.rows - 1 else 0.0
            yield scene.draw(t), number, max(round(hold * fps), 1)
            number += 1


def _encode(film: Sequence[Scene], mp4: Path, gif: Path, fps: float) -> int:
    total = sum(scene.rows for scene in film)
    skip = max(-(-total // GIF_FRAMES), -(-int(fps) // 30))
    last = set(np.cumsum([scene.rows for scene in film]) - 1)
    size = (int(WIDTH * GIF_SCALE), int(HEIGHT * GIF_SCALE))
    palette = _Palette(film, size)
    pictures, durations, time, frames = [], [], 0, 0
    rate = Fraction(fps).limit_denominator(1000)
    with av.open(str(mp4), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "18", "preset": "fast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        context = stream.codec_context
        context.time_base = 1 / rate
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        context.color_range = 1  # limited, what browsers expect
        for image, number, hold in _timed(film, fps):
            frame = av.VideoFrame.from_image(image).reformat(format="yuv420p", dst_colorspace="ITU709")
            frame.pts, frame.time_base, frame.duration = time, 1 / rate, hold
            container.mux(stream.encode(frame))
            if number % skip == 0 or number in last:
                pictures.append(palette.picture(image))
                durations.append(0.0)
            durations[-1] += hold * 1000 / fps
            time, frames = time + hold, number + 1
        container.mux(stream.encode())
    pictures[0].save(gif, "GIF", save_all=True, append_images=pictures[1:], loop=0, disposal=1,
                     duration=[max(round(ms / 10) * 10, 20) for ms in durations])  # fmt: skip
    return frames


class _Palette:
    """255 colours for the whole GIF: those of the page and of the strips, exact, and the commonest of the first, the
    middle and the last frame of the first and the last pair. Pillow's own nearest colour tints large white areas."""

    def __init__(self, film: Sequence[Scene], size: tuple[int, int]):
        flat = np.array([_hex(c) for c in (CARD, PAGE, EMPTY, INK, SOFT, TRACK, PALE, FADED, BLUE, AMBER, GOOD, BAD)])
        strips = [_colours(np.linspace(0, 1, n), stops) for n, stops in ((49, SIGNED), (33, SHARE))]
        own = np.concatenate((flat, *strips)).astype(np.uint8)
        samples = [scene.draw(t) for scene in {film[0], film[-1]} for t in (0, scene.rows // 2, scene.rows - 1)]
        sheet = Image.new("RGB", (size[0], size[1] * len(samples)))
        for k, sample in enumerate(samples):
            sheet.paste(sample.resize(size, Image.Resampling.BOX), (0, k * size[1]))
        common = sheet.quantize(255 - len(own), Image.Quantize.MEDIANCUT, dither=0).getpalette()
        colours = np.concatenate((own, np.reshape(common, (-1, 3)))).astype(np.uint8)
        self.size, self.bytes = size, colours.tobytes()
        middle = np.arange(64) * 4 + 2  # six bits a channel: a table of the nearest colour
        cube = np.stack(np.meshgrid(middle, middle, middle, indexing="ij"), -1).reshape(-1, 3)
        self.table = cKDTree(colours).query(cube)[1].astype(np.uint8)
        for k in reversed(range(len(own))):
            self.table[_bins(own[k])] = k

    def picture(self, image: Image.Image) -> Image.Image:
        picture = Image.fromarray(self.table[_bins(np.asarray(image.resize(self.size, Image.Resampling.BOX)))])
        picture.putpalette(self.bytes)
        return picture


def _bins(colours: np.ndarray) -> np.ndarray:
    high = (colours >> 2).astype(np.int32)
    return high[..., 0] << 12 | high[..., 1] << 6 | high[..., 2]
