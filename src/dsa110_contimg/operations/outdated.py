"""What the present release, configuration and tools would make differently.

Sidecars say what made each product; here that is held against what would make it now. Open nights
follow by themselves, for rules carry the same in ``params``; closed ones are left alone.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core.code import step_hash
from ..core.files import write_text
from ..core.layout import Layout
from ..core.options import Config
from ..core.tools import present
from . import closing
from .verify import cards_of, places, read_json

__all__ = ["SECTIONS", "Making", "Outdated", "news", "now", "outdated", "reasons"]

#: Step -> sections of the configuration that are its options.
SECTIONS: dict[str, tuple[str, ...]] = {
    "group": (),
    "convert": ("conversion", "flagging"),
    "calibrate": ("calibration",),
    "apply": ("apply",),
    "image": ("imaging", "selfcal"),
    "photometry": ("photometry",),
    "mosaic": ("mosaic",),
    "joint": ("joint",),
    "blind": ("blind",),
    "lightcurves": ("lightcurves",),
    "candidate_plots": (),
    "tile_report": (),
    "calibration_report": (),
    "mosaic_view": (),
    "night_qa": ("qa",),
    "night_report": (),
    "index": (),
}


@dataclass(frozen=True)
class Making:
    """What a step would make its products with.

    Attributes
    ----------
    code : str
        Hash of its code.
    options, tools : mapping
        All its options, and versions, by name.
    """

    code: str
    options: Mapping[str, Any]
    tools: Mapping[str, str]


def now(config: Config) -> dict[str, Making]:
    """Return what each step would make its products with now."""
    # Which other fields there are does not concern a field.
    config = config.model_copy(update={"joint": config.joint.model_copy(update={"fields": {}})})
    return {
        step: Making(
            step_hash(step),
            {k: v for s in sections for k, v in getattr(config, s).model_dump(mode="json").items()},
            present(step, config),
        )
        for step, sections in SECTIONS.items()
    }


def reasons(content: Mapping[str, Any], making: Making) -> list[str]:
    """Return what a sidecar says of the making of its product that is different now.

    Parameters
    ----------
    content : mapping
        The sidecar.
    making : Making
        What makes such products now.
    """
    provenance = content.get("provenance")
    if not provenance:
        release = content.get("tools", {}).get("dsa110-contimg", "?")
        return [f"made by {release}, which recorded no code"]
    found = []
    if provenance.get("code") != making.code:
        found.append("code")
    options, tools = content.get("parameters", {}), content.get("tools", {})
    for name, value in making.options.items():
        if name not in options:
            found.append(f"{name} (new)")
        elif options[name] != value:
            found.append(f"{name} {json.dumps(options[name])} -> {json.dumps(value)}")
    for name, version in making.tools.items():
        if name in tools and tools[name] != version:
            found.append(f"{name} {tools[name]} -> {version}")
    return found


@dataclass
class Outdated:
    """Products of a step and night that would be made differently now.

    Attributes
    ----------
    night : str
        The night; empty for products over all nights.
    step : str
        The step.
    n_products : int
        How many.
    n_purged : int
        How many of them stay as they are, for what they were made from was let go.
    closed : bool
        Whether the night is closed, and left alone.
    reasons : dict of str to int
        What is different, and for how many.
    """

    night: str
    step: str
    closed: bool
    n_products: int = 0
    n_purged: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def command(self) -> str:
        """What makes them again."""
        return f"contimg run {self.night}".strip()


def outdated(config: Config, nights: Collection[str] | None = None) -> list[Outdated]:
    """Return what would be made differently now, by night and step.

    Parameters
    ----------
    config : Config
        The configuration.
    nights : collection of str, optional
        Nights to look into; otherwise all, and the products over all nights.
    """
    layout, makings = Layout(config.results), now(config)
    closed = set(closing.closed_nights(layout))
    found: dict[tuple[str, str], Outdated] = {}
    for place in places(layout, nights):
        parts = place.folder.relative_to(layout.results).parts
        night = parts[1] if len(parts) > 1 else ""
        purged = bool(parts[3:]) and parts[3] in closing.purged_groups(layout, night)
        for card in cards_of(place):
            content = read_json(card) or {}
            step = content.get("step", "")
            if step not in makings or not (why := reasons(content, makings[step])):
                continue
            entry = found.setdefault((night, step), Outdated(night, step, night in closed))
            entry.n_products += 1
            entry.n_purged += purged
            for reason in why:
                entry.reasons[reason] = entry.reasons.get(reason, 0) + 1
    order = list(SECTIONS)
    return sorted(found.values(), key=lambda entry: (entry.night, order.index(entry.step)))


def news(config: Config, nights: Iterable[str]) -> str:
    """Say in one line what of some nights is made again for another release; once for each change.

    Parameters
    ----------
    config : Config
        The configuration.
    nights : iterable of str
        Nights that are worked on.
    """
    layout, nights = Layout(config.results), [*nights]
    made_with = {s: [m.code, dict(m.options), dict(m.tools)] for s, m in now(config).items()}
    digest = hashlib.sha256(json.dumps(made_with, sort_keys=True).encode()).hexdigest()
    path = layout.results / ".made-with.json"
    said = read_json(path) or {}
    known = set(said.get("nights", ())) if said.get("digest") == digest else set()
    new = [night for night in nights if night not in known and layout.night(night).is_dir()]
    if not new:
        return ""
    entries = outdated(config, new)
    # A night that was said stays so until it is not worked on any more.
    kept = sorted((known & set(nights)) | set(new))
    write_text(path, json.dumps({"digest": digest, "nights": kept}) + "\n")
    remade = sum(entry.n_products - entry.n_purged for entry in entries)
    if not remade:
        return ""
    why = "; ".join(f"{step}: {', '.join(_most(entries, step))}" for step in _steps(entries))
    count = len({entry.night for entry in entries})
    return (
        f"{remade} products of {count} night{'s' * (count > 1)}, and what rests on them, "
        f"are made again ({why})"
    )


def _steps(entries: Collection[Outdated]) -> list[str]:
    return [step for step in SECTIONS if any(entry.step == step for entry in entries)]


def _most(entries: Collection[Outdated], step: str) -> list[str]:
    """Return the reasons that most products of a step have."""
    total: Counter[str] = Counter()
    for entry in entries:
        if entry.step == step:
            total.update(entry.reasons)
    return [reason for reason, _ in total.most_common(3)]
