"""Meshes as STL or OBJ, in DICOM's patient coordinates (LPS), where 3D Slicer expects them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medssl.errors import MedSSLError, did_you_mean
from medssl.files import write_bytes, write_text
from medssl.structures.mesh import Mesh

MESH_FORMATS = ("stl", "obj")
SPACE = "SPACE=LPS"
"""Says in the header which way the axes run; 3D Slicer reads it."""


def check_mesh_format(name: str) -> None:
    """Refuse a format that is not written.

    Raises:
        MedSSLError: names those that are.
    """
    if name not in MESH_FORMATS:
        raise MedSSLError(
            f"there is no mesh format '{name}'",
            where="--meshes",
            fix=did_you_mean(name, MESH_FORMATS),
        )


def write_mesh(mesh: Mesh, path: Path, *, unit: str = "mm") -> Path:
    """Write a mesh whose vertices are RAS coordinates; one without triangles says: not found.

    Args:
        mesh: see :func:`medssl.structures.mesh.mesh_of`.
        path: ``.stl`` (binary) or ``.obj``.
        unit: of the coordinates, told in the header.

    Raises:
        MedSSLError: another format, or the disk refuses.
    """
    check_mesh_format(path.suffix.lstrip("."))
    turned = mesh.in_lps()
    if path.suffix == ".obj":
        _write_obj(turned, path, unit)
    else:
        write_bytes(path, _stl(turned, unit))
    return path


def _stl(mesh: Mesh, unit: str) -> bytes:
    triangles = np.zeros(
        len(mesh.faces),
        np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")]),
    )
    triangles["normal"] = mesh.normals
    triangles["corners"] = mesh.vertices[mesh.faces]
    # A header that begins with "solid" would be taken for the text form.
    header = f"medssl {SPACE} UNIT={unit}".encode().ljust(80, b" ")
    return header + np.uint32(len(mesh.faces)).tobytes() + triangles.tobytes()


def _write_obj(mesh: Mesh, path: Path, unit: str) -> None:
    lines = [f"# medssl {SPACE} UNIT={unit}"]
    lines += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in mesh.vertices]
    lines += [f"f {a} {b} {c}" for a, b, c in mesh.faces + 1]
    write_text(path, "\n".join(lines) + "\n")
