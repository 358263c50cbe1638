"""Simulation of a schedule: tasks with dependencies on an autoscaling pool of nodes, in time and money.

List scheduling: a free core takes the task that has been ready longest, as Ray's queue does. Nodes start after the
autoscaler's delay and their own start, stop when idle, and may be taken away (spot); a task then goes on from its last
checkpoint. Storage serves so many readers at full speed, the others wait. benchmarks/scaling.py checks it against real
sweeps; tests/test_scaling.py holds its invariants.
"""

import math
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simpy

Steps = Generator[simpy.Event, Any, Any]


@dataclass(frozen=True)
class Task:
    """Work of one core. Times in seconds."""

    seconds: float
    read_gb: float = 0.0
    """Read from storage before it begins, again after each interruption."""
    after: tuple[int, ...] = ()
    """Positions of earlier tasks that must have ended."""
    checkpoint_s: float = math.inf
    """Work between checkpoints: what is lost at most with a node."""
    stage: str = ""


@dataclass(frozen=True)
class Pool:
    """Nodes of one kind, from `least` to `most`."""

    cores: int
    most: int
    least: int = 0
    price_per_h: float = 0.0
    """Of a node, from its launch to its end: start and idle time cost too."""
    start_s: float = 0.0
    idle_s: float = 0.0
    """Without work before it stops; the `least` stay until all is done."""
    interruptions_per_h: float = 0.0
    """Of each node, on average (exponential)."""


@dataclass(frozen=True)
class Storage:
    gb_per_s: float = math.inf
    """All readers together."""
    reader_gb_per_s: float = math.inf
    """One reader."""

    @property
    def readers(self) -> float:
        """How many read at full speed at once."""
        return math.inf if math.isinf(self.gb_per_s) else max(1, int(self.gb_per_s / self.reader_gb_per_s))

    def seconds(self, read_gb: float) -> float:
        return read_gb / min(self.reader_gb_per_s, self.gb_per_s)


@dataclass(frozen=True)
class Outcome:
    makespan_s: float
    """Until the last task has ended."""
    cost: float
    """Nodes until they are gone, and the head until the makespan."""
    node_s: float
    busy_s: float
    """Core seconds of work, reading included."""
    lost_s: float
    """Core seconds that were done again after an interruption."""
    interruptions: int
    most_nodes: int
    stage_s: dict[str, tuple[float, float]] = field(default_factory=dict)
    """First start and last end of each stage's tasks."""


def simulate(
    tasks: Sequence[Task], pool: Pool, storage: Storage = Storage(), *, delay_s: float = 0.0,
    head_price_per_h: float = 0.0, seed: int = 0,
) -> Outcome:  # fmt: skip
    """Run `tasks` on `pool`; the autoscaler looks every `delay_s`. Deterministic in the seed.

    Raises ValueError for a dependency that is not earlier in the list, and for a pool without room.
    """
    if pool.most * pool.cores < 1:
        raise ValueError(f"a pool of {pool.most} nodes with {pool.cores} cores has no room for a task")
    for number, task in enumerate(tasks):
        if any(not 0 <= earlier < number for earlier in task.after):
            raise ValueError(f"task {number} waits for {task.after}; a task waits for earlier ones only")
    return _Cluster(tasks, pool, storage, delay_s, seed).outcome(head_price_per_h)


def critical_path_s(tasks: Sequence[Task], storage: Storage = Storage()) -> float:
    """The longest chain of dependent tasks: no pool ends sooner."""
    ends: list[float] = []
    for task in tasks:
        begin = max((ends[earlier] for earlier in task.after), default=0.0)
        ends.append(begin + task.seconds + storage.seconds(task.read_gb))
    return max(ends, default=0.0)


def chain(stages: Iterable[Sequence[Task]]) -> list[Task]:
    """Stages one after the other: each waits for all of the one before, as one task of no length that joins them."""
    tasks: list[Task] = []
    before: tuple[int, ...] = ()
    for stage in stages:
        first = len(tasks)
        tasks += [Task(t.seconds, t.read_gb, before, t.checkpoint_s, t.stage) for t in stage]
        tasks.append(Task(0.0, after=tuple(range(first, len(tasks))), stage=stage[0].stage))
        before = (len(tasks) - 1,)
    return tasks


class _Node:
    def __init__(self, env: simpy.Environment, kept: bool):
        self.launched = env.now
        self.kept = kept
        """One of the pool's least: it stays until all is done."""
        self.gone = env.event()
        self.busy = 0
        self.idle_since = math.nan
        self.idle = env.event()
        """Happens when the last core becomes free; then renewed."""


class _Cluster:
    def __init__(self, tasks: Sequence[Task], pool: Pool, storage: Storage, delay_s: float, seed: int):
        self.tasks, self.pool, self.storage, self.delay_s = tasks, pool, storage, delay_s
        self.env = simpy.Environment()
        self.rng = np.random.default_rng(seed)
        self.ready: deque[int] = deque()
        self.free: deque[tuple[_Node, simpy.Event]] = deque()  # a core, and what it waits for: its next task
        self.readers = simpy.Resource(self.env, min(storage.readers, len(tasks) or 1))
        self.nodes: list[_Node] = []
        self.looking = False  # the autoscaler will look after its delay
        self.done = self.env.event()
        self.left_s = [task.seconds for task in tasks]
        self.waits = [len(set(task.after)) for task in tasks]
        self.followers: list[list[int]] = [[] for _ in tasks]
        for number, task in enumerate(tasks):
            for earlier in set(task.after):
                self.followers[earlier].append(number)
        self.remaining = len(tasks)
        self.makespan_s = self.node_s = self.busy_s = self.lost_s = 0.0
        self.interruptions = self.most_nodes = 0
        self.stage_s: dict[str, tuple[float, float]] = {}

    def outcome(self, head_price_per_h: float) -> Outcome:
        for number, waits in enumerate(self.waits):
            if not waits:
                self._offer(number)
        self.env.run()
        cost = (self.node_s * self.pool.price_per_h + self.makespan_s * head_price_per_h) / 3600
        return Outcome(
            self.makespan_s, cost, self.node_s, self.busy_s, self.lost_s, self.interruptions, self.most_nodes,
            self.stage_s
        )  # fmt: skip

    # --- nodes ---

    def _offer(self, number: int) -> None:
        """To the core that has been free longest, else to the queue, and the autoscaler will look. A join needs
        none."""
        if not self.left_s[number] and not self.tasks[number].read_gb:
            self._finish(number)
            return
        while self.free:
            node, turn = self.free.popleft()
            if not node.gone.triggered:
                node.busy += 1
                turn.succeed(number)
                return
        self.ready.append(number)
        if not self.looking:
            self.looking = True
            self.env.process(self._scale())

    def _scale(self) -> Steps:
        """The autoscaler's look: nodes for all that runs or could."""
        yield self.env.timeout(self.delay_s)
        self.looking = False
        demand = len(self.ready) + sum(node.busy for node in self.nodes)
        wanted = max(self.pool.least, min(self.pool.most, math.ceil(demand / self.pool.cores)))
        for _ in range(wanted - len(self.nodes)):
            self.nodes.append(_Node(self.env, kept=sum(node.kept for node in self.nodes) < self.pool.least))
            self.env.process(self._live(self.nodes[-1]))
        self.most_nodes = max(self.most_nodes, len(self.nodes))

    def _live(self, node: _Node) -> Steps:
        """A node from its launch until it has been idle for long, or is taken."""
        yield self.env.timeout(self.pool.start_s)
        node.idle_since = self.env.now
        for _ in range(self.pool.cores):
            self.env.process(self._core(node))
        rate = self.pool.interruptions_per_h / 3600
        taken = self.env.timeout(self.rng.exponential(1 / rate)) if rate else self.env.event()
        while True:
            over = self.done if node.kept else self.env.process(self._idle(node))
            yield taken | over
            if taken.processed or not node.busy:  # not where it got work at this very moment
                break
        self.interruptions += node.busy > 0  # an idle node is not missed
        self.nodes.remove(node)
        node.gone.succeed()
        self.node_s += self.env.now - node.launched

    def _idle(self, node: _Node) -> Steps:
        """Until the node has had no work for the pool's idle time."""
        since = math.nan
        while node.busy or since != node.idle_since:
            if node.busy:
                yield node.idle
            since = node.idle_since
            yield self.env.timeout(max(0.0, since + self.pool.idle_s - self.env.now))

    # --- work ---

    def _core(self, node: _Node) -> Steps:
        while not node.gone.triggered:
            number = yield self._turn(node)
            if (yield from self._run(number, node)):
                self._free(node)
                self._finish(number)
            else:
                self._free(node)
                self._offer(number)

    def _turn(self, node: _Node) -> simpy.Event:
        turn = self.env.event()
        if self.ready:
            node.busy += 1
            turn.succeed(self.ready.popleft())
        else:
            self.free.append((node, turn))
        return turn

    def _free(self, node: _Node) -> None:
        node.busy -= 1
        if not node.busy:
            node.idle_since = self.env.now
            node.idle.succeed()
            node.idle = self.env.event()

    def _run(self, number: int, node: _Node) -> Steps:
        """True where the task has ended, False where its node was taken from it."""
        task = self.tasks[number]
        self.stage_s.setdefault(task.stage, (self.env.now, self.env.now))
        if task.read_gb and not (yield from self._read(task.read_gb, node)):
            return False
        began = self.env.now
        finished = self.env.timeout(self.left_s[number])
        yield finished | node.gone
        worked = self.left_s[number] if finished.processed else self.env.now - began
        self.busy_s += worked
        if finished.processed:
            return True
        kept = worked - worked % task.checkpoint_s
        self.lost_s += worked - kept + self.storage.seconds(task.read_gb)
        self.left_s[number] -= kept
        return False

    def _read(self, read_gb: float, node: _Node) -> Steps:
        with self.readers.request() as turn:
            yield turn | node.gone
            began = self.env.now
            if not node.gone.triggered:
                yield self.env.timeout(self.storage.seconds(read_gb)) | node.gone
            self.busy_s += self.env.now - began
            self.lost_s += (self.env.now - began) * node.gone.triggered
        return not node.gone.triggered

    def _finish(self, number: int) -> None:
        self.remaining -= 1
        if not self.remaining:
            self.done.succeed()
        self.makespan_s = self.env.now
        stage = self.tasks[number].stage
        self.stage_s[stage] = (self.stage_s.get(stage, (self.env.now,))[0], self.env.now)
        for follower in self.followers[number]:
            self.waits[follower] -= 1
            if not self.waits[follower]:
                self._offer(follower)
