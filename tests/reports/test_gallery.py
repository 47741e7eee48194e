"""The gallery of predictions: every case with its picture, volumes, doubts and what went wrong."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from browser import CHROMIUM, look_at
from helpers import AFFINE, blob_case
from PIL import Image

from medssl.errors import MedSSLError
from medssl.files import write_csv
from medssl.inference.folder import PredictionResult
from medssl.progress import Display
from medssl.reports.gallery import (
    OF_UNION,
    GalleryCase,
    Tables,
    order,
    render_gallery,
    write_gallery,
)
from medssl.reports.thumbnails import structure_color
from medssl.workflows import gallery as drawing
from medssl.workflows.gallery import draw_gallery
from medssl.workflows.predict import predict


def volume(case: str, size: float, low: float = float("nan"), high: float = float("nan")) -> dict:
    row = {"case": case, "label": 2, "name": "core", "volume_mm3": size}
    return row | {"low_mm3": low, "high_mm3": high, "how": "so it was made", "unusual": ""}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with tables: a case with an interval, a strange one, and one hardly known."""
    folder = tmp_path / "out"
    folder.mkdir()
    write_csv(
        folder / "volumes.csv",
        [volume("sure", 1234.4, 1100, 1300), volume("strange", 0), volume("plain", 1e6)],
    )
    rows = [
        {"case": "sure", "quality": 0.914, "unusual": 1.0, "flag": "", "why": ""},
        {"case": "strange", "quality": 0.31, "unusual": 9.0, "flag": "unusual", "why": "too dark"},
    ]
    write_csv(folder / "quality.csv", rows)
    return folder


def test_what_is_to_be_looked_at_comes_first(folder: Path) -> None:
    cases = [
        *(GalleryCase(name) for name in ("plain", "sure", "strange")),
        GalleryCase("warned", unusual=("voxels of 3 mm",)),
        GalleryCase("broken", error="the file is empty"),
    ]
    found = [case.case_id for case in order(cases, Tables.read(folder))]
    assert found == ["broken", "strange", "warned", "sure", "plain"]


def test_the_page_says_what_is_known_and_no_more(folder: Path) -> None:
    cases = [
        GalleryCase("sure", b"jpeg", "24 × 24 × 12 voxels", note="ITK reads it so"),
        GalleryCase("strange", b"jpeg", unusual=("voxels <of> 3 mm",)),
        GalleryCase("broken", error="the file is empty\n  fix: copy it again"),
    ]
    page = render_gallery(folder, cases, Tables.read(folder), model="runs/a", calibrated=True)
    sure, strange, broken = page.split("<figure>")[1:]
    assert "2 predicted, 1 of them unusual, 1 failed" in page
    for words in ("expected quality 0.91", "1,234 mm³", "1,100 to 1,300", "ITK reads it so"):
        assert words in sure
    assert structure_color(2) in sure
    assert "unusual" not in sure
    for words in ("expected quality 0.31", "not found", "too dark", "voxels &lt;of&gt; 3 mm"):
        assert words in strange
    assert "the file is empty" in broken
    assert "expected quality" not in broken
    assert "not calibrated" not in page
    assert "not calibrated" in render_gallery(folder, cases, Tables.read(folder))


def test_regions_that_lie_in_each_other_share_a_color_that_no_label_has(tmp_path: Path) -> None:
    rows = [("1+2+3", "whole", 90.0), ("2+3", "core", 50.0), (3, "enhancing", 20.0)]
    write_csv(
        tmp_path / "volumes.csv",
        [volume("a", size) | {"label": label, "name": name} for label, name, size in rows],
    )
    page = render_gallery(tmp_path, [GalleryCase("a", b"jpeg")], Tables.read(tmp_path))
    lines = {
        name: page[: page.index(f"</span>{name}<")].rpartition("<tr")[2] for _, name, _ in rows
    }
    assert OF_UNION in lines["whole"]
    assert OF_UNION in lines["core"]
    assert structure_color(3) in lines["enhancing"], "as it is drawn"
    assert OF_UNION not in {structure_color(value) for value in range(256)}


def test_without_qualities_the_page_says_how_to_get_them(tmp_path: Path) -> None:
    page = render_gallery(tmp_path, [GalleryCase("a", b"jpeg")], Tables.read(tmp_path))
    assert "<code>medssl predict --uncertainty</code>" in page
    assert "expected quality" not in page.split("<figure>")[1]


@pytest.fixture
def predicted(tmp_path: Path) -> tuple[list, list, Path]:
    """Two scans with label maps, and one whose image has gone."""
    out = tmp_path / "out"
    out.mkdir()
    items, results = [], []
    for number in range(3):
        image, label = blob_case(number)
        source = tmp_path / f"c{number}.nii.gz"
        nib.save(nib.Nifti1Image(image, AFFINE), source)
        nib.save(nib.Nifti1Image(label, AFFINE), out / source.name)
        items.append((f"c{number}", (source,)))
        results.append(PredictionResult(f"c{number}", out / source.name, None, 1.0))
    (tmp_path / "c2.nii.gz").unlink()
    return items, [*results, PredictionResult("late", None, "no image\n  fix: none", 0.0)], out


def drawn(predicted: tuple[list, list, Path], monkeypatch: pytest.MonkeyPatch) -> list[GalleryCase]:
    """Return the cases as they are put on the page."""
    items, results, out = predicted
    seen: list[GalleryCase] = []
    real = write_gallery

    def look(folder: Path, cases: list[GalleryCase], *args: object, **more: object) -> Path:
        seen.extend(cases)
        return real(folder, cases, *args, **more)

    monkeypatch.setattr(drawing, "write_gallery", look)
    predictor = SimpleNamespace(source="runs/a", calibration=None)
    path = draw_gallery(out, items, results, predictor, Display(quiet=True))
    assert path.is_file()
    return seen


def test_scans_are_drawn_with_their_outlines(
    predicted: tuple[list, list, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    late, first, second, gone = drawn(predicted, monkeypatch)
    assert late.error.startswith("no image")
    assert first.details == "24 × 24 × 12 voxels of 1 × 1 × 2 mm, RAS"
    for case in (first, second):
        colors = np.asarray(Image.open(io.BytesIO(case.picture))).astype(int)
        assert (colors[..., 0] - colors[..., 1]).max() > 60  # the outline of label 1 is red
        assert (colors[..., 1] - colors[..., 0]).max() > 30  # that of label 2 is green
    assert first.picture != second.picture
    assert gone.picture is None
    assert gone.note == "not drawn: the file does not exist"


def test_what_was_unusual_in_an_earlier_call_still_is(
    predicted: tuple[list, list, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    items, results, out = predicted
    results[1] = PredictionResult("c1", results[1].path, None, 0.0, skipped=True)
    entry = {"model": "m", "images": [{"sha256": "x"}], "unusual": ["voxels of 3 mm"]}
    (out / "predictions.json").write_text(json.dumps({"predictions": {"c1": entry}}))
    cases = drawn((items, results, out), monkeypatch)
    assert [c.case_id for c in cases] == ["late", "c1", "c0", "c2"]
    assert cases[1].unusual == ("voxels of 3 mm",)


def test_a_page_that_would_not_open_draws_fewer(
    predicted: tuple[list, list, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "MAX_PICTURES", 2)
    monkeypatch.setattr("medssl.reports.gallery.MAX_PICTURES", 2)
    cases = drawn(predicted, monkeypatch)
    assert [c.picture is not None for c in cases] == [False, True, False, False]
    assert "2 more cases are not drawn" in (predicted[2] / "gallery.html").read_text()


def test_a_shard_draws_no_gallery(tmp_path: Path) -> None:
    with pytest.raises(MedSSLError, match="without --shard and with --gallery"):
        predict("run", tmp_path, tmp_path / "out", gallery=True, shard="1/2")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1280, 500])
def test_the_gallery_is_sound_in_a_browser(
    predicted: tuple[list, list, Path],
    width: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [volume(case, 1234.4, 1100, 1300) for case in ("c0", "c1", "c2")]
    write_csv(predicted[2] / "volumes.csv", rows)
    drawn(predicted, monkeypatch)
    found = look_at(predicted[2] / "gallery.html", width, tmp_path)
    assert found | {"overflow": 0} == {
        "broken": 0,
        "images": 2,
        "overflow": 0,
        "small": 0,
        "outside": 0,
    }
    assert found["overflow"] <= 0


def test_tables_are_read_as_they_stand(folder: Path) -> None:
    with (folder / "volumes.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3
    tables = Tables.read(folder)
    assert np.isnan(tables.quality_of("plain"))
    assert tables.quality_of("sure") == pytest.approx(0.914)
    assert tables.why_unusual("strange") == ("too dark",)
    assert tables.why_unusual("sure") == ()
