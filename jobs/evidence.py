"""Put the records of several studies together: ``python jobs/evidence.py RECORD.json ... [--out FILE.md]``.

Records are what ``jobs/real_study.py --record`` writes. One row for every pool and method: its difference to uniform
with interval and p; ``--figure FILE.svg`` draws a forest plot of the same.
"""

import argparse
import json
import re
import statistics
from pathlib import Path

BEGIN, END = "<!-- records: begin -->", "<!-- records: end -->"
"""Lines of the page between which the tables stand; the rest of it is written by hand."""
SCOPES = {"all": "primary", "bbh": "BBH", "mmlu": "MMLU"}


def main() -> None:
    """Write the tables into the page, and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="+", metavar="RECORD.json")
    parser.add_argument("--out", help="a page with the two marks; by default the tables are printed")
    parser.add_argument("--figure", metavar="FILE.svg")
    options = parser.parse_args()
    records = [json.loads(Path(path).read_text("utf-8")) for path in options.records]
    text = "\n\n".join([table(records), spreads(records), mixtures(records)])
    if options.out:
        page = Path(options.out)
        before, rest = page.read_text("utf-8").split(BEGIN)
        page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")
    else:
        print(text)
    if options.figure:
        forest(records, Path(options.figure))


def rows(record):
    """(method, comparison) of a record in its deciding metric over all that counts, the best first."""
    found = [(method(c["system"]), c) for c in record["against_uniform"] if deciding(c, record, "all")]
    return sorted(found, key=lambda pair: -pair[1]["difference"])


def deciding(comparison, record, scope):
    """Whether a comparison is in the record's metric, and of this scope."""
    return comparison["metric"] == record["metric"] and comparison["scope"] == scope


def method(system):
    """A candidate's method: its name without the balance."""
    return re.sub(r"^given-.*oracle$", "oracle", re.sub(r"-tau-[0-9.e+-]+$", "", system))


def label(record):
    """A study as its rows name it: its config and what was changed."""
    config = re.search(r"([^/ ]+)\.yaml", record["command"])
    changes = record["command"].split(".yaml", 1)[1].split()
    return " ".join([config.group(1) if config else record["study"], *changes])


def table(records):
    """Every method against uniform, in the primary measure and on each benchmark."""
    lines = [
        "| pool | method | difference (nats) | 95 % interval | p (Holm) | seeds | BBH | MMLU |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for record in records:
        for name, one in rows(record):
            others = []
            for scope in ("bbh", "mmlu"):
                same = [c for c in record["against_uniform"] if c["system"] == one["system"]]
                hit = [c for c in same if deciding(c, record, scope)]
                others.append(f"{hit[0]['difference']:+.3f} ± {half(hit[0]):.3f}" if hit else "–")
            bold = "**" if one["system"] == record["chosen"] else ""
            lines.append(
                f"| {label(record)} | {bold}{name}{bold} | {one['difference']:+.3f} | {one['low']:+.3f} to "
                f"{one['high']:+.3f} | {one['p_holm']:.3f} | {one['seeds']} | {' | '.join(others)} |"
            )
    return "\n".join(lines)


def half(comparison):
    """Half of an interval's width."""
    return (comparison["high"] - comparison["low"]) / 2


def spreads(records):
    """How far uniform's fine-tunes are apart by their seed, and what a study took."""
    lines = ["| pool | tasks | spread of uniform's seeds (nats) | hours |", "| --- | --- | --- | --- |"]
    for record in records:
        scores = [row[record["metric"]] for row in record["by_seed"] if row["system"] == "uniform"]
        spread = f"{statistics.stdev(scores):.3f} ({len(scores)} seeds)" if len(scores) > 1 else "–"
        lines.append(f"| {label(record)} | {len(record['tasks'])} | {spread} | {record['hours']:.1f} |")
    # Runs of one study share its fine-tunes, and each counts the stages of those before it.
    of_study: dict[str, float] = {}
    for record in records:
        of_study[record["study"]] = max(record["hours"], of_study.get(record["study"], 0.0))
    hours = sum(of_study.values())
    return "\n".join(
        [*lines, f"\n{hours:.1f} hours in all on two CPU cores; a study's later run counts its earlier ones."]
    )


def mixtures(records):
    """The share that each method gives to tasks that are copies or harmful, where a pool has such."""
    lines = ["| pool | tasks | uniform | oracle | others |", "| --- | --- | --- | --- | --- |"]
    for record in records:
        parts = {}
        for i, name in enumerate(record["tasks"]):
            split = re.fullmatch(r"(.+)\.\d+", name)
            group = "shuffled answers" if name.startswith("shuffled_") else split.group(1) if split else None
            if group:
                parts.setdefault(group, []).append(i)
        for group, members in parts.items():
            # The winner may lie between the trials, and then has no weights among theirs.
            weights = record["weights"] | ({record["chosen"]: record["mixture"]} if record["chosen"] else {})
            share = {method(s): sum(w[i] for i in members) for s, w in weights.items()}
            others = ", ".join(
                f"{name} {100 * share[name]:.0f} %" for name in sorted(share) if name not in ("uniform", "oracle")
            )
            known = " | ".join(f"{100 * share[n]:.0f} %" if n in share else "–" for n in ("uniform", "oracle"))
            lines.append(f"| {label(record)} | {group} ({len(members)}) | {known} | {others} |")
    return "\n".join(lines)


def forest(records, path):
    """All differences to uniform with their intervals, a block for every pool."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    entries = [(label(record), record["chosen"], rows(record)) for record in records]
    height = sum(len(found) + 1.6 for _, _, found in entries)
    figure, axes = plt.subplots(figsize=(8, 0.26 * height + 0.8))
    y, ticks, names = 0.0, [], []
    for title, chosen, found in entries:
        axes.text(0, y, title, transform=axes.get_yaxis_transform(), weight="bold", va="center", ha="left", size=9)
        y += 1
        for name, one in found:
            colour = "#c2410c" if one["system"] == chosen else "#334155"
            axes.plot([one["low"], one["high"]], [y, y], color=colour, lw=1.6)
            axes.plot(one["difference"], y, "o", color=colour, ms=4)
            ticks.append(y)
            names.append(name)
            y += 1
        y += 0.6
    axes.axvline(0, color="#94a3b8", lw=1)
    axes.set_yticks(ticks, names, size=8)
    axes.set_ylim(y, -0.8)
    axes.set_xlabel("gold log-probability, difference to uniform (nats; 95 % intervals; orange: TaskPGM's choice)")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
