"""What was measured, as `runtime_tests.run` gives it."""

from pydantic import Field

from edgeprune.manifest.base import Facts, Interval


class Accuracy(Interval):
    """A share of rows, with how many."""

    correct: int
    rows: int


class Perplexity(Interval):
    """Of general text, in windows read each from its beginning."""

    tokens: int
    window_nats: list[float]


class Answers(Facts):
    """Row by row, so that another build can be compared on the same rows."""

    rows: list[str]
    correct: list[bool | None]
    nats: list[float]
    tokens: list[int]


class Speed(Facts):
    """Tokens per second.

    Attributes:
        median: of the processes, each the geometric mean of its runs.
        sd: of the processes; None if there was one.
        samples: of each process its rounds.
    """

    unit: str
    median: float
    sd: float | None
    samples: list[list[float]]


class SpeedRatio(Facts):
    """One speed as a multiple of another, with its 95 % interval over pairs of processes.

    Attributes:
        low: None, as ``high``, if there was one pair: it has no interval.
    """

    value: float
    low: float | None
    high: float | None


class Placement(Facts):
    """What became of sparse tensors in the runtime's memory."""

    claimed: int
    tensors: int
    packed_bytes: int
    dense_bytes: int
    failures: int
    kernel: str = ""


class Agreement(Facts):
    """Predictions beside the dense model's, on one stream.

    Attributes:
        nats: Kullback-Leibler divergence from the dense model, a token.
        worst_nats: its 99th percentile over places.
        same_top: share of places where the most likely token is the same.
        places: how many.
        row_nats: divergence of each sequence, over all its places.
        row_places: how many each has.
    """

    nats: Interval
    worst_nats: float
    same_top: Interval
    places: int
    row_nats: list[float] = Field(default_factory=list)
    row_places: list[int] = Field(default_factory=list)


class Speech(Facts):
    """Greedy answers to held-out turns.

    Attributes:
        prompts: what the user says.
        answers: what the model answers.
        loops: share of answers that repeat themselves.
        copies: share of answers that repeat the prompt.
        ended: share of answers that the model ended within their most tokens.
        agreed_tokens: mean number of tokens before an answer differs from the dense model's.
    """

    prompts: list[str]
    answers: list[str]
    loops: float
    copies: float
    ended: float
    agreed_tokens: float


class CallShares(Facts):
    """Shares of a task's rows.

    Attributes:
        called: of those that ask for a call, with a call of a known function; None of no rows.
        function: with the right function, or rightly without a call.
        exact: with the right arguments as well.
        refused: of those where no function fits, without a call; None of no rows.
    """

    called: Accuracy | None
    function: Accuracy
    exact: Accuracy
    refused: Accuracy | None


class Calls(Facts):
    """Calls of functions.

    Attributes:
        free: as the model writes by itself.
        grammar: held to a grammar of calls; None where the runtime has none.
        prompt_tokens: of a prompt, on average.
        milliseconds: of a call, prompt and reply; the median.
    """

    free: CallShares
    grammar: CallShares | None
    prompt_tokens: float
    milliseconds: float


class Measured(Facts):
    """One artifact in its runtime.

    Attributes:
        calls: of tasks that ask for calls of functions.
        agreement: with the dense model, by stream: ``text`` and ``chat``; empty for that itself.
        speech: None of a model without a chat template.
    """

    runtime: str
    version: str
    load_seconds: float
    file_bytes: int
    sparse: Placement | None
    sparse_off: str
    peak_memory_bytes: int
    accuracy: Accuracy | None
    nats_per_answer_token: Interval
    answers: Answers
    general_perplexity: Perplexity
    prefill: Speed
    decode: Speed
    agreement: dict[str, Agreement] = Field(default_factory=dict)
    speech: Speech | None = None
    calls: Calls | None = None


class OnGpu(Facts):
    """The artifact with one GPU provider, or why there is nothing."""

    not_run: str | None = None
    failed: str | None = None
    accuracy: Accuracy | None = None
    nats_per_answer_token: Interval | None = None
    prefill: Speed | None = None
    decode: Speed | None = None


class Difference(Facts):
    """The pruned artifact beside the dense one."""

    accuracy_points: float | None
    nats_per_answer_token: Interval
    decode_speed: SpeedRatio
    prefill_speed: SpeedRatio


class Results(Facts):
    """Everything measured.

    Attributes:
        metric: of the task.
        rows: how many evaluation rows.
        chance_level: accuracy without any knowledge; None where nothing is chosen.
        base_near_chance: whether the dense model's accuracy can't be told from it.
        threads: of the runtime.
        artifacts: ``dense``, ``pruned`` if there is one, and dense rivals in other types.
        difference: of the first two.
        rivals: the same beside each rival.
        gpus: by provider, where the runtime has any.
    """

    metric: str
    rows: int
    chance_level: float | None
    base_near_chance: bool
    threads: int
    artifacts: dict[str, Measured]
    difference: Difference | None = None
    rivals: dict[str, Difference] = Field(default_factory=dict)
    gpus: dict[str, OnGpu] = Field(default_factory=dict)

    @property
    def own(self) -> str:
        """Key of the build's own artifact: ``pruned``, or ``dense`` if nothing was changed."""
        return "pruned" if "pruned" in self.artifacts else "dense"

    @property
    def dense(self) -> Measured:
        """The dense baseline."""
        return self.artifacts["dense"]


class Scores(Facts):
    """One artifact on a task and on general text, as `edgeprune.evaluate` gives it."""

    task: str
    accuracy: Accuracy | None
    nats_per_answer_token: Interval
    general_perplexity: Perplexity | None = None
    answers: Answers
    chance_level: float | None
    near_chance: bool
    calls: Calls | None = None
