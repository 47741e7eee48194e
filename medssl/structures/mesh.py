"""The surface of a structure as triangles: halfway between voxels inside and outside.

Marching cubes at level one half, as PyRadiomics measures shapes (Lorensen and Cline, SIGGRAPH
1987). The mask's own bounding box with a margin is all that is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medssl.data.images.geometry import LPS
from medssl.optional import optional_module

EXTRA = "outputs"


@dataclass(frozen=True)
class Mesh:
    """A closed surface, its triangles turned outwards.

    Attributes:
        vertices: ``(N, 3)`` world coordinates, in the unit of the affine.
        faces: ``(M, 3)`` indices of vertices; none of an empty structure.
    """

    vertices: np.ndarray
    faces: np.ndarray

    @property
    def volume(self) -> float:
        """Volume inside, by the divergence theorem."""
        a, b, c = self._corners()
        return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)

    @property
    def area(self) -> float:
        """Sum of the triangles' areas."""
        a, b, c = self._corners()
        return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)

    @property
    def normals(self) -> np.ndarray:
        """``(M, 3)`` outward unit normals; zero where a triangle has no area."""
        a, b, c = self._corners()
        normals = np.cross(b - a, c - a)
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        return np.divide(normals, length, out=np.zeros_like(normals), where=length > 0)

    def in_lps(self) -> Mesh:
        """Return a RAS mesh in LPS coordinates, DICOM's: half a turn, so triangles stay outward."""
        return Mesh(self.vertices @ LPS[:3, :3].T, self.faces)

    def _corners(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        near = self.vertices - (self.vertices.mean(0) if len(self.vertices) else 0)
        a, b, c = (near[self.faces[:, corner]] for corner in range(3))
        return a, b, c


def bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """Return the box around the true voxels of a mask; None where there are none."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        found = np.flatnonzero(mask.any(axis=others))
        if not found.size:
            return None
        box.append(slice(int(found[0]), int(found[-1]) + 1))
    return tuple(box)


def mesh_of(mask: np.ndarray, affine: np.ndarray) -> Mesh:
    """Return the surface of a mask.

    Args:
        mask: boolean ``(X, Y, Z)``; where it meets the border, the surface closes there.
        affine: ``(4, 4)`` voxel to world.

    Raises:
        MedSSLError: scikit-image is not installed.
    """
    box = bounding_box(mask)
    if box is None:
        return Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64))
    measure = optional_module("skimage.measure", EXTRA)
    padded = np.pad(mask[box].astype(np.float32), 1)
    corners, faces, *_ = measure.marching_cubes(padded, 0.5, method="lorensen")
    corners = corners.astype(np.float64) - 1 + [one.start for one in box]
    mesh = Mesh(corners @ affine[:3, :3].T + affine[:3, 3], faces.astype(np.int64))
    return mesh if mesh.volume >= 0 else Mesh(mesh.vertices, mesh.faces[:, ::-1])
