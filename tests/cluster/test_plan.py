"""How resources are shared out, on one machine and on many."""

import socket
from collections.abc import Sequence

import pytest

from persam_ray.cluster.plan import Node, WorkerPlan, plan_workers
from persam_ray.cluster.session import check_address
from persam_ray.errors import ConfigError


def cpu_nodes(count: int, cpus: float) -> list[Node]:
    return [{"CPU": cpus}] * count


@pytest.mark.parametrize(
    ("machines", "expected"),
    [
        (cpu_nodes(1, 1), WorkerPlan(1, 0.45, 0, 1, 0.25)),
        (cpu_nodes(1, 2), WorkerPlan(2, 0.45, 0, 1, 0.5)),
        (cpu_nodes(1, 3), WorkerPlan(3, 0.45, 0, 1, 0.5)),
        (cpu_nodes(1, 16), WorkerPlan(16, 0.45, 0, 1, 0.5)),
        (cpu_nodes(3, 4), WorkerPlan(12, 0.45, 0, 1, 0.5)),
        (cpu_nodes(10, 2), WorkerPlan(20, 0.45, 0, 1, 0.5)),
        ([{"CPU": 1}, {"CPU": 16}, {"CPU": 16}], WorkerPlan(33, 0.45, 0, 1, 0.5)),
        ([{"CPU": 16, "memory": 2**33}], WorkerPlan(4, 2.0, 0, 4, 0.5)),
        ([{"CPU": 2, "memory": 2**31}], WorkerPlan(1, 1.0, 0, 2, 0.5)),
        ([{"CPU": 4, "memory": 2**40}, {"CPU": 4, "memory": 2**32}], WorkerPlan(4, 1.0, 0, 2, 0.5)),
        ([{"CPU": 16, "GPU": 1}], WorkerPlan(1, 1.0, 1.0, 16, 0.5)),
        ([{"CPU": 4}, {"CPU": 32, "GPU": 4}, {"CPU": 32, "GPU": 4}], WorkerPlan(8, 1.0, 1.0, 8, 0.5)),
        ([{"CPU": 2, "GPU": 4}], WorkerPlan(4, 0.25, 1.0, 1, 0.5)),
    ],
)
def test_the_plan_for_machines(machines: Sequence[Node], expected: WorkerPlan) -> None:
    assert plan_workers(machines) == expected


@pytest.mark.parametrize("actors", [1, 2, 3, 7])
@pytest.mark.parametrize(
    "machines", [cpu_nodes(1, 1), cpu_nodes(1, 2), cpu_nodes(3, 4), cpu_nodes(1, 16), [{"CPU": 8, "GPU": 2}]]
)
def test_actors_fit_and_leave_room_for_tasks(machines: Sequence[Node], actors: int) -> None:
    plan = plan_workers(machines, actors)
    assert plan.actors == actors
    on_each = -(-actors // len(machines))
    node = machines[0]
    assert on_each * plan.actor_cpus <= node["CPU"] / 2
    assert plan.task_cpus <= node["CPU"] / 2
    assert plan.actor_cpus < 1 or plan.actor_cpus.is_integer()


def test_a_stated_number_of_actors_fits_on_nodes_of_several_sizes() -> None:
    machines = [{"CPU": 16}, {"CPU": 2}, {"CPU": 2}]
    for actors in range(1, 12):
        share = plan_workers(machines, actors).actor_cpus
        assert sum(int(node["CPU"] / 2 / share + 1e-9) for node in machines) >= actors


@pytest.mark.parametrize(("actors", "share"), [(None, 1.0), (2, 1.0), (3, 0.5), (4, 0.5), (5, 1 / 3)])
def test_more_actors_than_gpus_share_each_evenly(actors: int | None, share: float) -> None:
    assert plan_workers([{"CPU": 8, "GPU": 2}], actors).actor_gpus == pytest.approx(share)


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 8, 16, 64])
def test_an_actor_never_needs_what_a_task_needs(cpus: float) -> None:
    plan = plan_workers(cpu_nodes(1, cpus))
    assert plan.actor_cpus != plan.task_cpus  # or Ray Data would fuse them, and one actor have a whole shard


def test_gpus_that_are_not_there_yet_are_planned_for() -> None:
    head = [{"CPU": 2}]
    assert plan_workers(head, gpus=8) == WorkerPlan(8, 1.0, 1.0, 1, 0.5)
    assert plan_workers(head, actors=4, gpus=2) == WorkerPlan(4, 1.0, 0.5, 1, 0.5)
    some = plan_workers([{"CPU": 8, "GPU": 1}], gpus=8)
    assert (some.actors, some.actor_gpus, some.device) == (8, 1.0, "cuda")


def test_the_device_follows_the_actors_share() -> None:
    assert plan_workers([{"CPU": 8, "GPU": 1}]).device == "cuda"
    assert plan_workers([{"CPU": 8}]).device == "cpu"


def test_an_address_where_nothing_answers_is_refused_at_once() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        for form in (f"127.0.0.1:{port}", f"ray://localhost:{port}"):
            with pytest.raises(ConfigError, match=f"RAY_ADDRESS={form}: no Ray cluster answers there"):
                check_address(form)  # bound, but not listening
        server.listen()
        check_address(f"127.0.0.1:{port}")
    for left_to_ray in ("auto", "local"):
        check_address(left_to_ray)
