"""Which worker a crew calls; the workers and Ray are stand-ins that answer at once."""

from collections import Counter
from types import SimpleNamespace

from spade_index.cluster.crew import LEAD, Crew

RAY = SimpleNamespace(
    wait=lambda references, **_: (references, []),
    get=lambda reference: reference,
    kill=lambda actor: None,
    exceptions=SimpleNamespace(RayActorError=OSError, RayTaskError=KeyError, RayError=OSError),
)


def stand_in() -> SimpleNamespace:
    """Return a worker that has started."""
    facts = SimpleNamespace(node="here", pid=1)
    answers = {"node": "here", "facts": facts, "search": "found"}
    return SimpleNamespace(
        **{name: SimpleNamespace(remote=lambda *_, answer=answer: answer) for name, answer in answers.items()}
    )


def test_a_preferred_worker_is_helped_by_idle_ones() -> None:
    with Crew(RAY, stand_in, 3, say=lambda line: None) as crew:
        asked = [crew.ask("a query", "search", prefer=[1], size=5) for _ in range(12)]
        places = [call.member.place for call in asked]
        assert places[: LEAD + 1] == [1] * (LEAD + 1)
        assert Counter(places) == {1: 6, 0: 3, 2: 3}
        for call in asked:
            assert crew.answer(call)[0] == "found"
        assert crew.ask("a query", "search", prefer=[1], size=5).member.place == 1


def test_who_has_kept_images_is_not_helped() -> None:
    with Crew(RAY, stand_in, 3, say=lambda line: None) as crew:
        assert {crew.ask("shard 1", "search", prefer=[1]).member.place for _ in range(12)} == {1}


def test_calls_without_a_preference_are_spread() -> None:
    with Crew(RAY, stand_in, 3, say=lambda line: None) as crew:
        places = [crew.call("a query", "search")[1].place for _ in range(9)]
    assert Counter(places) == {0: 3, 1: 3, 2: 3}
