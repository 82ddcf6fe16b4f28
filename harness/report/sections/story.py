"""What a LoRA learned, as a vector: cosines by position, extracted against trained, tokens with their null."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from harness.report import charts
from harness.report.material import Document, Material
from harness.report.numbers import carried, share_with_interval
from harness.report.parts import Claim, Figure, Kind, Section, Share, Table, effect_if, joined

KEY, TITLE = "story", "What the LoRA learned"
INTRO = (
    "Differences of the layer's MLP output between adapter and base over a passage. If the LoRA adds one vector, all "
    "pairs of positions have a cosine near 1 (the post, theirs: near 1 but for the first token; extracted against "
    "trained: about 0.5)."
)
ONE_VECTOR = 0.9
ANSWERS = "answer positions"
"""Of many prompts, one each: no first token is among them."""
LEVEL = 0.05
SPLITS = ("development", "test", "heldout")


def story(material: Material) -> Section:
    """Heat map, cosines of vectors and token tables of every story given."""
    absent = "No vector story was given. Make one: harness vector --help"
    shares = (
        *map(_share, material.of_kind("vector_story")),
        *map(_orthogonal, material.of_kind("orthogonal")),
    )
    return joined(KEY, TITLE, INTRO, shares, absent)


def _share(document: Document) -> Share:
    content = document.content
    return Share(
        tuple(_claims(content)),
        (_cosines(document), _vectors(document)),
        (_passages(content), _tokens(content)),
    )


def _claims(content: dict[str, Any]) -> list[Claim]:
    name, layer = content["adapter"], content["layer"]
    found = []
    for passage, judged in content["passages"].items():
        one = judged["mean_cosine"] >= ONE_VECTOR
        verdict = "close to one vector" if one else "not one constant vector"
        found.append(
            Claim(
                f"{name}, layer {layer}, {passage}: mean pairwise cosine {judged['mean_cosine']:.2f} "
                "(5% of pairs below "
                f"{judged['low_cosine']:.2f}; first token {judged['first_token_cosine']:.2f}), "
                f"{judged['energy_share']:.0%} of the "
                f"energy in the mean's direction, n = {judged['tokens']} tokens: {verdict}; the post "
                "found cosines near 1.",
                "post",
            )
        )  # fmt: skip
    for vector, tables in content["token_tables"].items():
        if vector.startswith("random_adapter"):
            continue
        for kind, table in tables.items():
            if kind != "rows":
                continue
            p = min(1.0, 2 * min(table["p_top"], table["p_bottom"]))
            found.append(
                Claim(
                    f"{vector}: its most similar token is {table['top'][0]['token']!r} "
                    f"({table['top'][0]['similarity']:+.3f}), least "
                    f"{table['bottom'][0]['token']!r} ({table['bottom'][0]['similarity']:+.3f}); the largest of "
                    f"{table['null_vectors']} random vectors is {table['null_max_mean']:.3f} on average: "
                    f"{'beyond chance' if p <= LEVEL else 'no effect beyond chance'} (p = {p:.3f}, both ends "
                    "accounted for).",
                    effect_if(p <= LEVEL),
                )
            )  # fmt: skip
    for cell in (content["functional"] or {}).get("cells", []):
        if cell["shift_ci"] is None:
            continue
        low, high = cell["shift_ci"]
        clear = low > 0 or high < 0
        right = "" if cell["choice_accuracy"] is None else f", right on {cell['choice_accuracy']:.0%}"
        found.append(
            Claim(
                f"{cell['subject']} on {cell['suite']}: {'' if clear else 'no effect, '}{cell['mean_shift']:+.2f} "
                f"[{low:+.2f}, {high:+.2f}] nats{right}, n = {cell['n_stems']} stems{carried(cell['carried_by'])}.",
                effect_if(clear), cell["suite"],
            )
        )  # fmt: skip
    return found


def _orthogonal(document: Document) -> Share:
    """Hold vectors that were trained orthogonal to all before against random directions."""
    found, claims, rows = document.content, [], []
    for behavior in dict.fromkeys(line["behavior"] for line in found["vectors"]):
        own = [line for line in found["vectors"] if line["behavior"] == behavior]
        trained, drawn = ([line for line in own if (line["k"] is None) is chance] for chance in (False, True))
        rates = {s: [line["accuracy"][s]["choice_accuracy"] for line in drawn] for s in SPLITS}
        by_chance, later = rates["test"], trained[1:]
        own_shares = [line["accuracy"]["test"]["choice_accuracy"] for line in later]
        beyond = sum(share > max(by_chance) for share in own_shares)
        verdict, kind = _further(own_shares, by_chance)
        claims.append(
            Claim(
                f"{behavior}, layer {found['layer']}: the directly trained vector chooses right on "
                f"{_right(trained[0], 'test')} of {trained[0]['accuracy']['test']['questions']} test questions; of "
                f"{len(later)} more, each trained orthogonal to all before, {beyond} do so more often than every one "
                f"of {len(by_chance)} random directions ({min(by_chance):.0%} to {max(by_chance):.0%}): {verdict}.",
                kind,
            )
        )
        rows += [
            (f"{behavior}, {line['k']}", f"{line['norm']:.0f}", *(_right(line, split) for split in SPLITS))
            for line in trained
        ]
        ranges = (f"{min(shares):.1%} to {max(shares):.1%}" for shares in rates.values())
        rows.append((f"{behavior}, random", f"{trained[0]['norm']:.0f}", *ranges))
    caption = "The k-th vector, trained orthogonal to k others: choice accuracy, Wilson's 95% interval over questions."
    columns = ("behaviour, k", "norm", "development", "test", "held-out domains")
    return Share(tuple(claims), (), (Table(caption, columns, tuple(rows)),))


def _further(shares: list[float], by_chance: list[float]) -> tuple[str, Kind]:
    """Judge the best of later vectors by its place among random directions, Bonferroni's for having several."""
    draws, count = len(by_chance) + 1, len(shares)
    reached = 1 + sum(share >= max(shares) for share in by_chance)
    if reached == 1 and count / draws > LEVEL:
        needed = math.ceil(count / LEVEL) - 1
        return f"too few random directions to judge the best of {count} by ({needed} would do)", "fact"
    p = min(1.0, count * reached / draws)
    verdict = "there are further directions" if p <= LEVEL else "no further direction shown"
    return f"{verdict} (p = {p:.3f} for the best of {count})", effect_if(p <= LEVEL)


def _right(line: dict[str, Any], split: str) -> str:
    judged = line["accuracy"][split]
    return share_with_interval(judged["choice_accuracy"], judged["questions"])


def _heat(data: pd.DataFrame, x: Any, y: Any, value: str, hover: list[Any], height: int) -> Any:
    import altair as alt

    colour = charts.signed_colour(value, "cosine", 1)
    return alt.Chart(data).mark_rect().encode(x=x, y=y, color=colour, tooltip=hover).properties(
        width="container", height=height
    )  # fmt: skip


def _cosines(document: Document) -> Figure:
    import altair as alt

    content = document.content
    tokens = content["tokens"]
    data = pd.DataFrame(
        [
            {"i": i, "j": j, "a": tokens[i], "b": tokens[j], "cosine": value}
            for i, row in enumerate(content["cosines"])
            for j, value in enumerate(row)
        ]
    )
    axis = alt.Axis(labelOverlap=True, labelAngle=0)
    chart = _heat(
        data, alt.X("j:O", title="position", axis=axis), alt.Y("i:O", title="position", axis=axis), "cosine",
        ["i:O", "a:N", "j:O", "b:N", *charts.signed_hover("cosine")], 420,
    )  # fmt: skip
    name = content["adapter"]
    judged = next(iter(content["passages"].values()))
    return Figure(
        f"cosines_{name}",
        f"{name}, layer {content['layer']}: cosines of the differences at every pair of positions",
        f"Heat map of pairwise cosines by position; mean {judged['mean_cosine']:.2f} without the first token.",
        chart,
    )


def _vectors(document: Document) -> Figure:
    import altair as alt

    content = document.content
    table = content["cosines_of_vectors"]
    data = pd.DataFrame(
        [{"a": a, "b": b, "cosine": value} for a, row in table.items() for b, value in row.items()]
    )
    order = list(table)
    chart = _heat(
        data, alt.X("b:N", sort=order, title=None, axis=alt.Axis(labelAngle=-40)), alt.Y("a:N", sort=order, title=None),
        "cosine", ["a:N", "b:N", *charts.signed_hover("cosine")], 24 * len(order),
    )  # fmt: skip
    name = content["adapter"]
    return Figure(
        f"vectors_{name}",
        f"{name}: cosines of extracted, trained and random vectors",
        f"Cosines of every vector with every other; 95% of random directions stay within "
        f"±{content['random_cosine_95']:.2f}.",
        chart,
    )


def _passages(content: dict[str, Any]) -> Table:
    columns = (
        "text",
        "tokens",
        "mean cosine",
        "5% below",
        "first token",
        "energy in the mean",
        "largest 3 of the spectrum",
    )
    return Table(
        f"{content['adapter']}: is it one vector?",
        columns,
        tuple(
            (
                name, str(p["tokens"]), f"{p['mean_cosine']:.3f}", f"{p['low_cosine']:.3f}",
                "–" if name == ANSWERS else f"{p['first_token_cosine']:.3f}",
                f"{p['energy_share']:.1%}", ", ".join(f"{s:.2f}" for s in p["spectrum"][:3]),
            )
            for name, p in {**content["passages"], ANSWERS: content["answer_positions"]}.items()
        ),
    )  # fmt: skip


def _tokens(content: dict[str, Any]) -> Table:
    def shown(tokens: list[dict[str, Any]]) -> str:
        return ", ".join(f"{t['token']!r} {t['similarity']:+.3f}" for t in tokens)

    return Table(
        f"{content['adapter']}: tokens by cosine with the unembedding rows as they stand, and after "
        "the gains of the norms in "
        "between; p against random vectors.",
        ("vector", "rows", "most similar", "p", "least similar", "p"),
        tuple(
            (
                name, kind.replace("_", " "), shown(t["top"]), f"{t['p_top']:.3f}", shown(t["bottom"]),
                f"{t['p_bottom']:.3f}",
            )
            for name, kinds in content["token_tables"].items()
            if not name.startswith("random_adapter")
            for kind, t in kinds.items()
        ),
    )  # fmt: skip
