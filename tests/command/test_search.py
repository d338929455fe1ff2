"""A search over ranges: what is chosen, told, pruned, gone on with and refused. Jobs are stand-ins whose numbers are known."""

import json
import sys
from pathlib import Path

import hydra
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

pytest.importorskip("optuna", reason="a search needs Optuna: pip install -e '.[optuna]'")

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler

from ldm.command.conclusion import concluded
from ldm.command.job import job
from ldm.command.launcher import prepared
from ldm.command.search.objective import goal
from ldm.command.search.ranges import WrongRange, distribution, said
from ldm.command.search.study import Goal, Study
from ldm.command.search.trial import trial_of
from ldm.command.words import heard
from ldm.files import write_json
from ldm.run.directory import asked_for
from ldm.run.record import Record, write
from ldm.run.signals import PREEMPTED
from tests.command.test_launcher import Place, stripped

# Stands for train.py: a run whose psnr is -(x - 3)^2 + seed. Where x is greater than the number in a file `limit`, it ends as
# that says.
SCRIPT = """
import json, os, pathlib, sys
words = dict(word.lstrip("+").split("=", 1) for word in sys.argv[1:])
place = pathlib.Path(__file__).parent
run = pathlib.Path(words["runs"].strip("'")) / words["name"].strip("'")
run.mkdir(parents=True, exist_ok=True)
x = float(words.get("evaluation.x", "0").strip("'"))
with open(place / "ran.txt", "a") as file:
    file.write(run.name + "\\n")
limit = place / "limit"
if limit.exists() and x > json.loads(limit.read_text())[0]:
    code = json.loads(limit.read_text())[1]
    (run / "run.json").write_text(json.dumps({"status": {3: "diverged", 75: "stopped"}.get(code, "failed")}))
    sys.exit(code)
(run / "run.json").write_text('{"status": "finished"}')
value = -(x - 3) ** 2 + float(words.get("seed", "0"))
lines = [{"metric": "psnr", "value": value}, {"metric": "sample_flops", "value": x}]
(run / "records.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
"""

OPTUNA = ("hydra/sweeper=optuna", "hydra/sweeper/sampler=random", "objective=psnr")
RANGE = "++evaluation.x=interval(0,10)"


METRIC = {
    "quality": {"_target_": "ldm.metric.reconstruction.ReconstructionQuality"},
    "cost": {"_target_": "ldm.metric.cost.Cost"},
}


@pytest.fixture(scope="module")
def conf(tmp_path_factory) -> Path:
    return stripped(tmp_path_factory.mktemp("conf"), metric=METRIC)


class Searching(Place):
    """A folder in which searches are called; under `basic` a job is a training that is evaluated five times."""

    def __init__(self, folder, conf, monkeypatch):
        super().__init__(folder, conf, monkeypatch)
        self.script.write_text(SCRIPT)
        self.evaluated: dict[str, int] = {}

    def limit(self, x: float, code: int) -> None:
        (self.folder / "limit").write_text(json.dumps([x, code]))

    def mend(self) -> None:
        (self.folder / "limit").unlink()

    def train(self, config: dict) -> int:
        run = self.runs / config["name"]
        judge = trial_of(config).judge(config["evaluation"]["every"])
        for step in range(1, 6):
            self.evaluated[config["name"]] = step
            if not judge(10 * step, {"psnr": -((config["evaluation"]["x"] - 3) ** 2)}):
                return PREEMPTED
        run.mkdir(parents=True, exist_ok=True)
        write_json(run / "run.json", {"status": "finished", "asked": asked_for(config)})
        write(run / "records.jsonl", Record(metric="psnr", value=-((config["evaluation"]["x"] - 3) ** 2)))
        return 0

    def search(self, *words: str, trials: int = 4, optuna: tuple[str, ...] = OPTUNA) -> int:
        """The exit code of a search by the name s."""
        given = heard(
            ["-m", f"runs={self.runs}", "name=s", f"hydra.sweeper.n_trials={trials}", *optuna, *words], self.conf
        )
        self.patch.setattr(sys, "argv", ["train.py", *prepared(given, [sys.executable, str(self.script)])])

        @hydra.main(config_path=str(self.conf), config_name="config", version_base="1.3")
        def main(config):
            return job(lambda words: OmegaConf.to_container(config, resolve=True), self.train)

        try:
            main()
        except SystemExit as error:
            if isinstance(error.code, str):
                raise
            return error.code
        return 0

    @property
    def found(self) -> dict:
        return json.loads((self.runs / "s" / "search.json").read_text())

    @property
    def chosen(self) -> list[float]:
        return [trial["chosen"]["evaluation.x"] for trial in self.found["trials"]]


@pytest.fixture
def place(tmp_path, conf, monkeypatch) -> Searching:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LDM_SEARCH", raising=False)
    monkeypatch.setenv("LDM_SEARCH", "null")  # what a search sets is taken back
    return Searching(tmp_path, conf, monkeypatch)


def test_a_search_is_told_the_numbers_of_its_runs(place, capsys):
    with concluded():
        assert place.search(RANGE) == 0
    trials = place.found["trials"]
    assert [trial["state"] for trial in trials] == ["complete"] * 4
    for trial in trials:
        typed = float(Path(trial["runs"][0]).name.removeprefix("evaluation.x-"))
        assert typed == pytest.approx(trial["chosen"]["evaluation.x"], rel=1e-5)
        assert trial["values"] == [pytest.approx(-((typed - 3) ** 2))]
    best = max(trials, key=lambda trial: trial["values"][0])
    assert [each["number"] for each in place.found["best"]] == [best["number"]], "of a psnr the greatest"
    page = (place.runs / "s" / "report" / "report.html").read_text(encoding="utf-8")
    assert place.found["best"][0]["command"] in page and "Best: trial" in page
    assert "job 4 of 4" in capsys.readouterr().out


def test_the_same_command_goes_on_and_chooses_as_if_it_had_not_ended(place, tmp_path):
    place.search(RANGE)
    whole = place.chosen
    (place.runs / "s").rename(place.runs / "whole")
    place.search(RANGE, trials=2)
    assert len(place.ran()) == 6
    place.search(RANGE)
    assert place.chosen == whole and len(place.ran()) == 2
    assert place.search(RANGE) == 0 and place.ran() == [], "n_trials counts what the study has"


def test_another_range_goes_on_in_the_same_study(place):
    place.search(RANGE, trials=2)
    assert place.search("++evaluation.x=interval(20,30)", trials=4) == 0
    assert all(20 <= x <= 30 for x in place.chosen[2:]) and all(x <= 10 for x in place.chosen[:2])


def test_every_choice_is_judged_by_the_mean_over_its_seeds(place):
    place.search(RANGE, "seed=1,2,6", trials=2)
    for trial in place.found["trials"]:
        assert [run.rpartition("_")[2] for run in trial["runs"]] == ["seed-1", "seed-2", "seed-6"]
        x = float(trial["runs"][0].removeprefix("s/evaluation.x-").partition("_")[0])
        assert trial["values"] == [pytest.approx(-((x - 3) ** 2) + 3)]


def test_a_failed_trial_harms_none_and_is_tried_again_by_the_same_command(place):
    place.limit(5.5, 1)
    assert place.search(RANGE, trials=8) == 1
    states = [trial["state"] for trial in place.found["trials"]]
    assert states == ["fail" if x > 5.5 else "complete" for x in place.chosen] and len(set(states)) == 2
    failed = [x for x in place.chosen if x > 5.5]
    place.ran()
    place.mend()
    assert place.search(RANGE, trials=8) == 0
    again = [trial for trial in place.found["trials"][8:] if trial["state"] == "complete"]
    assert [trial["chosen"]["evaluation.x"] for trial in again] == failed and len(place.ran()) == len(failed)
    assert place.search(RANGE, trials=9) == 0
    assert len(place.ran()) == 1 and place.chosen[-1] not in place.chosen[:-1], "and not once more"


def test_where_the_first_trials_all_fail_no_other_is_begun(place):
    place.limit(-1, 1)
    assert place.search(RANGE, trials=8) == 1
    assert len(place.ran()) == 3


def test_a_trial_that_was_stopped_goes_on_as_the_same(place):
    place.limit(-1, PREEMPTED)
    assert place.search(RANGE) == PREEMPTED
    begun = place.ran()
    assert len(begun) == 1
    place.mend()
    assert place.search(RANGE) == 0
    assert place.ran()[0] == begun[0] and len(place.found["trials"]) == 4


def test_a_diverged_trial_is_the_worst_and_is_not_tried_again(place):
    place.limit(5, 3)
    place.search(RANGE, trials=6)
    assert [trial["state"] for trial in place.found["trials"]] == [
        "pruned" if x > 5 else "complete" for x in place.chosen
    ]
    place.ran()
    place.search(RANGE, trials=6)
    assert place.ran() == []


def test_trials_at_once_that_chose_alike_are_one_run(place):
    assert place.search("++evaluation.x=1,2", "hydra.launcher.n_jobs=4", trials=4) == 0
    assert [trial["state"] for trial in place.found["trials"]] == ["complete"] * 4
    assert len(place.ran()) == len({trial["chosen"]["evaluation.x"] for trial in place.found["trials"]})


def test_several_objectives(place):
    optuna = (*OPTUNA[:2], "objective=[psnr,sample_flops]", "hydra.sweeper.direction=[maximize,minimize]")
    assert place.search(RANGE, optuna=optuna) == 0
    for trial in place.found["trials"]:
        x = float(trial["runs"][0].removeprefix("s/evaluation.x-"))
        assert trial["values"] == [pytest.approx(-((x - 3) ** 2)), pytest.approx(x)]
    front = {each["number"] for each in place.found["best"]}
    values = [trial["values"] for trial in place.found["trials"]]
    beaten = {i for i, (p, s) in enumerate(values) if any(q >= p and t <= s and (q, t) != (p, s) for q, t in values)}
    assert front == set(range(4)) - beaten


def test_importances_are_shares_of_what_matters(tmp_path):
    """The number is x, which z does nothing to; the range of x became another one on the way."""

    def study(high: float) -> Study:
        ranges = {"x": FloatDistribution(0.0, high), "z": FloatDistribution(0.0, 1.0)}
        return Study(tmp_path, Goal(["psnr"], [False]), ranges, ["seed=0"], RandomSampler, 0)

    assert study(1.0).importances() == [{}], "of no trial nothing is known"
    for high in (1.0, 2.0):
        for _ in range(10):
            trial = study(high).ask()
            study(high).tell(trial, [trial.params["x"]])
    shares = study(2.0).importances()[0]
    assert sum(shares.values()) == pytest.approx(1) and shares["x"] > 0.8


# Pruning


PRUNING = ("hydra/launcher=basic", "hydra/sweeper/pruner=median", "hydra.sweeper.pruner.n_startup_trials=1")


def test_half_a_line_at_the_end_of_the_journal_is_dropped(tmp_path):
    """A machine that was lost in the middle of a write leaves one."""
    ranges = {"second.optimizer.lr": FloatDistribution(1e-4, 1e-2)}

    def study():
        return Study(tmp_path, Goal(["psnr"], [False]), ranges, ["seed=0"], RandomSampler, 0)

    first = study()
    first.tell(first.ask(), [20.0])
    journal = tmp_path / "search.journal"
    lines = journal.read_bytes()
    journal.write_bytes(lines + lines.splitlines()[-1][:20])
    second = study()
    second.tell(second.ask(), [21.0])
    assert [trial.values for trial in study().trials] == [[20.0], [21.0]]


def test_a_training_that_is_worse_than_the_median_is_ended(place, capsys):
    """A trial after the first goes on where its number is not worse than the median of those that came to their end."""
    assert place.search(RANGE, "++evaluation.every=10", *PRUNING, trials=8) == 0
    wanted, known = [], []
    for x in place.chosen:
        value = -((round(x, 5) - 3) ** 2)
        median = sorted(known)[len(known) // 2] if len(known) % 2 else sum(sorted(known)[len(known) // 2 - 1 :][:2]) / 2
        wanted.append("pruned" if known and value < median else "complete")
        known += [value] if wanted[-1] == "complete" else []
    trials = place.found["trials"]
    assert [trial["state"] for trial in trials] == wanted and len(set(wanted)) == 2
    steps = [place.evaluated[trial["runs"][0]] for trial in trials]
    assert steps == [5 if state == "complete" else 1 for state in wanted]


def test_a_job_beside_the_search_has_no_trial(place):
    config = {"runs": str(place.runs), "name": "other/x", "evaluation": {"every": 10}}
    place.search(RANGE, "++evaluation.every=10", *PRUNING, trials=1)
    assert trial_of(config) is None and trial_of(config | {"name": "s/x"}) is not None
    assert trial_of(config | {"name": "s/x", "evaluation": {}}) is None


# What is wrong


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((RANGE, "objective=null"), "say objective=NAME"),
        ((RANGE, "objective=nonsense"), "objective=nonsense: of no number of this name is it known which way"),
        ((RANGE, "objective=fd_classifier"), "nothing that is measured has this name"),
        (("seed=1,2",), "no word has a range"),
        ((RANGE, "hydra.sweeper.direction=up"), "say minimize or maximize"),
        ((RANGE, "hydra.sweeper.direction=[minimize,maximize]"), "one for each of objective="),
        ((RANGE, "hydra/sweeper/pruner=median"), "say evaluation.every=IMAGES"),
        (
            (RANGE, "seed=1,2", "++evaluation.every=9", "hydra/sweeper/pruner=median"),
            "by one objective of one run a trial",
        ),
        (("++evaluation.x=interval(3,1)",), r"\+\+evaluation.x=interval\(3,1\): from 3 to 1 there is nothing"),
        (("++evaluation.x=tag(log,interval(0,1))",), "has to begin above 0"),
        (("++evaluation.x=tag(lgo,interval(1,2))",), "no such tag as lgo; there is log"),
    ],
)
def test_a_wrong_search_is_one_line_before_the_first_job(place, words, said):
    with pytest.raises(SystemExit, match=said) as ended:
        place.search(*words)
    assert "\n" not in str(ended.value) and place.ran() == [] and not (place.runs / "s" / "report").exists()


def test_a_number_that_the_first_run_has_not_ends_the_search(place):
    """As a distance in a network that could not be had."""
    with pytest.raises(SystemExit, match=r"objective=ssim: .* has no such record. There are psnr, sample_flops"):
        place.search(RANGE, "objective=ssim")
    assert len(place.ran()) == 1


def test_a_search_under_other_words_is_not_gone_on_with(place):
    place.search(RANGE, "evaluation.samples=7", trials=1)
    with pytest.raises(SystemExit, match=r"under other words \(.*evaluation.samples=7.*another name= begins a new one"):
        place.search(RANGE, "evaluation.samples=8")
    assert place.search(RANGE, "evaluation.samples=7", "keep=model", trials=2) == 0, "which says nothing of the numbers"


@pytest.mark.parametrize(
    "other", ["++evaluation.x=1,2", "++evaluation.z=interval(0,1)", "++evaluation.x=tag(log,interval(1,9))"]
)
def test_a_search_over_something_else_is_not_gone_on_with(place, other):
    place.search(RANGE, trials=1)
    with pytest.raises(SystemExit, match="another name= begins a new one"):
        place.search(other)


def test_a_range_without_a_search(place):
    with pytest.raises(
        SystemExit, match=r"evaluation.x=interval\(0,10\): a range without steps is for a search: say hydra/sweeper"
    ):
        place.search(RANGE, optuna=())


def test_without_optuna(place, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="needs the package optuna: pip install"):
        place.search(RANGE)


# Ranges and goals


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("a=interval(1,3)", FloatDistribution(1.0, 3.0)),
        ("a=tag(log,interval(1e-4,1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
        ("a=int(interval(1,3))", IntDistribution(1, 3)),
        ("a=range(2,9,2)", IntDistribution(2, 8, step=2)),
        ("a=range(3,0,-1)", IntDistribution(1, 3)),
        ("a=range(0.5,2,0.5)", FloatDistribution(0.5, 1.5, step=0.5)),
        ("a=tag(log,range(1,9))", IntDistribution(1, 8, log=True)),
        ("a=x,'y z',x", CategoricalDistribution(["x", "'y z'"])),
        ("a=choice(1,[2,3])", CategoricalDistribution(["1", "[2,3]"])),
    ],
)
def test_ranges_of_hydra_are_distributions(word, wanted):
    assert distribution(OverridesParser.create().parse_override(word)) == wanted


@pytest.mark.parametrize("word", ["a=range(3,3)", "a=tag(log,range(1,9,2))", "a=tag(log,range(0.5,2,0.5))"])
def test_ranges_that_cannot_be(word):
    with pytest.raises(WrongRange, match=r"a=.*range"):
        distribution(OverridesParser.create().parse_override(word))


@pytest.mark.parametrize(
    ("value", "range_", "wanted"),
    [
        (0.00123456789, FloatDistribution(1e-4, 1e-2), "0.00123457"),
        (0.1 + 0.2, FloatDistribution(0.1, 0.5, step=0.1), "0.3"),
        (1000.123456, FloatDistribution(1000, 1001), "1000.12346"),
        (5, IntDistribution(1, 9), "5"),
        ("'y z'", CategoricalDistribution(["'y z'"]), "'y z'"),
    ],
)
def test_values_are_words_that_can_be_read(value, range_, wanted):
    assert said(value, range_) == wanted


def test_the_way_is_taken_from_what_is_known_of_a_number():
    assert goal("fd_classifier", None).directions == ["minimize"]
    assert goal(["psnr", "sample_flops"], None).directions == ["maximize", "minimize"]
    assert goal("nonsense", "maximize").directions == ["maximize"]
