"""From the config's constraints to bounds and groups: what clashes is named, what binds is said."""

import numpy as np
import pytest

from taskpgm_ray.config import MixtureConfig
from taskpgm_ray.errors import ConfigError, InputError
from taskpgm_ray.mixture import constraints_of

NAMES = ["math/gsm", "math/mawps", "sst", "tiny"]
SIZES = [4000, 4000, 4000, 20]


def made(names=NAMES, sizes=SIZES, **config):
    return constraints_of(MixtureConfig(**config), names, sizes)


def test_without_constraints_there_is_only_the_usual_limit_of_epochs():
    found = made(examples=10_000)
    assert found.epochs == 4
    np.testing.assert_allclose(found.limits.upper, [1, 1, 1, 0.008])
    assert (found.limits.lower == 0).all()
    assert found.note == ""
    np.testing.assert_array_equal(found.capacity, [16_000, 16_000, 16_000, 80])
    assert made(examples=10_000, constraints={"max_epochs": "none"}).limits.identity() == []
    assert found.limits.identity()[1] == [1, 1, 1, 0.008]


def test_a_mixture_of_many_epochs_is_not_limited_unless_asked_and_says_so():
    found = made(examples=100_000)
    assert found.epochs is None
    assert found.note.startswith("mixture.examples (100,000) is 8.3 times all 12,020 examples of the pool: repeats are")
    with pytest.raises(ConfigError, match=r"at the same time: max_epochs 8\. Loosen"):
        made(examples=100_000, constraints={"max_epochs": 8})


def test_what_the_user_asks_for_comes_before_the_usual_number_of_epochs():
    found = made(constraints={"floor": 0.4})
    np.testing.assert_allclose(found.limits.upper, [1, 1, 1, 0.1])
    np.testing.assert_array_equal(found.capacity, [16_000, 16_000, 16_000, 1_000])
    crowded = made(constraints={"tasks": {"*/*": {"max": 0.1}, "sst": {"max": 0.1}}})
    assert crowded.epochs is None
    assert crowded.note.endswith("repeats cannot be limited to 4 epochs")
    with pytest.raises(ConfigError, match=r"floor 0\.4; max_epochs 4\."):
        made(constraints={"floor": 0.4, "max_epochs": 4})


def test_floors_tasks_and_groups():
    found = made(
        constraints={
            "floor": 0.4,
            "max_epochs": "none",
            "tasks": {"sst": {"fixed": 0.3}, "math/*": {"min": 0.15}, "tiny": {"max": 0.2}},
            "groups": {"math/*": {"min": 0.35, "max": 0.5}},
        }
    )
    np.testing.assert_allclose(found.limits.lower, [0.15, 0.15, 0.3, 0.1])
    np.testing.assert_allclose(found.limits.upper, [1, 1, 0.3, 0.2])
    assert [(g.members.tolist(), g.low, g.high) for g in found.limits.groups] == [([0, 1], 0.35, 1), ([0, 1], 0, 0.5)]
    assert found.binding([0.35, 0.15, 0.3, 0.2]) == [
        ["groups.math/*.max 0.5"],
        ["tasks.math/*.min 0.15", "groups.math/*.max 0.5"],
        ["tasks.sst.fixed 0.3"],
        ["tasks.tiny.max 0.2"],
    ]


def test_targets(tmp_path):
    np.testing.assert_allclose(made(target="proportional").limits.target, np.array(SIZES) / 12_020)
    assert made().limits.target is None
    (tmp_path / "wanted.csv").write_text("sst,3\ntiny,1\n")
    np.testing.assert_allclose(made(target=str(tmp_path / "wanted.csv")).limits.target, [0, 0, 0.75, 0.25])
    with pytest.raises(InputError, match=r"wanted\.txt cannot be read"):
        made(target=str(tmp_path / "wanted.txt"))


@pytest.mark.parametrize(
    ("constraints", "clash"),
    [
        ({"floor": 0.8, "tasks": {"sst": {"fixed": 0.9}}}, r"floor 0\.8; tasks\.sst\.fixed 0\.9"),
        ({"floor": 0.9, "tasks": {"tiny": {"max": 0.3}, "sst": {"min": 0.4}}}, r"floor 0\.9; tasks\.sst\.min 0\.4"),
        (
            {"floor": 0.1, "tasks": {"math/*": {"max": 0.2}}, "groups": {"math/*": {"min": 0.5}}},
            r"tasks\.math/\*\.max 0\.2; groups\.math/\*\.min 0\.5",
        ),
        (
            {"groups": {"math/*": {"max": 0.3}, "s*": {"max": 0.3}, "tiny": {"max": 0.3}}, "max_epochs": "none"},
            r"groups\.math/\*\.max 0\.3; groups\.s\*\.max 0\.3; groups\.tiny\.max 0\.3",
        ),
        ({"max_epochs": 2, "tasks": {"tiny": {"min": 0.1}}}, r"tasks\.tiny\.min 0\.1; max_epochs 2"),
    ],
)
def test_the_fewest_constraints_that_clash_are_named(constraints, clash):
    with pytest.raises(ConfigError, match=rf"no mixture keeps all of these at the same time: {clash}\. Loosen one"):
        made(constraints=constraints)


def test_names_that_match_nothing():
    with pytest.raises(ConfigError, match=r"constraints\.tasks: 'sst2' matches none of the tasks: math/gsm, math/maw"):
        made(constraints={"tasks": {"sst2": {"min": 0.1}}})
    with pytest.raises(ConfigError, match=r"constraints\.groups: 'bbh/\*' matches none"):
        made(constraints={"groups": {"bbh/*": {"max": 0.1}}})


def test_few_tasks_have_to_have_room():
    assert made(max_tasks=2).limits.most == 2
    assert made(max_tasks=4).limits.most is None
    too_few = r"only 2 tasks may have weight \(max_tasks\), but 4 have to have weight \(floor 0\.1\)"
    with pytest.raises(ConfigError, match=too_few):
        made(max_tasks=2, constraints={"floor": 0.1})
    too_little = r"only 2 tasks may .*, but so many can have at most 0\.600 .*tasks\.\*\.max 0\.3"
    with pytest.raises(ConfigError, match=too_little):
        made(max_tasks=2, constraints={"tasks": {"*": {"max": 0.3}}, "max_epochs": "none"})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"constraints": {"tasks": {"a": {"min": 0.5, "max": 0.2}}}}, "min .0.5. must not exceed max"),
        ({"constraints": {"tasks": {"a": {"fixed": 0.5, "max": 0.6}}}}, "fixed says it all"),
        ({"constraints": {"floor": 1.2}}, "less than or equal to 1"),
        ({"constraints": {"groups": {"a": {"max": 0.2}}}, "max_tasks": 3}, "cannot be asked for together"),
    ],
)
def test_limits_that_contradict_themselves(config, message):
    with pytest.raises(ValueError, match=message):
        MixtureConfig(**config)


def test_epochs_of_a_mixture_by_tokens():
    """Long examples are a larger part of the mixture each time that they are used."""
    lengths = [100.0, 100.0, 10.0, 1000.0]
    found = constraints_of(MixtureConfig(share="tokens", examples=10_000), NAMES, SIZES, lengths)
    tokens = np.array(SIZES) * lengths
    whole = 10_000 * tokens.sum() / sum(SIZES)
    np.testing.assert_allclose(found.limits.upper, np.minimum(4 * tokens / whole, 1))


@pytest.mark.parametrize("weights", [[0.1, 0.9], [0.5, 0.5], [0.9, 0.1], [1, 0]])
def test_a_mixture_by_tokens_has_the_documented_size_and_keeps_the_epochs(weights):
    """A long, small task beside a short, large one: 1,000 examples of the pool's mean length, 19.8 tokens."""
    sizes, lengths = [100, 10_000], np.array([1000.0, 10.0])
    found = constraints_of(MixtureConfig(share="tokens", examples=1000), ["long", "short"], sizes, lengths)
    np.testing.assert_allclose(found.limits.upper, [1, 1])
    tokens = found.counts(weights) * lengths
    assert abs(tokens.sum() - 1000 * 200_000 / 10_100) <= 1000
    assert abs(tokens[0] - weights[0] * 19_802) <= 500
    assert (found.counts(weights) <= 4 * np.array(sizes)).all()


def test_a_floor_by_tokens_leaves_room_for_the_examples_that_it_takes():
    """A tenth of the tokens of 1,000 examples of 505 are 5,050 examples of ten."""
    given = {"tasks": {"short": {"min": 0.1}}}
    config = MixtureConfig(share="tokens", examples=1000, constraints=given)
    found = constraints_of(config, ["short", "long"], [1000, 1000], [10.0, 1000.0])
    np.testing.assert_allclose(found.limits.upper, [0.1, 1])
    np.testing.assert_array_equal(found.capacity, [5050, 4000])
    np.testing.assert_array_equal(found.counts([0.1, 0.9]), [5050, 454])


def test_epochs_that_are_not_whole_have_counts_that_are():
    found = made(list("abcdefghij"), [1] * 10, examples=15, constraints={"max_epochs": 1.5})
    assert sorted(found.counts(np.full(10, 0.1))) == [1] * 5 + [2] * 5


def test_only_the_side_of_a_group_that_was_asked_for_holds_its_tasks():
    most = made(constraints={"max_epochs": "none", "groups": {"math/*": {"max": 0.5}}})
    assert most.binding([0, 0, 0.5, 0.5]) == [[], [], [], []]
    assert most.binding([0.25, 0.25, 0.5, 0])[:3] == [["groups.math/*.max 0.5"], ["groups.math/*.max 0.5"], []]
    least = made(constraints={"max_epochs": "none", "groups": {"math/*": {"min": 0.2}}})
    assert least.binding([0.6, 0.4, 0, 0]) == [[], [], [], []]
    assert least.binding([0.1, 0.1, 0.8, 0])[:2] == [["groups.math/*.min 0.2"]] * 2
