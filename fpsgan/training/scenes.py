"""Rendered scenes: photos and drawings that move in layers, with exact flow and occlusion at any time.

A layer is a sheet of material. A point m of it, named by its place at the middle of the interval, moves in a straight
line: at moment s (0 is frame0, 1 is frame1) it is at m + (s − ½)·v(m), where v is an affine motion plus a few smooth
waves. So with x the place at time t of what a pixel shows, flow_t0 = −t·v(m) and flow_t1 = (1 − t)·v(m), exactly; which
m a pixel shows is the inverse, in closed form for the affine part, by fixed-point iteration for the waves.

`draw_scene` draws a scene from photos with numpy's generator, `render` makes pictures, flow and visibility of a batch
of scenes with torch, on any device: on a CPU worker one at a time, on a GPU many (`stack`).
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fpsgan.training.data import CONTEXT, Image, Photos, Rng, Sample, finish, in_frame, turned

__all__ = ["Rendered", "Scene", "Scenes", "draw_scene", "render", "stack"]

DENSITY = 2  # texels per pixel: bilinear look-ups then hardly soften, and every frame is softened alike
WAVES = 2  # of a layer that bends
STEEPEST = 0.3  # largest gradient of the bending: well below 2, where sheets would fold over themselves
EXPOSURES = 33  # pictures that motion blur is made of, at most


@dataclass(frozen=True)
class Scene:
    """B scenes of L layers each, the farthest first, on one device; lengths in px, x before y.

    Around the picture of `size` px there is material for another `size` / 8 on each side, and its mirror image beyond.
    """

    texture: Tensor  # uint8 [B,L,4,T,T]: RGB and cover; T = 2 · 1.25 · size
    affine: Tensor  # float32 [B,L,2,2]: gradient of the motion about the picture's centre
    shift: Tensor  # float32 [B,L,2]: motion of the centre from frame0 to frame1
    wave: Tensor  # float32 [B,L,W,5]: wave vector (x, y) in rad/px, phase, amplitude (x, y)
    box: Tensor  # float32 [B,L,4]: left, top, right, bottom of what is covered, the texture being −1 … 1
    light: Tensor  # float32 [B,2,3]: change from frame0 to frame1 of gain and of offset: mean, across, down
    shadow: Tensor  # float32 [B,7]: depth, place (x, y) at the middle, motion (x, y), radius, width of its edge

    @property
    def size(self) -> int:
        """Side of the pictures, px."""
        return int(self.texture.shape[-1] / (1.25 * DENSITY))

    def to(self, device: torch.device | str) -> Scene:
        """The same scenes on another device."""
        return Scene(*(getattr(self, field.name).to(device) for field in fields(self)))


class Rendered(NamedTuple):
    """What `render` gives; h = H / stride. Flow stands for the middle of a cell of stride² pixels."""

    frame0: Tensor  # [B,3,H,W], 0..1, not rounded
    frame1: Tensor  # [B,3,H,W]
    frames: Tensor  # [B,T,3,H,W]
    flow_t0: Tensor  # [B,T,2,h,w] px, of what is in front there
    flow_t1: Tensor  # [B,T,2,h,w]
    visible: Tensor  # [B,T,2,h,w]: share of the cell that is this layer alone and is seen in frame0 / frame1


def stack(scenes: Sequence[Scene]) -> Scene:
    """Scenes of one size as one batch; those with fewer layers get empty ones in front. ValueError for mixed sizes."""
    if len({scene.size for scene in scenes}) != 1:
        raise ValueError(f"scenes of one size are needed, not of {sorted({scene.size for scene in scenes})}")
    layers = max(scene.texture.shape[1] for scene in scenes)

    def joined(name: str) -> Tensor:
        parts = [getattr(scene, name) for scene in scenes]
        if name not in ("light", "shadow"):
            parts = [torch.cat((p, p.new_zeros(p.shape[0], layers - p.shape[1], *p.shape[2:])), 1) for p in parts]
        return torch.cat(parts)

    return Scene(*(joined(field.name) for field in fields(Scene)))


# --- rendering -----------------------------------------------------------------------------------------------


def render(scene: Scene, times: Tensor, *, stride: int = 4, shutter: float = 0.0) -> Rendered:
    """Pictures of the scenes at 0, 1 and `times`, with flow and visibility at `times`.

    Args:
        times: float32 [B,T], 0..1, on the scene's device.
        stride: 1 or 4, pixels per pixel of flow.
        shutter: motion blur: how long the shutter is open, in intervals from frame0 to frame1. The mean of as many
            moments as the motion has pixels (33 at most), in linear light. Flow stays that of the middle moment.

    What is outside of the picture counts as not visible. Light and shadow change the pictures, not the flow.
    """
    if stride not in (1, 4):
        raise ValueError(f"stride {stride}: 1 or 4")
    moments = torch.cat((torch.zeros_like(times[:, :1]), torch.ones_like(times[:, :1]), times), 1)
    frames, weights, motions = _composed(scene, moments, stride)
    if shutter > 0:
        count = min(EXPOSURES, 2 * int(np.ceil(shutter * float(motions.abs().max()) / 2)) + 1)
        open_ = torch.linspace(-0.5, 0.5, count, device=times.device) * shutter
        # one moment after the other: together they would need as many times the memory
        total = torch.stack([_composed(scene, moments + offset, None)[0] ** 2.2 for offset in open_]).mean(0)
        frames = total ** (1 / 2.2)
    pooled = F.avg_pool2d(weights[:, 2:].flatten(0, 1), stride)
    own, front = pooled.reshape(*times.shape, *pooled.shape[1:]).max(2)
    index = front[:, :, None, None].expand(-1, -1, -1, 2, -1, -1)
    motion = motions.gather(2, index)[:, :, 0]  # [B,T,2,h,w]
    flow_t0 = -times[..., None, None, None] * motion
    flow_t1 = (1 - times[..., None, None, None]) * motion
    visible = torch.stack(
        [
            (own * _seen(weights[:, end], front, flow, stride)).clamp(0, 1)
            for end, flow in enumerate((flow_t0, flow_t1))
        ],
        2,
    )
    return Rendered(frames[:, 0], frames[:, 1], frames[:, 2:], flow_t0, flow_t1, visible)


def _seen(weights: Tensor, front: Tensor, flow: Tensor, stride: int) -> Tensor:
    """How much of what is at x + flow(x) is the layer `front`: weights [B,L,H,W], front [B,T,h,w] → [B,T,h,w]."""
    size = weights.shape[-1]
    x, y = _centres(size, stride, weights.device)
    place = torch.stack((x + flow[:, :, 0], y + flow[:, :, 1]), -1)
    grid = ((2 * place + 1) / size - 1).flatten(1, 2)  # the times one below the other
    found = F.grid_sample(weights, grid, align_corners=False, padding_mode="zeros")
    return found.reshape(*found.shape[:2], *front.shape[1:]).gather(1, front[:, None])[:, 0]


def _composed(scene: Scene, moments: Tensor, stride: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Frames [B,N,3,H,W] at moments [B,N], each layer's share of each pixel [B,N,L,H,W], and the motion of each layer
    at moments 2 … [B,N−2,L,2,h,w] (without a stride: none of it)."""
    size = scene.size
    q = (moments - 0.5)[..., None, None]
    x, y = _centres(size, 1, moments.device)
    small = _centres(size, 4, moments.device)
    frames = moments.new_zeros(*moments.shape, 3, size, size)
    shares = moments.new_zeros(*moments.shape, scene.texture.shape[1] if stride else 0, size, size)
    texture = moments.new_empty(scene.texture[:, 0].shape)  # one for all: to get new memory takes as long as to fill it
    motions: list[Tensor] = []
    for layer in range(scene.texture.shape[1]):
        sheet = _Sheet(scene, layer, q)
        # solved at a quarter of the size, where it costs a sixteenth, then refined where the layer covers anything
        coarse = sheet.bending(*small, None, rounds=5)
        coarse_material = sheet.material(*small, coarse)
        if stride == 4:
            motions.append(sheet.motion(coarse_material[:, 2:]))
        elif stride == 1:
            fine = sheet.bending(x, y, None, rounds=9)
            motions.append(sheet.motion(sheet.material(x, y, fine)[:, 2:]))
        rows, columns = _covered(coarse_material, scene.box[:, layer], size)
        if rows.start == rows.stop:
            continue
        bent = coarse
        if coarse is not None:
            part = coarse[..., rows.start // 4 : rows.stop // 4, columns.start // 4 : columns.stop // 4].flatten(0, 1)
            bent = F.interpolate(part, scale_factor=4.0, mode="bilinear")
            bent = bent.reshape(*moments.shape, *bent.shape[1:])
            bent = sheet.bending(x[columns], y[rows], bent, rounds=2)
        grid = _on_texture(sheet.material(x[columns], y[rows], bent), size).movedim(2, -1).flatten(1, 2)
        texture.copy_(scene.texture[:, layer])
        found = F.grid_sample(texture, grid, align_corners=False, padding_mode="reflection") / 255
        found = found.reshape(*found.shape[:2], moments.shape[1], -1, found.shape[-1]).transpose(
            1, 2
        )  # [B,N,4,rows,columns]
        cover = found[:, :, 3:]
        frames[..., rows, columns] = torch.lerp(frames[..., rows, columns], found[:, :, :3], cover)
        if stride:
            shares[:, :, :layer, rows, columns] *= 1 - cover
            shares[:, :, layer, rows, columns] = cover[:, :, 0]
    frames = _lit(scene, frames, q, x, y)
    return frames, shares, torch.stack(motions, 2) if stride else frames


def _on_texture(material: Tensor, size: int) -> Tensor:
    """Places of points as grid_sample takes them: the texture's edges at −1 and 1."""
    return (2 * (material + size / 8) + 1) / (1.25 * size) - 1


def _covered(material: Tensor, box: Tensor, size: int) -> tuple[slice, slice]:
    """Rows and columns of the picture, whole cells of 4 px, outside of which the layer shows nothing at any moment.

    material: [B,N,2,h,w] in the middle of the cells; box: [B,4].
    """
    folded = 1 - ((_on_texture(material, size) + 1) % 4 - 2).abs()  # mirrored at the edges, as when it is looked up
    near = 8 / (1.25 * size)  # a cell's width: between two middles there is nothing wider
    low, high = box[:, None, :2, None, None] - near, box[:, None, 2:, None, None] + near
    inside = ((folded >= low) & (folded <= high)).all(2).any(1).any(0) & bool((box[:, 2] > box[:, 0]).any())
    found = []
    for line in (inside.any(1), inside.any(0)):
        cells = line.nonzero().flatten()
        first, last = (int(cells[0]), int(cells[-1])) if len(cells) else (0, -1)
        found.append(slice(4 * max(0, first - 1), 4 * min(len(line), last + 2) if len(cells) else 0))
    return found[0], found[1]


def _centres(size: int, stride: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """x [w] and y [h,1] of the cells' middles."""
    along = torch.arange(size // stride, device=device, dtype=torch.float32) * stride + (stride - 1) / 2
    return along, along[:, None]


class _Sheet:
    """One layer of B scenes at N moments; q is s − ½, [B,N,1,1]."""

    def __init__(self, scene: Scene, layer: int, q: Tensor) -> None:
        self.centre = (scene.size - 1) / 2
        self.q = q
        self.affine, self.shift = scene.affine[:, layer], scene.shift[:, layer]
        self.wave = scene.wave[:, layer]
        self.bends = bool((self.wave[..., 3:] != 0).any())
        forth = torch.eye(2, device=q.device) + q * self.affine[:, None]
        self.back = torch.linalg.inv(forth)  # [B,N,2,2]

    def material(self, x: Tensor, y: Tensor, bent: Tensor | None) -> Tensor:
        """The points [B,N,2,h,w] seen at (x, y); `bent` is what `bending` found."""
        right = x - self.centre - self.q * self.shift[:, None, :1, None]
        down = y - self.centre - self.q * self.shift[:, None, 1:, None]
        back = self.back[..., None, None]
        found = torch.stack([back[:, :, k, 0] * right + back[:, :, k, 1] * down + self.centre for k in (0, 1)], 2)
        return found if bent is None else found + bent

    def bending(self, x: Tensor, y: Tensor, start: Tensor | None, rounds: int) -> Tensor | None:
        """How much farther than by the affine part the point seen at (x, y) is: [B,N,2,h,w]. None for a flat sheet."""
        if not self.bends:
            return None
        rigid = self.material(x, y, None)
        bent = torch.zeros_like(rigid) if start is None else start
        for _ in range(rounds):
            sway = self.q[..., None] * self._sway(rigid + bent)
            bent = -torch.einsum("bnij,bnjhw->bnihw", self.back, sway)
        return bent

    def motion(self, material: Tensor) -> Tensor:
        """v [B,N,2,h,w]: how far points move from frame0 to frame1."""
        moved = torch.einsum("bij,bnjhw->bnihw", self.affine, material - self.centre)
        moved = moved + self.shift[:, None, :, None, None]
        return moved + self._sway(material) if self.bends else moved

    def _sway(self, material: Tensor) -> Tensor:
        angle = torch.einsum("bki,bnihw->bnkhw", self.wave[..., :2], material)
        phase = self.wave[:, None, :, 2, None, None]
        return torch.einsum("bki,bnkhw->bnihw", self.wave[..., 3:], torch.sin(angle + phase))


def _lit(scene: Scene, frames: Tensor, q: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Frames [B,N,3,H,W] under light that changes evenly, with a shadow that moves; 0..1."""
    if scene.light.any():
        half = scene.size / 2
        flat = torch.ones_like(x + y)
        plane = torch.stack((flat, flat * (x / half - 1), flat * (y / half - 1)))
        gain, offset = torch.einsum("bpk,khw->pbhw", scene.light, plane)[:, :, None, None]
        frames = frames * (1 + q[:, :, None] * gain) + q[:, :, None] * offset
    if scene.shadow.any():
        depth, px, py, mx, my, radius, edge = (value[:, None, None, None] for value in scene.shadow.unbind(1))
        away = torch.hypot(x - px - q * mx, y - py - q * my)
        frames = frames * (1 - depth * torch.sigmoid((radius - away) / edge.clamp(min=1)))[:, :, None]
    return frames.clamp(0, 1)


# --- drawing a scene -----------------------------------------------------------------------------------------


class Scenes:
    """Rendered scenes as interpolation samples, with exact flow and visibility.

    `places` are photos and folders of them (`Photos`). With a `shutter` above 0 half of the samples are motion-blurred,
    each with up to that share of the interval. InputError for an empty folder, or when it comes to a file that is no
    picture; ValueError for a size that is no multiple of 8.
    """

    def __init__(self, places: Sequence[str | Path], size: int, *, shutter: float = 0.0, effort: str = "base") -> None:
        if size < 32 or size % 8:
            raise ValueError(f"crop {size}: a multiple of 8 from 32 up is needed")
        if not 0 <= shutter <= 1:
            raise ValueError(f"shutter {shutter}: a share of the interval, 0 to 1")
        self.photos, self.size, self.shutter, self.effort = Photos(places), size, shutter, effort

    def sample(self, rng: Rng, index: int = 0) -> Sample:
        scene = draw_scene(self.photos, self.size + 2 * CONTEXT, rng, index)
        t = 0.5 if rng.random() < 0.5 else float(rng.uniform(0.05, 0.95))
        shutter = float(rng.uniform(0, self.shutter)) if self.shutter and rng.random() < 0.5 else 0.0
        result = render(scene, torch.tensor([[t]]), shutter=shutter)
        pictures = torch.stack((result.frame0[0], result.frames[0, 0], result.frame1[0]))
        windows = list((pictures * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy())
        inner = slice(CONTEXT // 4, (CONTEXT + self.size) // 4)
        flows = torch.stack((result.flow_t0[0, 0], result.flow_t1[0, 0])).numpy()[..., inner, inner]
        visible = result.visible[0, 0].numpy()[..., inner, inner] * in_frame(flows, self.size)
        corner = (CONTEXT, CONTEXT)
        return finish(windows, t, corner, self.size, rng, flows=flows, visible=visible, effort=self.effort)


def draw_scene(photos: Photos, size: int, rng: Rng, index: int = 0) -> Scene:
    """A scene of `size` px (a multiple of 8) with one to six layers that move by 0.3 to about 100 px."""
    if size < 32 or size % 8:
        raise ValueError(f"scene of {size} px: a multiple of 8 from 32 up is needed")
    side = DENSITY * (size + size // 4)
    tripod = rng.random() < 0.15
    gradient = np.zeros((2, 2)) if tripod else _gradient(rng, 0.2 if rng.random() < 0.15 else 0.04)
    camera = np.zeros(2) if tripod else _velocity(rng, min(80.0, 0.4 * size))
    objects = int(rng.choice(5, p=(0.08, 0.3, 0.35, 0.2, 0.07)))
    overlay = int(rng.random() < 0.12)  # a logo, subtitle or display: it stays, whatever moves below
    layers = 1 + objects + overlay
    texture = np.empty((layers, 4, side, side), np.uint8)
    affine, shift, wave = np.zeros((layers, 2, 2)), np.zeros((layers, 2)), np.zeros((layers, WAVES, 5))
    box = np.zeros((layers, 4))
    for layer in range(layers):
        still = overlay and layer == layers - 1
        odds = (0.85, 0.1, 0.05) if layer == 0 else (0.0, 0.1, 0.9) if still else (0.6, 0.2, 0.2)
        _paint(texture[layer, :3], photos, rng, index, odds)
        texture[layer, 3] = 255 if layer == 0 else _text(side, rng) if still else _cover(side, rng)
        x, y, width, height = cv2.boundingRect(texture[layer, 3])
        box[layer] = np.array((x, y, x + width, y + height)) * 2 / side - 1
        if layer == 0:
            affine[layer], shift[layer] = gradient, camera
        elif not still:
            own = np.zeros(2) if rng.random() < 0.2 else _velocity(rng, min(40.0, 0.2 * size))
            affine[layer], shift[layer] = gradient + _gradient(rng, 0.04), camera * rng.uniform(0.5, 1.5) + own
        if not still and rng.random() < 0.5:
            wave[layer] = _waves(rng)
    light, shadow = np.zeros((2, 3)), np.zeros(7)
    if rng.random() < 0.3:
        light = rng.normal(0, ((0.08,), (0.02,)), (2, 3))
    if rng.random() < 0.15:
        shadow[0], shadow[1:3], shadow[3:5] = rng.uniform(0.1, 0.6), rng.uniform(0, size, 2), _velocity(rng, 40.0)
        shadow[5:] = size * rng.uniform((0.1, 0.01), (0.5, 0.15))
    tables = (affine, shift, wave, box, light, shadow)
    return Scene(torch.from_numpy(texture)[None], *(torch.from_numpy(v.astype(np.float32))[None] for v in tables))


def _velocity(rng: Rng, most: float) -> NDArray[np.float64]:
    """Any direction, 0.3 px to `most` from frame0 to frame1, every order of magnitude alike."""
    angle, length = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(np.log(0.3), np.log(most)))
    return np.asarray(np.array((np.cos(angle), np.sin(angle))) * length)


def _gradient(rng: Rng, spread: float) -> NDArray[np.float64]:
    """Zoom, turn and a little shear."""
    zoom, turn = np.clip(rng.normal(0, spread, 2), -0.4, 0.4)
    return np.array(((zoom, -turn), (turn, zoom))) + rng.normal(0, spread / 4, (2, 2))


def _waves(rng: Rng) -> NDArray[np.float64]:
    """Smooth bending of 40 to 250 px wavelength, with a gradient of at most STEEPEST altogether."""
    angle = rng.uniform(0, 2 * np.pi, (2, WAVES))  # of the wave, of the motion
    number = 2 * np.pi / np.exp(rng.uniform(np.log(40), np.log(250), WAVES))
    height = rng.uniform(0.02, STEEPEST) / WAVES / number
    turn = np.stack((np.cos(angle), np.sin(angle)), 1)  # [2,2,W]
    return np.stack((*(turn[0] * number), rng.uniform(0, 2 * np.pi, WAVES), *(turn[1] * height)), 1)


def _paint(planes: Image, photos: Photos, rng: Rng, index: int, odds: tuple[float, float, float]) -> None:
    """Fills planes [3,T,T] with a piece of a photo, a pattern or one colour."""
    side, kind = planes.shape[-1], int(rng.choice(3, p=odds))
    colours = rng.integers(0, 256, (2, 3)).astype(np.uint8)
    if kind == 2:
        planes[:] = colours[0, :, None, None]
        return
    if kind == 0:
        photo = photos.pick(rng, index)
        most = min(photo.shape[:2])
        piece = int(rng.uniform(min(most, 0.7 * side), most))
        y, x = (int(rng.integers(limit - piece + 1)) for limit in photo.shape[:2])
        how = cv2.INTER_AREA if piece > 1.5 * side else cv2.INTER_LINEAR if piece > side else cv2.INTER_CUBIC
        picture = cv2.resize(photo[y : y + piece, x : x + piece], (side, side), interpolation=how)
    else:
        pattern = _pattern(side, rng)
        second = np.linspace(0, 1, 256)[:, None]
        table = (colours[0] * (1 - second) + colours[1] * second).astype(np.uint8)
        picture = cv2.merge([cv2.LUT(pattern, table[:, c].copy()) for c in range(3)])
    # a pixel of the picture is two texels: what is finer would only make aliases
    picture = turned([np.asarray(cv2.GaussianBlur(picture, (3, 3), 0.8), np.uint8)], rng)[0]
    for plane, content in zip(planes, cv2.split(picture), strict=True):
        plane[:] = content


def _pattern(side: int, rng: Rng) -> NDArray[np.uint8]:
    """Stripes, checks or dots, 4 to 40 px from one to the next: what flow mistakes for its neighbour."""
    period = DENSITY * float(np.exp(rng.uniform(np.log(4), np.log(40))))
    along = np.arange(side, dtype=np.float32) * np.float32(2 * np.pi / period)
    contrast = np.float32(120 if rng.random() < 0.3 else 600)
    across = contrast * np.sin(along)[None]
    down = np.sin(along * np.float32(rng.uniform(0.5, 2)))[:, None]
    kind = rng.integers(3)
    height = np.broadcast_to(across, (side, side)) if kind == 0 else across * down
    if kind == 2:  # dots: bright where both waves are
        height = height / 2 + (across + contrast * down) / 4 - contrast / 4
    return np.asarray(np.clip(height + 128, 0, 255), np.uint8)


def _cover(side: int, rng: Rng) -> NDArray[np.uint8]:
    """The shape of an object: a body, an angular piece, poles, wires, a fence or letters."""
    kind = rng.choice(6, p=(0.45, 0.15, 0.1, 0.1, 0.1, 0.1))
    cover = np.zeros((side, side), np.uint8)
    if kind == 5:
        return _text(side, rng)
    if kind <= 1:
        for _ in range(int(rng.integers(1, 4))):
            angle = np.linspace(0, 2 * np.pi, 96 if kind == 0 else int(rng.integers(3, 8)), endpoint=False)
            radius = side * rng.uniform(0.04, 0.3) * np.ones_like(angle)
            for lobes in range(1, 7):
                radius *= 1 + rng.normal(0, 0.35 / lobes) * np.cos(lobes * angle + rng.uniform(0, 2 * np.pi))
            outline = np.stack((np.cos(angle), np.sin(angle)), 1) * radius[:, None] * rng.uniform(0.5, 1.2, 2)
            cv2.fillPoly(cover, [_fixed(outline + side * rng.uniform(0.15, 0.85, 2))], 255, cv2.LINE_AA, 4)
    else:
        width = int(DENSITY * rng.uniform(1, 4) + 0.5)
        spacing = side if kind != 4 else DENSITY * rng.uniform(12, 60)
        for slant in rng.uniform(0, np.pi) + np.array((0, np.pi / 2))[: 2 if kind == 4 else 1]:
            turn = np.array(((np.cos(slant), np.sin(slant)), (-np.sin(slant), np.cos(slant))))
            along = np.linspace(-side, side, 33)
            few = rng.uniform(-0.4, 0.4, int(rng.integers(1, 5))) * side
            for offset in np.arange(-side, side, spacing) if kind == 4 else few:
                sag = side * rng.uniform(-0.2, 0.2) * (along / side) ** 2 if kind == 3 else np.zeros_like(along)
                line = np.stack((along, offset + sag), 1) @ turn + side / 2
                thick = int(width * rng.uniform(2, 10)) if kind == 2 else width
                cv2.polylines(cover, [_fixed(line)], False, 255, thick, cv2.LINE_AA, 4)
    return cover


def _text(side: int, rng: Rng) -> NDArray[np.uint8]:
    """A few lines of letters, in the part that is in the picture."""
    cover = np.zeros((side, side), np.uint8)
    letters = np.array(list(string.ascii_letters + string.digits + "  .,:!?"))
    scale = float(rng.uniform(0.7, 4.0))
    weight = int(rng.integers(1, 2 + 2 * int(scale)))
    x, y = (int(side * rng.uniform(0.12, 0.6)) for _ in range(2))
    for line in range(int(rng.integers(1, 4))):
        text = "".join(rng.choice(letters, int(rng.integers(2, 14))))
        place = (x, y + int(line * 34 * scale))
        cv2.putText(cover, text, place, int(rng.integers(0, 8)), scale, 255, weight, cv2.LINE_AA)
    return cover


def _fixed(points: NDArray[np.float64]) -> NDArray[np.int32]:
    """Points with the 4 fractional bits that OpenCV's drawing takes."""
    return np.rint(points * 16).astype(np.int32)
