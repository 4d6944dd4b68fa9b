"""Tests of experiment files: arms, overrides, and errors before the first request."""

import ast
import json
import re
from contextlib import suppress
from itertools import pairwise
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import experiment, session
from hostile_names import NOT_FILES, PIECES
from icl_loop.context.policy_parser import POLICIES, context_policy
from icl_loop.core.errors import InputError
from icl_loop.core.names import check_file_name
from icl_loop.experiment import Session, Settings, load, parse, settings
from icl_loop.experiment.settings import ArmName


def write(folder: Path, text: str) -> Path:
    """Write an experiment file."""
    path = folder / "experiment.toml"
    path.write_text(text)
    return path


def test_an_arm_overrides_the_tables(tmp_path: Path) -> None:
    """An arm has the settings of the file except for the keys it overrides."""
    path = write(
        tmp_path,
        """
        name = "e"
        [task]
        encoding = "ascii"
        [context]
        policy = "last(4)"
        [[arms]]
        name = "one"
        [[arms]]
        name = "two"
        feedback.kind = "none"
        task.size = 14
        """,
    )
    arms = load(path).arms
    one, two = arms["one"], arms["two"]
    assert (one.task.encoding, one.task.size, one.feedback.kind) == ("ascii", 20, "correctness")
    assert (two.task.encoding, two.task.size, two.feedback.kind) == ("ascii", 14, "none")
    assert one.context == two.context
    assert one.context.policy == "last(n=4)"


def test_every_arm_plays_the_same_streams() -> None:
    """Sessions of one stream have the same samples in the same order in every arm."""
    made = experiment(arms=[{"name": "a"}, {"name": "b", "task": {"encoding": "ascii"}}])
    ids: dict[int, set[tuple[str, ...]]] = {}
    for each in made.sessions():
        ids.setdefault(each.stream, set()).add(tuple(s.id for s in each.task.samples))
    assert {stream: len(orders) for stream, orders in ids.items()} == {0: 1, 1: 1}
    assert ids[0] != ids[1]


WRONG = {
    'name = "e"\nstream = 3': ("stream", "did you mean 'streams'"),
    'name = "e"\n[task]\nencodng = "grid"': ("task.encodng", "did you mean 'encoding'"),
    'name = "e"\n[task]\nencoding = "gird"': ("task.encoding", "did you mean 'grid'"),
    'name = "e"\n[task]\nsize = 0': ("task.size", "0"),
    'name = "e"\n[task]\nsize = "big"': ("task.size", "'big'"),
    'name = "e"\n[task]\nprompts = "ja"': ("task.prompts", "did you mean 'plain-ja'"),
    'name = "e"\n[task]\nlabels = "nativ"': ("task.labels", "did you mean 'native'"),
    'name = "e"\n[feedback]\nkind = "correctnes"': ("feedback.kind", "'correctness'"),
    'name = "e"\n[context]\npolicy = "blok"': ("context.policy", "did you mean 'block'"),
    'name = "e"\n[context]\npolicy = "last(-1)"': ("context.policy", "n=-1"),
    'name = "e"\n[context]\npolicy = "last(m=3)"': ("context.policy", "parameters: n"),
    'name = "e"\n[context]\npolicy = "last(m)"': ("context.policy", "'m' is not a number"),
    'name = "e"\nseed = 9223372036854775808': ("seed", "must be less than"),
    'name = "e"\n[context]\npolicy = "last("': ("context.policy", "last("),
    'name = "e"\n[context]\nreserve = 40000': ("reserve", "40000"),
    'name = "e"\n[context]\ncounter = "o200k"': ("context.counter", "'o200k_base'"),
    'name = "e"\n[model]\nname = "reference/nearst"': ("model", "'reference/nearest'"),
    'name = "e"\n[model]\nbase_url = "localhost"': ("model.base_url", "http://"),
    'name = "e"\n[model]\nbase_url = "http://me:key@h/v1"': ("model.base_url", "api_key_env"),
    'name = "e"\n[model.params]\napi_key = "sk-1"': ("model.params", "api_key_env"),
    'name = "e"\nturns = 0': ("turns", "0"),
    'name = "e"\nturns = 1.5': ("turns", "1.5"),
    'name = "../e"': ("name", "'../e'"),
    "turns = 3": ("name", "missing"),
    'name = "e"\n[[arms]]\nname = "a"\n[[arms]]\nname = "a"': ("arms[1].name", "'a'"),
    'name = "e"\n[[arms]]\nfeedback.kind = "none"': ("arms[0].name", ""),
    'name = "e"\n[[arms]]\nname = "a"\nfeedbak.kind = "none"': ("feedbak", "'feedback'"),
    'name = "e"\narms = []': ("arms", "at least one"),
    'name = "e"\n[analysis]\nprimary = ["feedback", "yoked"]': ("analysis.primary", "'yoked'"),
    'name = "e"\n[task]\ndataset = "digit"': ("digit", "did you mean 'digits'"),
    "name = ": ("TOML", ""),
    'name = "e"\nencoding = "grid"': ("encoding", "did you mean 'task.encoding'"),
    'name = "e"\n[task]\nkind = "none"': ("task.kind", "did you mean 'feedback.kind'"),
    'name = "e"\n[[arms]]\nname = "a"\nturns = 3': ("arms[0].turns", "top level"),
    'name = "e"\n[task]\nencoding = 3': ("task.encoding = 3", "choose one of"),
    'name = "e"\ntask = "digits"': ("task = 'digits'", "must be a table"),
    'name = "e"\n[probes]\nat = [1, "x"]': ("probes.at[1] = 'x'", "must be a whole number"),
    'name = "e"\n[analysis]\nprimary = ["a"]': (
        "analysis.primary",
        "at least 2 entries, has 1",
    ),
    'name = "e"\n[model]\nmerge_roles = "yes"': ("model.merge_roles = 'yes'", "true or false"),
    'name = "e"\n[model]\ncontext_window = "big"': ("model.context_window = 'big'", "or 'auto'"),
    'name = "e"\n[model]\ncontext_window = 0': ("model.context_window = 0", "at least 1"),
    'name = "e"\n[model]\ncontext_window = true': (
        "model.context_window = true",
        "number of tokens",
    ),
    'name = "e"\n[model]\nsystem_role = "no"': ("model.system_role = 'no'", "true or false"),
    'name = "e"\n[model]\nanswer_format = "choices"': ("answer_format", "did you mean 'choice'"),
    'name = "e"\ncontext.policy = "notes(3, 60)"\n[model]\nname = "m"\nanswer_format = "choice"': (
        "context.policy",
        "cannot write notes",
    ),
    'name = "e"\nturns = 3\n[model]\nname = "m"\ncontext_window = "auto"': (
        "model.context_window = 'auto'",
        "when a run starts",
    ),
    'name = "e"\n[model]\napi_key_env = "sk-1"': ("model.api_key_env", "environment variable"),
    'name = "e"\n[sweep]\n"task.promts" = ["plain"]': (
        "sweep.task.promts",
        "did you mean 'task.prompts'",
    ),
    'name = "e"\n[sweep]\nparams.temperature = [0, 1]': (
        "sweep.params.temperature",
        "did you mean 'model.params.temperature'",
    ),
    'name = "e"\n[sweep]\nturns = [3, 4]': ("sweep.turns", "all arms share turns"),
    'name = "e"\n[sweep]\n"task.prompts" = "plain"': ("sweep.task.prompts = 'plain'", "a list"),
    'name = "e"\n[sweep]\n"task.size" = [8, 8]': ("sweep.task.size = [8, 8]", "a value twice"),
    'name = "e"\n[sweep]\n"task.size" = []': ("sweep.task.size = []", "must be a list"),
    'name = "e"\n[sweep]\n"task.encoding" = ["grid", "gird"]': (
        "arm 'feedback_encoding=gird', task.encoding = 'gird'",
        "did you mean 'grid'",
    ),
    'name = "e"\nsweep = 3': ("sweep = 3", "must be a table"),
    f'name = "e"\n[sweep]\n"task.size" = {[*range(1, 101)]}\n"model.params.n" = {[*range(11)]}': (
        "sweep",
        "1,100 arms; at most 1,000",
    ),
    'name = "e"\n[sweep]\n"task.size" = [8, 9]\n[[arms]]\nname = "f"\n[[arms]]\nname = "y"\ntask.size = 8\n'
    'feedback = {kind = "yoked", donor = "f"}': (
        "arm 'y', feedback.donor = 'f': this arm sets task.size itself",
        "which of the 2 arms",
    ),
}
PYDANTIC_WORDS = re.compile(r"Input|should|valid |validation error|instance|Value error|\bNone\b")
"""Words of pydantic's own messages, which users should not see."""


@pytest.mark.parametrize("text", WRONG)
def test_an_invalid_file_is_rejected(tmp_path: Path, text: str) -> None:
    """The error names the key, the value and the nearest choice, on one line and without secrets."""
    key, fragment = WRONG[text]
    with pytest.raises(InputError) as caught:
        load(write(tmp_path, text)).check()
    assert key in str(caught.value)
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "sk-1" not in str(caught.value)


def test_settings_of_later_versions_are_recorded_if_changed() -> None:
    """Sessions saved by an earlier version can be resumed: new settings are recorded if changed."""
    plain = experiment().arms["feedback"]
    assert not {"system_role", "cache_control"} & plain.recorded()["model"].keys()
    changed = experiment(model={"name": "m", "system_role": False}).arms["feedback"]
    assert changed.recorded()["model"]["system_role"] is False
    for each in (plain, changed):
        assert Settings.model_validate(each.recorded()).model == each.model


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The error for a missing file names it."""
    with pytest.raises(InputError, match=r"nowhere\.toml"):
        load(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("turns=5", 5),
        ("turns = 5", 5),
        ("task.encoding=ascii", "ascii"),
        ('task.encoding="ascii"', "ascii"),
        ("context.policy=last(3) | within", "last(n=3) | within(tokens=None)"),
        ("model.params.temperature=0.5", 0.5),
    ],
)
def test_set_overrides_a_setting(tmp_path: Path, change: str, value: object) -> None:
    """`KEY=VALUE` replaces one setting; a value that is not TOML is a string."""
    made = load(write(tmp_path, 'name = "e"\nmodel.name = "served"'), [change])
    found: object = {"turns": made.turns, **made.arms["feedback"].model_dump()}
    for part in change.partition("=")[0].strip().split("."):
        assert isinstance(found, dict)
        found = found[part]
    assert found == value


@pytest.mark.parametrize("change", ["turns", "=3", "a..b=1", "", ".=1"])
def test_a_malformed_override_is_rejected(tmp_path: Path, change: str) -> None:
    """The error for an override without key or value shows the expected form."""
    with pytest.raises(InputError, match="KEY=VALUE"):
        load(write(tmp_path, 'name = "e"'), [change])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    ),
    st.sampled_from(["name", "turns", "task", "model", "context", "arms", "analysis", "x"]),
)
def test_any_value_is_accepted_or_rejected(value: object, key: str) -> None:
    """Any value of a key is accepted or rejected with InputError."""
    with suppress(InputError):
        parse({"name": "e", key: value})


@pytest.mark.parametrize("value", [-1, 2.5, True, "x", [{}], {"a": {"b": 1}}], ids=repr)
def test_errors_name_the_key_and_avoid_pydantic_wording(value: object) -> None:
    """The error for an invalid value names the key and says what is expected, in our own words."""
    for table, kind in Settings.model_fields.items():
        assert kind.annotation is not None
        for key in kind.annotation.model_fields:
            with suppress(InputError):
                parse({"name": "e", table: {key: value}})
                continue
            with pytest.raises(
                InputError, match=rf"^experiment, arm 'feedback', {table}"
            ) as caught:
                parse({"name": "e", table: {key: value}})
            assert key in str(caught.value) or key == "kind"
            assert not PYDANTIC_WORDS.search(str(caught.value)), caught.value


@given(st.text(max_size=40) | st.from_regex(r"(last|within|block|all)\(.{0,12}\)( \| \w+)?"))
def test_any_policy_text_is_accepted_or_rejected(text: str) -> None:
    """Any policy text is accepted, and then reads back the same, or rejected with InputError."""
    with suppress(InputError):
        policy = context_policy(text)
        assert str(context_policy(str(policy))) == str(policy)


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_is_parsed_from_its_text(name: str) -> None:
    """The text of a policy names it and parses to an equal policy."""
    policy = context_policy(f"stochastic(0.5) | {name}")
    assert context_policy(str(policy)) == policy
    assert re.search(rf"\| {name}\b", str(policy))


def test_a_session_is_rebuilt_from_its_header() -> None:
    """The header of a transcript is enough to rebuild the session."""
    chosen = session(9, 1, policy="last(2)", encoding="sparse", prompts="plain-ja")
    again = Session.of(chosen.header().born())
    assert again == chosen
    assert again.task.system == chosen.task.system


def test_session_ids_are_unique() -> None:
    """Different sessions have different ids, and equal sessions the same id."""
    made = experiment(arms=[{"name": "a"}, {"name": "b", "feedback": {"kind": "none"}}])
    ids = [each.header().born().id for each in made.sessions()]
    assert len(set(ids)) == 4
    assert ids == [each.header().born().id for each in made.sessions()]


def test_every_setting_is_documented() -> None:
    """Every key of every settings table is followed by a docstring, except for keys of tables."""
    files = Path(settings.__file__).parent.glob("*settings.py")
    trees = [ast.parse(each.read_text()) for each in files]
    tables = [node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    names = {table.name for table in tables}
    for table in tables:
        for node, following in pairwise([*table.body, ast.Pass()]):
            if not isinstance(node, ast.AnnAssign) or names & {
                each.id for each in ast.walk(node) if isinstance(each, ast.Name)
            }:
                continue
            key = ast.unparse(node.target)
            is_table = table.name == "ExperimentFile" and key in Settings.model_fields
            assert isinstance(following, ast.Expr) or is_table, f"{table.name}.{key}"


# ---- sweeps ----------------------------------------------------------------------------------

SWEEP = {
    "model.name": ["simulated/chance", "simulated/constant"],
    "task": {"prompts": ["plain", "plain-ja"]},
    "context.policy": ["all", "last(3)"],
}
CROSSED_ARMS = [
    {"name": "feedback"},
    {"name": "yoked", "feedback": {"kind": "yoked", "donor": "feedback"}},
    {"name": "stateless", "context": {"policy": "stateless"}},
]


def test_a_sweep_is_the_product_written_out() -> None:
    """Every arm is played with every combination of the values, but for those of keys that it sets itself."""
    made = experiment(arms=CROSSED_ARMS, sweep=SWEEP)
    found = {
        (
            name.partition("_")[0],
            each.model.name,
            each.task.prompts,
            each.context.policy,
        )
        for name, each in made.arms.items()
    }
    policies = {"feedback": ["all", "last(n=3)"], "stateless": ["stateless"]}
    assert found == {
        (arm, model, prompts, policy)
        for arm in ("feedback", "yoked", "stateless")
        for model in SWEEP["model.name"]
        for prompts in ("plain", "plain-ja")
        for policy in policies.get(arm, policies["feedback"])
    }
    assert len(found) == len(made.arms) == 20
    for name, each in made.arms.items():
        alone = experiment(
            arms=[{"name": "feedback", "feedback": {}}],
            model={"name": each.model.name},
            task={"prompts": each.task.prompts},
            context={"policy": each.context.policy},
        ).arms["feedback"]
        assert each.model_copy(update={"feedback": alone.feedback}) == alone, name


def test_donors_and_contrasts_stay_in_their_cell() -> None:
    """Donors differ from their yoked arms in feedback alone, and so do the arms of every contrast."""
    made = experiment(arms=CROSSED_ARMS, sweep=SWEEP, analysis={"primary": ["feedback", "yoked"]})
    for name, each in made.arms.items():
        if donor := each.feedback.donor:
            other = made.arms[donor]
            assert other.model_copy(update={"feedback": each.feedback}) == each
            assert name.removeprefix("yoked") == donor.removeprefix("feedback")
    pairs = [made.analysis.primary, *made.analysis.secondary]
    names = list(made.arms)
    assert pairs == [[names[at], names[at + 8]] for at in range(4)]  # those of the first model
    assert {made.arms[arm].model.name for pair in pairs for arm in pair or ()} == {
        "simulated/chance"
    }


def test_a_sweep_of_tables() -> None:
    """Settings that belong together, such as a model and its address, are swept as one table."""
    servers = [{"name": name, "base_url": f"http://{name}/v1"} for name in ("one", "two")]
    made = experiment(arms=CROSSED_ARMS, model={"name": "zero"}, sweep={"model": servers})
    found = [(each.model.name, each.model.base_url) for each in made.arms.values()]
    assert found == [("one", "http://one/v1"), ("two", "http://two/v1")] * 3
    assert list(made.arms)[:2] == ["feedback_model=one", "feedback_model=two"]


VALUES = st.text(min_size=1) | st.integers() | st.floats(allow_nan=False) | st.booleans()


@given(st.lists(VALUES, min_size=1, max_size=5, unique_by=lambda each: (str(each), each == 1)))
def test_names_of_swept_arms(values: list[object]) -> None:
    """Whatever the values, swept arms have different names that are short and usable as file names."""
    with suppress(InputError):  # 1 and true are equal, and listed twice
        made = experiment(
            model={"name": "m"}, sweep={"model.params.top": values, "task.size": [8, 9]}
        )
        assert len(made.arms) == 2 * len(values)
        for name in made.arms:
            assert ArmName.validate_python(name) == name
            assert len(name) < 80


@pytest.mark.parametrize("name", [*NOT_FILES, "", "a\u00e9", "x" * 101])
@pytest.mark.parametrize("place", ["name = {}", "[[arms]]\nname = {}", "set"])
def test_names_that_no_file_can_have(tmp_path: Path, name: str, place: str) -> None:
    """A name that is no file name on Windows, macOS or Linux is refused wherever it is given."""
    path = tmp_path / "e.toml"
    given = place.format(json.dumps(name)) if place.startswith("name") else 'name = "e"\n'
    path.write_text(given + (place.format(json.dumps(name)) if "arms" in place else ""), "utf-8")
    with pytest.raises(InputError, match=r"name|not valid TOML"):
        load(path, [f"name={json.dumps(name)}"] if place == "set" else [])


@pytest.mark.parametrize("name", ["CON-x", "console", "null", "com", "com10", "a.aux", "lpt"])
def test_names_that_are_like_devices(name: str) -> None:
    """A name that merely resembles that of a device is accepted."""
    assert experiment(name=name, arms=[{"name": name}]).arms.keys() == {name}


def test_arms_that_differ_in_case() -> None:
    """Two arms whose names differ in case alone are refused; swept ones are numbered."""
    with pytest.raises(InputError, match=r"arms\[1\].name = 'a': .* arm 'A'.* case alone; rename"):
        experiment(arms=[{"name": "A"}, {"name": "a"}])
    made = experiment(model={"name": "m"}, sweep={"model.params.x": ["a", "A"]})
    assert [*made.arms] == ["feedback_x=a", "feedback_x=A-2"]


@given(st.text(max_size=6) | st.sampled_from([*NOT_FILES, *PIECES]))
def test_file_names(name: str) -> None:
    """A name passes only if Windows takes it as it is, and it fits into UTF-8 and 255 bytes."""
    with suppress(InputError):
        check_file_name(name)
        assert name == name.strip(" ").rstrip(".")
        assert 0 < len(name.encode()) < 250
        assert not re.search(r'[\x00-\x1f\x7f<>:"/\\|?*]', name)
        assert not PureWindowsPath(name).is_reserved()


ARMS = """
    name = "e"
    [[arms]]
    name = "a"
    feedback.kind = "label"
    [[arms]]
    name = "b.2"
    feedback.kind = "none"
    [[arms]]
    name = "c"
    """


def test_an_override_reaches_every_arm_or_is_reported(tmp_path: Path) -> None:
    """An override changes the arms that do not set its key; the others are named."""
    notes: list[str] = []
    arms = load(write(tmp_path, ARMS), ["feedback.kind=flipped"], notes.append).arms
    assert [arm.feedback.kind for arm in arms.values()] == ["label", "none", "flipped"]
    (note,) = notes
    assert "'a', 'b.2'" in note
    assert "arms.a.feedback.kind=" in note


def test_an_override_that_no_arm_takes_is_refused(tmp_path: Path) -> None:
    """If every arm sets a key, overriding it for all of them is an error, whatever the value."""
    text = ARMS.replace('name = "c"', 'name = "c"\nfeedback.kind = "flipped"')
    for value in ("correctness", "nonsense"):
        with pytest.raises(InputError, match=r"every arm sets feedback\.kind itself"):
            load(write(tmp_path, text), [f"feedback.kind={value}"])


@pytest.mark.parametrize("name", ["a", "b.2", "c"])
def test_an_override_of_one_arm(tmp_path: Path, name: str) -> None:
    """`arms.NAME.KEY` changes this arm only, and silently; a wrong name or value is an error."""
    notes: list[str] = []
    path = write(tmp_path, ARMS)
    before, after = load(path).arms, load(path, [f"arms.{name}.feedback.delay=0"]).arms
    assert before == after
    changed = load(path, [f"arms.{name}.feedback.kind=flipped"], notes.append).arms
    assert {each for each in before if changed[each] != before[each]} == {name}
    assert not notes
    with pytest.raises(InputError, match="there is no arm 'd'"):
        load(path, ["arms.d.feedback.kind=none"])
    with pytest.raises(InputError, match="nonsense"):
        load(path, [f"arms.{name}.feedback.kind=nonsense"])
