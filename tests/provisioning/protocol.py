"""The lease and fencing protocol, small enough to visit every state it can get into. Pure.

One cluster's row, its region, the messages about it, and a few workers that may die, oversleep, or be overtaken at any
point. Time is what may have happened by now: a due time comes, and a lease runs out, whenever that is worst. Numbers of
epochs and turns are only compared, so states that differ in nothing else are one state.

`Rules()` is what the product does; each other value of a rule is a way in which it could have been built wrong. Where
the model says a word, the product has: claim `statements._CLAIM`, record `statements._GIVE_BACK`, wish
`services.wishes._make_due`, wake `statements.WAKE`, the bell `wakeups.send_once` and `hear`, and the fence
`ClusterBackend`'s promise about `epoch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


class Wish(IntEnum):
    """What is wanted: an engine, none, or that nothing is left and nobody ever looks again."""

    RUN = 0
    REST = 1
    GONE = 2


class Due(IntEnum):
    """When the row's next turn is: `LATER` and `LEASE_END` become claimable by time alone."""

    NEVER = 0
    LATER = 1
    LEASE_END = 2
    NOW = 3


class Lease(IntEnum):
    """Whether a turn has the row."""

    FREE = 0
    HELD = 1
    EXPIRED = 2


class Stage(IntEnum):
    """Where in a turn a worker is; between any two it can die, sleep, or meet anybody."""

    IDLE = 0
    LOOKING = 1
    CLAIMED = 2
    OBSERVED = 3
    CHECKED = 4
    ACTED = 5
    LEAVING = 6


class Worker(NamedTuple):
    """One worker, with what it knows of its turn; `is_current`: no newer wish was accepted since its claim."""

    stage: Stage = Stage.IDLE
    epoch: int = 0
    turn: int = 0
    wish: Wish = Wish.RUN
    is_current: bool = False
    saw_engine: bool = False
    was_refused: bool = False
    has_begun: bool = False

    @property
    def is_content(self) -> bool:
        """What it saw is what is wished; the last one to see a cluster that is to be gone closes it."""
        return self.saw_engine == (self.wish is Wish.RUN)


class State(NamedTuple):
    """Everything there is. `turns`, `acted` and `recorded` are our own book-keeping, which no rule may look at."""

    due: Due = Due.NOW
    lease: Lease = Lease.FREE
    epoch: int = 1
    wish: Wish = Wish.RUN
    is_closed: bool = False
    is_done: bool = False
    engines: int = 0
    fence: int = 0
    messages: int = 0
    is_ringing: bool = False
    is_unseen_change: bool = False
    workers: tuple[Worker, ...] = (Worker(), Worker())
    wishes_left: int = 1
    deaths_left: int = 1
    turns: int = 0
    acted: int = 0
    recorded: int = 0
    broken: str = ""

    @property
    def is_due(self) -> bool:
        """Whether its time has come; a turn's lease and its due time run out at the same moment."""
        return self.due is Due.NOW or (self.due is Due.LEASE_END and self.lease is Lease.EXPIRED)

    @property
    def is_claimable(self) -> bool:
        """The claim's condition."""
        return self.is_due and self.lease is not Lease.HELD and not self.is_closed

    @property
    def has_converged(self) -> bool:
        """The engine is as it is wished, the wish's operation is over, and no change is waiting to be noticed."""
        is_as_wished = self.engines == int(self.wish is Wish.RUN) and self.is_closed == (self.wish is Wish.GONE)
        return self.is_done and is_as_wished and not self.is_unseen_change


@dataclass(frozen=True)
class Rules:
    """How the protocol is built; without a broker, anybody may look at any time, as a late message has it."""

    has_broker: bool = False
    has_fence: bool = True
    checks_fence_under_lock: bool = True
    looks_for_engine_under_lock: bool = True
    claim_raises_epoch: bool = True
    claim_comes_back: bool = True
    record_checks_epoch: bool = True
    record_keeps_wake_ups: bool = True
    record_keeps_what_is_due: bool = True
    bell_falls_before_look: bool = True
    closing_raises_fence: bool = True


class Step(NamedTuple):
    """Something that can happen: who does it, whether it is a fault, and what is so afterwards."""

    actor: str
    is_fault: bool
    after: State


MOST_MESSAGES = 2


def steps(state: State, rules: Rules) -> Iterator[Step]:
    """All that can happen next."""
    yield from _world(state, rules)
    if rules.has_broker:
        yield from _messages(state)
    for place, worker in enumerate(state.workers):
        if worker.stage is not Stage.IDLE:
            yield Step(f"worker {place}", True, _with(state, place, Worker()))  # it dies here
        for actor, after in _worker_steps(state, place, worker, rules):
            yield Step(actor, False, after)


# --- The world: wishes, deaths, time ---


def _world(state: State, rules: Rules) -> Iterator[Step]:
    if state.wishes_left and not state.is_closed:
        for wish in Wish:
            if wish is not state.wish:
                yield Step("person", True, _accept(state, wish, rules))
    if state.deaths_left and state.engines:
        died = state._replace(engines=state.engines - 1, deaths_left=state.deaths_left - 1, is_unseen_change=True)
        yield Step("engine", True, died)
    if state.is_unseen_change:
        yield Step("watch", False, _wake(state._replace(is_unseen_change=False), rules))
    if state.due is Due.LATER:
        yield Step("time", False, state._replace(due=Due.NOW))
    if state.lease is Lease.HELD:
        is_overslept = any(w.stage > Stage.LOOKING and w.epoch == state.epoch for w in state.workers)
        yield Step("time", is_overslept, state._replace(lease=Lease.EXPIRED))


def _accept(state: State, wish: Wish, rules: Rules) -> State:
    workers = tuple(worker._replace(is_current=False) for worker in state.workers)
    wished = state._replace(
        wish=wish,
        is_done=False,
        wishes_left=state.wishes_left - 1,
        due=Due.NOW,
        epoch=state.epoch + 1,
        lease=Lease.FREE,
        workers=workers,
    )
    return _ring(wished, rules)


def _wake(state: State, rules: Rules) -> State:
    """The earlier of its due time and now; a lease's end that has passed is earlier than now."""
    if state.is_closed:
        return state
    return _ring(state if state.is_due else state._replace(due=Due.NOW), rules)


# --- Messages ---


def _ring(state: State, rules: Rules) -> State:
    if state.is_ringing or not rules.has_broker:
        return state
    return state._replace(is_ringing=True, messages=min(MOST_MESSAGES, state.messages + 1))


def _messages(state: State) -> Iterator[Step]:
    if state.messages:
        yield Step("broker", True, state._replace(messages=state.messages - 1))
        if state.messages < MOST_MESSAGES:
            yield Step("broker", True, state._replace(messages=state.messages + 1))
    if state.is_ringing:
        yield Step("bell", True, state._replace(is_ringing=False))  # it falls by itself, early or late


# --- Workers ---


def _worker_steps(state: State, place: int, worker: Worker, rules: Rules) -> Iterator[tuple[str, State]]:
    me = f"worker {place}"
    match worker.stage:
        case Stage.IDLE:
            if not rules.has_broker:
                yield "clock" if state.is_claimable else "nobody", _with(state, place, Worker(Stage.LOOKING))
                return
            if state.messages:
                bell = state.is_ringing and not rules.bell_falls_before_look
                heard = state._replace(messages=state.messages - 1, is_ringing=bell)
                yield me, _with(heard, place, Worker(Stage.LOOKING))
            if state.is_claimable:
                yield "clock", _with(state, place, Worker(Stage.LOOKING))
        case Stage.LOOKING:
            yield me, _claim(state, place, rules)
        case Stage.CLAIMED:
            seen = worker._replace(stage=Stage.OBSERVED, saw_engine=state.engines > 0)
            yield me, _with(state, place, seen)
        case Stage.OBSERVED:
            yield me, _begin(state, place, worker, rules)
        case Stage.CHECKED:
            yield me, _act(state, place, worker, rules)
        case Stage.ACTED:
            yield me, _record(state, place, worker, rules)
        case Stage.LEAVING:
            yield me, _with(state._replace(is_ringing=False), place, Worker())


def _claim(state: State, place: int, rules: Rules) -> State:
    if not state.is_claimable:
        return _with(state, place, Worker(Stage.IDLE if rules.bell_falls_before_look else Stage.LEAVING))
    epoch = state.epoch + 1 if rules.claim_raises_epoch else state.epoch
    claimed = state._replace(
        epoch=epoch,
        lease=Lease.HELD,
        due=Due.LEASE_END if rules.claim_comes_back else Due.NEVER,
        turns=state.turns + 1,
    )
    turn = Worker(Stage.CLAIMED, epoch, claimed.turns, state.wish, is_current=True)
    return _with(claimed, place, turn)


def _begin(state: State, place: int, worker: Worker, rules: Rules) -> State:
    """Plan on what was seen; an act is the region's, in one piece unless the fence is not where it belongs."""
    if worker.is_content and not (worker.wish is Wish.GONE and rules.closing_raises_fence):
        return _with(state, place, worker._replace(stage=Stage.ACTED))
    if not rules.has_fence or rules.checks_fence_under_lock:
        return _act(state, place, worker, rules)
    if worker.epoch < state.fence:
        return _with(state, place, worker._replace(stage=Stage.ACTED, was_refused=True))
    return _with(state._replace(fence=worker.epoch), place, worker._replace(stage=Stage.CHECKED))


def _act(state: State, place: int, worker: Worker, rules: Rules) -> State:
    if rules.has_fence and rules.checks_fence_under_lock:
        if worker.epoch < state.fence:
            return _with(state, place, worker._replace(stage=Stage.ACTED, was_refused=True))
        state = state._replace(fence=worker.epoch)
    if worker.turn < state.acted:
        state = state._replace(broken="an older turn acted after a newer one")
    engines = state.engines
    if worker.wish is not Wish.RUN:
        engines = 0
    elif not engines or not rules.looks_for_engine_under_lock:
        engines += 1
    if engines > 1:
        state = state._replace(broken="two engines")
    if engines and state.is_closed:
        state = state._replace(broken="an engine of a cluster that is gone")
    acted = state._replace(
        engines=engines,
        acted=max(worker.turn, state.acted),
        # Whoever did it: the watch sees each change, and forgets none while it lives.
        is_unseen_change=state.is_unseen_change or engines != state.engines,
    )
    return _with(acted, place, worker._replace(stage=Stage.ACTED, has_begun=not worker.is_content))


def _record(state: State, place: int, worker: Worker, rules: Rules) -> State:
    """Give the lease back and look again: a worker goes on until nothing is due."""
    looking = Worker(Stage.LOOKING)
    if rules.record_checks_epoch and worker.epoch != state.epoch:
        return _with(state, place, looking)
    if worker.turn < state.recorded or worker.epoch != state.epoch:
        state = state._replace(broken="a result of an older turn was recorded")
    is_over = not worker.has_begun and not worker.was_refused
    # After the lease's end a wake-up finds the row due, and leaves no trace of its own.
    is_woken = rules.record_keeps_wake_ups and (
        state.is_due if rules.record_keeps_what_is_due else state.due is Due.NOW
    )
    is_closed = is_over and worker.wish is Wish.GONE
    recorded = state._replace(
        due=Due.NEVER if is_closed else Due.NOW if is_woken else Due.NEVER if is_over else Due.LATER,
        lease=Lease.FREE,
        is_closed=state.is_closed or is_closed,
        is_done=state.is_done or (is_over and worker.is_current),
        is_unseen_change=state.is_unseen_change and not is_closed,
        recorded=max(worker.turn, state.recorded),
    )
    return _with(recorded, place, looking)


def _with(state: State, place: int, worker: Worker) -> State:
    workers = (*state.workers[:place], worker, *state.workers[place + 1 :])
    return _canonical(state._replace(workers=workers))


def _canonical(state: State) -> State:
    """The same state with the smallest numbers, and the workers in one order: neither says anything."""
    workers = state.workers
    epochs = _ranks({0, state.epoch, state.fence, *(worker.epoch for worker in workers)})
    turns = _ranks({0, state.turns, state.acted, state.recorded, *(worker.turn for worker in workers)})
    if epochs:
        workers = tuple(worker._replace(epoch=epochs[worker.epoch]) for worker in workers)
        state = state._replace(epoch=epochs[state.epoch], fence=epochs[state.fence])
    if turns:
        workers = tuple(worker._replace(turn=turns[worker.turn]) for worker in workers)
        state = state._replace(turns=turns[state.turns], acted=turns[state.acted], recorded=turns[state.recorded])
    return state._replace(workers=tuple(sorted(workers)))


def _ranks(numbers: set[int]) -> dict[int, int] | None:
    """Each number's rank; None when they are ranks already."""
    if max(numbers) == len(numbers) - 1:
        return None
    return {number: rank for rank, number in enumerate(sorted(numbers))}


# --- Exploring ---


@dataclass
class Explored:
    """Every state that can be reached, and what can happen in it.

    Attributes:
        steps: what can happen in each state; a broken state is not followed any further.
        came_from: how each state was first reached.
    """

    steps: dict[State, list[Step]]
    came_from: dict[State, State | None]

    def path_to(self, state: State) -> list[State]:
        """A shortest way there."""
        path = [state]
        while (before := self.came_from[path[-1]]) is not None:
            path.append(before)
        return path[::-1]

    def broken(self) -> State | None:
        """A nearest state that must not be."""
        return next((state for state in self.came_from if state.broken), None)


def explore(
    start: State, rules: Rules, *, allows: Callable[[Step], bool] = lambda _: True, is_patient: bool = True
) -> Explored:
    """Visit every state in order of its distance, by the steps that are allowed; impatient: until one is broken."""
    start = _canonical(start)
    found = Explored({}, {start: None})
    ring = [start]
    while ring and (is_patient or not any(state.broken for state in ring)):
        further: list[State] = []
        for state in ring:
            found.steps[state] = [] if state.broken else [step for step in steps(state, rules) if allows(step)]
            for step in found.steps[state]:
                if step.after not in found.came_from:
                    found.came_from[step.after] = state
                    further.append(step.after)
        ring = further
    return found


def cannot_converge(explored: Explored) -> list[State]:
    """States from which not even good luck leads to convergence."""
    before: dict[State, list[State]] = {}
    for state, after in explored.steps.items():
        for step in after:
            before.setdefault(step.after, []).append(state)
    reached = {state for state in explored.steps if state.has_converged}
    waiting = list(reached)
    while waiting:
        for state in before.get(waiting.pop(), ()):
            if state not in reached:
                reached.add(state)
                waiting.append(state)
    return [state for state in explored.steps if state not in reached and not state.broken]


def may_never_converge(explored: Explored) -> State | None:
    """A state from which a fair schedule without further faults goes on for ever, or stops, without convergence.

    Fair: whoever can do something all the time does it at some time. So a round trip goes on for ever only if everybody
    acts in it, or is held up somewhere on it.
    """
    graph = {
        state: [step for step in after if not step.is_fault]
        for state, after in explored.steps.items()
        if not state.has_converged and not state.broken
    }
    for component in _components(graph):
        inside = [(step.actor, step.after in component) for state in component for step in graph[state]]
        if len(component) == 1 and not any(stays for _, stays in inside):
            (state,) = component
            if not graph[state]:
                return state
            continue
        everybody = {actor for actor, _ in inside}
        acting = {actor for actor, stays in inside if stays}
        held_up = {actor for actor in everybody if any(actor not in {s.actor for s in graph[q]} for q in component)}
        if everybody <= acting | held_up:
            return next(iter(component))
    return None


def _components(graph: dict[State, list[Step]]) -> Iterator[set[State]]:
    """Tarjan's strongly connected components, without recursion."""
    index: dict[State, int] = {}
    low: dict[State, int] = {}
    stack: list[State] = []
    on_stack: set[State] = set()
    for root in graph:
        if root in index:
            continue
        work = [(root, iter(graph[root]))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            state, rest = work[-1]
            for step in rest:
                after = step.after
                if after not in graph:
                    continue
                if after not in index:
                    index[after] = low[after] = len(index)
                    stack.append(after)
                    on_stack.add(after)
                    work.append((after, iter(graph[after])))
                    break
                if after in on_stack:
                    low[state] = min(low[state], index[after])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[state])
                if low[state] == index[state]:
                    component: set[State] = set()
                    while True:
                        member = stack.pop()
                        on_stack.discard(member)
                        component.add(member)
                        if member == state:
                            break
                    yield component
