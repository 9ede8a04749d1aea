"""How two sets of logits are compared: the bounds of the goldens' README, in one place."""
import numpy as np

# Largest error of a position's logits, as max|a - b| / max|b|.
BOUND = {
    "float, scalar": 2e-4,
    "gemma, float, scalar": 5e-4,
    "quantised, scalar": 5e-4,
    "fast": 3e-2,
}
MEAN_KL = 2e-3
TOP1 = 0.97
FLOATS = {"F32", "F16", "BF16"}


def error(got, want):
    """Per position (rows)."""
    got, want = np.atleast_2d(got), np.atleast_2d(want)
    return np.abs(got.astype(np.float64) - want).max(axis=1) / np.abs(want).max(axis=1)


def log_softmax(x):
    x = x.astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def position_kl(got, want):
    a, b = log_softmax(want), log_softmax(got)
    return (np.exp(a) * (a - b)).sum(axis=-1)


def mean_kl(got, want):
    return float(position_kl(got, want).mean())


def top1(got, want):
    return float((got.argmax(axis=-1) == want.argmax(axis=-1)).mean())


def scalar_bound(family, quantised):
    if quantised:
        return BOUND["quantised, scalar"]
    return BOUND["gemma, float, scalar" if family.startswith("gemma") else "float, scalar"]


def greedy_agrees(got, want, margins, bound, scale):
    """Greedy ids are compared up to the first step whose stored margin is below 20 times the bound times max|logits|."""
    for step, (g, w, m) in enumerate(zip(got, want, margins)):
        if m < 20 * bound * scale:
            return step
        assert g == w, f"step {step}: wanted token {w} (margin {m:.3f}), got {g}"
    return len(want)
