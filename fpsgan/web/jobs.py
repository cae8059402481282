"""The queue: jobs in order, one at a time on a device, kept in a file from which a restarted server continues.

A job is the command line's `enhance` in a process of its own. Pausing it, or stopping the server, ends that process;
continuing runs the same command again, which resumes by itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
import shutil
import subprocess
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fpsgan.errors import InputError, OptionError, OutputError
from fpsgan.video.files import write_whole
from fpsgan.web import work

__all__ = ["Job", "Queue"]

QUEUE = "queue.json"
KINDS = ("look", "preview", "copies", "report", "estimate")  # tasks that are done beside the queue, most urgent first
FRESH = 10.0  # seconds after which the picture of a running job is renewed
PATIENCE = 20.0  # seconds that a process has to exit before it is killed
TELLS = 30  # last lines of standard error that are kept: the last one says why it failed


@dataclasses.dataclass
class Job:
    """A clip and what becomes of it.

    ``state``: draft (its options are being chosen), waiting, running, paused, done, failed. ``name`` is the user's, for
    display only. ``source`` is a path on this machine. ``options`` are the command line's, by name. ``tasks``: by kind,
    each {"state": "waiting" | "running" | "done" | "failed", …}.
    """

    id: str
    name: str
    source: str
    state: str = "draft"
    intent: str = ""
    options: dict[str, str] = dataclasses.field(default_factory=dict)
    suffix: str = ".mp4"
    tasks: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    progress: dict[str, Any] = dataclasses.field(default_factory=dict)
    result: dict[str, Any] | None = None
    error: str = ""

    @property
    def found(self) -> dict[str, Any] | None:
        """What `look` found, once it has."""
        return self.tasks.get("look", {}).get("found")


class Queue:
    """All jobs, in the order in which they are done; every method may be called from any thread.

    Methods that take an id raise KeyError if there is no such job, and OptionError for what it cannot do now.
    """

    def __init__(self, place: Path, fields: tuple[work.Field, ...]) -> None:
        """Continue the queue in ``place``, a folder. Raises OutputError if another server uses it."""
        self.place, self.fields = place.absolute(), fields
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._jobs: dict[str, Job] = {}
        self._processes: dict[str, subprocess.Popen[str]] = {}  # of jobs, by id
        self._unwanted: set[str] = set()  # ids of those whose result is to be discarded
        self._task: tuple[str, str, subprocess.Popen[str] | None] | None = None  # (id, kind, process) running now
        self._asked: list[tuple[str, str]] = []  # (id, kind) of the tasks to do, in order
        self._closing = False
        try:
            (self.place / "jobs").mkdir(parents=True, exist_ok=True)
            self._own = FileLock(self.place / "lock")
            self._own.acquire(timeout=0)
        except Timeout as error:
            raise OutputError(f"{place}: another `fpsgan web` works there; end it, or choose another --work") from error
        except OSError as error:
            raise OutputError(f"{place}: cannot be used ({error.strerror})") from error
        self._read()
        self._hand = threading.Thread(target=self._do_tasks, name="tasks")
        self._hand.start()
        with self._lock:
            self._advance()

    # requests

    def new_folder(self) -> tuple[str, Path]:
        """(id, an empty folder) for a new job."""
        id = secrets.token_hex(16)
        folder = self.place / "jobs" / id
        folder.mkdir()
        return id, folder

    def add(self, id: str, name: str, source: Path) -> Job:
        """A new job, last in the queue: its clip is looked at, its options are proposed."""
        with self._lock:
            job = Job(id, name[:200], str(source))
            self._jobs[id] = job
            self._ask(job, "look")
            self._keep()
            return job

    def discard(self, id: str) -> None:
        """Remove the folder of a job that was not added, or is no more."""
        shutil.rmtree(self.place / "jobs" / id, ignore_errors=True)

    def snapshot(self) -> list[dict[str, Any]]:
        """All jobs as JSON, in order."""
        with self._lock:
            return [self._shown(job) for job in self._jobs.values()]

    def job(self, id: str) -> Job:
        with self._lock:
            return dataclasses.replace(self._jobs[id])

    def folder(self, id: str) -> Path:
        return self.place / "jobs" / id

    def target(self, job: Job) -> Path:
        return self.folder(job.id) / f"result{job.suffix}"

    def choose(self, id: str, options: dict[str, str], intent: str, suffix: str) -> None:
        """Set what is to be done, before it is started."""
        with self._lock:
            job = self._job_in(id, "draft")
            options = {name: value for name, value in options.items() if value != ""}
            work.check(options, self.fields)
            if suffix not in work.TARGETS or intent not in ("", *work.INTENTS):
                raise OptionError(f"{suffix} {intent}: unknown")
            job.options, job.intent, job.suffix = options, intent, suffix
            self._drop(job, "preview")  # it shows other options
            self._ask(job, "estimate")
            self._keep()

    def start(self, id: str) -> None:
        """Put a draft, or what was paused or failed, into the queue."""
        with self._lock:
            job = self._job_in(id, "draft", "paused", "failed")
            if job.found is None:
                raise OptionError(f"{job.name}: not known yet what it is")
            self._drop(job, "estimate")
            job.state, job.error, job.progress = "waiting", "", {}
            self._advance()

    def pause(self, id: str) -> None:
        with self._lock:
            job = self._job_in(id, "waiting", "running")
            job.state = "paused"
            self._end(self._processes.get(id))
            self._advance()

    def cancel(self, id: str) -> None:
        """Back to a draft; what was done is discarded."""
        with self._lock:
            job = self._job_in(id, "waiting", "running", "paused", "failed", "done")
            job.state, job.error, job.progress, job.result = "draft", "", {}, None
            self._drop(job, "copies")
            if id in self._processes:
                self._unwanted.add(id)
                self._end(self._processes[id])
            else:
                self._clear(job)
            self._ask(job, "estimate")
            self._advance()

    def remove(self, id: str) -> None:
        """Forget a job, and everything of it that is in the server's own folder."""
        with self._lock:
            job = self._jobs.pop(id)
            for kind in KINDS:
                self._drop(job, kind)
            self._end(self._processes.get(id))
            self._advance()
            busy = id in self._processes or (self._task is not None and self._task[0] == id)
        if not busy:  # otherwise the thread that waits for the process does it
            self.discard(id)

    def move(self, id: str, by: int) -> None:
        """Up (by < 0) or down in the order."""
        with self._lock:
            order = list(self._jobs)
            at = order.index(id) if id in order else -1
            if at < 0:
                raise KeyError(id)
            order.insert(max(0, at + by), order.pop(at))
            self._jobs = {each: self._jobs[each] for each in order}
            self._advance()

    def preview(self, id: str, start: float) -> None:
        with self._lock:
            job = self._job_in(id, "draft")
            start = min(max(start, 0.0), max(0.0, self._found(job)["duration"] - 0.2))
            self._ask(job, "preview", at=start, slow=job.options.get("slowmo", "1"))

    def copies(self, id: str) -> None:
        with self._lock:
            self._ask(self._job_in(id, "done"), "copies")

    def report(self, id: str) -> None:
        with self._lock:
            job = self._jobs[id]
            self._found(job)
            self._ask(job, "report")

    def last_frame(self, id: str) -> Path:
        """The path of a picture of the last frame that a job has finished, which exists if there is one yet."""
        job = self.job(id)
        picture = self.folder(id) / "frame.jpg"
        if job.state != "running" or (picture.exists() and time.time() - picture.stat().st_mtime < FRESH):
            return picture
        command = work.last_frame(self.target(job), picture)
        if command is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # half a file need not have a whole frame either
                subprocess.run(command, stdin=subprocess.DEVNULL, timeout=PATIENCE, check=False)
        return picture

    def close(self) -> None:
        """End all work; running jobs continue when the server is started again."""
        with self._lock:
            self._closing = True
            self._keep()
            processes = [*self._processes.values(), *([self._task[2]] if self._task and self._task[2] else [])]
            for process in processes:
                self._end(process)
            self._changed.notify_all()
        self._hand.join()
        while True:
            with self._lock:
                if not self._processes:
                    break
            time.sleep(0.02)
        self._own.release()

    # the queue

    def _advance(self) -> None:
        """Start what can be started, and save the queue."""
        if not self._closing:
            for job in self._jobs.values():
                if job.state == "waiting" and job.id not in self._processes and self._is_free(job):
                    job.state = "running"
                    command = work.enhance(job.source, self.target(job), job.options)
                    self._processes[job.id] = self._spawn(command)
                    threading.Thread(target=self._follow, args=(job, self._processes[job.id]), name=job.id).start()
        self._keep()

    def _is_free(self, job: Job) -> bool:
        """Two jobs run at once only on devices that both name, and that differ."""
        device = job.options.get("device", "auto")
        busy = [self._jobs[id].options.get("device", "auto") for id in self._processes if id in self._jobs]
        if len(busy) < len(self._processes):
            return False  # one that was removed is still exiting
        return not busy or (":" in device and all(":" in each and each != device for each in busy))

    def _follow(self, job: Job, process: subprocess.Popen[str]) -> None:
        answer, error = self._listen(process, job.progress)
        with self._lock:
            del self._processes[job.id]
            known = self._jobs.get(job.id) is job
            if job.id in self._unwanted:
                self._unwanted.remove(job.id)
                self._clear(job)
            elif process.returncode == 0 and job.state in ("running", "waiting", "paused"):
                job.state, job.result, job.error = "done", json.loads(answer), ""
            elif job.state == "running" and not self._closing:
                job.state, job.error = "failed", error
            self._advance()
        if not known:
            self.discard(job.id)

    def _clear(self, job: Job) -> None:
        """Remove the result of a job, and what it left if it was cancelled."""
        target = self.target(job)
        target.unlink(missing_ok=True)
        shutil.rmtree(target.with_name(f".{target.name}.fpsgan"), ignore_errors=True)
        (self.folder(job.id) / "frame.jpg").unlink(missing_ok=True)
        shutil.rmtree(self.folder(job.id) / "copies", ignore_errors=True)

    # tasks beside the queue, one at a time

    def _ask(self, job: Job, kind: str, **more: Any) -> None:
        """Queue a task, in place of one of the same kind that is not done yet."""
        self._drop(job, kind)
        job.tasks[kind] = {"state": "waiting", "progress": {}, **more}
        self._asked.append((job.id, kind))
        self._asked.sort(key=lambda asked: KINDS.index(asked[1]))
        if kind != "estimate" and self._task is not None and self._task[1] == "estimate":
            self._ask(self._jobs[self._task[0]], "estimate")  # makes way for what somebody is waiting for
        self._changed.notify_all()

    def _drop(self, job: Job, kind: str) -> None:
        self._asked = [asked for asked in self._asked if asked != (job.id, kind)]
        if self._task is not None and self._task[:2] == (job.id, kind):
            self._end(self._task[2])
        if job.tasks.get(kind, {}).get("state") != "done" or kind != "look":
            job.tasks.pop(kind, None)

    def _commands(self, job: Job, kind: str) -> list[list[str]]:
        folder = self.folder(job.id)
        if kind == "look":
            return [work.look(job.source)]
        found = self._found(job)
        if kind == "estimate":
            return [work.estimate(job.source, folder / f"estimate{job.suffix}", job.options)]
        if kind == "report":
            return [work.report(job.source, folder / "report.html", job.options)]
        if kind == "copies":
            (folder / "copies").mkdir(exist_ok=True)
            return work.copies(job.source, self.target(job), folder / "copies", job.options, hdr=found["hdr"])
        shutil.rmtree(folder / "preview", ignore_errors=True)
        (folder / "preview").mkdir()
        at = job.tasks["preview"]["at"]
        return work.preview(job.source, folder / "preview", job.options, at, hdr=found["hdr"])

    def _do_tasks(self) -> None:
        while True:
            with self._lock:
                while not self._asked and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
                id, kind = self._asked.pop(0)
                job = self._jobs[id]
                task = job.tasks[kind]
                task["state"] = "running"
                self._task = (id, kind, None)
            self._do(job, kind, task)
            with self._lock:
                self._task = None
                gone = id not in self._jobs and id not in self._processes
                self._keep()
            if gone:
                self.discard(id)

    def _do(self, job: Job, kind: str, task: dict[str, Any]) -> None:
        answer = ""
        for command in self._commands(job, kind):
            with self._lock:
                if self._closing or job.tasks.get(kind) is not task:
                    return
                process = self._spawn(command)
                self._task = (job.id, kind, process)
            answer, error = self._listen(process, task["progress"])
            if process.returncode:
                task.update(state="failed", error=error)
                return
        with self._lock:
            if job.tasks.get(kind) is not task:
                return
            found = json.loads(answer)
            if kind not in ("look", "estimate"):  # of others, without paths on this machine
                found = {name: found[name] for name in ("fps_out",) if name in found}
            task.update(state="done", found=found)
            if kind == "look":
                job.intent = found["suggested"]
                job.options = dict(found["intents"][job.intent])
                job.suffix = ".mkv" if found["facts"]["alpha"] else ".mp4"
                self._ask(job, "estimate")

    # processes

    def _spawn(self, command: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=self.place,
            encoding="utf-8", errors="replace", start_new_session=True,
        )  # fmt: skip

    def _listen(self, process: subprocess.Popen[str], progress: dict[str, Any]) -> tuple[str, str]:
        """(its standard output, why it failed); ``progress`` is updated as it reports it."""
        answer: list[str] = []
        assert process.stdout is not None and process.stderr is not None
        reader = threading.Thread(target=lambda out: answer.append(out.read()), args=(process.stdout,))
        reader.start()
        said: deque[str] = deque(maxlen=TELLS)
        for line in process.stderr:
            if line.startswith("{"):
                with self._lock:
                    progress.update(json.loads(line))
            elif line.strip():
                said.append(line.strip())
        reader.join()
        process.wait()
        process.stdout.close()
        process.stderr.close()
        reason = said[-1].removeprefix("fpsgan: ") if said else f"ended by itself, with code {process.returncode}"
        return "".join(answer), reason.replace(f"{self.place}/jobs/", "")

    def _end(self, process: subprocess.Popen[str] | None) -> None:
        """Terminate a process, and kill it if it does not exit; the thread that reads from it notices."""
        if process is None or process.poll() is not None:
            return
        process.terminate()

        def make_sure() -> None:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()

        threading.Thread(target=make_sure, daemon=True).start()

    # helpers

    def _job_in(self, id: str, *states: str) -> Job:
        """The job, if it is in one of these states."""
        job = self._jobs[id]
        if job.state not in states:
            raise OptionError(f"{job.name}: is {job.state}, not {' or '.join(states)}")
        return job

    def _found(self, job: Job) -> dict[str, Any]:
        if job.found is None:
            raise OptionError(f"{job.name}: not known yet what it is")
        return dict(job.found["facts"])

    def _shown(self, job: Job) -> dict[str, Any]:
        record = dataclasses.asdict(job)
        del record["source"]
        if job.result is not None:
            record["result"] = {name: job.result[name] for name in ("fps_out", "size")}
        record["proof"] = work.proof(job.result) if job.result is not None else []
        return record

    # the file

    def _keep(self) -> None:
        write_whole(self.place / QUEUE, json.dumps([dataclasses.asdict(job) for job in self._jobs.values()]))

    def _read(self) -> None:
        path = self.place / QUEUE
        if not path.exists():
            return
        try:
            jobs = [Job(**record) for record in json.loads(path.read_text(encoding="utf-8"))]
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}: is no queue of this fpsgan ({error}); move it away to start over") from error
        for job in jobs:
            self._jobs[job.id] = job
            if job.state == "running":
                job.state = "waiting"
            for kind, task in list(job.tasks.items()):
                if task["state"] in ("waiting", "running"):
                    self._ask(job, kind, **{key: task[key] for key in ("at", "slow") if key in task})
