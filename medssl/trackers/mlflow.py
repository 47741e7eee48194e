"""Numbers and pictures for MLflow, in a database beside the run unless a server is named."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medssl.optional import optional_module
from medssl.runs.folder import RunFolder

EXPERIMENT = "medssl"
_QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


class MLflow:
    """See :class:`medssl.trackers.trackers.Tracker`.

    ``MLFLOW_TRACKING_URI`` names a server; without it all is kept in ``mlflow.db`` and ``mlflow``
    in the run folder. MLflow's own reports of usage are switched off.
    """

    def __init__(self, run: RunFolder, known: str | None, step: int) -> None:
        os.environ.update(_QUIET)
        mlflow = optional_module("mlflow", "mlflow")
        place = run.path.resolve()
        server = os.environ.get("MLFLOW_TRACKING_URI")
        self._metric = mlflow.entities.Metric
        self._client: Any = mlflow.MlflowClient(server or f"sqlite:///{place / 'mlflow.db'}")
        if known is not None:
            self._client.update_run(known, status="RUNNING")
            self.known = known
            return
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            files = {} if server else {"artifact_location": (place / "mlflow").as_uri()}
            number = self._client.create_experiment(EXPERIMENT, **files)
        else:
            number = experiment.experiment_id
        self.known = str(self._client.create_run(number, run_name=place.name).info.run_id)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Show numbers."""
        now = int(time.time() * 1000)
        metrics = [self._metric(key, float(value), now, step) for key, value in values.items()]
        self._client.log_batch(self.known, metrics=metrics)

    def picture(self, name: str, path: Path, step: int) -> None:
        """Show a picture, in a folder of its own name."""
        self._client.log_artifact(self.known, str(path), name)

    def close(self) -> None:
        """Say that the run has ended."""
        self._client.set_terminated(self.known)
