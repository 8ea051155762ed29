"""Room: which machine of a cluster can hold what a run wants, and the sentence where none can."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..config import Config
from ..errors import ConfigError

ROUNDING = 1e-6


class Node(NamedTuple):
    """A machine of the cluster, or one raylet of several on it."""

    id: str
    host: str
    address: str
    resources: dict[str, float]
    """In total, not what is free."""
    labels: dict[str, str]

    def holds(self, wanted: dict[str, float]) -> bool:
        """Return whether it has so much of each resource."""
        return all(self.resources.get(k, 0.0) + ROUNDING >= v for k, v in wanted.items())

    def less(self, wanted: dict[str, float]) -> Node:
        """Return it without these resources."""
        left = {k: v - wanted.get(k, 0.0) for k, v in self.resources.items()}
        return self._replace(resources=left)


class Plan(NamedTuple):
    """Where a run's actors go."""

    learner: Node
    workers: int
    """Self-play actors for which there is room beside learner and inference."""


def nodes_of(rows: Sequence[dict[str, Any]]) -> list[Node]:
    """Return the machines that are alive, of `ray.nodes()`."""
    return [
        Node(
            row["NodeID"],
            row["NodeManagerHostname"],
            row["NodeManagerAddress"],
            {k: float(v) for k, v in row["Resources"].items()},
            dict(row.get("Labels", {})),
        )
        for row in rows
        if row["Alive"]
    ]


def wants(config: Config) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Return what the learner, the inference actor (empty: none) and one self-play actor want."""
    r = config.ray
    learner = {"CPU": r.learner_cpus, "GPU": r.learner_gpus}
    if r.learner_node:
        learner[r.learner_node] = 0.001
    inference = {"CPU": r.inference_cpus, "GPU": r.inference_gpus} if r.inference else {}
    return learner, inference, {"CPU": r.worker_cpus}


def plan(nodes: Sequence[Node], config: Config, here: str, address: str = "") -> Plan:
    """Place learner, inference and self-play one after another.

    Args:
      here: number of the driver's node, which is the learner's where it can be.
      address: the machine on whose disk the run lies already; empty: none yet.

    Raises:
      ConfigError: what cannot be placed, what it wants, and what there is.
    """
    learner, inference, worker = wants(config)
    fitting = [n for n in nodes if n.holds(learner) and address in ("", n.address)]
    fitting.sort(key=lambda n: n.id != here)
    if not fitting:
        where = f" at {address}, where the run directory lies" if address else ""
        raise ConfigError(
            f"the learner wants {told(learner)} on one machine{where}; the cluster has {_all(nodes)}. "
            "Lower ray.learner_cpus or ray.learner_gpus, set ray.learner_node, or start such a machine."
        )
    chosen = fitting[0]
    left = [n.less(learner) if n.id == chosen.id else n for n in nodes]
    if inference:
        holder = next((n for n in left if n.holds(inference)), None)
        if holder is None:
            raise ConfigError(
                f"the inference actor wants {told(inference)} beside the learner's {told(learner)}; the "
                f"cluster has {_all(nodes)}. Two actors share a GPU by ray.learner_gpus=0.5 and "
                "ray.inference_gpus=0.5; or set ray.inference=false."
            )
        left = [n.less(inference) if n.id == holder.id else n for n in left]
    cpus = worker["CPU"]
    if not cpus and not config.collect.workers:
        raise ConfigError("ray.worker_cpus is 0, so that any number fits; set collect.workers to a number.")
    room = config.collect.workers
    if cpus:
        room = sum(int((n.resources.get("CPU", 0.0) + ROUNDING) / cpus) for n in left)
    if not room:
        beside = told(learner) + (f" and the inference actor's {told(inference)}" if inference else "")
        raise ConfigError(
            f"a self-play actor wants {told(worker)} beside the learner's {beside}; the cluster has "
            f"{_all(nodes)}. Lower ray.worker_cpus or ray.learner_cpus, or start another machine."
        )
    return Plan(chosen, room)


def told(wanted: dict[str, float]) -> str:
    """Return resources in words."""
    parts = [f"{v:g} {k}" if k in ("CPU", "GPU") else f"'{k}'" for k, v in wanted.items() if v]
    return ", ".join(parts) or "nothing"


def _all(nodes: Sequence[Node]) -> str:
    if not nodes:
        return "no machine"
    return "; ".join(f"{n.host} with {told(shown(n))}" for n in nodes)


def shown(node: Node) -> dict[str, float]:
    """Return the resources of a machine that a person knows."""
    hidden = ("memory", "object_store_memory")
    found = {k: v for k, v in node.resources.items() if k not in hidden and ":" not in k}
    return {"CPU": found.pop("CPU", 0.0), **found}
