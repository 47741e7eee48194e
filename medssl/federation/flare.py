"""What NVIDIA FLARE runs at the server and at the sites; imported by NVFlare alone.

NVFlare carries: the server's models to the sites, as the bytes that would lie in a folder, and the
sites' updates back as differences, on which a site's own filters can act. A site trains in a
process of its own, which owns the loop and meets the executor in a folder of the site's; the
server's rounds are those of :mod:`medssl.federation.server`. So both ways share tensors, averaging,
refusals and the rules for whoever is late, killed or silent.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller, Task
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

from medssl.errors import MedSSLError
from medssl.federation.agreed import FILE, read_agreed, read_site_key
from medssl.federation.differences import NO_UPDATE, differences, restored
from medssl.federation.flare_job import FINISH, ROUND, OwnSite, read_own, refuse_streamed_logs
from medssl.federation.messages import (
    Message,
    Refused,
    global_name,
    read_message,
    refuse_other,
    update_name,
)
from medssl.federation.server import Server
from medssl.files import write_bytes
from medssl.progress import Display
from medssl.runs.folder import RunFolder

MODEL, NUMBER, HEADER = "model", "number", "header"
POLL_SECONDS = 0.5
PATIENCE_SECONDS = 120.0
"""How long a site that is told to end may take to save."""
RETRY_SECONDS = 20.0
"""How long a site whose training failed waits before it says so and starts again."""


class SiteExecutor(Executor):  # type: ignore[misc,unused-ignore]
    """A site: takes the server's models, starts the training, returns its updates."""

    def __init__(self) -> None:
        super().__init__()
        self.training: subprocess.Popen[bytes] | None = None

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """End the training with the job; it is saved and can go on."""
        if event_type == EventType.END_RUN:
            self._end()

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """Do a task; of an error only the fact leaves the site, what it was is in its log."""
        try:
            found = self._execute(task_name, shareable, fl_ctx, abort_signal)
        except (MedSSLError, Refused, OSError) as error:
            self.log_error(fl_ctx, str(error))
            _pause(RETRY_SECONDS, abort_signal)  # the server will ask again
            return make_reply(ReturnCode.EXECUTION_EXCEPTION)
        if found is None:
            self._end()
            return make_reply(ReturnCode.TASK_ABORTED)
        return found

    def _execute(
        self, task: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable | None:
        workspace = fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT)
        local = Path(workspace.get_site_config_dir())
        refuse_streamed_logs(local)
        own = _own_site(local, fl_ctx.get_identity_name())
        key = read_site_key(Path(own.key))
        for name in (FILE, global_name(0)):
            if not (own.folder / name).is_file():
                sent = Path(workspace.get_app_config_dir(fl_ctx.get_job_id())) / name
                write_bytes(own.folder / name, sent.read_bytes())
        agreed = read_agreed(own.folder, key.federation)
        number = int(shareable[NUMBER])
        write_bytes(own.folder / global_name(number), shareable[MODEL])
        if task == FINISH and RunFolder(Path(own.output)).is_finished():
            return make_reply(ReturnCode.OK)
        self._start(own)
        while True:
            ended = self.training.poll() if self.training else None
            if task == FINISH and ended == 0:
                return make_reply(ReturnCode.OK)
            found = None if task == FINISH else self._update(own, number)
            if found is not None:
                message, base = found
                moved = differences(message, base.tensors)
                reply = DXO(DataKind.WEIGHT_DIFF, data=moved).to_shareable()
                reply[HEADER] = message.header.model_dump_json()
                return reply
            if ended is not None:
                raise MedSSLError(
                    f"the training ended with {ended} before round {number + 1} of {agreed.rounds}",
                    where=own.folder / "training.log",
                )
            if abort_signal.triggered:
                return None
            time.sleep(POLL_SECONDS)

    def _update(self, own: OwnSite, number: int) -> tuple[Message, Message] | None:
        """Return this site's update that follows a model, and the model, once it is there."""
        key = read_site_key(Path(own.key))
        agreed = read_agreed(own.folder, key.federation)
        sites = agreed.sites
        try:
            base = read_message(
                own.folder / global_name(number),
                agreed.tensors,
                key.secret,
                place=sites.index(key.site),
                tags=len(sites),
            )
            refuse_other(base, kind="global", federation=key.federation, round=number)
            path = own.folder / update_name(number + 1, key.site)
            found = read_message(path, agreed.tensors, key.secret)
            refuse_other(found, kind="update", round=number + 1, base=base.model)
        except FileNotFoundError:
            return None
        except Refused as refused:
            if refused.arriving:
                return None
            raise
        return found, base

    def _start(self, own: OwnSite) -> None:
        """Start the training, or go on with it, unless it runs."""
        if self.training is not None and self.training.poll() in (None, 0):
            return
        command = [sys.executable, "-m", "medssl", "--quiet", "federate", "site", str(own.folder)]
        command += [own.recipe, "--key", own.key, "--output", own.output, "--resume-or-start"]
        command += ["--device", own.device]
        command += [] if own.precision is None else ["--precision", own.precision]
        for override in own.overrides:
            command += ["--set", override]
        with (own.folder / "training.log").open("ab") as log:
            self.training = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def _end(self) -> None:
        if self.training is None or self.training.poll() is not None:
            return
        self.training.terminate()
        try:
            self.training.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.training.kill()


class RoundsController(Controller):  # type: ignore[misc,unused-ignore]
    """The server: sends each model out, takes updates in, closes rounds as in a folder."""

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Open the server's own folder."""
        workspace = fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT)
        own = read_own(Path(workspace.get_site_config_dir())).server
        if own is None:
            raise MedSSLError("its kit does not say where the server's folder is")
        own.folder.mkdir(parents=True, exist_ok=True)

        def say(message: str) -> None:
            self.log_info(fl_ctx, message)

        self.work = Server(own.folder, Path(own.server), Display(quiet=True))
        self.work.say = say

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Close rounds until the last one, then let the sites finish."""
        try:
            self.work.publish()
            while len(self.work.rounds) < self.work.federation.rounds:
                if not self._round(abort_signal, fl_ctx):
                    return
            self._broadcast(FINISH, abort_signal, fl_ctx)
        except MedSSLError as error:
            self.system_panic(str(error), fl_ctx)

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Leave everything as it lies: the next job goes on."""

    def process_result_of_unknown_task(
        self, client: Any, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """Leave what is too late: its site takes the newest model and is in time again."""

    def _round(self, abort_signal: Signal, fl_ctx: FLContext) -> bool:
        """Ask for updates until a round can be closed; False if the job was ended."""
        end = time.monotonic() + 60 * self.work.federation.wait_minutes
        looked_at: object = None
        while not abort_signal.triggered:
            due = len(self.work.rounds) + 1
            answered = [
                site
                for site in self.work.federation.sites
                if (self.work.folder / update_name(due, site)).is_file()
            ]
            self._broadcast(ROUND, abort_signal, fl_ctx, without=answered, until=end)
            there = (time.monotonic() >= end, self.work.files())
            if there != looked_at and self.work.close(patience_over=there[0]):
                return True
            looked_at = there
            _pause(POLL_SECONDS, abort_signal)
        return False

    def _broadcast(
        self,
        name: str,
        abort_signal: Signal,
        fl_ctx: FLContext,
        *,
        without: Sequence[str] = (),
        until: float | None = None,
    ) -> None:
        """Send the newest model to the sites that are there, and wait for their answers."""
        number = len(self.work.rounds)
        there = {client.name for client in fl_ctx.get_engine().get_clients()} - set(without)
        targets = [site for site in self.work.federation.sites if site in there]
        if not targets:
            return
        wait = 60 * self.work.federation.wait_minutes
        if until is not None:
            wait = until - time.monotonic()
        data = Shareable()
        data[MODEL] = (self.work.home / global_name(number)).read_bytes()
        data[NUMBER] = number
        timeout = max(1, int(wait))
        task = Task(name, data, timeout=timeout, result_received_cb=self._received)
        self.broadcast_and_wait(
            task,
            fl_ctx,
            targets=targets,
            min_responses=0,  # all targets, or the time is over
            abort_signal=abort_signal,
        )

    def _received(self, client_task: Any, fl_ctx: FLContext) -> None:
        """Put a site's answer where the server looks for it."""
        result, site = client_task.result, client_task.client.name
        if client_task.task.name != ROUND or result.get_return_code() != ReturnCode.OK:
            return
        number = int(client_task.task.data[NUMBER])
        if number != len(self.work.rounds):
            return
        try:
            found = from_shareable(result)
            content = restored(
                str(result.get(HEADER)),
                found.data if found.data_kind == DataKind.WEIGHT_DIFF else {},
                self.work.base,
                site=site,
                key=bytes.fromhex(self.work.keys.keys[site]),
            )
        except (ValueError, TypeError, KeyError):
            content = NO_UPDATE
        write_bytes(self.work.folder / update_name(number + 1, site), content)


def _pause(seconds: float, abort_signal: Signal) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not abort_signal.triggered:
        time.sleep(min(POLL_SECONDS, seconds))


def _own_site(local: Path, name: str) -> OwnSite:
    sites = read_own(local).sites
    if name not in sites:
        fix = "write it with `medssl federate flare-site`"
        raise MedSSLError(f"it does not name {name}", where=local, fix=fix)
    return sites[name]
