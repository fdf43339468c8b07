"""Slow float64 references, written from the papers: explicit sequences, no state."""

import numpy as np


def schedule_free(
    grad, start, steps, *, kind, learning_rate, b1, b2=0.999, eps=1e-8,
    weight_decay=0.0, warmup_steps=0, r=0.0, weight_lr_power=2.0, decoupling=None,
    start_step=0,
):  # fmt: skip
    """Schedule-free in float64 with x, y and z explicit; returns (steps, 3, dim).

    grad(k, y) is the gradient of update k; kind is "sgd", "adamw" or "radam".
    """
    x = y = z = np.asarray(start, np.float64)
    v = np.zeros_like(z)
    max_rate = weight_sum = 0.0
    points = []
    for k in range(steps):
        t, g = k + 1, grad(k, y)
        rate = learning_rate(k) if callable(learning_rate) else learning_rate
        rate *= min(1.0, t / warmup_steps) if warmup_steps else 1.0
        if kind == "radam":
            rate *= rectifier(t, b2)
        if kind != "sgd":
            v = b2 * v + (1 - b2) * g**2
            g = g / (np.sqrt(v / (1 - b2**t)) + eps)
        max_rate = max(max_rate, rate)
        weight = t**r * max_rate**weight_lr_power * (k >= start_step)
        weight_sum += weight
        c = weight / weight_sum if weight_sum else 0.0
        b1_k = b1(k) if callable(b1) else b1
        if decoupling is not None:
            c = min(1.0, c * (1 - b1_k) * decoupling)
        c = 1.0 if k < start_step else c
        z = z - rate * (g + weight_decay * y)
        x = (1 - c) * x + c * z
        y = b1_k * x + (1 - b1_k) * z
        points.append(np.stack([x, y, z]))
    return np.stack(points)


def rectifier(t, b2):
    """RAdam's factor of the rate at update t, from 1; 0 for an infinite variance."""
    limit = 2 / (1 - b2) - 1
    length = limit - 2 * t * b2**t / (1 - b2**t)
    if length <= 4:
        return 0.0
    ratio = (length - 4) * (length - 2) * limit
    return np.sqrt(ratio / ((limit - 4) * (limit - 2) * length))


def ema(samples, decay):
    """Debiased averages of the samples so far: weights decay^(t - i), normalised."""
    weights = decay ** np.arange(len(samples))[::-1].astype(np.float64)
    return np.tensordot(weights / weights.sum(), np.asarray(samples, np.float64), 1)


def power_ema(samples, gamma):
    """EDM2's average: sample i has (i/t)^(gamma + 1) less that of i - 1."""
    edges = (np.arange(len(samples) + 1) / len(samples)) ** (gamma + 1)
    return np.tensordot(np.diff(edges), np.asarray(samples, np.float64), 1)
