"""The whole loop on one machine: a fleet's world changes, and the fleet learns it. `make demo` runs it after the study.

    python examples/fleet/demo.py STUDY [--keep-running]

1. a core, the family's release, three nodes in two cohorts       edgehone core, edgehone-agent enrol and run
2. real pictures as camera readings; then one cohort loses light  edgehone.simulate
3. the watch raises an alarm, a simulated user labels (10 % wrong)
4. the loop trains, judges, signs; shadow, canary, stable         edgehone loop
5. the accuracy before, during and after; STUDY/fleet/report.html
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

NORMAL_ROWS, LIGHT_LOST = 600, 0.9


def main() -> None:
    """Tell the story, and end everything behind it."""
    parser = argparse.ArgumentParser(description="the closed loop on one machine")
    parser.add_argument("study", type=Path, help="folder of a finished study of a built-in task")
    parser.add_argument("--keep-running", action="store_true", help="leave core and nodes on until Ctrl-C")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work = args.study.absolute() / "fleet"
    shutil.rmtree(work, ignore_errors=True)
    with Processes(work) as site:
        try:
            tell(site, args.study.absolute(), work, keep=args.keep_running)
        except KeyboardInterrupt:
            print("stopped; nothing is left running")


def tell(site: Processes, study: Path, work: Path, *, keep: bool) -> None:
    """The stages in their order."""
    record = read(study)
    task = record.task["name"]
    scenario = Scenario(
        name="demo", about="one cohort loses light", task=task, nodes=3, cohorts=("north", "south"), rows_per_s=25.0,
        annotator=Annotator(share=0.5, error_rate=0.1, delay_rows=20),
        phases=(
            Phase("normal", NORMAL_ROWS),
            Phase("north goes dark", 1_000_000, "darkening", LIGHT_LOST, cohort="north"),
        ),
    )  # fmt: skip
    story = Story(time.monotonic, lambda line: print(line, flush=True))
    cast = set_up(site, study, scenario, story)
    began_s = story.now_s
    live = Live(site, cast.nodes, scenario, cast.pool, story, seed=0)
    live.run(lambda: live.row >= NORMAL_ROWS)
    dark_s = story.now_s
    ended = live.run(lambda: _has_ended(site), limit_s=240)
    learned_s = story.now_s
    live.run(lambda: False, limit_s=12)
    for cohort in scenario.cohorts:
        times = ((began_s, dark_s), (dark_s + 2, min(dark_s + 20, learned_s)), (learned_s, story.now_s))
        before, during, after = (story.accuracy(cohort, *between) or 0.0 for between in times)
        words = f"{cohort}: {100 * before:.1f} % before, {100 * during:.1f} % in the dark, {100 * after:.1f} % after"
        story.event("accuracy", words)
    before_us, after_us = story.latency_us(began_s, dark_s) or 0.0, story.latency_us(learned_s, story.now_s) or 0.0
    story.event("latency", f"median {before_us:.0f} µs before, {after_us:.0f} µs after; {live.labels} labels")
    page = story.write(work, "A fleet that learned")
    print(f"the report is {page}")
    if not ended:
        sys.exit("the round did not end in time; the timeline above and the logs beside the report say where it is")
    if keep:
        print(f"the dashboard is {site.address}: sign in as operator with {site.password}; Ctrl-C ends everything")
        signal.pause()


def _has_ended(site: Processes) -> bool:
    """Whether a round has ended."""
    with site.database.read() as conn:
        states = conn.execute(select(round_table.c.state)).scalars().all()
    return any(state not in ("running", "waiting") for state in states)


if __name__ == "__main__":
    main()
