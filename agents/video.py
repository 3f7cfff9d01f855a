"""Encoding a film: MP4 for browsers, GIF for pages."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image
from scipy.spatial import cKDTree

from agents.film import FilmError
from agents.scenes import WIDTH, Scene, own_colours

GIF_SCALE, GIF_FRAMES = 0.75, 200  # a GIF skips frames rather than have more than this
HOLD_FIRST, HOLD_LAST = 0.7, 1.5  # seconds that the first and the last frame of an episode stay on the screen


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
    size = (int(WIDTH * GIF_SCALE), int(film[0].height * GIF_SCALE))
    palette = _Palette(film, size)
    pictures, durations, time, frames = [], [], 0, 0
    rate = Fraction(fps).limit_denominator(1000)
    with av.open(str(mp4), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "18", "preset": "fast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, film[0].height, "yuv420p"
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
        own = own_colours()
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
