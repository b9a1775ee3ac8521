"""A test double of Ray: actors that wait for free cores or GPUs, do their tasks in order, and die of `Killed`.

Everything happens in this process, inside `wait`, one task at a time. Where Ray would wait for ever, `wait` raises an
AssertionError.
"""

import sys
import types


class Killed(BaseException):
    """What kills the actor in whose task it is raised."""


class RayError(Exception):
    """The error of a task whose actor died."""


class Task:
    """A reference to the result of a method of an actor."""

    def __init__(self, actor, method, arguments):
        self.actor, self.method, self.arguments = actor, method, arguments
        self.done, self.result, self.error = False, None, None


class Actor:
    """The handle of an actor."""

    def __init__(self, cluster, kind, arguments, resources):
        self.cluster, self.kind, self.arguments, self.resources = cluster, kind, arguments, resources
        self.node, self.instance, self.dead, self.tasks = None, None, False, []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return types.SimpleNamespace(remote=lambda *arguments: self.cluster.submit(self, name, arguments))


class Cluster(types.ModuleType):
    """The module `ray` of a cluster of machines.

    Args:
        machines: what each has, such as {"CPU": 2}.
        dies_at_start: whether the actor of a number, from 0, dies while it starts.
    """

    def __init__(self, machines, dies_at_start=lambda number: False):
        super().__init__("ray")
        self.machines, self.dies_at_start, self.actors = machines, dies_at_start, []
        self.free = [dict(machine) for machine in machines]
        self.exceptions, self.connected = types.SimpleNamespace(RayError=RayError), True

    def is_initialized(self):
        return self.connected

    def init(self, **options):
        self.connected = True

    def shutdown(self):
        self.connected = False

    def get_runtime_context(self):
        return types.SimpleNamespace(gcs_address="here:6379")

    def nodes(self):
        return [{"Alive": True, "Resources": dict(machine)} for machine in self.machines]

    def cluster_resources(self):
        return {name: sum(m.get(name, 0) for m in self.machines) for name in {n for m in self.machines for n in m}}

    def put(self, value):
        return value

    def remote(self, kind):
        def options(max_restarts, max_task_retries, num_cpus=0, num_gpus=0):
            needed = {"CPU": num_cpus, "GPU": num_gpus}
            return types.SimpleNamespace(remote=lambda *arguments: self.create(kind, arguments, needed))

        return types.SimpleNamespace(options=options)

    def create(self, kind, arguments, resources):
        self.actors.append(Actor(self, kind, arguments, resources))
        return self.actors[-1]

    def submit(self, actor, method, arguments):
        task = Task(actor, method, arguments)
        actor.tasks.append(task)
        if actor.dead:
            self.kill(actor)
        return task

    def kill(self, actor):
        for task in actor.tasks:
            if not task.done:
                task.done, task.error = True, RayError("The actor died.\nworker exit type: SYSTEM_ERROR")
        if actor.node is not None and not actor.dead:
            for name, amount in actor.resources.items():
                self.free[actor.node][name] = self.free[actor.node].get(name, 0) + amount
        actor.dead = True

    def place(self, actor):
        for number, free in enumerate(self.free):
            if all(free.get(name, 0) >= amount for name, amount in actor.resources.items()):
                for name, amount in actor.resources.items():
                    free[name] = free.get(name, 0) - amount
                actor.node = number
                return

    def step(self):
        """Does the next task of each actor that has room; returns whether there was any."""
        did = False
        for number, actor in enumerate(list(self.actors)):
            if actor.node is None and not actor.dead:
                self.place(actor)
            task = next((task for task in actor.tasks if not task.done), None)
            if actor.node is None or actor.dead or task is None:
                continue
            did = True
            try:
                if actor.instance is None:
                    if self.dies_at_start(number):
                        raise Killed
                    actor.instance = actor.kind(*actor.arguments)
                task.result = getattr(actor.instance, task.method)(*task.arguments)
                task.done = True
            except Killed:
                self.kill(actor)
        return did

    def wait(self, tasks, num_returns=1, timeout=None):
        while not any(task.done for task in tasks):
            if timeout == 0:
                return [], tasks
            if not self.step():
                if timeout is not None:
                    return [], tasks
                raise AssertionError("Ray waits for ever")
        ready = [task for task in tasks if task.done][:num_returns]
        return ready, [task for task in tasks if task not in ready]

    def get(self, task):
        if task.error is not None:
            raise task.error
        return task.result


def install(monkeypatch, *machines, **options):
    """Puts the double in the place of Ray, and returns it."""
    cluster = Cluster(list(machines) or [{"CPU": 2}], **options)
    monkeypatch.setitem(sys.modules, "ray", cluster)
    return cluster
