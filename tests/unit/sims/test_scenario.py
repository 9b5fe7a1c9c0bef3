import pickle

import pytest

from overlay.errors import ConfigurationError
from sims.scenario.expectation import Expectation
from sims.scenario.files import load_scenario, shipped_names
from sims.scenario.plain import plain_of, scenario_of, set_by_name
from sims.scenario.scenario import (
    Adversary,
    Arrival,
    Churn,
    Circuits,
    LatencySection,
    Parameters,
    Scenario,
)
from sims.scenario.study import Axis, Study, parse_axis, study_of
from sims.scenario.toml import parse_toml, render_toml


def refusal(build):
    with pytest.raises(ConfigurationError) as caught:
        build()
    sentence = str(caught.value)
    assert sentence.endswith((".", "?"))
    assert "\n" not in sentence
    return sentence


def test_python_and_toml_give_the_same_scenario():
    built = Scenario(
        nodes=500, duration_s="6h", churn=Churn("ipfs2022"), adversary=Adversary(0.2, ["drop"])
    )
    read = parse_toml(
        'nodes = 500\nduration_s = "6h"\n[churn]\nmodel = "ipfs2022"\n'
        '[adversary]\nshare = 0.2\nbehaviours = ["drop"]\n'
    )
    assert read == built
    assert parse_toml(render_toml(built)) == built
    assert scenario_of(plain_of(built)) == built


def test_a_scenario_crosses_to_workers_and_into_sets():
    scenario = Scenario(dht=Parameters({"alpha": 3}), seeds=[3, 7])
    assert pickle.loads(pickle.dumps(scenario)) == scenario
    assert len({scenario, Scenario(dht={"alpha": 3}, seeds=(3, 7))}) == 1


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Scenario(nodes=1), "nodes must lie between 2 and 10000000, not 1"),
        (lambda: Scenario(duration_s="soon"), 'such as "90s"'),
        (lambda: Scenario(seeds=[1, 1]), "names a seed twice"),
        (lambda: Scenario(expectations=["all is well"]), "lookup_success mean >= 0.95"),
        (lambda: Scenario(expectations=["x p97.3 >= 1"]), "quantile such as p95"),
        (lambda: Adversary(1.5, ["drop"]), "[adversary] share must lie between 0 and 0.9"),
        (lambda: Adversary(0.2), 'write behaviours = ["drop"]'),
        (lambda: Adversary(0.0, ["drop"]), "write share = 0.2"),
        (lambda: Adversary(0.2, ["steal"]), "one of deny-circuits, drop, eclipse"),
        (lambda: Arrival("equilibrium", share=0.3), "has no meaning for 'equilibrium'"),
        (lambda: Arrival("partition", share=1.0), "leaves no node on the other side"),
        (lambda: Arrival("mass-failure", share=3.0), "more than all nodes"),
        (lambda: LatencySection(low_s=0.5, high_s=0.1), "swap them"),
        (lambda: LatencySection(matrix="m.csv"), 'model = "geographic"'),
        (lambda: Scenario(nodes=10, circuits=Circuits(10)), "leaves no relay"),
        (lambda: Scenario(fidelity="model", verify_signatures=True), "has no meaning"),
        (lambda: Scenario(duration_s=60, arrival=Arrival("mass-failure")), "after the end"),
        (lambda: scenario_of({"node": 3}), "did you mean nodes?"),
        (lambda: scenario_of({"churn": 3}), "write [churn] on a line"),
        (lambda: scenario_of({"adversary": {"shares": 0.1}}), "did you mean share?"),
        (lambda: set_by_name({}, "adversary", 1), "name one of adversary.share"),
        (lambda: set_by_name({}, "nodes.x", 1), "nodes is no table"),
        (lambda: parse_axis("nodes"), "--sweep nodes=500,1000"),
        (lambda: parse_axis("nodes=1,1"), "names a value twice"),
        (lambda: parse_toml("[quick]\nnodes = 0"), "with [quick] laid over the rest"),
        (lambda: load_scenario("mass-failur"), 'did you mean "mass-failure"?'),
    ],
)
def test_a_mistake_gets_one_sentence_that_says_what_to_write(build, words):
    assert words in refusal(build)


def test_a_contradiction_is_found_only_where_there_is_one():
    assert Arrival("mass-failure").share == 0.3
    assert Arrival("partition").lasts_s == 600
    assert Arrival("bootstrap-dies").share is None


def test_an_expectation_reads_as_it_is_written():
    expected = Expectation.parse("bucket_fill[bucket-3] p95 <= 20")
    assert expected == Expectation("bucket_fill", "p95", "<=", 20.0, "bucket-3")
    assert Expectation.parse(str(expected)) == expected
    assert expected.quantile == 0.95
    assert expected.holds(20)
    assert not expected.holds(20.1)
    assert not expected.holds(float("nan"))


def test_a_sweep_makes_every_combination_in_order():
    axes = [parse_axis("nodes=100,200"), parse_axis("adversary.share=0,.2")]
    tables = {"adversary": {"behaviours": ["eclipse"]}}
    study = study_of(tables, axes)
    assert [point.name for point in study.points] == [
        "nodes=100 adversary.share=0",
        "nodes=100 adversary.share=0.2",
        "nodes=200 adversary.share=0",
        "nodes=200 adversary.share=0.2",
    ]
    assert study.points[3].scenario.adversary.share == 0.2
    assert Study.of_plain(study.plain()) == study


def test_commas_inside_parentheses_belong_to_a_value():
    axis = parse_axis("churn.model=weibull(3h, 0.6),kad2007")
    assert axis == Axis("churn.model", ("weibull(3h, 0.6)", "kad2007"))


@pytest.mark.parametrize("trace", ["sessions.csv", "runs (1)/sessions.csv"])
def test_files_that_a_scenario_names_start_at_its_directory(tmp_path, trace):
    file = tmp_path / "s.toml"
    file.write_text(
        f'[churn]\nmodel = "trace({trace}) / exponential(2h)"\n'
        '[latency]\nmodel = "geographic"\nmatrix = "m.csv"\n'
    )
    scenario = load_scenario(file)
    assert scenario.churn.model == f"trace({tmp_path}/{trace}) / exponential(2h)"
    assert scenario.latency.matrix == f"{tmp_path}/m.csv"


@pytest.mark.parametrize("name", shipped_names())
def test_a_shipped_scenario_is_worth_shipping(name):
    full, quick = load_scenario(name), load_scenario(name, quick=True)
    assert full.name == name
    assert full.question.endswith("?")
    assert full.expectations
    assert len(full.seeds) >= 10
    assert quick.nodes * quick.total_s < full.nodes * full.total_s
    assert len(quick.seeds) >= 2
