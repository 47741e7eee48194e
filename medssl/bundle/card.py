"""``docs/README.md`` of a bundle: the model card, in words for whoever receives it."""

from __future__ import annotations

import math
from typing import Any

from medssl._version import __version__
from medssl.bundle.contents import Contents
from medssl.bundle.model_tree import needed_modules
from medssl.evaluation.failures import failure_sentence


def model_card(contents: Contents, *, licence: str) -> str:
    """Return the model card: data, labels, method, figures with intervals, use and limits.

    Args:
        contents: what is exported.
        licence: name of the licence, or what to do about one.
    """
    names = [structure.name for structure in contents.labels.structures]
    parts = [
        f"# {contents.name}",
        f"Segments {', '.join(names)} in {contents.spec.modality} images. Exported by medssl "
        f"{__version__}.",
        _use(contents),
        _labels(contents),
        _data(contents),
        _training(contents),
        _figures(contents),
        _limits(contents),
        "## Licence\n\n" + licence,
    ]
    return "\n\n".join(parts) + "\n"


def _use(contents: Contents) -> str:
    mirrored = (
        " It averages over mirror images of each window, as the figures below do; "
        "`--inferer::mirror None` is quicker and another model."
        if contents.inference.tta
        else ""
    )
    members = (
        f" The probabilities are the mean of {contents.members} models, trained alike."
        if contents.members > 1
        else ""
    )
    networks = needed_modules(contents.model)
    own = " The network, too, is not one of MONAI's." if networks else ""
    return f"""## Use

With MONAI 1.5 or newer (`pip install monai nibabel scipy pytorch-ignite fire`): put NIfTI images
into `BUNDLE/data` (or set `--dataset_dir`), then

```
python -m monai.bundle run --config_file BUNDLE/configs/inference.json --bundle_root BUNDLE
```

Label maps appear in `BUNDLE/eval` (`--output_dir`), on each image's own grid. Several channels are
one four-dimensional file.{members}{mirrored} A header that contradicts itself is read as ITK's
viewers read it. MONAI does not compare an image with those of the training; `medssl predict` does,
and refuses what this model cannot be meant for. `configs/evaluate.json` measures Dice of the same
label maps against labels of the same names in `--label_dir`; `configs/train.json` fine-tunes on
such pairs. With medssl: `medssl predict BUNDLE images/ --output results`.

`scripts/` holds code copied from medssl, which MONAI runs: how images are placed, windows averaged
and labels brought back.{own} Read it before you run it."""


def _labels(contents: Contents) -> str:
    pairs = zip(contents.labels.values, contents.labels.names, strict=True)
    rows = "\n".join(f"| {value} | {name} |" for value, name in pairs)
    text = f"## Labels\n\n| value | structure |\n|---|---|\n{rows}"
    regions = "\n".join(f"| {r.name} | {r.label} |" for r in contents.labels.regions)
    return f"{text}\n\n| region | values |\n|---|---|\n{regions}" if regions else text


def _data(contents: Contents) -> str:
    spec = contents.spec
    spacing = (
        "each image's own voxels"
        if isinstance(spec.spacing, str)
        else " x ".join("as stored" if v is None else f"{v:g}" for v in spec.spacing)
        + f" {spec.spatial_unit}"
    )
    rule = spec.intensity
    bounds = "" if rule.lower is None else f" from {rule.lower:g} to {rule.upper:g}"
    return f"""## Input

{contents.channels} channel(s) of {spec.modality}; orientation {spec.orientation or "as stored"}; \
resampled to {spacing}; intensities: {rule.rule}{bounds}; windows of \
{" x ".join(map(str, contents.patch))} voxels."""


def _training(contents: Contents) -> str:
    cases = contents.cases
    members = (
        f" These are the numbers of the first of {contents.members} members."
        if contents.members > 1
        else ""
    )
    return f"""## Training

Method `{contents.method}` ({contents.paper}), \
{contents.iterations} iterations, on {cases.get("labeled", 0)} labeled and \
{cases.get("unlabeled", 0)} unlabeled images. Besides, {cases.get("validation", 0)} images were \
used for validation and {cases.get("test", 0)} held back for the test. \
Protocol: {contents.protocol}.{members}"""


def _figures(contents: Contents) -> str:
    summary = contents.summary
    if summary is None:
        return "## Figures\n\nThis model was not evaluated before it was exported."
    unit = summary.get("unit", "mm")
    columns = ["dice", f"hd95_{unit}", f"assd_{unit}", "nsd"]
    rows = [
        f"| {name} | {' | '.join(_value(entry, c) for c in columns)} | {entry.get('n', 0)} |"
        for name, entry in [*summary["structures"].items(), ("mean", summary["overall"])]
    ]
    head = f"| structure | {' | '.join(columns)} | cases |\n|---|{'---|' * len(columns)}---|"
    failures = summary["overall"].get("failures")  # summaries of earlier versions have none
    below = "" if failures is None else f"\n\n{failure_sentence(failures, 'mean Dice')}."
    return f"""## Figures

{summary.get("split", "test")} cases: {summary["n_cases"]} images of {summary["n_patients"]} \
patients, measured by medssl on each image's own grid. In brackets: {summary["interval"]}.

{head}
{chr(10).join(rows)}{below}

{summary.get("coverage", "")}

{summary["policy"]}"""


def _value(entry: dict[str, Any], metric: str) -> str:
    found = entry["metrics"].get(metric)
    if found is None or found["mean"] is None or math.isnan(found["mean"]):
        return "-"
    text = f"{found['mean']:.3f}"
    low, high = found.get("low"), found.get("high")
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return text
    return f"{text} [{low:.3f}, {high:.3f}]"


def _limits(contents: Contents) -> str:
    patients = 0 if contents.summary is None else contents.summary["n_patients"]
    tested = (
        f"The figures rest on {patients} patients of one dataset; other scanners, protocols and "
        "diseases may differ more than the intervals say."
        if patients
        else "Nothing is known about its accuracy."
    )
    return f"""## Intended use and limits

Research. Not a medical device, and not for decisions about a patient without a reader. {tested} \
A structure outside the image, an artifact or an implant may be segmented wrongly without a sign."""
