"""What the documentation tells people to type is what the program takes: commands, overrides, configs, links."""

import contextlib
import copy
import importlib.util
import io
import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from taskpgm_ray.cli import _parser
from taskpgm_ray.commands.export import FORMATS
from taskpgm_ray.config import StudyConfig, load_config
from taskpgm_ray.config_file import apply, parse
from taskpgm_ray.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
SECTIONS = set(StudyConfig.model_json_schema()["properties"])
MINIMAL = {"study": "s", "pool": {"tasks": ["files:data"]}, "finetune": {"steps": 1}}
PLACEHOLDER = re.compile(r"\.\.\.|\$\w+|\b[A-Z][A-Z_]{2,}\b")
"""What stands for a value of the reader's own."""


@dataclass
class Block:
    """Lines of code on a page."""

    language: str
    text: str
    line: int


def blocks(page):
    """The fenced and the indented blocks of a page."""
    fence, found, before = None, [], ""
    for number, line in enumerate(page.splitlines(), start=1):
        mark = re.match(r"\s*(```+|~~~+)\s*(\w*)", line)
        if fence is None and mark:
            fence = mark[1]
            found.append(Block(mark[2], "", number + 1))
        elif fence is not None and line.strip() == fence:
            fence = None
            # What follows is no continuation of an indented block.
            before = "."
        elif fence is not None:
            found[-1].text += line + "\n"
        elif line.startswith("    "):
            last = found[-1] if found else None
            if last and last.language == "indented" and last.line + last.text.count("\n") == number:
                last.text += line + "\n"
            elif not before.strip():
                found.append(Block("indented", line + "\n", number))
        if fence is None and not mark:
            before = line
    assert fence is None, "a fence is not closed"
    return [Block(block.language, textwrap.dedent(block.text), block.line) for block in found]


def commands(block):
    """(line, words) of every command of ours, with what a shell would take away taken away."""
    number, lines = block.line, block.text.replace("\\\n", "\0").split("\n")
    for line in lines:
        text = line.replace("\0", " ").strip().removeprefix("$ ")
        # What is submitted to a cluster, and what has variables in front.
        text = re.sub(r"^(?:\w+=\S+ )+", "", re.sub(r"^ray job submit .*? -- +", "", text))
        if re.match(r"(?:taskpgm|python jobs/\S+)(?:\s|$)", text):
            yield number, words(text)
        number += line.count("\0") + 1


def words(text):
    """A command as a shell splits it, without comments and up to a pipe or redirection."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|<>;&")
    lexer.whitespace_split, lexer.commenters = True, "#"
    found = list(lexer)
    end = next((i for i, word in enumerate(found) if word and set(word) <= set("|<>;&")), len(found))
    return found[:end]


def spans(page):
    """The commands of ours that stand inside sentences."""
    prose = re.sub(r"(?ms)^\s*(```|~~~).*?^\s*\1", "", page)
    return re.findall(r"`(taskpgm [^`]+)`", re.sub(r"\s*\n\s*", " ", prose))


def problem_of(given):
    """What is wrong with one command; ``None``: nothing."""
    if given[0] == "taskpgm":
        return refused(given[1:])
    script = given[1]
    if PLACEHOLDER.search(script):
        return None
    if not (ROOT / script).is_file():
        return f"there is no {script}"
    if script == "jobs/optimize.py":
        return refused(["run", *([] if "--config" in given else ["--config", "jobs/quickstart.yaml"]), *given[2:]])
    if script == "jobs/benchmark.py":
        names = [word for word in given[2:] if not word.startswith("-") and "." not in word and word != "NAME"]
        missing = [name for name in names if not (ROOT / "jobs" / "benchmarks" / f"{name}.py").is_file()]
        return f"no benchmark {missing}" if missing else None
    config = given[given.index("--config") + 1] if "--config" in given else "jobs/smollm2-study.yaml"
    return wrong_overrides(config, [word for word in given[2:] if re.match(r"[a-z_]+\.[\w.]+=", word)])


def refused(arguments):
    """Why the parser, or the config, does not take these arguments."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            options = _parser().parse_args(arguments)
    except SystemExit as end:
        return said.getvalue().strip().splitlines()[-1] if end.code else None
    if getattr(options, "trainer", None) not in (None, "FORMAT", *FORMATS):
        return f"no format {options.trainer}"
    return wrong_overrides(getattr(options, "config", None), getattr(options, "overrides", []))


def wrong_overrides(config, overrides):
    """Which of these keys, or values, the config does not know; all of one command together."""
    named = config and config.startswith("jobs/") and not PLACEHOLDER.search(config)
    if named and not (ROOT / config).is_file():
        return f"there is no {config}"
    data = parse((ROOT / config).read_text(), config) if named else copy.deepcopy(MINIMAL)
    # One budget takes the place of the other.
    if any(override.startswith("finetune.tokens=") for override in overrides):
        data["finetune"].pop("steps", None)
    # Whoever writes "finetune.steps=..." names a key and no value.
    keys = [o.partition("=")[0] for o in overrides if PLACEHOLDER.search(o) and o != "..."]
    found = complaints(data, [o for o in overrides if not PLACEHOLDER.search(o)])
    for key in keys:
        found += [line for line in complaints(data, [f"{key}=null"]) if "unknown key" in line or "form" in line]
    return "; ".join(found) or None


def complaints(data, overrides):
    """What the config says of these overrides, a line each."""
    changed = copy.deepcopy(data)
    try:
        for override in overrides:
            apply(changed, override)
        load_config(changed)
    except ConfigError as error:
        return str(error).splitlines()
    return []


def unknown_in_span(span):
    """Of a command inside a sentence, which may lack arguments: the command and the options that do not exist."""
    given = span.split()
    choices = next(action.choices for action in _parser()._actions if getattr(action, "choices", None))
    if given[1].startswith("-") or PLACEHOLDER.fullmatch(given[1]):
        return None
    if given[1] not in choices:
        return f"no command {given[1]}"
    known = choices[given[1]]._option_string_actions
    wrong = [word for word in given[2:] if word.startswith("--") and word.partition("=")[0] not in known]
    return f"no option {wrong[0]}" if wrong else None


def wrong_config(text):
    """What is wrong with a block of YAML that is a config or a part of one; other YAML is nobody's business here."""
    try:
        data = parse(text, "the block")
    except ConfigError as error:
        return str(error)
    if not isinstance(data, dict) or not SECTIONS & data.keys():
        return None
    whole = bool({"study", "pool"} & data.keys())
    data.setdefault("study", "s")
    data["pool"] = {"tasks": MINIMAL["pool"]["tasks"]} | data.get("pool", {})
    data["finetune"] = dict(data.get("finetune", {}))
    if not {"steps", "tokens"} & data["finetune"].keys():
        data["finetune"]["steps"] = 1
    try:
        load_config(data)
    except ConfigError as error:
        # A fragment may show side by side what excludes each other.
        lines = [line for line in str(error).splitlines() if whole or "unknown key" in line]
        return "; ".join(lines) or None
    return None


def broken_links(page, text):
    """Relative links of a page that lead nowhere."""
    prose = re.sub(r"`[^`\n]*`", "", re.sub(r"(?ms)^\s*(```|~~~).*?^\s*\1", "", text))
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        path = target.partition("#")[0]
        if path and not re.match(r"[a-z]+:", path) and not (page.parent / path).exists():
            yield target


def mistakes(page):
    """Everything on a page that is not so, a line each."""
    text = page.read_text("utf-8")
    found = []
    for block in blocks(text):
        found += [
            f"line {line}: {' '.join(given)}: {problem}"
            for line, given in commands(block)
            if (problem := problem_of(given))
        ]
        if block.language in ("yaml", "yml") and (problem := wrong_config(block.text)):
            found.append(f"line {block.line}: {problem}")
    found += [f"`{span}`: {problem}" for span in spans(text) if (problem := unknown_in_span(span))]
    found += [f"the link {target} leads nowhere" for target in broken_links(page, text)]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_says_is_so(page):
    assert mistakes(page) == []


def test_commands_and_configs_were_found_at_all():
    texts = [page.read_text("utf-8") for page in PAGES]
    found = [given for text in texts for block in blocks(text) for _, given in commands(block)]
    assert len(found) > 80
    # Those of README.md stand in indented blocks and in a fence with its output.
    readme = [given for block in blocks(texts[0]) for _, given in commands(block)]
    assert ["taskpgm", "merge", "runs/my-study", "model/"] in readme
    assert ["python", "jobs/optimize.py", "--config", "jobs/llama2-7b.yaml"] in readme
    (plan,) = [given for given in readme if given[:2] == ["taskpgm", "plan"]]
    assert plan[2:] == ["--config", "study.yaml", "--gpu", "A100"]
    fenced = [block for text in texts for block in blocks(text) if block.language == "yaml"]
    configs = [block for block in fenced if SECTIONS & set(parse(block.text, "it"))]
    assert len(configs) > 15
    assert sum(len(spans(text)) for text in texts) > 20


SOUND = """\
# A page

    taskpgm run --config study.yaml pool.max_tasks=12 finetune.steps=...   # a comment

1. A list

    ```bash
    $ taskpgm plan --config jobs/llama2-7b.yaml \\
        --price 2.5 | tee plan.txt
    ```

```yaml
mixture: {max_tasks: 3, constraints: {groups: {"a-*": {min: 0.2}}}}
```

See [here](page.md#part), [there](https://example.org) and `taskpgm explain`.
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("taskpgm run", "taskpgm rnu", "invalid choice: 'rnu'"),
        ("taskpgm run --config study.yaml", "taskpgm run", "required: --config"),
        ("pool.max_tasks=12", "--max-tasks 12", "unrecognized arguments: --max-tasks"),
        ("pool.max_tasks=12", "pool.max_task=12", "unknown key 'pool.max_task'"),
        ("pool.max_tasks=12", "pool.max_tasks=many", "pool.max_tasks"),
        ("finetune.steps=...", "finetune.stepz=...", "unknown key 'finetune.stepz'"),
        ("finetune.steps=...", "steps", "is not of the form section.field=value"),
        ("jobs/llama2-7b.yaml", "jobs/llama3.yaml", "there is no jobs/llama3.yaml"),
        ("--price 2.5", "--prise 2.5", "unrecognized arguments: --prise"),
        ("$ taskpgm plan", "$ python jobs/plan.py", "there is no jobs/plan.py"),
        ("$ taskpgm plan", "$ ray job submit --working-dir . -- python jobs/optimise.py", "no jobs/optimise.py"),
        ("$ taskpgm plan", "$ python jobs/benchmark.py speed", "no benchmark ['speed']"),
        ("$ taskpgm plan", "$ taskpgm export trl2 runs/s out/ #", "no format trl2"),
        ("max_tasks: 3,", "max_taskz: 3,", "unknown key 'mixture.max_taskz'"),
        ("mixture: {max", "mixtures: {}\nmixture: {max", "unknown key 'mixtures'"),
        ("mixture: {max", "study: a b\nmixture: {max", "study:"),
        ("mixture: {max", "mixture: {examples: 3}\nmixture: {max", "stands twice"),
        ("(page.md#part)", "(pages.md#part)", "pages.md#part leads nowhere"),
        ("`taskpgm explain`", "`taskpgm explane`", "no command explane"),
        ("`taskpgm explain`", "`taskpgm explain --why`", "no option --why"),
    ],
)
def test_a_planted_mistake_is_noticed(tmp_path, old, new, said):
    page = tmp_path / "page.md"
    page.write_text(SOUND)
    assert mistakes(page) == []
    assert old in SOUND
    page.write_text(SOUND.replace(old, new, 1))
    (told,) = mistakes(page)
    assert said in told


def generator():
    spec = importlib.util.spec_from_file_location("generate_cli", DOCS / "generate_cli.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_the_command_line_is_that_of_today():
    page = (DOCS / "cli.md").read_text("utf-8")
    assert page == generator().reference(), "python docs/generate_cli.py > docs/cli.md"
    for name, parser in next(a.choices for a in _parser()._actions if getattr(a, "choices", None)).items():
        part = page.partition(f"\n## taskpgm {name}\n")[2].partition("\n## ")[0]
        options = {option for action in parser._actions for option in action.option_strings} - {"-h", "--help"}
        assert all(re.search(rf"^- `{re.escape(option)}[ `]", part, re.M) for option in options), name


def test_every_format_is_described():
    page = (DOCS / "how-to" / "export.md").read_text("utf-8")
    assert {name for name in FORMATS if f"\ntaskpgm export {name} " not in page} == set()
    assert all(f" {name}" in (ROOT / "CHANGELOG.md").read_text("utf-8") for name in FORMATS)


def test_the_examples_of_the_mathematics_run():
    sources = [b.text for b in blocks((DOCS / "api.md").read_text("utf-8")) if b.language == "python"]
    run = [source for source in sources if "import numpy" in source]
    assert len(run) == 2
    for source in run:
        names = {}
        exec(source, names)
        assert names["S"].shape == (3, 3)
    assert names["S"][0, 1] > names["S"][0, 2]


def test_every_page_has_its_place_in_the_site():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))

    def named(entry):
        if isinstance(entry, str):
            return [entry]
        return [name for one in (entry if isinstance(entry, list) else entry.values()) for name in named(one)]

    places = named(settings["nav"])
    assert sorted(places) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
    assert settings["theme"]["font"] is False, "fonts come from another server"
