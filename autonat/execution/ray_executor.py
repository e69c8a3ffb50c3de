"""Tasks on a Ray cluster: measurements on long-lived actors, trainings as Ray Tune runs.

Only the files `ray_*.py` beside this one import Ray, inside functions.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from autonat.errors import UserError
from autonat.execution.executor import Done, new_worker, one_line
from autonat.execution.listener import SILENT, Attempts, Listener, Place
from autonat.execution.parcels import Parcel, networks_needed, packed, unpack
from autonat.execution.ray_cluster import RaySettings, connect, disconnect, room
from autonat.execution.ray_logs import LogNote
from autonat.execution.ray_training import train_line
from autonat.execution.ray_worker import Answer, Greeting, RayWorker, Site
from autonat.execution.tasks import ProbeTask, Task, TrainTask
from autonat.specs import TrainSpec
from autonat.storage.artifacts import Artifacts

# How often nodes that joined are looked for, and the longest time until a stop is heard.
LOOK_SECONDS = 2.0
# A worker whose last task was shorter gets its next one in advance, so that it does not wait for the driver.
QUICK_SECONDS = 1.0
# So many workers that do not even start, one after another, are not bad luck.
FAILED_STARTS = 5
# A cluster without any room for so long will not have some.
PATIENCE_SECONDS = 60.0
KEPT_PARCELS = 4


class _Seat:
    """An actor as the driver sees it. The first task of its queue is at hand, the one behind it waits there."""

    def __init__(self, actor: Any, name: str) -> None:
        self.actor, self.name = actor, name
        self.place = Place("", 0, name)
        self.shares_folder = True
        self.queue: deque[tuple[int, Any]] = deque()
        self.is_quick = False

    @property
    def has_arrived(self) -> bool:
        return self.place.pid > 0

    def welcome(self, greeting: Greeting) -> None:
        self.place = replace(greeting.place, name=self.name)
        self.shares_folder = greeting.shares_folder


class RayExecutor:
    """Actors of one CPU each (and perhaps a GPU or a part of one), as many as the cluster has room for.

    Work is pulled: a free actor gets the next task, and no more than one beyond it. An actor that dies or fails is
    replaced and its task tried again by another; nodes that join get actors within seconds. Trainings of one batch are
    one Ray Tune run, for which the actors make room. num_workers: an upper limit; None uses the whole cluster.
    """

    def __init__(
        self,
        artifacts: str,
        num_workers: int | None,
        settings: RaySettings = RaySettings(),
        make_worker: Callable[[str], Any] = new_worker,
    ) -> None:
        self._artifacts = Artifacts(artifacts)
        self._num_workers = None if num_workers is None else max(1, num_workers)
        self._settings, self._make_worker = settings, make_worker
        self._note: LogNote | None = None
        self._site: Site | None = None
        self._seats: set[_Seat] = set()
        self._idle: list[_Seat] = []
        self._arriving: dict[Any, _Seat] = {}
        self._count = self._failed_starts = 0
        self._next_look = self._last_room = 0.0
        self._parcels: OrderedDict[str, Parcel] = OrderedDict()
        self._constants: dict[int, tuple[Any, Any]] = {}

    @property
    def places(self) -> list[Place]:
        """The actors that there are."""
        return [seat.place for seat in self._seats if seat.has_arrived]

    def run(self, tasks: Sequence[Task], listener: Listener = SILENT) -> Iterator[Done]:
        if not tasks:
            return
        self._open()
        attempts = Attempts(listener)
        trainings = {index: task for index, task in enumerate(tasks) if _is_training(task)}
        others = {index: task for index, task in enumerate(tasks) if index not in trainings}
        yield from self._pull(others, listener, attempts)
        if trainings and not listener.stopping():
            yield from self._train(trainings, listener, attempts)

    def _open(self) -> None:
        if self._site is not None:
            return
        connect(self._settings, self._num_workers)
        self._artifacts.create()
        self._note = LogNote(self._artifacts.folder)
        self._site = Site(self._artifacts.address, str(self._note.path.resolve()), self._make_worker)
        if not room(self._settings):
            raise UserError(f"the Ray cluster has no node with {self._needs()} for a worker")

    def _needs(self) -> str:
        gpus = self._settings.gpus_per_worker
        return "a CPU" + (f" and {gpus:g} GPU" if gpus else "")

    # Measurements

    def _pull(self, tasks: dict[int, Task], listener: Listener, attempts: Attempts) -> Iterator[Done]:
        import ray

        waiting = deque(tasks)
        running: dict[Any, _Seat] = {}

        def begin(seat: _Seat) -> None:
            """What is first in an actor's queue is at hand."""
            index, reference = seat.queue[0]
            running[reference] = seat
            listener.started(index, seat.place)

        def fill(seat: _Seat) -> None:
            """Give an actor its next task, and the one after that where it is quick and there is enough for all."""
            while waiting:
                depth = 2 if seat.is_quick and len(waiting) > len(self._seats) else 1
                if len(seat.queue) >= depth:
                    return
                index = waiting.popleft()
                seat.queue.append((index, self._submit(seat, tasks[index])))
                if len(seat.queue) == 1:
                    begin(seat)

        self._greet_again()
        try:
            while waiting or running:
                if waiting and not listener.stopping():
                    self._ask_for_workers(len(waiting) + len(running))
                    while waiting and self._idle and not listener.stopping():
                        fill(self._idle.pop())
                elif not running:
                    return
                for reference in self._ready([*running, *self._arriving]):
                    if reference in self._arriving:
                        self._welcome(reference)
                        continue
                    seat = running.pop(reference)
                    index, _ = seat.queue.popleft()
                    answer = _answer_of(ray, reference)
                    if answer.outcome == "done":
                        self._keep(answer)
                        listener.finished(index, answer.seconds, answer.peak_memory)
                        seat.is_quick = answer.seconds < QUICK_SECONDS
                        if seat.queue:
                            begin(seat)
                        if not listener.stopping():
                            fill(seat)
                        if not seat.queue:
                            self._idle.append(seat)
                        yield index, answer.result, answer.seconds
                        continue
                    # What waited behind it was not begun, so that it costs no attempt.
                    waiting.extendleft(behind for behind, _ in reversed(seat.queue))
                    waiting.appendleft(index)
                    self._dismiss(seat)
                    if answer.outcome == "refused":
                        listener.failed(index, answer.error)
                        raise UserError(answer.error)
                    attempts.failed(index, tasks[index], seat.place, answer.error)
        finally:
            # Left early: what is in flight is of no use to anybody.
            for seat in running.values():
                self._dismiss(seat)
            self._constants.clear()

    def _ready(self, references: list[Any]) -> list[Any]:
        import ray

        if not references:
            time.sleep(0.2)
            return []
        return ray.wait(references, num_returns=1, timeout=LOOK_SECONDS)[0]

    def _submit(self, seat: _Seat, task: Task) -> Any:
        parcels = {} if seat.shares_folder else self._parcels_for(task)
        return seat.actor.perform.remote(self._light(task), parcels)

    def _light(self, task: Task) -> Task:
        """The task with its large constant, which many tasks share, put into the object store once."""
        import ray

        if not isinstance(task, ProbeTask):
            return task
        key = id(task.influence)
        if key not in self._constants:  # which keeps the object too, so that no other gets its id
            self._constants[key] = (task.influence, ray.put(task.influence))
        return replace(task, influence=self._constants[key][1])

    def _parcels_for(self, task: Task) -> dict[str, Parcel]:
        """The networks that a task needs, in the object store, from where each node fetches them once."""
        import ray

        found = {}
        for name in networks_needed(task):
            path = self._artifacts.path(name)
            status = path.stat()  # a file that was replaced is another
            key = f"{name}:{status.st_ino}:{status.st_mtime_ns}"
            if key not in self._parcels:
                parcel = packed(path)
                self._parcels[key] = replace(parcel, content=ray.put(parcel.content))
            self._parcels.move_to_end(key)
            found[name] = self._parcels[key]
        while len(self._parcels) > max(KEPT_PARCELS, len(found)):
            self._parcels.popitem(last=False)
        return found

    def _keep(self, answer: Answer) -> None:
        """Put weights that came back into the artifact folder."""
        for name, parcel in answer.made.items():
            unpack(self._artifacts, name, parcel)

    # Actors

    def _ask_for_workers(self, tasks: int) -> None:
        """Ask for actors where tasks and nodes have room for more; asked actors may still wait for other users."""
        import ray

        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        found = room(self._settings)
        if found or self._seats:
            self._last_room = now
        elif now - self._last_room > PATIENCE_SECONDS:
            raise UserError(f"no node with {self._needs()} is left in the Ray cluster; what was finished is kept")
        wanted = min(found, tasks, self._num_workers or found)
        actor_class: Any = ray.remote(num_cpus=1, num_gpus=self._settings.gpus_per_worker)(RayWorker)
        for _ in range(wanted - len(self._seats)):
            self._count += 1
            seat = _Seat(actor_class.remote(self._site), f"ray-{self._count}")
            self._seats.add(seat)
            self._arriving[seat.actor.greet.remote()] = seat

    def _greet_again(self) -> None:
        """Ask idle actors whether they are still there: one that died meanwhile is to cost no task an attempt."""
        while self._idle:
            seat = self._idle.pop()
            seat.is_quick = False  # which says nothing of these tasks
            self._arriving[seat.actor.greet.remote()] = seat
        self._next_look = 0.0
        self._last_room = time.monotonic()

    def _welcome(self, reference: Any) -> None:
        import ray
        from ray.exceptions import RayError

        seat = self._arriving.pop(reference)
        try:
            greeting: Greeting = ray.get(reference)
        except RayError as error:
            self._failed_starts += not seat.has_arrived
            self._dismiss(seat)
            if self._failed_starts >= FAILED_STARTS:
                raise UserError(f"workers do not start on the Ray cluster: {one_line(error)}") from error
            return
        self._failed_starts = 0
        assert self._note is not None
        self._note.add(greeting.place.host, greeting.logs)
        seat.welcome(greeting)
        self._idle.append(seat)

    def _dismiss(self, seat: _Seat) -> None:
        import ray

        self._seats.discard(seat)
        seat.queue.clear()
        self._next_look = 0.0
        with suppress(Exception):  # it may be dead, or the cluster gone
            ray.kill(seat.actor)

    # Trainings

    def _train(self, tasks: Mapping[int, Task], listener: Listener, attempts: Attempts) -> Iterator[Done]:
        for seat in list(self._seats):
            self._dismiss(seat)
        self._idle.clear()
        self._arriving.clear()
        assert self._site is not None
        assert self._note is not None
        parcels = {index: self._parcels_for(task) for index, task in tasks.items()}
        for index, greeting, answer in train_line(
            tasks, parcels, self._site, self._settings, self._num_workers, listener, attempts
        ):
            self._note.add(greeting.place.host, greeting.logs)
            self._keep(answer)
            listener.finished(index, answer.seconds, answer.peak_memory)
            yield index, answer.result, answer.seconds

    def __enter__(self) -> "RayExecutor":
        return self

    def __exit__(self, *_: object) -> None:
        if self._site is not None:
            self._seats.clear()
            self._idle.clear()
            self._arriving.clear()
            self._parcels.clear()
            self._site = None
            disconnect()


def _is_training(task: Task) -> bool:
    return isinstance(task, TrainTask) and isinstance(task.spec, TrainSpec)


def _answer_of(ray: Any, reference: Any) -> Answer:
    """The answer that is there, or what became of the actor."""
    try:
        answer: Answer = ray.get(reference)
        return answer
    except ray.exceptions.RayTaskError as error:  # the answer itself did not get through
        return Answer("failed", error=one_line(error.cause))
    except ray.exceptions.OutOfMemoryError:
        return Answer("failed", error="the worker process died (killed by Ray; out of memory)")
    except ray.exceptions.ActorDiedError as error:
        memory = "; out of memory" if "low on memory" in str(error) else ""
        return Answer("failed", error=f"the worker process died (with its node, or killed{memory})")
    except ray.exceptions.ActorUnavailableError:
        return Answer("failed", error="the worker process died (its node cannot be reached)")
    except ray.exceptions.RayError as error:
        return Answer("failed", error=one_line(error))
