"""Claim 14: a law sees a constant run and one cooldown, and predicts other ends."""

import numpy as np

from optax_wsd import laws

from .specs import learning_rates
from .study import Finding, Study, claim
from .verdicts import TIE, every, interval, within


@claim(
    "A loss law fitted to a stable run and one cooldown predicts other schedules",
    "Luo et al. 2503.12811: mean error 0.005; Tissue et al. 2408.11029",
    "Trust 124M for long runs, although the law's constants were chosen with runs of "
    "that model. In 1,200 steps it predicts a fall over the whole run too high.",
)
def test(study: Study) -> Finding:
    scale, total = study.scale, study.scale.steps
    peak, every_step = scale.rung(0), scale.at(0.05)
    curves = {
        "stable": study.constant(peak),
        "WSD 20 %": study.wsd(peak, total, scale.at(0.2)),
        "WSD 40 %": study.wsd(peak, total, scale.at(0.4)),
        "cosine to zero": study.cosine(peak, total),
        "linear to zero": study.linear(peak, total),
        "multi-step": study.multistep(peak, total),
    }
    fitted = ("stable", "WSD 20 %")
    logged = list(range(every_step, total + 1, every_step))
    losses = study.losses(
        {
            (name, step): {"schedule": schedule, "steps": step}
            for name, schedule in curves.items()
            for step in (logged if name in fitted else [total])
        }
    )
    rates = {n: learning_rates(s, total, scale.warmup_steps) for n, s in curves.items()}
    steps = [step for step in logged if step > total // 5]
    errors = {name: [] for name in curves if name not in fitted}
    for seed in range(len(study.seeds)):
        known = [
            (rates[n], steps, [losses[n, step][seed].mean() for step in steps])
            for n in fitted
        ]
        law = laws.fit_loss_law(known)
        for name in errors:
            predicted = float(law.predict(rates[name], total))
            errors[name].append(predicted - losses[name, total][seed].mean())
    found = {name: interval(np.array(values)) for name, values in errors.items()}
    return Finding(
        {
            "predicts other schedules within 0.01": every(
                within(error, 2 * TIE) for error in found.values()
            )
        },
        ["predicted − measured", *(f"{n} {e}" for n, e in found.items())],
    )
