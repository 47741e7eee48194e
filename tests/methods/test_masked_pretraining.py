"""Pre-training on images: masks and fused volumes by hand and as published; runs to start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import same_bits, small_recipe, write_dataset, write_recipe

import medssl
from medssl.errors import MedSSLError
from medssl.methods.masked_pretraining import MaskedPretraining
from medssl.methods.masked_pretraining_settings import MaskedPretrainingSettings
from medssl.ops.pretexts import block_counts, fuse, fusion_shares, masked_error, visible_blocks
from medssl.recipe.load import load_recipe
from medssl.runs.checkpoint import load_checkpoint
from medssl.testing.subject import Subject, losses_of, make_batch
from medssl.workflows import training_run


@pytest.fixture(scope="module")
def checks(golden: Any) -> Any:
    return golden("pretraining")["checks"]


# ---------------------------------------------------------------------- as published


def test_golden_blocks(checks: Any) -> None:
    for row in checks["01_blocks"]["rows"]:
        patch = row["patch"]
        counts = block_counts(patch, [16] * 3)
        assert list(counts) == row["blocks"]
        assert [n // c for n, c in zip(patch, counts, strict=True)] == row["block_edge"]
        drawn = visible_blocks(patch, row["block_edge"], 0.75, 1, np.random.RandomState(0))
        firsts = drawn[0, 0][tuple(slice(None, None, e) for e in row["block_edge"])]
        assert (~firsts).sum() == row["masked"]
    # A seed makes the published code fail; here it decides the mask.
    assert checks["01_blocks"]["with_rng_seed"] == "TypeError"
    two = [visible_blocks([8, 8], [2, 2], 0.5, 2, np.random.RandomState(5)) for _ in range(2)]
    assert torch.equal(*two)


def test_golden_masked_error(checks: Any) -> None:
    golden = checks["02_mae_loss"]
    rng = np.random.default_rng(3)
    image, output = (
        torch.from_numpy(rng.standard_normal((2, 1, 8, 8, 8)).astype(np.float32)) for _ in "xf"
    )
    visible = torch.ones(2, 1, 8, 8, 8, dtype=torch.bool)
    visible[0, :, :4] = False
    visible[1, :, :, 4:, 4:] = False
    loss = masked_error(output, image, visible)
    np.testing.assert_allclose(loss, golden["loss"], rtol=1e-5)
    assert (~visible).sum() == golden["masked_voxels"]
    np.testing.assert_allclose((image * visible).sum(), golden["input_sum"], rtol=1e-5)
    changed = masked_error(torch.where(visible, output + 3, output), image, visible)
    np.testing.assert_allclose(changed, golden["loss_after_changing_visible_outputs"], rtol=1e-5)
    assert masked_error(torch.where(visible, output, output + 3), image, visible) != loss
    assert masked_error(output, image, torch.ones_like(visible)) == 0


def test_golden_volume_fusion(checks: Any) -> None:
    golden = checks["03_volume_fusion"]
    ones, shape = torch.ones(2, 1, 16, 20, 24), (16, 20, 24)
    for row in golden["rows"]:
        level = fusion_shares(shape, 2, np.random.RandomState(row["seed"]))
        counts = [np.bincount(one.flatten(), minlength=5).tolist() for one in level]
        assert counts == row["class_counts"]
        fused, label = fuse(ones, torch.zeros_like(ones), level)
        assert fused.sum() == row["image_sum"]
        assert torch.equal(4 * fused[:, 0], label.float())
    hand = golden["by_hand"]
    volumes = (torch.full((1, 1, 1, 1), hand[key]) for key in "FG")
    level = torch.full((1, 1, 1), int(4 * hand["alpha"]))
    fused, label = fuse(*volumes, level)
    assert (fused.item(), label.item()) == (hand["x"], hand["label"])


# ---------------------------------------------------------------------- by hand


@pytest.mark.parametrize(
    ("shape", "edge"), [((12, 8), (4, 4)), ((10, 9, 7), (4, 3, 2)), ((5, 5), (5, 2))]
)
def test_whole_blocks_are_masked_and_the_share_is_exact(
    shape: tuple[int, ...], edge: tuple[int, ...]
) -> None:
    drawn = visible_blocks(shape, edge, 0.6, 3, np.random.RandomState(1))
    counts = block_counts(shape, edge)
    total = int(np.prod(counts))
    patterns = set()
    for sample in drawn[:, 0].numpy():
        first = sample[np.ix_(*[np.arange(c) * e for c, e in zip(counts, edge, strict=True)])]
        assert (~first).sum() == int(0.6 * total)
        # What is left over at the end belongs to the last block.
        index = [
            np.minimum(np.arange(n) // e, n // e - 1) for n, e in zip(shape, edge, strict=True)
        ]
        np.testing.assert_array_equal(sample, first[np.ix_(*index)])
        patterns.add(sample.tobytes())
    assert len(patterns) > 1


def test_what_cannot_be_seen_in_a_fusion_does_not_count() -> None:
    rng = np.random.RandomState(2)
    level = fusion_shares((12, 10), 2, rng, min_edge=4)
    same = torch.randn(2, 1, 12, 10)
    fused, label = fuse(same, same, level)
    torch.testing.assert_close(fused, same)
    assert (label == 255).all()
    other = same + 1
    fused, label = fuse(other, same, torch.zeros_like(level))
    assert torch.equal(fused, same)
    assert (label == 0).all()
    for smallest in (4, 6):
        shares = fusion_shares((12, 10), 40, np.random.RandomState(0), min_edge=smallest)
        first = shares[shares.flatten(1).gt(0).any(1)]
        sides = [(first > 0).any(dim=axis).sum(1).min() for axis in (1, 2)]
        assert min(sides) >= smallest


@pytest.mark.parametrize("pretext", ["mae", "volf"])
def test_a_constant_patch_gives_a_finite_gradient(pretext: str) -> None:
    method = Subject("p", MaskedPretraining, {"pretext": pretext, "min_edge": 2}, dims=3).make()
    stage = method.stages(10)[0]
    batch = make_batch(method, stage)
    assert batch.unlabeled is not None
    batch.unlabeled.image.fill_(1.0)
    (loss,), _ = losses_of(method, stage, 0, batch)
    loss.backward()
    grads = [p.grad for p in method.parameters() if p.grad is not None]
    assert torch.isfinite(loss)
    assert all(torch.isfinite(g).all() for g in grads)


def test_the_edge_of_a_block_follows_from_the_patch() -> None:
    def block(patch: str, *more: str) -> Any:
        sets = ["method=masked_pretraining", f"training.patch={patch}", *more]
        return load_recipe("quickstart", ["training.stages={}", *sets]).recipe.method.settings

    assert block("[32, 48, 32]")["block"] == [4, 6, 4]
    assert block("[96, 96, 16]")["block"] == [12, 12, 4]
    for bad, match in (
        ("method.block=[4, 4]", "a number for each"),
        ("method.block=[64, 4, 4]", "does not fit"),
        ("method.mask_share=1", "nothing to learn"),
    ):
        with pytest.raises(MedSSLError, match=match):
            block("[32, 32, 32]", bad)
    assert not MaskedPretrainingSettings().segments


# ---------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, a recipe, and a run that learned its images."""
    folder = tmp_path_factory.mktemp("pretext")
    write_dataset(folder / "data", cases=5)
    content = small_recipe(
        folder / "data",
        folder / "cache",
        data={"labeled": ["case_00", "case_01"], "validation": 1, "test": ["case_04"]},
        method={"name": "masked_pretraining"},
        training={"iterations": 2, "checkpoint_every": 1},
    )
    write_recipe(folder / "pretext.yaml", content)
    write_recipe(folder / "small.yaml", {**content, "method": {"name": "supervised"}})
    medssl.train(folder / "pretext.yaml", output=folder / "pretext", device="cpu")
    return folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_checkpoint(run / "checkpoints/last.pt")["method_state"]
    return state


def test_a_run_starts_from_all_but_the_head(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_run, "write_previews", lambda *_: [])
    still = ["training.optimizer.lr=1e-30", "training.optimizer.weight_decay=0"]
    init = f"network.init={world / 'pretext'}"
    run = medssl.train(
        world / "small.yaml", overrides=[init, *still], output=tmp_path / "run", device="cpu"
    ).path
    record = json.loads((run / "manifest.json").read_text())["init"]
    before, after = weights(world / "pretext"), weights(run)
    assert record["new"]
    assert all("model.2" in name for name in record["new"])  # the last layer of the U-Net
    for name in record["loaded"]:
        torch.testing.assert_close(after[f"student.{name}"], before[f"student.{name}"])
    lineage = json.loads((world / "pretext" / "lineage.json").read_text())
    assert (lineage["labels"], lineage["selection"]) == ([], [])
    assert len(lineage["images"]) == 3  # neither the test nor the validation patient
    # Another split: of its test patients the pretext saw an image, and no label.
    seen = ["data.labeled=[case_04]", "data.validation=0", "data.test=[case_00]"]
    out = tmp_path / "seen"
    medssl.train(world / "small.yaml", overrides=[init, *seen], output=out, device="cpu")
    summary = json.loads((out / "evaluation/test/summary.json").read_text())
    assert summary["transductive"] == ["case_00"]
    more = [init, "spec.modality=ct"]
    with pytest.raises(MedSSLError, match=r"its spec.modality is .*, not 'ct'"):
        medssl.train(world / "small.yaml", overrides=more, output=tmp_path / "no", device="cpu")


def test_labels_decide_nothing(world: Path, tmp_path: Path) -> None:
    recipe = load_recipe(world / "pretext.yaml").recipe.model_dump(mode="json")
    poisoned = write_dataset(tmp_path / "data", cases=5)
    for path in (poisoned / "labelsTr").glob("*.nii.gz"):
        image = nib.load(path)
        flipped = np.asarray(image.dataobj)[::-1].copy()
        nib.save(nib.Nifti1Image(flipped, image.affine), path)
    root = [f"data.root={poisoned}", f"data.cache={tmp_path / 'cache'}"]
    file = write_recipe(tmp_path / "r.yaml", recipe)
    medssl.train(file, overrides=root, output=tmp_path / "run", device="cpu")
    same_bits(weights(world / "pretext"), weights(tmp_path / "run"))


def test_a_pretext_predicts_nothing_and_says_what_it_is_for(world: Path, tmp_path: Path) -> None:
    run = world / "pretext"
    for command in (
        lambda: medssl.load_run(run),
        lambda: medssl.calibrate(run),
        lambda: medssl.export(run, tmp_path / "bundle"),
    ):
        with pytest.raises(MedSSLError, match="the run predicts nothing: masked_pretraining"):
            command()
    with pytest.raises(MedSSLError, match="nothing that could be cross-validated"):
        medssl.crossval(world / "pretext.yaml", output=tmp_path / "folds")
    assert not (run / "evaluation").exists()
