"""A street in perspective, by day, by night or in smoke, as a visible camera and as an infrared one would see it.

Everything stands on one ground plane in front of a pinhole camera (X right, Y up, Z forward, metres), so that both
bands are registered by construction. Surfaces have an albedo (what the visible camera sees once lamps, sun and sky
light it), an emission, a temperature in [0, 1] (what the infrared camera sees) and a depth (which gives the place, for
the light of the lamps).
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import numpy as np

from fusion_hub.data.drawing import (
    Colour,
    blur,
    coverage,
    ellipse,
    limb,
    mix,
    noise,
    rectangle,
    rgb,
    smoothstep,
    to_bytes,
    triple,
)

Points: TypeAlias = np.ndarray  # (N, 3) in metres, or (N, 2) in pixels

_EYE = 1.7  # height of the camera, metres
_KERB, _WALL = 4.6, 8.5  # distance of kerbs and house fronts from the middle of the road, metres
_FAR = 140.0  # depth of the sky, for the haze
_CAR, _PERSON = 1, 2  # classes of pixels, as MSRS numbers them; 0 is everything else


class Box(NamedTuple):
    """An object's frame in pixels, clipped to the picture."""

    label: str
    left: float
    top: float
    right: float
    bottom: float


class Street:
    """A straight street with houses, trees, lamps, cars and people, drawn from far to near."""

    def __init__(self, rng: np.random.Generator, height: int, width: int, night: bool, smoke: bool) -> None:
        self.rng, self.height, self.width, self.night, self.smoke = rng, height, width, night, smoke
        self.focal = 1.05 * height
        self.horizon = height * rng.uniform(0.5, 0.55)
        self.middle = width * rng.uniform(0.4, 0.6)
        self.rows, self.columns = np.mgrid[0:height, 0:width].astype(np.float32) + 0.5
        self.albedo = np.zeros((height, width, 3), np.float32)
        self.emission = np.zeros((height, width, 3), np.float32)
        self.heat = np.zeros((height, width), np.float32)
        self.depth = np.full((height, width), _FAR, np.float32)
        self.classes = np.zeros((height, width), np.uint8)
        self.painting = 0  # class of what is being painted
        self.boxes: list[Box] = []
        self.lamps: list[tuple[np.ndarray, Colour, float]] = []  # place, colour, power
        self.glows: list[tuple[float, float, float, Colour]] = []  # x, y, radius in pixels, colour
        self._draw_all()

    def _draw_all(self) -> None:
        self._sky()
        self._ground()
        self._skyline()
        for side in (-1, 1):
            self._houses(side)
        objects: list[tuple[float, Callable[[float], None]]] = []
        objects += [(z, partial(self._lamp, side)) for side in (-1, 1) for z in (9.0, 21.0, 36.0, 56.0)]
        trees = self.rng.uniform(7, 50, size=5)
        objects += [(z, partial(self._tree, self.rng.choice((-1, 1)))) for z in trees]
        for lane in (-1, 1):
            first = self.rng.uniform(9, 16)
            cars = (first, first + self.rng.uniform(12, 18), first + self.rng.uniform(32, 40))
            objects += [(z, partial(self._car, lane)) for z in cars[self.smoke :]]
        count = int(self.rng.integers(4, 7))
        objects += [(z, self._person) for z in self.rng.uniform(7.5, 12 if self.smoke else 24, size=count)]
        for z, draw in sorted(objects, key=lambda entry: -entry[0]):
            draw(z)

    # geometry

    def project(self, points: Points) -> Points:
        """(N, 3) metres to (N, 2) pixels x, y."""
        scale = self.focal / points[:, 2]
        return np.stack([self.middle + points[:, 0] * scale, self.horizon + (_EYE - points[:, 1]) * scale], axis=1)

    def paint(
        self,
        polygons: Sequence[Points],
        albedo: Colour | np.ndarray,
        heat: float | np.ndarray,
        emission: Colour = (0.0, 0.0, 0.0),
        grain: float = 0.0,
        opacity: float | np.ndarray = 1.0,
    ) -> None:
        """Fill polygons, (N, 3) in metres; `grain` is the strength of a fine random texture."""
        flat = [self.project(p) for p in polygons]
        found = coverage(flat, self.height, self.width)
        if found is None:
            return
        window, mask = found
        mask = mask * (opacity[window] if isinstance(opacity, np.ndarray) else opacity)
        texture = 1 + grain * self.rng.standard_normal(mask.shape).astype(np.float32) if grain else 1.0
        heats = heat[window] if isinstance(heat, np.ndarray) else heat
        colour = albedo[window] if isinstance(albedo, np.ndarray) else np.asarray(albedo, np.float32)
        shaded = colour * np.reshape(texture, (*mask.shape, 1)) if grain else colour
        self.albedo[window] += mask[..., None] * (shaded - self.albedo[window])
        self.emission[window] += mask[..., None] * (np.asarray(emission, np.float32) - self.emission[window])
        self.heat[window] += mask * (heats * (1 + 0.3 * (texture - 1)) - self.heat[window])
        depth = self._depth_of(polygons[0], window)
        self.depth[window] = np.where(mask > 0.5, depth, self.depth[window])
        self.classes[window] = np.where(mask > 0.5, self.painting, self.classes[window])

    def _depth_of(self, polygon: Points, window: tuple[slice, slice]) -> float | np.ndarray:
        """Depth of an upright plane facing the camera, of a house front (constant X) or of the ground (constant Y)."""
        if np.ptp(polygon[:, 2]) < 1e-6:
            return float(polygon[0, 2])
        if np.ptp(polygon[:, 0]) < 1e-6:
            offset = np.abs(self.columns[window] - self.middle)
            return np.clip(self.focal * abs(polygon[0, 0]) / np.maximum(offset, 1), 1, _FAR)
        return np.clip(self.focal * _EYE / np.maximum(self.rows[window] - self.horizon, 0.1), 1, _FAR)

    def board(self, x: float, z: float, points: Sequence[tuple[float, float]], mirror: float = 1.0) -> Points:
        """Points (right, up) of something that stands at (x, z) and faces the camera."""
        flat = np.asarray(points, np.float64)
        return np.column_stack([x + mirror * flat[:, 0], flat[:, 1], np.full(len(flat), z)])

    def add_box(self, label: str, x: float, z: float, half_width: float, tall: float) -> None:
        corners = self.project(self.board(x, z, [(-half_width, 0), (half_width, tall)]))
        (left, right), (top, bottom) = np.sort(corners[:, 0]), np.sort(corners[:, 1])
        left, right = np.clip([left, right], 0, self.width)
        top, bottom = np.clip([top, bottom], 0, self.height)
        if right - left > 2 and bottom - top > 2:
            self.boxes.append(Box(label, float(left), float(top), float(right), float(bottom)))

    # things

    def _sky(self) -> None:
        up = np.clip(1 - self.rows / self.horizon, 0, 1)
        clouds = noise(self.rng, self.height, self.width, (0.18 * self.height, 0.5 * self.height), octaves=5)
        cover = smoothstep(0.48, 0.72, clouds) * smoothstep(0.0, 0.25, up)
        if self.night:
            sky = mix(rgb(0.035, 0.03, 0.032), rgb(0.004, 0.006, 0.016), up**0.6) + 0.012 * cover[..., None]
        else:
            sky = mix(rgb(0.72, 0.78, 0.84), rgb(0.16, 0.34, 0.68), up**0.7)
            sky = mix(sky, np.full_like(sky, 0.92) * (0.82 + 0.25 * clouds[..., None]), 0.85 * cover)
        self.emission[:] = sky
        self.heat[:] = 0.16 - 0.11 * up**0.5 + 0.09 * cover

    def _ground(self) -> None:
        below = self.rows > self.horizon
        z = np.clip(self.focal * _EYE / np.maximum(self.rows - self.horizon, 0.05), 1, _FAR)
        x = (self.columns - self.middle) * z / self.focal
        # A tile of noise, laid on the ground and read at each pixel's place: grain with the right perspective.
        tile = noise(self.rng, 512, 512, (3, 3), octaves=2) - 0.5
        patches = noise(self.rng, 512, 512, (90, 90), octaves=3) - 0.5
        steps = (z * 48).astype(int) % 512, (x * 48).astype(int) % 512
        grain = (
            0.8 * tile[steps] * np.clip(6 / z, 0, 1)
            + 0.45 * patches[(z * 6).astype(int) % 512, (x * 6).astype(int) % 512]
        )
        road = np.abs(x) < _KERB
        tone = np.where(road, 0.12, 0.29) * (1 + 0.55 * grain)
        slabs = ~road & (((x % 1.2) < 0.05) | ((z % 1.2) < 0.06)) & (z < 16)
        tone = np.where(slabs, 0.7 * tone, tone)
        wear = np.exp(-(((np.abs(np.abs(x) - 2.3) - 0.75) / 0.3) ** 2)) * road  # wheel tracks
        warm = 0.44 if not self.night else 0.38
        heat = np.where(road, warm + 0.05, warm - 0.03) + 0.08 * grain + 0.05 * wear - 0.08 * np.clip(z / 90, 0, 1)
        colour = tone[..., None] * np.where(road[..., None], rgb(0.97, 0.99, 1.03), rgb(1.04, 1.0, 0.94))
        self.albedo[below] = colour[below]
        self.emission[below] = 0
        self.heat[below] = heat[below]
        self.depth[below] = z[below]
        self._markings()

    def _markings(self) -> None:
        def strip(x0: float, x1: float, z0: float, z1: float) -> Points:
            return np.array([(x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)], np.float64)

        dashes = [strip(-0.08, 0.08, z, z + 3) for z in np.arange(2.2, 80, 7.5)]
        edges = [strip(s * (_KERB - 0.35) - 0.06, s * (_KERB - 0.35) + 0.06, 1.8, 110) for s in (-1, 1)]
        self.paint(dashes + edges, (0.62, 0.62, 0.58), 0.43 if not self.night else 0.37, grain=0.12)
        kerbs = [strip(s * _KERB - 0.09, s * _KERB + 0.09, 1.8, 110) for s in (-1, 1)]
        self.paint(kerbs, (0.42, 0.41, 0.39), 0.36, grain=0.1)
        if self.rng.random() < 0.7:
            z = self.rng.uniform(13, 17)
            zebra = [strip(x, x + 0.5, z, z + 3) for x in np.arange(-_KERB + 0.6, _KERB - 0.8, 1.05)]
            self.paint(zebra, (0.6, 0.6, 0.57), 0.42 if not self.night else 0.36, grain=0.12)

    def _skyline(self) -> None:
        edge = -60.0
        while edge < 60:
            wide, tall = self.rng.uniform(6, 14), self.rng.uniform(8, 26)
            tone = self.rng.uniform(0.16, 0.3)
            self.paint(
                [self.board(edge, 110, [(0, 0), (wide, 0), (wide, tall), (0, tall)])],
                (tone, tone, 1.08 * tone),
                self.rng.uniform(0.24, 0.32),
            )
            if self.night:
                places = [(x, y) for x in np.arange(1, wide - 1, 1.6) for y in np.arange(2, tall - 1, 2.4)]
                lit = [p for p in places if self.rng.random() < 0.3]
                panes = [self.board(edge, 110, rectangle(x, y, 0.8, 1.2)) for x, y in lit]
                self.paint(panes, (0.1, 0.1, 0.1), 0.32, emission=(0.2, 0.14, 0.06))
            edge += wide

    def _houses(self, side: int) -> None:
        """A row of fronts along one kerb, far to near; the sun stands on the left, so the right row is lit."""
        ends = [2.2]
        while ends[-1] < 105:
            ends.append(ends[-1] + self.rng.uniform(8, 15))
        for near, far in reversed(list(pairwise(ends))):
            self._house(side, near, far, tall=self.rng.uniform(8.5, 16))

    def _house(self, side: int, near: float, far: float, tall: float) -> None:
        def front(z0: float, z1: float, y0: float, y1: float) -> Points:
            return np.array([(wall, y0, z0), (wall, y0, z1), (wall, y1, z1), (wall, y1, z0)], np.float64)

        wall = side * _WALL
        hue = np.array([_PLASTER[self.rng.integers(len(_PLASTER))]]) * self.rng.uniform(0.75, 1.1)
        sunlit = 1.0 if self.night else (1.25 if side > 0 else 0.55)
        colour = triple(hue[0] * sunlit)
        warmth = self.rng.uniform(0.32, 0.48) + (0.1 if not self.night and side > 0 else 0.0)
        gable = [(0, 0), (side * 12, 0), (side * 12, tall), (0, tall)]
        self.paint([self.board(wall, near, gable)], triple(0.6 * hue[0]), warmth - 0.06, grain=0.05)
        cooling = warmth + 0.05 - 0.1 * np.clip(1 - self.rows / self.horizon, 0, 1)  # the upper walls see the cold sky
        self.paint([front(near, far, 0, tall)], colour, cooling, grain=0.05)
        self.paint([front(near, far, 0, 0.7)], triple(hue[0] * 0.55 * sunlit), warmth + 0.05, grain=0.05)
        self.paint([front(near, far, tall - 0.35, tall)], triple(hue[0] * 1.15 * sunlit), warmth - 0.08)
        storeys, bays = np.arange(1.1, tall - 2.2, 2.9), np.arange(near + 0.9, far - 1.3, 2.2)
        groups: dict[str, list[Points]] = {"frame": [], "dark": [], "lit": [], "bar": []}
        for y in storeys:
            for z in bays:
                kind = "lit" if self.night and self.rng.random() < 0.3 else "dark"
                groups["frame"].append(front(z - 0.12, z + 1.22, y - 0.14, y + 1.74))
                groups[kind].append(front(z, z + 1.1, y, y + 1.6))
                groups["bar"] += [front(z + 0.52, z + 0.58, y, y + 1.6), front(z, z + 1.1, y + 1.05, y + 1.11)]
        self.paint(groups["frame"], triple(np.clip(hue[0] * 1.3 * sunlit, 0, 1)), warmth + 0.03)
        glass = (0.05, 0.055, 0.06) if self.night else (0.16 * sunlit, 0.2 * sunlit, 0.26 * sunlit)
        self.paint(groups["dark"], glass, warmth - 0.12)
        tint = self.rng.uniform(0.8, 1.2)
        self.paint(groups["lit"], (0.3, 0.3, 0.3), warmth + 0.02, emission=(0.3 * tint, 0.19, 0.075 / tint))
        self.paint(groups["bar"], triple(hue[0] * 0.9 * sunlit), warmth)

    def _lamp(self, side: int, z: float) -> None:
        x, arm = side * (_KERB + 0.7), -side
        pole = [(-0.07, 0), (0.07, 0), (0.045, 5.6), (-0.045, 5.6)]
        reach = [(0, 5.45), (arm * 1.5, 5.75), (arm * 1.5, 5.85), (0, 5.6)]
        metal = (0.12, 0.13, 0.13)
        self.paint([self.board(x, z, pole), self.board(x, z, reach)], metal, 0.27)
        head = self.board(x + arm * 1.45, z, [(-0.4, 5.68), (0.4, 5.68), (0.25, 5.92), (-0.25, 5.92)])
        self.paint([head], metal, 0.62 if self.night else 0.3)
        if self.night:
            lens = self.board(x + arm * 1.45, z, ellipse(0, 5.66, 0.34, 0.1))
            self.paint([lens], (1, 1, 1), 0.85, emission=(3.0, 2.3, 1.3))
            place = np.array([x + arm * 1.45, 5.6, z])
            self.lamps.append((place, (1.0, 0.7, 0.36), 9.0))
            (px, py), scale = self.project(place[None])[0], self.focal / z
            self.glows += [(px, py, 0.4 * scale, (0.4, 0.28, 0.13)), (px, py, 1.5 * scale, (0.05, 0.034, 0.016))]

    def _tree(self, side: int, z: float) -> None:
        rng, x = self.rng, side * self.rng.uniform(5.6, 7.2)
        tall = rng.uniform(3.6, 5.2)
        trunk = [(-0.16, 0), (0.16, 0), (0.09, 0.7 * tall), (-0.09, 0.7 * tall)]
        self._shadow(x, z, 1.3)
        self.paint([self.board(x, z, trunk)], (0.16, 0.11, 0.07), 0.42, grain=0.2)
        greens = rgb(0.09, 0.17, 0.05) * rng.uniform(0.8, 1.3)
        clump = rng.normal(size=(42, 2)) * (0.62, 0.5)
        for number, (right, up) in enumerate(clump[np.argsort(clump[:, 1])]):
            light = 0.55 + 0.6 * number / 42  # lower clumps are in the shade of the upper ones
            radius = rng.uniform(0.22, 0.48)
            leaf = [self._leaf(x + right, z, tall + up, radius)]
            heat = 0.27 + 0.05 * light + rng.uniform(-0.03, 0.03)
            self.paint(leaf, triple(greens * light * rng.uniform(0.8, 1.25)), heat, grain=0.3, opacity=0.9)

    def _leaf(self, x: float, z: float, y: float, radius: float) -> Points:
        turn = np.linspace(0, 2 * np.pi, 15, endpoint=False)
        ragged = radius * self.rng.uniform(0.65, 1.15, size=15)
        return self.board(x, z, list(zip(ragged * np.cos(turn), y + ragged * np.sin(turn), strict=True)))

    def _shadow(self, x: float, z: float, half: float) -> None:
        """What a thing hides of the sky (and, by day, of the sun) on the ground below it."""
        turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        shift = 0.0 if self.night else 0.5 * half
        for grow, opacity in ((1.15, 0.3), (0.95, 0.45)):
            ring = np.column_stack([np.cos(turn) * half * grow + x + shift, 0 * turn, z + np.sin(turn) * 0.5 * grow])
            ring[:, 2] = np.maximum(ring[:, 2], 1.5)
            self.paint([ring], 0.35 * self.albedo, self.heat, opacity=opacity)

    def _car(self, lane: int, z: float) -> None:
        """Oncoming on the left (bonnet and headlights), driving away on the right (tail lights, exhaust)."""
        rng, x, front = self.rng, lane * 2.3 + self.rng.uniform(-0.25, 0.25), lane < 0
        paint = triple(np.asarray(_PAINT[rng.integers(len(_PAINT))]))
        dim, bright = triple(0.55 * np.asarray(paint)), triple(np.clip(1.35 * np.asarray(paint) + 0.02, 0, 1))
        self._shadow(x, z, 1.05)
        self.painting = _CAR
        put = partial(self.board, x, z)
        self.paint([put(rectangle(s * 0.69 - 0.13, 0, 0.26, 0.5)) for s in (-1, 1)], (0.03, 0.03, 0.03), 0.82)
        self.paint([put(rectangle(-0.6, 0.16, 1.2, 0.2))], (0.015, 0.015, 0.015), 0.74 if front else 0.64)
        body = [
            (-0.88, 0.3),
            (0.88, 0.3),
            (0.92, 0.6),
            (0.86, 0.9),
            (0.78, 0.98),
            (-0.78, 0.98),
            (-0.86, 0.9),
            (-0.92, 0.6),
        ]
        roof = [(-0.78, 0.95), (0.78, 0.95), (0.6, 1.4), (0.5, 1.47), (-0.5, 1.47), (-0.6, 1.4)]
        self.paint([put(roof)], paint, 0.42)
        self.paint([put(body)], paint, 0.5)
        glass = [(-0.68, 0.98), (0.68, 0.98), (0.53, 1.36), (-0.53, 1.36)]
        self.paint([put(glass)], (0.05, 0.06, 0.07) if self.night else (0.13, 0.17, 0.2), 0.24)
        if front:
            bonnet = [(-0.76, 0.78), (0.76, 0.78), (0.7, 0.97), (-0.7, 0.97)]
            self.paint([put(bonnet)], bright, 0.78)
            self.paint([put(rectangle(-0.42, 0.5, 0.84, 0.2))], (0.02, 0.02, 0.02), 0.86)
        else:
            self.paint([put([(-0.8, 0.84), (0.8, 0.84), (0.76, 0.97), (-0.76, 0.97)])], bright, 0.46)
            self.paint([put(ellipse(0.5, 0.24, 0.09, 0.07))], (0.02, 0.02, 0.02), 0.98)
        self.paint([put(rectangle(-0.9, 0.3, 1.8, 0.14))], dim, 0.44)
        self.paint([put(rectangle(-0.24, 0.45, 0.48, 0.12))], (0.7, 0.7, 0.66), 0.4)
        self._car_lights(x, z, front)
        self.painting = 0
        self.add_box("car", x, z, 0.93, 1.47)

    def _car_lights(self, x: float, z: float, front: bool) -> None:
        scale = self.focal / z
        lens = [self.board(x, z, ellipse(s * 0.68, 0.68, 0.17, 0.09)) for s in (-1, 1)]
        if not self.night:
            self.paint(lens, (0.75, 0.76, 0.78) if front else (0.45, 0.03, 0.02), 0.52)
            return
        emission: Colour = (3.0, 2.9, 2.6) if front else (1.1, 0.05, 0.03)
        self.paint(lens, (0.8, 0.8, 0.8), 0.66 if front else 0.56, emission=emission)
        for s in (-1, 1):
            px, py = self.project(self.board(x, z, [(s * 0.68, 0.68)]))[0]
            tint: Colour = (0.5, 0.48, 0.43) if front else (0.16, 0.006, 0.004)
            self.glows += [(px, py, 0.24 * scale, tint), (px, py, 0.8 * scale, triple(0.15 * np.asarray(tint)))]
        place = np.array([x, 0.6, z - (4.0 if front else 0.8)])
        self.lamps.append((place, (1.0, 0.96, 0.86) if front else (1.0, 0.08, 0.05), 1.2 if front else 0.05))

    def _place(self) -> float:
        """Where a person walks: in the smoke, on the road or on a pavement."""
        if self.smoke:
            return self.rng.uniform(-1.3, 1.5)
        if self.rng.random() < 0.4:
            return self.rng.uniform(-3.6, 3.6)
        return float(self.rng.choice((-1, 1)) * self.rng.uniform(4.9, 6.2))

    def _person(self, z: float) -> None:
        rng, mirror = self.rng, float(self.rng.choice((-1, 1)))
        x = self._place()
        size, stride = rng.uniform(0.93, 1.06), rng.uniform(0.1, 0.3)

        def part(points: Sequence[tuple[float, float]]) -> Points:
            return self.board(x, z, [(size * a, size * b) for a, b in points], mirror)

        coat = triple(np.asarray(_COAT[rng.integers(len(_COAT))]))
        trousers = triple(np.asarray(_COAT[rng.integers(3)]) * 0.8)
        skin = triple(np.array([0.5, 0.32, 0.23]) * rng.uniform(0.35, 1.1))
        self._shadow(x, z, 0.35)
        self.painting = _PERSON
        legs = [
            limb((0.06, 0.86), (0.03 + stride, 0.06), 0.105, 0.065),
            limb((-0.06, 0.86), (-stride, 0.06), 0.105, 0.065),
        ]
        shoes = [ellipse(0.07 + stride, 0.045, 0.13, 0.05), ellipse(0.04 - stride, 0.045, 0.13, 0.05)]
        self.paint([part(p) for p in legs], trousers, 0.74, grain=0.06)
        self.paint([part(p) for p in shoes], (0.04, 0.035, 0.03), 0.56)
        rear_arm = limb((-0.18, 1.38), (-0.2 - 0.7 * stride, 0.86), 0.07, 0.05)
        torso = [
            (-0.2, 0.82),
            (0.2, 0.82),
            (0.19, 1.1),
            (0.25, 1.36),
            (0.18, 1.47),
            (-0.18, 1.47),
            (-0.25, 1.36),
            (-0.19, 1.1),
        ]
        fore_arm = limb((0.18, 1.38), (0.2 + 0.7 * stride, 0.88), 0.07, 0.05)
        self.paint([part(rear_arm)], triple(0.75 * np.asarray(coat)), 0.76, grain=0.06)
        self.paint([part(torso)], coat, 0.8, grain=0.06)
        self.paint([part(fore_arm)], triple(0.85 * np.asarray(coat)), 0.78, grain=0.06)
        hands = [ellipse(0.2 + 0.7 * stride, 0.83, 0.05, 0.06), ellipse(-0.2 - 0.7 * stride, 0.81, 0.05, 0.06)]
        self.paint([part(p) for p in hands] + [part(rectangle(-0.06, 1.44, 0.12, 0.12))], skin, 0.95)
        self.paint([part(ellipse(0, 1.64, 0.105, 0.135))], skin, 1.0)
        self.paint([part(ellipse(-0.015, 1.71, 0.11, 0.085))], (0.04, 0.03, 0.02), 0.84)
        self.painting = 0
        self.add_box("person", x, z, 0.32 * size, 1.8 * size)

    # cameras

    def expose(self) -> tuple[np.ndarray, np.ndarray]:
        """Light the scene and put it on two sensors: (H, W, 3) and (H, W), uint8."""
        light = self._light()
        for x, y, radius, colour in self.glows:
            window = self._around(x, y, 7 * radius)  # beyond it less than a rounding of float32
            near = np.exp(-((self.columns[window] - x) ** 2 + (self.rows[window] - y) ** 2) / (2 * radius**2))
            light[window] += near[..., None] * rgb(*colour)
        heat = self.heat - 0.05 * (1 - np.exp(-self.depth / 60))  # warm things fade a little with distance
        if self.smoke:
            light, heat = self._add_smoke(light, heat)
        return self._visible_sensor(light), self._infrared_sensor(heat)

    def _around(self, x: float, y: float, reach: float) -> tuple[slice, slice]:
        """The part of the picture within `reach` pixels of a point."""
        top, left = (max(0, int(centre - reach)) for centre in (y, x))
        return slice(top, max(0, int(y + reach) + 1)), slice(left, max(0, int(x + reach) + 1))

    def _light(self) -> np.ndarray:
        x = (self.columns - self.middle) * self.depth / self.focal
        y = _EYE - (self.rows - self.horizon) * self.depth / self.focal
        if self.night:
            light = np.broadcast_to(rgb(0.012, 0.014, 0.022), self.albedo.shape).copy()
            for place, colour, power in self.lamps:
                distance = (x - place[0]) ** 2 + (y - place[1]) ** 2 + (self.depth - place[2]) ** 2
                light += (power / (distance + 1.5) ** 1.35)[..., None] * rgb(*colour)
        else:
            # The left row of houses throws its shadow over that pavement and the road's edge.
            ground = (y < 0.1) & (self.depth < _FAR - 1)
            shade = smoothstep(-3.3, -3.0, x + 0.4 * np.sin(self.depth / 3.1)) if not self.smoke else np.ones_like(x)
            light = rgb(0.3, 0.36, 0.46) + np.where(ground, shade, 0.75)[..., None] * rgb(1.0, 0.9, 0.72)
        exposed = self.albedo * light + self.emission
        haze = 1 - np.exp(-self.depth / (260 if self.night else 240))
        veil = rgb(0.02, 0.018, 0.02) if self.night else rgb(0.66, 0.71, 0.77)
        return mix(exposed, np.broadcast_to(veil, exposed.shape), haze * (self.depth < _FAR - 0.5))

    def _add_smoke(self, light: np.ndarray, heat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A drifting plume in front of the people, from a small fire at its foot."""
        height, width, rng = self.height, self.width, self.rng
        source_x, source_z = rng.uniform(-2.4, -1.2), 6.6
        x, y = self.project(np.array([(source_x, 0.1, source_z)]))[0]
        scale = self.focal / source_z
        rise = np.clip((y - self.rows) / scale, -0.6, 8)  # metres above the source
        drift = source_x + 0.55 * np.maximum(rise, 0) ** 1.15
        across = (self.columns - self.middle) / scale - drift - 1.1
        billows = noise(rng, height, width, (0.2 * height, 0.22 * height), octaves=6)
        spread = 1.5 + 0.5 * np.maximum(rise, 0)
        envelope = np.exp(-(np.abs(across / spread) ** 2.6)) * smoothstep(-0.5, 0.1, rise)
        envelope *= 1 - 0.75 * smoothstep(1.6, 4.6, rise)
        opacity = np.clip(smoothstep(0.14, 0.5, envelope * (0.6 + 0.9 * billows)), 0, 1) * 0.97
        relief = np.gradient(blur(billows, 0.016 * height), axis=1) * 0.045 * height  # lit from the left
        shaded = np.clip(0.42 + 0.25 * billows + relief - 0.04 * across, 0.12, 1.3)[..., None] * rgb(0.98, 0.99, 1.0)
        light = mix(light, shaded.astype(np.float32), opacity)
        heat = heat + opacity * (0.03 * (billows - 0.5))
        lick = noise(rng, height, width, (0.07 * height, 0.03 * height), octaves=3) - 0.5
        up = np.clip((y - self.rows) / (0.75 * scale), -0.2, 2)
        aside = (self.columns - x) / scale + 0.3 * lick * np.clip(up + 0.2, 0, 1)
        flame = smoothstep(0.0, 0.14, 0.24 * np.clip(1 - up, 0, 1) - np.abs(aside) + 0.1 * lick)
        flame *= smoothstep(-0.12, 0.05, up + 1.5 * aside**2) * smoothstep(1.1, 0.7, up)
        return light + flame[..., None] * rgb(2.0, 0.75, 0.12), heat + 0.8 * flame

    def _visible_sensor(self, light: np.ndarray) -> np.ndarray:
        radius = ((self.columns / self.width - 0.5) ** 2 + (self.rows / self.height - 0.5) ** 2) * 2
        exposed = blur(light, 0.45) * (1 - 0.22 * radius)[..., None]
        exposed = 1 - np.exp(-(2.0 if self.night else 1.25) * exposed)  # a film-like shoulder instead of hard clipping
        noise = self.rng.standard_normal(exposed.shape).astype(np.float32)
        exposed = exposed + noise * np.sqrt(
            (2e-5 if self.night else 4e-6) + (1.2e-3 if self.night else 2.5e-4) * exposed
        )
        encoded = np.clip(exposed, 0, 1) ** (1 / 2.2)
        return to_bytes(0.55 * encoded + 0.45 * smoothstep(0, 1, encoded))  # cameras add contrast

    def _infrared_sensor(self, heat: np.ndarray) -> np.ndarray:
        """Softer than the visible lens, with the column pattern of an uncooled detector."""
        columns = self.rng.standard_normal((1, self.width)).astype(np.float32)
        noise = self.rng.standard_normal(heat.shape).astype(np.float32)
        return to_bytes(blur(heat, 0.9) * 0.97 + 0.005 * columns + 0.01 * noise)


_PLASTER: tuple[Colour, ...] = (
    (0.42, 0.36, 0.27),
    (0.38, 0.22, 0.16),
    (0.4, 0.4, 0.38),
    (0.45, 0.41, 0.31),
    (0.3, 0.32, 0.34),
)
_PAINT: tuple[Colour, ...] = (
    (0.35, 0.03, 0.03),
    (0.05, 0.1, 0.26),
    (0.5, 0.5, 0.52),
    (0.04, 0.04, 0.045),
    (0.6, 0.6, 0.58),
)
_COAT: tuple[Colour, ...] = (
    (0.03, 0.03, 0.04),
    (0.05, 0.06, 0.1),
    (0.08, 0.07, 0.06),
    (0.16, 0.05, 0.05),
    (0.1, 0.12, 0.08),
)
