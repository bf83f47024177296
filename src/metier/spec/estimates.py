"""What a model will need: memory to answer and to be trained, and time. Constants are measurements, named with each."""

from dataclasses import dataclass
from math import prod

from metier.spec.job import Job
from metier.spec.machine import Machine
from metier.spec.quantisation import Quantisation
from metier.spec.training import Lora, Pretrain, Train, Training
from metier.spec.weights import EMBEDDING, EXPERTS, Weights, part_of

MIB = 2**20

SESSIONS, SESSION_TOKENS = 4, 1024
"""Contexts that ``metier run`` opens, and the least tokens of each."""
RUNTIME_MIB = 46.0
"""Python, llama.cpp and its buffers: peak memory of a process that answers one short question, less file, keys and
values, for a model of 1.0 M parameters and 501 pieces, 48.9 MiB in all (`metier.steps.answering_memory.memory_mib`)."""
STORE_MIB = 2.5
"""What looking an answer up in the store of facts takes: SQLite with its pages (`jobs/history`, 6 MiB of facts)."""
VOCABULARY_BYTES = 300
"""What llama.cpp's table of the vocabulary takes a piece: 160 bytes at 8,001 pieces, 350 at 28,933."""
REPACKED = ("Q4_0",)
"""Types whose layers llama.cpp copies into another order when it loads them: they are in memory twice."""
_Q4_0_BYTES = 18 / 32
"""Of a weight: a block has 32 of them in 18 bytes."""

TRAINER_MIB = 550.0
"""Python with torch and transformers (390 MiB before there is a model, 430 after a step), tokenizer and rows."""
PRODUCT_COPIES = 1.7
"""A layer keeps more for the gradient than what its matrices take and give: norms, rotations, gates. Measured on
models from scratch, 128 and 256 wide, steps of 1,200 tokens: peak memory less weights, gradients and moments."""
ANSWER_SHARE = 0.5
"""Of the tokens of a job's rows, those that are answers."""

PEAK_SHARE, HALF_WIDTH = 0.95, 120
"""A training of width H reaches PEAK_SHARE * H / (H + HALF_WIDTH) of the speed of matrix products. Two measurements
in float32, at 6 operations a parameter and token: Gemma 3 270M trimmed to 118.8 M parameters, 640 wide, at 165 to 200
tokens/s on two cores of 157 GFLOP/s (0.75 to 0.91 of it); and a model from scratch, 128 wide, at 7,439 tokens/s on one
core of 97 GFLOP/s (0.47)."""
BFLOAT16_GAIN = 1.5
"""How much faster training is in bfloat16 where the processor multiplies it (`jobs/ja-en`)."""
OPERATIONS = 6
"""Of a parameter and token: two for the forward pass, four for the backward (Kaplan et al. 2020, section 2.1)."""
CHECKPOINTED_TIME = 4 / 3
"""Of a step, what one takes whose layers are computed twice: 8 operations instead of 6."""
ADAPTERS_TIME = 0.77
"""Of a step of all weights, what one of adapters takes: frozen matrices have no gradient, so two thirds and what the
adapters cost. Six layers, 640 wide, adapters of rank 16, one core. Experts are not spared: 1.00, as the gradient of
their matrices with the adapters added is taken first."""


@dataclass(frozen=True)
class Memory:
    """Memory of a training in MiB, by what holds it."""

    weights: float
    gradients: float
    moments: float
    copies: float
    """The model that the pace of a wall-clock budget is probed with, the rounded weights of a training with
    ``quantisation``, experts with their adapters added, and the matrices of a training in bfloat16 in this type: what
    is kept for the gradient."""
    activations: float
    program: float

    @property
    def total(self) -> float:
        """All of it."""
        return float(sum(vars(self).values()))


def answering_mib(weights: Weights, quantisation: str, context_tokens: int) -> float:
    """Return the most resident memory while answering: the file, keys and values of four contexts, the runtime.

    Args:
        weights: the model.
        quantisation: type of its file.
        context_tokens: of each of them.
    """
    tokens = SESSIONS * context_tokens
    extra_bytes: float = weights.cache_bytes_per_token * tokens + VOCABULARY_BYTES * weights.pieces
    if Quantisation.of(quantisation).body in REPACKED:
        extra_bytes += _Q4_0_BYTES * (weights.parameters - weights.parts()[EMBEDDING])
    return weights.file_mib(quantisation) + extra_bytes / MIB + RUNTIME_MIB


def trained_weights(weights: Weights, settings: Training) -> Weights:
    """Return what learns: all weights, or the adapters that `metier.train.lora` makes and what learns beside them."""
    lora = adapters_of(settings)
    if lora is None:
        return weights
    targets = ("attention",) if lora.targets == "attention" else ("attention", "feed-forward", EXPERTS)
    shapes = {name: shape for name, shape in weights.shapes.items() if part_of(name) in lora.also}
    for name, shape in weights.shapes.items():
        if len(shape) > 1 and part_of(name) in targets:
            *stack, outputs, inputs = shape
            shapes |= {f"{name}.A": (*stack, lora.rank, inputs), f"{name}.B": (*stack, outputs, lora.rank)}
    return Weights(shapes, weights.experts_per_token)


def adapters_of(settings: Training) -> Lora | None:
    """Return the adapters that a training is told to learn instead of all weights."""
    return settings.lora if isinstance(settings, Train) else None


def moment_values(weights: Weights, optimizer: str) -> int:
    """Return how many numbers an optimiser keeps of the weights that learn, as `metier.train.optimizers` does.

    AdamW keeps two a weight; Adafactor the means of the rows and columns of a matrix, but of a router every square.
    """
    if optimizer == "adamw":
        return 2 * weights.parameters
    kept = 0
    for name, shape in weights.shapes.items():
        factored = len(shape) > 1 and part_of(name) != "routers"
        kept += prod(shape[:-1]) + prod(shape[:-2]) * shape[-1] if factored else prod(shape)
    return kept


def model_bytes(weights: Weights) -> int:
    """Return the size of a model's folder, whose weights are float32."""
    return 4 * weights.parameters


def training_bytes(weights: Weights, settings: Training) -> int:
    """Return the most that a training has on the disk at once.

    That is two checkpoints and the best weights, and beside them a third checkpoint, before the first goes, or in the
    end the model.
    """
    learned = trained_weights(weights, settings)
    checkpoint = model_bytes(learned) + 4 * moment_values(learned, settings.optimizer)
    return 2 * checkpoint + model_bytes(learned) + max(checkpoint, model_bytes(weights))


def training_memory(weights: Weights, settings: Training, quantisation: str | None) -> Memory:
    """Return the memory of a training in float32, by one process."""
    products = weights.products_per_token()
    kept = PRODUCT_COPIES * sum(products)
    if settings.activation_checkpointing:  # what goes into every layer, and one layer at a time
        kept = PRODUCT_COPIES * max(products) + len(products) * width_of(weights)
    # what the layers keep, and of each learned token its scores, their logarithms and their gradient
    answers = 1.0 if isinstance(settings, Pretrain) else ANSWER_SHARE
    per_token = kept + answers * 3 * weights.pieces
    whole, learned, lora = 4 * weights.parameters / MIB, trained_weights(weights, settings), adapters_of(settings)
    summed = weights.parts().get(EXPERTS, 0) if lora and lora.targets == "linear" else 0
    return Memory(
        weights=whole + (4 * learned.parameters / MIB if lora else 0),
        gradients=4 * learned.parameters / MIB,
        moments=4 * moment_values(learned, settings.optimizer) / MIB,
        copies=whole * ((settings.budget_seconds is not None) + (quantisation is not None))
        + 4 * summed / MIB
        + _bfloat16_mib(weights, settings),
        activations=4 * tokens_at_once(settings) * per_token / MIB,
        program=TRAINER_MIB,
    )


def _bfloat16_mib(weights: Weights, settings: Training) -> float:
    """Return what the gradient keeps of matrices that are multiplied in bfloat16: a copy of them, or of one layer's.

    What "auto" will choose is not known here, for it is the accelerator's.
    """
    if settings.precision != "bfloat16":
        return 0.0
    output, layers = weights.multiplied()
    return 2 * (output + (max(layers, default=0) if settings.activation_checkpointing else sum(layers))) / MIB


def longest_row(settings: Training) -> int:
    """Return the most tokens of a row; 0 where the settings do not say."""
    if isinstance(settings, Pretrain):
        return settings.row_tokens
    return settings.max_tokens if isinstance(settings, Train) else 0


def tokens_at_once(settings: Training) -> int:
    """Return the most tokens computed at once: those of a step or of a part of it, or of a row longer than that."""
    asked = min(settings.micro_batch_tokens or settings.batch_tokens, settings.batch_tokens)
    return max(asked, longest_row(settings))


def tokens_per_s(weights: Weights, settings: Training, machine: Machine, slowdown: float = 1.0) -> float:
    """Return the estimated speed of a training on the processor.

    Args:
        weights: the model.
        settings: the training's.
        machine: this one.
        slowdown: of a mixture, against a dense model of its active parameters.
    """
    share = share_of_peak(width_of(weights))
    bfloat16 = settings.precision == "bfloat16" or (settings.precision == "auto" and machine.multiplies_bfloat16)
    gain = BFLOAT16_GAIN if bfloat16 and machine.multiplies_bfloat16 else 1.0
    work = ADAPTERS_TIME if adapters_of(settings) and not weights.experts else 1.0
    work *= CHECKPOINTED_TIME if settings.activation_checkpointing else 1.0
    return machine.gflop_per_s * 1e9 * share * gain / slowdown / work / (OPERATIONS * weights.active_parameters)


def share_of_peak(width: int) -> float:
    """Return what share of the speed of matrix products a training reaches: a narrow model spends its time around."""
    return PEAK_SHARE * width / (width + HALF_WIDTH)


def width_of(weights: Weights) -> int:
    """Return the width of the model."""
    return next(shape[-1] for name, shape in weights.shapes.items() if part_of(name) == EMBEDDING)


def session_tokens(job: Job) -> int:
    """Return the context in which the job's model is asked: the usual one, or as long as the longest training row."""
    return max(SESSION_TOKENS, job.train.max_tokens)


def context_of(job: Job) -> int:
    """Return the longest text that the job's model is made for; a released base is made for more than is needed."""
    rows = job.pretrain.row_tokens if job.pretrain else 0
    return max(job.export.context_tokens, job.train.max_tokens, rows)
