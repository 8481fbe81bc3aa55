"""Quantization schemes as data: per layer, how weights and activations are stored and computed.

A scheme is a list of rules; the first one whose patterns fit a layer holds, and a layer that none fits stays in the
precision of the rest. `Scheme.to_dict` is what stands in bundles, reports and YAML files.

Awkward shapes: SigLIP's MLP (4304 = 16 · 269) and its heads of 72, the patches of 588 and the 32 action dimensions need
no padding in the CPU engine. On the GPU, linears are padded with exact zeros to a multiple of 32 along K when they are
packed; the patch convolution, attention over the heads of 72 and everything with 32 action dimensions stay 16-bit or
fp32 in every scheme.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from pi0_edge.errors import QuantizationError
from pi0_edge.quant.formats import (
    BF16,
    E4M3_CHANNEL,
    E4M3_STATIC,
    GRANULARITIES,
    INT4_CHANNEL,
    INT4_GROUP_64,
    INT4_TENSOR,
    INT4_TOKEN,
    INT8_CHANNEL,
    INT8_STATIC,
    INT8_TOKEN,
    KINDS,
    Format,
)

Library = Literal["bnb-int8", "bnb-nf4"]
Rounding = Literal["nearest", "gptq"]
_LIBRARY_BYTES: dict[Library, float] = {"bnb-int8": 1.0, "bnb-nf4": 0.5}


@dataclass(frozen=True)
class Rule:
    """How some layers are quantized.

    Attributes:
        layers: Patterns of module paths (`*` matches anything, dots included); linears and embeddings are looked at.
        weights: Their format.
        activations: Format of what enters a linear; None leaves it as it is.
        hadamard: Largest block of the Hadamard rotation before the activations are quantized; 0 is none. The block in
            use is the largest power of two that divides the width.
        smoothing: Exponent of SmoothQuant, which moves outliers of the activations into the weights; 0 is none.
        rounding: Of the weights: each to the nearest value, or by GPTQ together with what enters the layer, which takes
            observations; see `pi0_edge.quant.gptq`.
        library: Leaves weights and arithmetic to a library; all other fields but `layers` are then ignored.
    """

    layers: tuple[str, ...]
    weights: Format = INT8_CHANNEL
    activations: Format | None = None
    hadamard: int = 0
    smoothing: float = 0.0
    rounding: Rounding = "nearest"
    library: Library | None = None

    def __post_init__(self) -> None:
        static = self.activations is not None and self.activations.static
        if static and self.hadamard:
            raise QuantizationError("a static activation scale is measured before rotation; use one of the two")
        if self.weights.static or self.weights.granularity == "token" or not self.weights.scaled:
            raise QuantizationError(f"weights cannot be {self.weights}; expected a scale per channel, group or tensor")
        if self.weights.granularity == "group" and self.weights.kind != "int4":
            raise QuantizationError(
                f"weights cannot be {self.weights}; groups are for int4, others have a scale per channel"
            )
        if self.activations is not None and self.activations.granularity in ("channel", "group"):
            raise QuantizationError(
                f"activations cannot be {self.activations}; they take a scale per token or tensor: "
                f"one per {self.activations.granularity} cannot be taken out of the sum"
            )
        if self.rounding not in ("nearest", "gptq"):
            raise QuantizationError(f"weights are rounded to nearest or by gptq, found {self.rounding!r}")
        if self.rounding == "gptq" and not (
            self.weights.is_integer and self.weights.granularity in ("channel", "group")
        ):
            raise QuantizationError(f"gptq cannot round to {self.weights}; expected integers per channel or group")
        if self.hadamard & (self.hadamard - 1) or self.hadamard < 0:
            raise QuantizationError(f"a Hadamard block of {self.hadamard} does not exist; expected a power of two")
        if not 0 <= self.smoothing <= 1:
            raise QuantizationError(f"a smoothing exponent is between 0 and 1, found {self.smoothing}")

    def fits(self, path: str) -> bool:
        """Whether the layer at `path` falls under this rule."""
        return any(fnmatchcase(path, pattern) for pattern in self.layers)

    def stored_bytes(self, rows: int, columns: int) -> float:
        """Of a weight [rows, columns] and its scales; those of a library, which keeps its own, are left out."""
        if self.library is not None:
            return rows * columns * _LIBRARY_BYTES[self.library]
        return rows * -(-columns * self.weights.bits // 8) + self.weights.scale_bytes(rows, columns)

    @property
    def by_gptq(self) -> bool:
        """Whether the weights are rounded by GPTQ: a library rounds its own."""
        return self.library is None and self.rounding == "gptq"

    @property
    def static(self) -> bool:
        """Whether the activations have a scale from calibration."""
        return self.activations is not None and self.activations.static


@dataclass(frozen=True)
class Scheme:
    """How a network is quantized.

    Attributes:
        name: As it appears on the command line and in reports.
        purpose: What it is meant for, one line.
        rules: The first that fits a layer holds.
        rest: Precision of everything no rule fits: `bf16` is openpi's policy, which keeps some parameters in fp32.
    """

    name: str
    purpose: str
    rules: tuple[Rule, ...] = ()
    rest: Literal["fp32", "bf16"] = "fp32"

    def rule_for(self, path: str) -> Rule | None:
        """The rule that holds for the layer at `path`; None leaves it as it is."""
        return next((rule for rule in self.rules if rule.fits(path)), None)

    def covers(self, path: str) -> bool:
        """Whether the layer at `path` is quantized."""
        return self.rule_for(path) is not None

    @property
    def needs_calibration(self) -> bool:
        """Whether any rule takes figures from calibration."""
        return any(rule.static or rule.smoothing for rule in self.rules)

    @property
    def needs_input_products(self) -> bool:
        """Whether any rule rounds by GPTQ, which takes the products of what enters the layers (`pi0_edge.ptq`)."""
        return any(rule.by_gptq for rule in self.rules)

    @property
    def smooths(self) -> bool:
        """Whether any rule moves outliers between layers, which takes the whole network at once."""
        return any(rule.smoothing for rule in self.rules)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON and YAML; without fields of newer releases where they say nothing."""
        return {**asdict(self), "rules": [_plain(rule) for rule in self.rules]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Scheme:
        """The inverse of `to_dict`.

        Raises:
            QuantizationError: If a field is missing, unknown or impossible.
        """
        try:
            rules = tuple(_rule(rule) for rule in plain["rules"])
            scheme = cls(**{**plain, "rules": rules})
        except (KeyError, TypeError, AttributeError) as error:
            raise QuantizationError(f"this is no quantization scheme: {error}") from error
        if scheme.rest not in ("fp32", "bf16"):
            raise QuantizationError(f"a scheme has rest fp32 or bf16, found {scheme.rest!r}")
        return scheme


def _plain(rule: Rule) -> dict[str, Any]:
    plain = {**asdict(rule), "layers": list(rule.layers)}
    if rule.rounding == "nearest":
        del plain["rounding"]
    for format in (plain["weights"], plain["activations"]):
        if format is not None and not format["group"]:
            del format["group"]
    return plain


def _rule(plain: Mapping[str, Any]) -> Rule:
    formats = {name: _format(plain[name]) for name in ("weights", "activations") if plain.get(name) is not None}
    return Rule(**{**plain, **formats, "layers": tuple(plain["layers"])})


def _format(plain: Mapping[str, Any]) -> Format:
    format = Format(**plain)
    if format.kind not in KINDS or format.granularity not in GRANULARITIES:
        raise QuantizationError(f"unknown number format {dict(plain)}")
    return format


# Attention and MLP of the vision tower, the prefix and the action expert. What is left out is small or delicate: norms
# with their modulations, the projector, and the projections of state, action and time.
_VISION = ("vision.layers.*.attention.*", "vision.layers.*.mlp.*")
_PREFIX = ("prefix.layers.*.attention.*", "prefix.layers.*.mlp.*")
_PREFIX_MLP = ("prefix.layers.*.mlp.*",)
_EXPERT = ("expert.layers.*.attention.*", "expert.layers.*.mlp.*")
_TRANSFORMERS = (*_VISION, *_PREFIX, *_EXPERT)
_EMBEDDING = Rule(("token_embedding",))

FP32 = Scheme("fp32", "the reference: everything as the paper has it")
BF16_POLICY = Scheme("bf16", "16-bit everywhere openpi has it", rest="bf16")
INT8_W8A8 = Scheme(
    "int8-w8a8",
    "integer arithmetic in every transformer linear: the CPU engine, and speed before accuracy on Orin",
    (_EMBEDDING, Rule(_TRANSFORMERS, activations=INT8_TOKEN)),
)
INT8_W8A8_STATIC = Scheme(
    "int8-w8a8-static",
    "as int8-w8a8 with one calibrated scale per tensor, for kernels that cannot look at the tokens first",
    (_EMBEDDING, Rule(_TRANSFORMERS, activations=INT8_STATIC, smoothing=0.5)),
)
INT8_W8A16 = Scheme(
    "int8-w8a16",
    "half the weights to stream: the Euler loop on Orin has the same speed limit as with W8A8",
    (_EMBEDDING, Rule(_TRANSFORMERS, activations=BF16)),
    rest="bf16",
)
FP8_W8A16 = Scheme(
    "fp8-w8a16",
    "half the memory on Orin, in one format with Thor",
    (_EMBEDDING, Rule(_TRANSFORMERS, weights=E4M3_CHANNEL, activations=BF16)),
    rest="bf16",
)
FP8_W8A8 = Scheme(
    "fp8-w8a8",
    "native FP8 arithmetic: Thor, Ada and Hopper",
    (_EMBEDDING, Rule(_TRANSFORMERS, weights=E4M3_CHANNEL, activations=E4M3_STATIC)),
    rest="bf16",
)
_PREFIX_NARROW = ("prefix.layers.*.attention.o", "prefix.layers.*.mlp.down")
ORIN = Scheme(
    "orin",
    "the recommended mix for Jetson Orin: integer units where they buy time, 16 bits where they buy accuracy",
    (
        _EMBEDDING,
        Rule(_PREFIX_MLP, activations=INT8_TOKEN, hadamard=128),
        Rule(_EXPERT, activations=BF16),
    ),
    rest="bf16",
)
_VISION_INT8 = Rule(_VISION, activations=INT8_TOKEN, hadamard=128)
_PREFIX_INT8 = Rule(_PREFIX, activations=INT8_TOKEN, hadamard=128)
_EXPERT_INT4 = Rule(_EXPERT, weights=INT4_GROUP_64, activations=BF16, rounding="gptq")
ORIN_VISION8 = Scheme(
    "orin-vision8",
    "orin, with the vision tower in INT8",
    (_EMBEDDING, _VISION_INT8, *ORIN.rules[1:]),
    rest="bf16",
)
ORIN_INT8 = Scheme(
    "orin-int8",
    "orin-vision8, with the attention of the prefix in INT8",
    (_EMBEDDING, _VISION_INT8, _PREFIX_INT8, Rule(_EXPERT, activations=BF16)),
    rest="bf16",
)
ORIN_EXPERT4 = Scheme(
    "orin-expert4",
    "orin-int8, with the weights of the expert in 4 bits: half of what the Euler loop streams",
    (_EMBEDDING, _VISION_INT8, _PREFIX_INT8, _EXPERT_INT4),
    rest="bf16",
)
ORIN_PREFIX4 = Scheme(
    "orin-prefix4",
    "orin-expert4, with the prefix in 4-bit arithmetic, all but o and down",
    (
        _EMBEDDING,
        _VISION_INT8,
        Rule(_PREFIX_NARROW, activations=INT8_TOKEN, hadamard=128),
        Rule(_PREFIX, weights=INT4_CHANNEL, activations=INT4_TOKEN, hadamard=128, rounding="gptq"),
        _EXPERT_INT4,
    ),
    rest="bf16",
)
BNB_INT8 = Scheme("bnb-int8", "bitsandbytes' LLM.int8: a quick look", (Rule(_TRANSFORMERS, library="bnb-int8"),))
BNB_NF4 = Scheme("bnb-nf4", "bitsandbytes' NF4: a quick look", (Rule(_TRANSFORMERS, library="bnb-nf4"),))
INT4_PER_TENSOR = Scheme(
    "int4-per-tensor",
    "deliberately bad: what the gate must refuse",
    (_EMBEDDING, Rule(_TRANSFORMERS, weights=INT4_TENSOR, activations=INT8_TOKEN)),
)

SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        FP32,
        BF16_POLICY,
        ORIN,
        ORIN_VISION8,
        ORIN_INT8,
        ORIN_EXPERT4,
        ORIN_PREFIX4,
        INT8_W8A8,
        INT8_W8A8_STATIC,
        INT8_W8A16,
        FP8_W8A16,
        FP8_W8A8,
        BNB_INT8,
        BNB_NF4,
        INT4_PER_TENSOR,
    )
}


def find_scheme(name: str) -> Scheme:
    """The scheme called `name`.

    Raises:
        QuantizationError: If there is none.
    """
    if name not in SCHEMES:
        raise QuantizationError(f"unknown quantization scheme {name!r}; there are {', '.join(SCHEMES)}")
    return SCHEMES[name]
