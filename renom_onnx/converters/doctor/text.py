"""The report for people: at most a screen or two, with what matters first in each part."""

from __future__ import annotations

from collections.abc import Iterator

from renom_onnx.converters.doctor.memory import Bytes
from renom_onnx.converters.doctor.report import OperatorRow, ProviderRow, Report
from renom_onnx.converters.doctor.wording import counted, number, short_list, size_text, wrapped
from renom_onnx.graph.cost import Cost

MOST_ROWS = 12


def report_text(report: Report) -> str:
    """Return the whole report."""
    parts = (_head, _gradients, _parameters, _training, _memory, _work, _providers, _findings, _verdict)
    return "\n".join(line for part in parts for line in part(report))


def _head(r: Report) -> Iterator[str]:
    producer = f", by {r.producer}" if r.producer else ""
    yield f"{r.name}: {counted(r.n_nodes, 'node')}, opset {r.opset}, IR version {r.ir_version}{producer}"
    yield from wrapped("  inputs   ", [f"{name} {kind}" for name, kind in r.inputs.items()] or ["none"])
    yield from wrapped("  outputs  ", [f"{name} {kind}" for name, kind in r.outputs.items()] or ["none"])


def _gradients(r: Report) -> Iterator[str]:
    if not r.operators:
        return
    yield ""
    yield "Gradients"
    passed = [row for row in r.operators if row.status == "differentiable"]
    if passed:
        yield from wrapped("  differentiable  ", [f"{row.op_type} {len(row.nodes)}" for row in passed])
    for status in ("constant", "blocked"):
        rows = [row for row in r.operators if row.status == status]
        for row in rows[:MOST_ROWS]:
            yield f"  {status:<14}  {row.op_type} {len(row.nodes)}: {row.reason} ({_names(row)})"
        yield from _more(len(rows), "operators")


def _names(row: OperatorRow) -> str:
    return short_list(row.nodes)


def _parameters(r: Report) -> Iterator[str]:
    trained, rest = r.trained, [row for row in r.parameters if not row.would_train]
    if not r.parameters:
        yield ""
        yield "Parameters: none"
    else:
        numbers = sum(row.n_elements for row in trained)
        arrays = counted(len(r.parameters), "array of floats", "arrays of floats")
        yield ""
        yield f"Parameters: {len(trained)} of {arrays} would train, {numbers:,} numbers"
        largest = sorted(trained, key=lambda row: -row.n_elements)[:MOST_ROWS]
        kept = [row for row in trained if row in largest]
        width = max((len(row.name) for row in kept), default=0)
        for row in kept:
            node = f"  (a {row.made_by} node, to be made an initializer)" if row.made_by else ""
            yield f"  {row.name:<{width}}  {row.dtype}{list(row.shape)}  {row.n_elements:,}{node}"
        yield from _more(len(trained), "parameters, smaller ones")
        reasons: dict[str, list[str]] = {}
        for row in rest:
            reasons.setdefault(row.reason, []).append(row.name)
        for reason, names in list(reasons.items())[:MOST_ROWS]:
            yield f"  {len(names)} would not: {reason} ({short_list(names)})"
        yield from _more(len(reasons), "reasons")


def _training(r: Report) -> Iterator[str]:
    if r.training is not None:
        t = r.training
        yield ""
        yield (
            f"Training step in the file: {counted(t.n_nodes, 'node')}, loss {t.loss!r}, changes "
            f"{counted(len(t.weights), 'weight')}, keeps {size_text(t.state_bytes)} of state"
        )


def _memory(r: Report) -> Iterator[str]:
    if r.activation_peak is None:
        return
    yield ""
    yield f"Memory{_at(r)}"
    trained = sum(row.n_bytes for row in r.trained)
    state = ", ".join(f"{name} {size_text(size)}" for name, size in r.optimizer_bytes.items())
    yield f"  weights      {size_text(r.weight_bytes)}"
    if trained:
        yield f"  to train     gradients {size_text(trained)}; state of {state}"
    yield f"  activations  {_at_least(r.activation_peak)} at most at once in inference"
    if r.kept is not None:
        yield f"               {_at_least(r.kept)} kept for the gradient"
    if r.activation_peak.unknown:
        yield f"               sizes not known: {short_list(r.activation_peak.unknown)}"


def _at_least(size: Bytes) -> str:
    return f"{'more than ' if size.unknown else ''}{size_text(size.known)}"


def _at(r: Report) -> str:
    parts = [f"{symbol} = {size}" for symbol, size in r.sizes.items()]
    given = f" at {', '.join(parts)}" if parts else ""
    assumed = " (assumed)" if r.is_assumed else ""
    missing = f"; no size given for {', '.join(r.open_symbols)}" if r.open_symbols else ""
    return f"{given}{assumed}{missing}"


def _work(r: Report) -> Iterator[str]:
    if r.inference is None:
        return
    yield ""
    yield f"Work{_at(r)}"
    yield f"  inference    {_cost(r.inference)}"
    if r.gradient is not None:
        yield f"  gradient     {_cost(r.gradient)}"


def _cost(cost: Cost) -> str:
    skipped = f", without {short_list(sorted(cost.uncounted))}" if cost.uncounted else ""
    return f"{number(cost.macs)} multiply-adds, {number(cost.flops)} operations{skipped}"


def _providers(r: Report) -> Iterator[str]:
    if not r.providers:
        return
    yield ""
    yield "Providers"
    for p in r.providers:
        yield from _provider(p)


def _provider(p: ProviderRow) -> Iterator[str]:
    name = {"cpu": "CPU ", "cuda": "CUDA"}[p.provider]
    if p.not_asked:
        yield f"  {name}  not known: {p.not_asked}"
        return
    source = f"kernels of {p.source}" if p.provider == "cuda" else f"{p.source} was asked"
    nodes = counted(p.n_nodes, "node")
    taken = f"all {nodes}" if p.n_taken == p.n_nodes > 1 else f"{p.n_taken} of {nodes}"
    gradient = ""
    if p.n_gradient_nodes:
        gradient = f"; of the gradient {p.n_gradient_taken} of {p.n_gradient_nodes}"
    yield f"  {name}  {taken}{gradient} ({source})"
    for op_type, reason, names in p.missed[:MOST_ROWS]:
        yield f"        not {op_type}: {reason} ({short_list(names)})"
    yield from _more(len(p.missed), "operators", indent=8)
    if p.unknown:
        yield f"        not known: {short_list(p.unknown)}"


def _findings(r: Report) -> Iterator[str]:
    if not r.findings:
        return
    yield ""
    yield "Findings"
    rank = {"danger": 0, "problem": 1, "note": 2}
    for f in sorted(r.findings, key=lambda f: rank[f.level])[: 2 * MOST_ROWS]:
        yield f"  {f.level:<8} {f.where}: {f.text}"
    yield from _more(len(r.findings), "findings", most=2 * MOST_ROWS)


def _verdict(r: Report) -> Iterator[str]:
    yield ""
    n_dangers = sum(f.level == "danger" for f in r.findings)
    n_problems = sum(f.level == "problem" for f in r.findings)
    found = [counted(n, word) for n, word in ((n_dangers, "danger"), (n_problems, "problem")) if n]
    sound = f"{' and '.join(found)} found" if found else "no dangers or problems found"
    trains = (
        f"it can be trained ({counted(len(r.trained), 'parameter')})" if r.trained else "nothing in it can be trained"
    )
    blocked = f", but {counted(len(r.blocked), 'operator')} cut gradients off" if r.trained and r.blocked else ""
    yield f"Verdict: {sound}; {trains}{blocked}."


def _more(n: int, what: str, *, most: int = MOST_ROWS, indent: int = 2) -> Iterator[str]:
    if n > most:
        yield f"{' ' * indent}and {n - most} more {what}"
