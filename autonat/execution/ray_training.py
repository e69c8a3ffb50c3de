"""The trainings of one batch (the points of one line of the Beta search) as one Ray Tune run."""

import os
import queue
from collections.abc import Iterator, Mapping
from contextlib import suppress
from tempfile import TemporaryDirectory
from typing import Any

from autonat.errors import UserError
from autonat.execution.executor import one_line
from autonat.execution.listener import ATTEMPTS, Attempts, Listener, Place
from autonat.execution.parcels import Parcel
from autonat.execution.ray_cluster import QUIET, RaySettings, has_node
from autonat.execution.ray_worker import Answer, Greeting, RayWorker, Site
from autonat.execution.tasks import Task

# The longest time that the driver waits for news before it looks whether it is to stop.
NEWS_SECONDS = 1.0
# Trials that speak at once, the driver's questions, and the run itself.
THREADS = 64

Event = tuple[str, int, Any]
Parcels = Mapping[str, Parcel]


class _Line:
    """An actor that has a Tune run and hears of its trials.

    Tune runs in a process of its own so that its output stays in Ray's logs, that leaving it early takes the trials
    along, and that a driver outside the cluster (ray://) can have one too.
    """

    def __init__(self) -> None:
        self._events: queue.Queue[Event] = queue.Queue()
        self._parcels: Mapping[int, Parcels] = {}
        self._done: set[int] = set()
        self._stopping = False

    def run(
        self,
        tasks: dict[int, Task],
        parcels: Mapping[int, Parcels],
        site: Site,
        resources: dict[str, float],
        at_once: int | None,
    ) -> list[str]:
        """Returns when every trial has ended: the errors of those that did not succeed."""
        os.environ |= QUIET
        import ray
        from ray import tune

        here = ray.get_runtime_context().current_actor
        self._parcels = parcels

        def trial(config: dict[str, int]) -> None:
            index = config["index"]
            worker = RayWorker(site)
            if ray.get(here.began.remote(index, worker.greet())):
                answer = worker.perform(tasks[index], ray.get(here.parcels_of.remote(index)))
                ray.get(here.ended.remote(index, answer))
                if answer.outcome == "failed":
                    raise RuntimeError(answer.error)  # Tune tries again, in another process
            tune.report({"index": index})

        with TemporaryDirectory(prefix="autonat-tune-") as folder:
            results = tune.Tuner(
                tune.with_resources(trial, resources),
                param_space={"index": tune.grid_search(list(tasks))},
                # A process that has done one training takes the next: starting one and importing torch takes seconds.
                tune_config=tune.TuneConfig(max_concurrent_trials=at_once, reuse_actors=True),
                run_config=tune.RunConfig(
                    name="line",
                    storage_path=folder,
                    failure_config=tune.FailureConfig(max_failures=ATTEMPTS - 1),
                    verbose=0,
                ),
            ).fit()
        return [one_line(error) for error in results.errors]

    def began(self, index: int, greeting: Greeting) -> bool:
        """A trial asks whether it may begin: not again where its process died after its answer was heard."""
        if self._stopping or index in self._done:
            return False
        self._events.put(("began", index, greeting))
        return True

    def parcels_of(self, index: int) -> Parcels:
        """The weights that a training goes on from: references, which only those follow who lack the file."""
        return self._parcels[index]

    def ended(self, index: int, answer: Answer) -> None:
        if answer.outcome == "done":
            self._done.add(index)
        self._events.put(("ended", index, answer))

    def stop(self) -> None:
        """No trial begins any more."""
        self._stopping = True

    def news(self, seconds: float) -> list[Event]:
        """What happened since the last call; waits so long for the first."""
        found = []
        with suppress(queue.Empty):
            found.append(self._events.get(timeout=seconds))
            while True:
                found.append(self._events.get_nowait())
        return found


def train_line(
    tasks: Mapping[int, Task],
    parcels: Mapping[int, Parcels],
    site: Site,
    settings: RaySettings,
    num_workers: int | None,
    listener: Listener,
    attempts: Attempts,
) -> Iterator[tuple[int, Greeting, Answer]]:
    """(index, where, answer) of every training as it is done; the caller tells the listener of it.

    A training that fails is tried again by Tune and goes on from its state in the artifact folder. Where the whole run
    is lost with its node, another one is made of what is left.
    """
    import ray

    devices = max(devices_of(task) for task in tasks.values())
    resources = resources_of(settings, devices)
    at_once = None if num_workers is None else max(1, num_workers // devices)
    left, fruitless = dict(tasks), 0
    while left and not listener.stopping():
        before = len(left)
        begun: dict[int, Greeting] = {}
        options = {"num_cpus": 0, "max_concurrency": THREADS, **_near_the_driver()}
        line: Any = ray.remote(_Line).options(**options).remote()
        run = line.run.remote(left, parcels, site, resources, at_once)
        try:
            for index, answer in _listen(line, run, left, begun, listener, attempts):
                del left[index]
                yield index, begun.pop(index), answer
            errors = ray.get(run)
        except ray.exceptions.RayError as error:
            errors = [one_line(error)]
        finally:
            with suppress(Exception):
                ray.kill(line)
            _free_placement_groups()
        for index, greeting in begun.items():
            attempts.failed(index, tasks[index], _place(greeting, index), "the worker process died")
        fruitless = 0 if begun or len(left) < before else fruitless + 1
        if fruitless >= ATTEMPTS and not listener.stopping():
            raise UserError(f"trainings do not start on the Ray cluster: {'; '.join(errors[:1]) or 'no reason given'}")


def devices_of(task: Task) -> int:
    """How many devices a training takes."""
    training = getattr(task.spec, "training", None)
    return int(getattr(training, "devices", 1))


def resources_of(settings: RaySettings, devices: int) -> dict[str, float]:
    """What a training on so many devices takes of one node: a process each. Raises UserError where no node has it."""
    wanted = {"CPU": float(devices), "GPU": float(devices if settings.gpus_per_worker else 0)}
    wanted["GPU"] = max(wanted["GPU"], float(settings.gpus_per_training))
    if devices > 1 and not has_node(wanted):
        raise UserError(
            f"training.devices is {devices}, but no node of the Ray cluster has {devices} CPUs"
            + (f" and {wanted['GPU']:g} GPUs" if wanted["GPU"] else "")
        )
    return {"cpu": wanted["CPU"], "gpu": wanted["GPU"]}


def _listen(
    line: Any,
    run: Any,
    left: Mapping[int, Task],
    begun: dict[int, Greeting],
    listener: Listener,
    attempts: Attempts,
) -> Iterator[tuple[int, Answer]]:
    """What the trials of what is left tell, until the run has ended and all is heard. The caller takes what is done
    out of `left`; who began what is kept in `begun`."""
    import ray

    told = False
    while True:
        if listener.stopping() and not told:
            line.stop.remote()
            told = True
        has_ended = bool(ray.wait([run], timeout=0)[0])
        for kind, index, content in ray.get(line.news.remote(0.0 if has_ended else NEWS_SECONDS)):
            if index not in left:  # begun again before the answer of a process that died was heard
                continue
            if kind == "began":
                if index in begun:  # and was not heard of again
                    place = _place(begun.pop(index), index)
                    attempts.failed(index, left[index], place, "the worker process died")
                begun[index] = content
                listener.started(index, _place(content, index))
            elif content.outcome == "done":
                yield index, content
            else:
                place = _place(begun.pop(index), index)
                if content.outcome == "refused":
                    listener.failed(index, content.error)
                    raise UserError(content.error)
                attempts.failed(index, left[index], place, content.error)
        if has_ended:
            return


def _place(greeting: Greeting, index: int) -> Place:
    return Place(greeting.place.host, greeting.place.pid, f"tune-{index + 1}-{greeting.place.pid}")


def _near_the_driver() -> dict[str, Any]:
    """Tune runs on the driver's node, where it dies only with the driver; elsewhere if there is no such node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = ray.get_runtime_context().get_node_id()
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True)}


def _free_placement_groups() -> None:
    """A Tune run that was killed leaves its trials' resources reserved for as long as the driver lives."""
    import ray
    from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

    with suppress(Exception):  # the cluster may be gone
        job = ray.get_runtime_context().get_job_id()
        for name, group in placement_group_table().items():
            if name.endswith(job) and group["state"] != "REMOVED":
                remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(name))))
