"""Drawing a film: two episodes side by side, of the two cue values where there are such, each with the environment's
picture, the policy, and, over the time of the episode, the value, the memory and the gates of the units that tell the
cue best.

Everything over time is drawn once for the whole episode and uncovered from left to right. All positions are those of a
page with room for a picture as flat as a T-maze's; for taller ones the page is cut open below the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from agents.film import Episode, Pair, has_sides, rank_units

WIDTH, HEIGHT, SIDE = 1280, 944, 640  # even, as H.264 needs; SIDE: width of one episode's column
UNITS, ACTIONS = 24, 8  # shown at most
PICTURE = (0, 88, 640, 280)  # all boxes are (x0, y0, x1, y1) within a column
FLATTEST, TALLEST = 192, 360  # room for the picture
ROWS = {"value": (446, 498), "memory": (530, 698), "keep": (730, 802), "write": (834, 906)}  # y0, y1 of the strips
LEFT, RIGHT = 32, 608  # x of the strips

PAGE, CARD, EMPTY, INK, SOFT = "#f1f4f9", "#ffffff", "#f6f8fc", "#1f2a44", "#76819b"
TRACK, PALE, FADED = "#e9eef7", "#c3ceff", "#dbe2ff"
BLUE, AMBER, GOOD, BAD = "#4355f0", "#f5a524", "#17a673", "#e0526b"
SIGNED = ("#1d2f9e", "#4355f0", "#aab6fb", "#f7f8fc", "#fbc98f", "#ee7d1f", "#a63f06")  # -1 .. 1
SHARE = ("#f4f6fb", "#b9e3d6", "#4fb79b", "#17806a", "#0a3f3d")  # 0 .. 1


def strip_box(name: str, side: int) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) in the frame of "value", "memory", "keep" or "write", on side 0 (left) or 1 (right)."""
    y0, y1 = ROWS[name]
    return LEFT + side * SIDE, y0, RIGHT + side * SIDE, y1


@dataclass(frozen=True)
class Common:
    """What the scenes of a film share."""

    units: list[int]  # the rows of the strips
    chosen: str  # how these units were chosen, in words
    limit: float  # the memory that gets the darkest colour
    values: tuple[float, float]  # range of the value's axis
    actions: dict[int, str]  # those with a bar in the policy: number -> name
    num_actions: int
    title: tuple[str, str]  # what stands bold, and what beside it
    cut: int  # how far the page is cut open for the picture


class Scene:
    """One pair of episodes. `draw(t)` is the frame of row t; a shorter episode holds its last row."""

    def __init__(self, pair: Pair, common: Common, labels: Sequence[str], note: str):
        self.pair, self.common, self.rows = pair, common, max(e.rows for e in pair)
        self.height = HEIGHT + common.cut
        units, limit, values = common.units, common.limit, common.values
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
        self.base = self._base(labels, note)

    def _base(self, labels: Sequence[str], note: str) -> Image.Image:
        units, limit, values = len(self.common.units), self.common.limit, self.common.values
        image = Image.new("RGB", (WIDTH, HEIGHT), PAGE)
        draw = ImageDraw.Draw(image)
        name, about = self.common.title
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
            label = labels[side]
            _blend(image, (x + 24, 62, x + 44 + int(_font(15, True).getlength(label)), 86), 12, AMBER)
            _text(draw, (x + 34, 74), label, 15, CARD, "lm", bold=True)
            few = "" if len(self.common.actions) == self.common.num_actions else (
                f" · the {len(self.common.actions)} likeliest of {self.common.num_actions} actions"
            )
            _text(draw, (x + 32, 298), f"policy{few}", 13, SOFT)
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
                    few = f"the {units} of {H} units that {self.common.chosen}"
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
        return self._with_pictures(image, t)

    def _with_pictures(self, image: Image.Image, t: int) -> Image.Image:
        x0, y0, x1, y1 = PICTURE
        if self.common.cut:
            whole = Image.new("RGB", (WIDTH, self.height), PAGE)
            whole.paste(image.crop((0, 0, WIDTH, y0)), (0, 0))
            whole.paste(image.crop((0, y1, WIDTH, HEIGHT)), (0, y1 + self.common.cut))
            image = whole
        for side, episode in enumerate(self.pair):
            frame = episode.frames[min(t, episode.rows - 1)]
            fitted = _fit(frame, (x1 - x0, y1 - y0 + self.common.cut))
            if fitted.width < SIDE and fitted.getpixel((0, 0)) != _hex(PAGE):  # it brings no page of its own
                box = (8 + side * SIDE, y0, 632 + side * SIDE, y0 + self.common.cut + y1 - y0 - 4)
                _blend(image, box, 16, CARD)
                fitted = _fit(frame, (624, box[3] - box[1] - 16))
            left, top = x0 + side * SIDE + (SIDE - fitted.width) // 2, y0 + (y1 - y0 + self.common.cut - fitted.height) // 2
            image.paste(fitted, (left, top))
        return image

    def _policy(self, image: Image.Image, draw: ImageDraw.ImageDraw, x: int, episode: Episode, now: int) -> None:
        """Bars of the action probabilities, the chosen one dark; all pale on the last row, which takes no action."""
        over = now == episode.rows - 1
        height = min(20.0, 80 / len(self.common.actions))
        size = max(min(14, int(height * 0.9)), 9)
        for k, (action, name) in enumerate(self.common.actions.items()):
            p = episode.probs[now, action].item()
            y, chosen = round(318 + k * height), episode.action[now] == action
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
        label, colour = {True: ("success", GOOD), False: ("failure", BAD), None: ("cut", SOFT)}[episode.success]
        _blend(image, (x + 362, 360, x + 462, 390), 15, colour)
        _text(draw, (x + 412, 375), label, 16, CARD, "mm", bold=True)


def scenes(film: Sequence[Pair], action_names: Sequence[str], title: tuple[str, str], note: str) -> list[Scene]:
    """A scene for each pair, with the same units, actions, colours and axes."""
    units, sides = rank_units(film, UNITS), has_sides(film)
    episodes = [episode for pair in film for episode in pair]
    shown = np.concatenate([e.memory[:, units].abs().numpy().ravel() for e in episodes])
    value = np.concatenate([e.value.numpy() for e in episodes])
    values = (min(float(value.min()), 0.0), max(float(value.max()), 0.0))
    likeliest = torch.cat([e.probs for e in episodes]).mean(0).argsort(descending=True, stable=True)[:ACTIONS]
    height, width = episodes[0].frames[0].shape[:2]
    common = Common(
        units=units.tolist(),
        chosen="tell the cue best" if sides else "move most",
        limit=max(float(np.quantile(shown, 0.95)), 1e-3),
        values=values if values[0] < values[1] else (0.0, 1.0),
        actions={k: _short(action_names[k]) for k in sorted(likeliest.tolist())},
        num_actions=len(action_names),
        title=title,
        cut=(min(max(SIDE * height // width, FLATTEST), TALLEST) - FLATTEST) // 2 * 2,
    )
    made = []
    for k, pair in enumerate(film):
        labels = [f"cue {_signed(e.cue.tolist())}" if sides else f"episode {2 * k + n}" for n, e in enumerate(pair, 1)]
        count = f" · episode {k + 1} of {len(film)}" if sides and len(film) > 1 else ""
        made.append(Scene(pair, common, labels, note + count))
    return made


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


def own_colours() -> np.ndarray:
    """(n, 3) uint8: those of the page, and of the strips at even steps."""
    flat = np.array([_hex(c) for c in (CARD, PAGE, EMPTY, INK, SOFT, TRACK, PALE, FADED, BLUE, AMBER, GOOD, BAD)])
    strips = [_colours(np.linspace(0, 1, n), stops) for n, stops in ((49, SIGNED), (33, SHARE))]
    return np.concatenate((flat, *strips)).astype(np.uint8)


def _hex(code: str) -> tuple[int, ...]:
    return tuple(int(code[i : i + 2], 16) for i in (1, 3, 5))


def _fit(frame: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """The environment's frame, as large as fits into (width, height). Small ones keep their sharp pixels."""
    image = Image.fromarray(frame)
    scale = min(size[0] / image.width, size[1] / image.height)
    if scale == 1:
        return image
    how = Image.Resampling.NEAREST if scale >= 3 else Image.Resampling.BICUBIC
    return image.resize((max(round(image.width * scale), 1), max(round(image.height * scale), 1)), how)


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
    return " ".join(f"{v:+g}".replace("-", "−") if v else "0" for v in cue[:8]) + (" …" if len(cue) > 8 else "")


def _short(name: str) -> str:
    return name if len(name) <= 9 else name[:8] + "…"


def _ticks(rows: int) -> range:
    """At most nine round step numbers from 0."""
    unit = 1
    while rows / (step := unit * next((m for m in (1, 2, 5) if rows / (m * unit) <= 9), 10)) > 9:
        unit *= 10
    return range(0, rows, step)
