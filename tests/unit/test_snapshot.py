"""What the mesh believes when the registry speaks, errs, dies and comes back."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.controlplane.snapshot import State, fold, forget_policy
from mesh.registry import Catalogue, Instance, Method, StoredPolicy

TTL = 10
CANARY = StoredPolicy("retriever", '{"weights": {"v1": 90, "v2": 10}}', 4)


def instance(id_: str, *, service: str = "retriever", version: str = "v1", port: int = 0, **more: object) -> Instance:
    return Instance(service, id_, "127.0.0.1", port or 1_000 + sum(id_.encode()), version=version, **more)  # type: ignore[arg-type]


def catalogue(
    *instances: Instance,
    index: int = 1,
    warm: bool = True,
    policies: tuple[StoredPolicy, ...] = (),
    deregistered: tuple[str, ...] = (),
    failing: tuple[str, ...] = (),
) -> Catalogue:
    return Catalogue(instances, policies, index, warm, frozenset(deregistered), frozenset(failing))


def step(state: State, said: Catalogue, tick: int = 0) -> State:
    return fold(state, said, tick, ttl_ticks=TTL)


def ids(state: State, service: str = "retriever") -> set[str]:
    assert state.snapshot is not None
    found = state.snapshot.service(service)
    return {i.id for i in found.instances()} if found else set()


A, B, C, D = (instance(name) for name in "abcd")


# -- warm -------------------------------------------------------------------------------------------


def test_nothing_is_published_until_the_catalogue_is_warm():
    state = step(State(), catalogue(A, warm=False))
    assert state.snapshot is None
    assert ids(step(state, catalogue(A, B))) == {"a", "b"}


def test_a_catalogue_that_is_not_warm_changes_nothing():
    state = step(State(), catalogue(A, B))
    assert step(state, catalogue(warm=False), 1) == state


def test_an_empty_warm_catalogue_is_published_as_empty():
    state = step(State(), catalogue())
    assert state.snapshot is not None
    assert state.snapshot.services == ()


# -- who belongs ------------------------------------------------------------------------------------


def test_an_instance_that_deregisters_is_gone_at_once_even_if_it_is_the_last():
    state = step(State(), catalogue(A, B))
    state = step(state, catalogue(deregistered=("a", "b"), index=2), 1)
    assert ids(state) == set()
    assert state.snapshot is not None
    assert state.snapshot.held == frozenset()


def test_one_that_fails_among_few_is_gone_at_once():
    state = step(State(), catalogue(A, B))
    assert ids(step(state, catalogue(A, index=2), 1)) == {"a"}
    assert ids(step(state, catalogue(A, B, index=2, failing=("b",)), 1)) == {"a"}


def test_more_than_half_gone_in_one_step_is_held_for_one_ttl():
    state = step(State(), catalogue(A, B, C))
    state = step(state, catalogue(A, index=2), 5)
    assert ids(state) == {"a", "b", "c"}
    assert state.snapshot is not None
    assert state.snapshot.held == {"b", "c"}
    assert ids(step(state, catalogue(A, index=2), 5 + TTL - 1)) == {"a", "b", "c"}
    assert ids(step(state, catalogue(A, index=2), 5 + TTL)) == {"a"}


def test_all_checks_failing_at_once_is_held_too():
    state = step(State(), catalogue(A, B))
    assert ids(step(state, catalogue(A, B, index=2, failing=("a", "b")), 1)) == {"a", "b"}


def test_one_by_one_within_a_ttl_is_as_suspicious_as_all_at_once():
    state = step(State(), catalogue(A, B, C, D))
    state = step(state, catalogue(B, C, D, index=2), 1)
    state = step(state, catalogue(C, D, index=3), 2)
    assert ids(state) == {"c", "d"}
    assert ids(step(state, catalogue(D, index=4), 3)) == {"c", "d"}


def test_one_by_one_with_a_ttl_between_is_not():
    state = step(State(), catalogue(A, B, C, D))
    for number, left in enumerate(((B, C, D), (C, D), (D,)), start=1):
        state = step(state, catalogue(*left, index=1 + number), number * TTL)
        assert ids(state) == {i.id for i in left}


def test_who_comes_back_is_held_no_longer():
    state = step(State(), catalogue(A, B))
    state = step(state, catalogue(index=2), 1)
    state = step(state, catalogue(A, B, index=3), 2)
    assert state.snapshot is not None
    assert state.snapshot.held == frozenset()
    assert ids(step(state, catalogue(A, B, index=3), 2 + TTL)) == {"a", "b"}


def test_who_is_held_and_deregisters_is_gone_at_once():
    state = step(step(State(), catalogue(A, B)), catalogue(index=2), 1)
    assert ids(step(state, catalogue(index=3, deregistered=("a",)), 2)) == {"b"}


def test_a_new_process_at_a_held_ones_address_replaces_it():
    old, new = instance("old", port=9), instance("new", port=9)
    state = step(step(State(), catalogue(old)), catalogue(index=2), 1)
    assert ids(state) == {"old"}
    assert ids(step(state, catalogue(new, index=3), 2)) == {"new"}


def test_of_two_records_at_one_address_the_younger_counts():
    young, old = instance("a", port=9, started_unix_s=2.0), instance("b", port=9, started_unix_s=1.0)
    assert ids(step(State(), catalogue(young, old))) == {"a"}


def test_a_service_that_lost_all_its_instances_is_still_known_with_its_methods():
    served = dataclasses.replace(A, methods=(Method("/p.S/Get", True),))
    state = step(step(State(), catalogue(served)), catalogue(index=2, deregistered=("a",)), 1)
    assert state.snapshot is not None
    (service,) = state.snapshot.services
    assert service.instances() == ()
    assert service.methods == (Method("/p.S/Get", True),)


def test_a_method_is_idempotent_where_all_versions_say_so():
    v1 = dataclasses.replace(A, methods=(Method("/p.S/Get", True), Method("/p.S/Put", True)))
    v2 = dataclasses.replace(B, methods=(Method("/p.S/Get", True), Method("/p.S/Put", False)))
    state = step(State(), catalogue(v1, v2))
    assert state.snapshot is not None
    assert state.snapshot.services[0].methods == (Method("/p.S/Get", True), Method("/p.S/Put", False))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"host": "retriever-1"}, "host 'retriever-1' is not an IP address"),
        ({"host": "0.0.0.0"}, "can't be dialled from elsewhere"),
        ({"host": ""}, "is not an IP address"),
        ({"port": 0}, "port 0 is not between 1 and 65535"),
        ({"port": 65_536}, "port 65536"),
        ({"version": "v/1"}, "version 'v/1' is not a version label"),
        ({"zone": "\ud800"}, "is not a zone"),
        ({"service": "Retriever"}, "service 'Retriever' is not a service name"),
        ({"methods": (Method("Search", True),)}, "method 'Search' is not a path"),
    ],
)
def test_a_record_that_nobody_could_dial_is_left_out_and_named(changes: dict[str, object], says: str):
    state = step(State(), catalogue(dataclasses.replace(A, **changes), B))  # type: ignore[arg-type]
    assert ids(state) == {"b"}
    assert state.snapshot is not None
    (refused,) = state.snapshot.refused
    assert refused.id == "a"
    assert says in refused.problem


def test_two_spellings_of_an_address_are_one():
    state = step(
        State(),
        catalogue(
            Instance("retriever", "a", "::1", 5), Instance("retriever", "b", "0:0:0:0:0:0:0:1", 5, started_unix_s=1.0)
        ),
    )
    assert ids(state) == {"b"}


# -- a new registry ---------------------------------------------------------------------------------


def test_an_index_that_runs_backwards_is_a_new_registry_not_a_deletion():
    state = step(State(), catalogue(A, B, index=50, policies=(CANARY,)))
    state = step(state, catalogue(index=3), 7)
    assert ids(state) == {"a", "b"}
    state = step(state, catalogue(A, index=5), 8)
    assert ids(state) == {"a", "b"}
    assert state.snapshot is not None
    assert state.snapshot.held == {"b"}
    assert ids(step(state, catalogue(A, index=5), 7 + TTL)) == {"a"}


def test_a_new_registrys_time_begins_when_it_is_warm():
    state = step(State(), catalogue(A, index=50))
    state = step(state, catalogue(index=3, warm=False), 100)
    state = step(state, catalogue(index=3, warm=False), 108)
    state = step(state, catalogue(index=3), 108 + TTL - 1)
    assert ids(state) == {"a"}
    assert ids(step(state, catalogue(index=3), 108 + TTL)) == set()


def test_policies_that_a_new_registry_lacks_stay_in_force_and_are_to_be_written_back():
    state = step(State(), catalogue(A, index=50, policies=(CANARY,)))
    state = step(state, catalogue(index=1), 1)
    assert state.restore == (StoredPolicy("retriever", '{"weights": {"v1": 90, "v2": 10}}', 0),)
    state = step(state, catalogue(A, index=2), 1 + TTL)  # not written yet: the store refused, say
    assert len(state.restore) == 1
    assert state.snapshot is not None
    assert state.snapshot.services[0].policy is not None
    state = step(state, catalogue(A, index=3, policies=(dataclasses.replace(CANARY, revision=1),)), 2 + TTL)
    assert state.restore == ()


def test_what_somebody_wrote_to_the_new_registry_wins():
    state = step(State(), catalogue(A, index=50, policies=(CANARY,)))
    other = StoredPolicy("retriever", '{"weights": {"v2": 100}}', 1)
    state = step(state, catalogue(A, index=3, policies=(other,)), 1)
    assert state.restore == ()
    assert state.snapshot is not None
    assert state.snapshot.services[0].policy is not None
    assert state.snapshot.services[0].policy.weighted_versions() == {"v2"}


def test_a_policy_deleted_while_a_new_registry_fills_is_not_written_back():
    state = step(step(State(), catalogue(A, index=50, policies=(CANARY,))), catalogue(A, index=1), 1)
    state = step(forget_policy(state, "retriever"), catalogue(A, index=2), 2)
    assert state.restore == ()
    assert state.snapshot is not None
    assert state.snapshot.services[0].policy is None


# -- policies ---------------------------------------------------------------------------------------


def test_a_bad_document_leaves_the_last_good_policy_in_force_and_is_named():
    state = step(State(), catalogue(A, policies=(CANARY,)))
    good = state.snapshot
    bad = StoredPolicy("retriever", '{"weights": {"v1": 90}}', 5)
    state = step(state, catalogue(A, policies=(bad,), index=2), 1)
    assert state.snapshot is not None
    assert good is not None
    assert state.snapshot.version == good.version
    (policy,) = state.snapshot.policies
    assert policy.revision == 5
    assert "add up to 90" in policy.problem
    assert policy.policy == good.services[0].policy


def test_a_bad_document_from_the_start_is_an_even_spread():
    state = step(State(), catalogue(A, policies=(StoredPolicy("retriever", "?", 1),)))
    assert state.snapshot is not None
    assert state.snapshot.services[0].policy is None
    assert state.snapshot.policies[0].problem


def test_a_deleted_policy_is_out_of_force_and_its_versions_stay_one_ttl():
    state = step(State(), catalogue(A, policies=(CANARY,)))
    state = step(state, catalogue(A, index=2), 1)
    assert state.snapshot is not None
    assert state.snapshot.services[0].policy is None
    assert [v.label for v in state.snapshot.services[0].versions] == ["v1", "v2"]
    state = step(state, catalogue(A, index=2), TTL)
    assert state.snapshot is not None
    assert [v.label for v in state.snapshot.services[0].versions] == ["v1", "v2"]
    state = step(state, catalogue(A, index=2), 1 + TTL)
    assert state.snapshot is not None
    assert [v.label for v in state.snapshot.services[0].versions] == ["v1"]


def test_a_policy_remembers_the_first_snapshot_that_held_it():
    state = step(State(), catalogue(A, policies=(CANARY,)))
    assert state.snapshot is not None
    first = state.snapshot.version
    assert state.snapshot.policies[0].since == first
    state = step(state, catalogue(A, B, index=2, policies=(CANARY,)), 1)
    assert state.snapshot is not None
    assert state.snapshot.version != first
    assert state.snapshot.policies[0].since == first


def test_a_policy_of_a_service_nobody_has_seen_says_so():
    state = step(State(), catalogue(policies=(CANARY,)))
    assert state.snapshot is not None
    assert state.snapshot.services == ()
    assert state.snapshot.policies[0].problem == "no instance of retriever has been seen yet"
    assert state.snapshot.policies[0].since == ""


# -- properties -------------------------------------------------------------------------------------

EVERYBODY = tuple(
    instance(f"i{n}", service=("retriever", "tools")[n % 4 == 3], version=f"v{n % 3 + 1}", port=2_000 + n)
    for n in range(9)
)
some = st.integers(0, 2 ** len(EVERYBODY) - 1).map(
    lambda bits: tuple(one for n, one in enumerate(EVERYBODY) if bits >> n & 1)
)
few = st.lists(st.sampled_from([one.id for one in EVERYBODY]), max_size=2).map(frozenset)
documents = st.sampled_from(
    [
        (),
        *(
            (StoredPolicy("retriever", text, 1),)
            for text in ('{"weights": {"v1": 90, "v2": 10}}', '{"weights": {"v9": 100}}', "{}", "broken")
        ),
        (StoredPolicy("retriever", '{"weights": {"v2": 100}}', 1), StoredPolicy("tools", "{}", 2)),
    ]
)
catalogues = st.builds(Catalogue, some, documents, st.integers(1, 20), st.sampled_from([True, True, False]), few, few)
histories = st.lists(st.tuples(catalogues, st.integers(0, TTL // 2)), max_size=8)


def run(history: list[tuple[Catalogue, int]]) -> list[tuple[State, Catalogue, int]]:
    state, tick, steps = State(), 0, []
    for said, ticks in history:
        tick += ticks
        state = step(state, said, tick)
        steps.append((state, said, tick))
    return steps


@given(histories)
def test_folding_is_a_pure_function(history: list[tuple[Catalogue, int]]):
    assert run(history) == run(history)


@given(histories)
def test_the_order_in_which_a_registry_lists_things_says_nothing(history: list[tuple[Catalogue, int]]):
    turned = [
        (dataclasses.replace(said, instances=said.instances[::-1], policies=said.policies[::-1]), ticks)
        for said, ticks in history
    ]
    assert [state for state, _, _ in run(history)] == [state for state, _, _ in run(turned)]


@given(histories)
def test_a_snapshot_once_published_never_goes_away(history: list[tuple[Catalogue, int]]):
    published = False
    for state, _, _ in run(history):
        assert not published or state.snapshot is not None
        published = state.snapshot is not None


@given(histories)
def test_no_listed_and_passing_instance_is_left_out(history: list[tuple[Catalogue, int]]):
    for state, said, _ in run(history):
        if said.warm:
            for known in said.instances:
                assert known.id in said.failing or known.id in ids(state, known.service)


@settings(max_examples=300)
@given(histories)
def test_no_service_loses_more_than_half_in_one_step_unless_it_was_held_a_ttl_or_wished_it(
    history: list[tuple[Catalogue, int]],
):
    steps = run(history)
    for (before, _, _), (after, said, tick) in itertools.pairwise(steps):
        if before.snapshot is None:
            continue
        for service in before.snapshot.services:
            held = {h.instance.id: h.until for h in before.members[service.name].held}
            listed = {i.id for i in said.instances if i.id not in said.failing}
            owned = {i.id for i in service.instances() if i.id in listed or i.id not in said.deregistered}
            owned -= {id_ for id_, until in held.items() if until <= tick}
            assert 2 * len(owned & ids(after, service.name)) >= len(owned)


@given(histories)
def test_what_is_held_leaves_within_two_ttls_of_a_quiet_registry(history: list[tuple[Catalogue, int]]):
    steps = run(history)
    if not steps:
        return
    state, said, tick = steps[-1]
    quiet = dataclasses.replace(said, warm=True)
    state = step(state, quiet, tick)
    state = step(state, quiet, tick + TTL)
    assert state.snapshot is not None
    assert state.snapshot.held == frozenset()
    listed = {i.id for i in said.instances if i.id not in said.failing}
    assert ids(state, "retriever") | ids(state, "tools") == listed


@given(histories)
def test_versions_are_equal_where_and_only_where_the_services_are(history: list[tuple[Catalogue, int]]):
    seen: dict[str, object] = {}
    for state, _, _ in run(history):
        if state.snapshot is not None:
            services = tuple(
                dataclasses.replace(s, policy=s.policy and dataclasses.replace(s.policy, revision=0))
                for s in state.snapshot.services
            )
            assert seen.setdefault(state.snapshot.version, services) == services
    assert len(set(map(repr, seen.values()))) == len(seen)
