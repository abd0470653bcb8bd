"""The whole loop on one machine: a fleet's world changes, and the fleet learns it. `make demo` runs it after the study.

    python examples/fleet/demo.py demo/study --output demo [--keep-running]

1. a core, the family's release, three nodes in two cohorts       edgehone core, edgehone-agent enrol and run
2. real pictures as camera readings; then one cohort loses light  edgehone.simulate
3. the watch raises an alarm, a simulated user labels (10 % wrong)
4. the loop trains, judges, signs; shadow, canary, stable         edgehone loop
5. the accuracy before, during and after; OUTPUT/report.html
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from pathlib import Path

from sqlalchemy import select

from edgehone.records.tables import round as round_table
from edgehone.report.study_file import read
from edgehone.simulate.live import Live
from edgehone.simulate.nodes import Processes
from edgehone.simulate.run import set_up
from edgehone.simulate.scenario import Annotator, Phase, Scenario
from edgehone.simulate.story import Story

NORMAL_ROWS, LIGHT_LOST = 400, 0.9
SETTLE_S, AFTER_S, LIMIT_S = 2.0, 12.0, 420.0


def main() -> None:
    """Tell the story, and end everything behind it."""
    parser = argparse.ArgumentParser(description="the closed loop on one machine")
    parser.add_argument("study", type=Path, help="folder of a finished study of a built-in task")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="for report.html and the fleet's folders")
    parser.add_argument("--keep-running", action="store_true", help="leave core and nodes on until Ctrl-C")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work = args.output.absolute() / "fleet"
    shutil.rmtree(work, ignore_errors=True)
    with Processes(work) as site:
        try:
            tell(site, args.study.absolute(), args.output.absolute(), keep=args.keep_running)
        except KeyboardInterrupt:
            print("stopped; nothing is left running")
            sys.exit(130)


def tell(site: Processes, study: Path, output: Path, *, keep: bool) -> None:
    """The stages in their order."""
    record = read(study)
    lost = f"{100 * LIGHT_LOST:.0f} %"
    scenario = Scenario(
        name="demo", about="one cohort loses light", task=record.task["name"], nodes=3, cohorts=("north", "south"),
        rows_per_s=25.0, annotator=Annotator(share=0.5, error_rate=0.1, delay_rows=20),
        phases=(
            Phase("normal", NORMAL_ROWS),
            Phase(f"north loses {lost} of its light", 1_000_000, "darkening", LIGHT_LOST, cohort="north"),
        ),
    )  # fmt: skip
    story = Story(time.monotonic, lambda line: print(line, flush=True))
    cast = set_up(site, study, scenario, story)
    began_s = story.now_s
    live = Live(site, cast.nodes, scenario, cast.pool, story, seed=0)
    live.run(lambda: live.row >= NORMAL_ROWS)
    dark_s = story.now_s
    live.run(lambda: _learned(site), limit_s=LIMIT_S)
    learned_s = story.now_s
    live.run(lambda: False, limit_s=AFTER_S)
    new_s = next((one.at_s for one in story.moments if one.what == "serves" and one.at_s > dark_s), learned_s)
    spans = {"before": (began_s, dark_s), "in the dark": (dark_s + SETTLE_S, new_s), "after": (learned_s, story.now_s)}
    tiles: dict[str, list[tuple[str, str]]] = {}
    for cohort in scenario.cohorts:
        tiles[cohort] = [(stage, story.share(cohort, *span)) for stage, span in spans.items()]
        story.event("accuracy", f"{cohort}: " + ", ".join(f"{share} {stage}" for stage, share in tiles[cohort]))
    times = [(stage, f"{story.latency_us(*spans[stage]) or 0.0:.0f} µs") for stage in ("before", "after")]
    tiles["median latency"] = times
    story.event("latency", f"median {times[0][1]} before, {times[1][1]} after; {live.labels} labels")
    learned = _learned(site)
    ending = (
        f"{learned_s - dark_s:.0f} s later a model that the core trained from corrected readings answers everywhere."
        if learned
        else "No new model passed the gate in time; the table below says why."
    )
    headline = f"At {dark_s:.0f} s the cameras of north lose {lost} of their light. {ending}"
    page = story.write(output, "A fleet that learned" if learned else "A fleet that is still learning", headline, tiles)
    print(f"the report is {page}; the family is told in {study / 'report.html'}")
    if not learned:
        sys.exit(f"no new model in time; the report says why, the logs are in {site.folder / 'logs'}")
    if keep:
        print(f"the dashboard is {site.address}: sign in as operator with {site.password}; Ctrl-C ends everything")
        signal.pause()


def _learned(site: Processes) -> bool:
    """Whether a round's model serves the fleet."""
    with site.database.read() as conn:
        return "done" in conn.execute(select(round_table.c.state)).scalars().all()


if __name__ == "__main__":
    main()
