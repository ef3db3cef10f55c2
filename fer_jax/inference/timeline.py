"""The probabilities of a video's faces over time, as a picture with a band for each of them."""

import numpy as np
from jaxtyping import Float, Int, UInt8

from fer_jax.evaluation.figures import blank, shortened, to_png
from fer_jax.inference.annotate import colour
from fer_jax.inference.face import Face
from fer_jax.inference.tracks import Track

BINS = 1200  # points in time, at most
FIRST_WIDTH = 0.02  # seconds of a bin; it doubles whenever they no longer reach
BANDS = 12  # tracks that are shown, those with the most frames
ROWS = 100  # of a band


class Timeline:
    """Takes the faces of one video as they come, in memory that does not grow with its length."""

    def __init__(self, class_names: tuple[str, ...]):
        self._class_names = class_names
        self._width = FIRST_WIDTH
        # Track → for each bin, the sums of the probabilities, and how many they are.
        self._sums: dict[int, Float[np.ndarray, 'bins values']] = {}
        self._ended: dict[int, int] = {}  # track → frames
        self._dropped = 0

    def add(self, face: Face) -> None:
        """The next face; of one track, times do not fall."""
        while face.time >= BINS * self._width:
            self._width *= 2
            for sums in self._sums.values():
                sums[: BINS // 2] = sums.reshape(BINS // 2, 2, -1).sum(1)
                sums[BINS // 2 :] = 0
        if face.track not in self._sums:
            self._sums[face.track] = np.zeros((BINS, len(self._class_names) + 1))
        self._sums[face.track][int(face.time / self._width)] += [*face.probabilities.values(), 1]

    def end(self, track: Track) -> None:
        """Nothing more comes of the track: if others have more frames, its band is given up."""
        self._ended[track.number] = track.frames
        if len(self._ended) > BANDS:
            least = min(self._ended, key=lambda number: (self._ended[number], -number))
            del self._ended[least], self._sums[least]
            self._dropped += 1

    def png(self, title: str) -> bytes:
        """The picture: time from left to right, and in each band the classes' probabilities above one another, the first class below."""
        bands = sorted(self._ended)
        last = max((int(np.flatnonzero(self._sums[number][:, -1])[-1]) for number in bands), default=0) + 1
        figure = blank(10.0, 1.5 + 0.75 * max(1, len(bands)))
        places = figure.subplots(max(1, len(bands)), 1, sharex=True, squeeze=False)[:, 0]
        for place, number in zip(places, bands, strict=False):
            picture = band(filled(self._sums[number][:last]))
            place.imshow(picture, extent=(0, last * self._width, 0, 1), aspect='auto', interpolation='nearest', origin='lower')
            place.set_ylabel(f'track {number}', rotation=0, ha='right', va='center')
        for place in places:
            place.set_yticks([])
        places[-1].set_xlabel('seconds')
        more = f'; {self._dropped} shorter ones are left out' if self._dropped else ''
        figure.suptitle(f'{title}{more}' if bands else f'{title}: no face', parse_math=False, wrap=True)
        for number, name in enumerate(self._class_names):
            places[-1].plot([], [], 's', color=colour(number), label=shortened(name), markersize=9)
        figure.legend(loc='outside lower center', ncols=8, frameon=False, fontsize=9)
        return to_png(figure)


def filled(sums: Float[np.ndarray, 'bins values']) -> Float[np.ndarray, 'bins classes']:
    """The mean probabilities of each bin; a few bins without a frame repeat the one before, more of them are zero: nobody was seen."""
    counts = sums[:, -1]
    seen = np.flatnonzero(counts)
    means = np.zeros((len(sums), sums.shape[1] - 1))
    means[seen] = sums[seen, :-1] / counts[seen, None]
    usual: Int[np.ndarray, ' gaps'] = np.diff(seen)
    most = 2 * int(np.median(usual)) if len(usual) else 0
    for place, gap in zip(seen, usual, strict=False):
        if gap <= most:
            means[place + 1 : place + gap] = means[place]
    return means


def band(means: Float[np.ndarray, 'bins classes']) -> UInt8[np.ndarray, 'rows bins 3']:
    """In every bin the classes' colours, each as high as it is probable; white where all are zero."""
    palette = [tuple(bytes.fromhex(colour(number)[1:])) for number in range(means.shape[1])]
    palette = np.array([*palette, (255, 255, 255)], np.uint8)
    heights = (np.arange(ROWS) + 0.5) / ROWS
    classes = (means.cumsum(1)[None] <= heights[:, None, None]).sum(2)
    seen = means.sum(1) > 0
    return palette[np.where(seen, np.minimum(classes, means.shape[1] - 1), means.shape[1])]
