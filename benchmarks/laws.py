"""Which pair of runs, fitted by which law, predicts the other runs how well.

    python -m benchmarks.laws --curves DIR

DIR holds the runs of one model size as CSV files with columns step, lr and loss, named
as in `loss_curve_repo/` of github.com/thu-yao-01-luo/MultiPowerLaw (MIT licence), whose
runs this is made for: constant, cosine, WSD and two-stage schedules of 24k steps, and
two of 72k. The laws see one stable run and one other, and are judged by the last loss
of all runs that they did not see.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tyro
from scipy import optimize

from optax_wsd import laws

Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]

STABLE = "constant_24000"
BRANCHES = [
    "wsdcon_9",
    "wsdcon_3",
    "wsdcon_18",
    "wsdld_20000_24000",
    "wsd_20000_24000",
    "cosine_24000",
]
LONG = ["constant_72000", "cosine_72000"]
STRIDE = 16  # steps between the rates that the plain laws look at


def read_curve(path: Path, warmup_steps: int) -> laws.Curve:
    """One run; rates between its logged rows are interpolated, from 0 in the warmup."""
    steps, rates, losses = np.loadtxt(path, delimiter=",", skiprows=1).T
    steps = steps.astype(int)
    at = np.concatenate([[0, warmup_steps], steps])
    every_rate = np.interp(
        np.arange(steps[-1] + 1), at, np.concatenate([[0, rates[0]], rates])
    )
    return every_rate, steps, losses


def this_package(curves) -> Predict:
    return laws.fit_loss_law(curves).predict


def multi_power_with_priors(curves) -> Predict:
    return laws.fit_loss_law(curves, gain_exponent=0.0).predict


def multi_power(curves) -> Predict:
    """Luo et al., 2025, arXiv:2503.12811: seven parameters, all free."""

    def response(theta, rates, since_steps, since_rates):
        b, speed, g = np.exp(theta)
        return -np.expm1(-b * np.log1p(speed * rates**-g * since_rates))

    starts = [np.log([0.6, speed, g]) for speed in (0.01, 0.1) for g in (0.2, 0.6)]
    return fit_plain(curves, response, starts)


def momentum(curves) -> Predict:
    """Tissue et al., 2024, arXiv:2408.11029: the response is exponential in steps."""

    def response(theta, rates, since_steps, since_rates):
        return -np.expm1(-np.exp(theta[0]) * since_steps)

    return fit_plain(curves, response, [np.log([rate]) for rate in (3e-4, 1e-3, 1e-2)])


def fit_plain(curves, response, starts) -> Predict:
    """Least squares of L0 + A S^-a - B sum of drops times response, with no priors."""
    peak = max(np.max(rates) for rates, _, _ in curves)

    def columns(theta, rates, steps):
        x = rates[::STRIDE] / peak
        at = np.arange(np.argmax(x) + 1, len(x))  # changes after the warmup
        at = at[np.diff(x, prepend=x[0])[at] != 0]
        total = np.concatenate([[0], np.cumsum(rates / peak)])
        since_steps = np.maximum(steps[:, None] - at * STRIDE, 0)
        since_rates = np.maximum(total[steps][:, None] - total[at * STRIDE], 0)
        gain = response(theta[1:], x[at], since_steps, since_rates) @ (
            x[at - 1] - x[at]
        )
        progress = total[steps] ** -np.exp(theta[0])
        return np.stack([np.ones(len(steps)), progress, -gain], axis=1)

    losses = np.concatenate([losses for _, _, losses in curves])

    def solve(theta):
        matrix = np.concatenate([columns(theta, lr, steps) for lr, steps, _ in curves])
        factors = np.linalg.lstsq(matrix, losses, rcond=None)[0]
        return factors, matrix @ factors - losses

    fits = [
        optimize.least_squares(
            lambda theta: solve(theta)[1],
            np.append(np.log(0.5), start),
            bounds=(-12, 2),
            max_nfev=200,
        )
        for start in starts
    ]
    theta = min(fits, key=lambda fit: fit.cost).x
    factors, _ = solve(theta)
    return lambda rates, steps: columns(theta, rates, steps) @ factors


def last_errors(predict: Predict, curves, names) -> np.ndarray:
    """Predicted minus real last loss, in thousandths of a nat."""
    return np.array(
        [
            1e3 * (predict(rates, steps[-1:])[0] - losses[-1])
            for rates, steps, losses in map(curves.__getitem__, names)
        ]
    )


def main(curves: Path, warmup_steps: int = 2160) -> None:
    """Prints the table of one model size.

    Args:
        curves: Folder of CSV files.
        warmup_steps: Length of the linear warmup, which the files leave out.
    """
    runs = {p.stem: read_curve(p, warmup_steps) for p in sorted(curves.glob("*.csv"))}
    print("| law | fitted on constant and | mean | worst | 72k worst |")
    print("|---|---|---|---|---|")
    for fit in (this_package, multi_power_with_priors, multi_power, momentum):
        for branch in BRANCHES:
            row = f"| {fit.__name__} | {branch} |"
            try:
                predict = fit([runs[STABLE], runs[branch]])
            except ValueError:
                print(row, "refused | | |")
                continue
            unseen = [name for name in BRANCHES if name != branch]
            errors = np.abs(last_errors(predict, runs, unseen))
            far = np.abs(last_errors(predict, runs, LONG))
            print(row, f"{errors.mean():.1f} | {errors.max():.1f} | {far.max():.1f} |")


if __name__ == "__main__":
    tyro.cli(main)
