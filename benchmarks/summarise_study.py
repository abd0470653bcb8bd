"""The figures of a study worth keeping, from its folder: what the README's numbers come from.

make demo
python benchmarks/summarise_study.py demo --command "make demo" -o benchmarks/results/demo.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from edgehone.record import MemberRecord
from edgehone.report.study_file import read


def member(record: MemberRecord, original: MemberRecord) -> dict[str, object]:
    """One row."""
    size = {file.format: file.size_bytes for file in record.files}
    return {
        "name": record.name,
        "test": record.metric["test"].to_json(),
        "drop": record.drop["test"].__dict__ if "test" in record.drop else None,
        "latency": {r.runtime: r.latency.to_json() for r in record.latency},
        "speedup": {r.runtime: r.speedup.to_json() for r in record.latency if r.speedup},
        "size_bytes": size,
        "times_smaller_than_original_onnx": round(original.files[-1].size_bytes / size["tflite"], 2),
        "macs": record.macs,
        "parameters": record.parameters,
    }


def main() -> None:
    """Read, summarise, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--command", required=True, help="the command that made the study")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    record = read(args.study)
    result = {
        "what": f"family of {record.task['name']}",
        "command": args.command,
        "seed": record.settings["seed"],
        "created": record.created,
        "seconds": record.seconds,
        "verdict": record.verdict,
        "splits": record.task["splits"],
        "versions": [member(m, record.original) for m in (record.original, *record.members)],
        "tried": [trial.__dict__ | {"latency": trial.latency and trial.latency.value} for trial in record.trials],
        "machine": record.machine,
    }
    args.output.write_text(json.dumps(result, indent=1, default=str) + "\n")
    print(record.verdict)


if __name__ == "__main__":
    main()
