"""An answer in words: one thing a line, or a row of a table."""

from __future__ import annotations

from typing import Any

from vqlab.planning.compiling import gib


def describe(answer: dict[str, Any]) -> str:
    """The answer for people, one thing a line."""
    lines = [_where(answer), *_memory(answer), *_work(answer), *_speed(answer)]
    kept = " (kept from before)" if answer["cached"] else ""
    compiled = f"{answer['compile_seconds']:.0f} s by {answer['compiler']}{kept}"
    return "\n".join(f"{name:14}{text}" for name, text in [*lines, ("compiled in", compiled)])


def row(answer: dict[str, Any]) -> str:
    """The answer as a row of the README's table.

    config, topology, images a step, GiB a device, fits, ms a step, bound by, images a second,
    hours and chip-hours of an epoch
    """
    memory, epoch = answer["memory"], answer["epoch"]
    peak = "?" if memory["peak"] is None else gib(memory["peak"])
    cells = [
        f"`{answer['config']}`",
        answer["topology"],
        f"{answer['batch_size']:,}",
        f"{peak} of {gib(memory['available'])}",
        "yes" if answer["fits"] else "no",
    ]
    if answer["step_seconds"] is None:
        cells += [""] * 5
    else:
        cells += [
            f"{answer['step_seconds'] * 1e3:.3g}",
            answer["bound_by"],
            f"{answer['images_per_second']:,.0f}",
            f"{epoch['hours']:.3g}" if epoch else "",
            f"{epoch['chip_hours']:.3g}" if epoch else "",
        ]
    return f"| {' | '.join(cells)} |"


def _where(answer: dict[str, Any]) -> tuple[str, str]:
    mesh = " x ".join(f"{axis}={size}" for axis, size in answer["mesh"].items())
    return "topology", f"{answer['topology']}: {answer['num_devices']} devices, mesh {mesh}"


def _memory(answer: dict[str, Any]) -> list[tuple[str, str]]:
    memory = answer["memory"]
    peak = "more" if memory["peak"] is None else f"{gib(memory['peak'])} GiB"
    verdict = "fits" if answer["fits"] else "DOES NOT FIT"
    parts = {name: memory[name] for name in ("arguments", "temporaries") if memory[name]}
    inside = ", ".join(f"{name} {gib(size)}" for name, size in parts.items())
    largest = answer["largest_batch_per_device"]
    each = f"{answer['batch_per_device']} a device"
    if largest["images"] is not None:
        each += f"; {largest['images']} would fit ({largest['how']})"
    return [
        ("parameters", ", ".join(f"{k} {v:,}" for k, v in answer["parameters"].items() if v)),
        ("batch", f"{answer['batch_size']} images, {each}"),
        ("memory", f"{verdict}: {peak} of {gib(memory['available'])} a device ({inside})"),
    ]


def _work(answer: dict[str, Any]) -> list[tuple[str, str]]:
    work = f"{answer['flops']:.4g} FLOP a step, {answer['flops_per_device']:.4g} a device"
    if answer["bytes_per_device"] is None:
        return [("work", work)]
    sent = ", ".join(
        f"{kind} {one['count']} x, {one['bytes'] / 1e9:.3g} GB"
        for kind, one in answer["collectives"].items()
    )
    return [
        ("work", f"{work}, which moves {answer['bytes_per_device'] / 1e9:.4g} GB of its memory"),
        ("collectives", sent or "none"),
    ]


def _speed(answer: dict[str, Any]) -> list[tuple[str, str]]:
    if answer["step_seconds"] is None:
        return []
    times = ", ".join(f"{k} {v * 1e3:.4g} ms" for k, v in answer["roofline_seconds"].items())
    run = answer["run"]
    lines = [
        ("roofline", f"{times}: bound by {answer['bound_by']}"),
        (
            "speed",
            f"{answer['step_seconds'] * 1e3:.4g} ms a step, "
            f"{answer['images_per_second']:,.0f} images a second",
        ),
        ("run", f"{run['steps']:,} steps: {_hours(run)}"),
    ]
    if epoch := answer["epoch"]:
        lines.append(("epoch", f"{epoch['images']:,} images: {_hours(epoch)}"))
    return lines


def _hours(cost: dict[str, float]) -> str:
    return f"{cost['hours']:.3g} hours, {cost['chip_hours']:.4g} chip-hours"
