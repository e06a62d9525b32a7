"""The quickstart has to learn, not only to end."""

import json
import sys
from pathlib import Path

SINGLE_OPERATORS = ("Custom", "AnswerGenerate", "Programmer", "CustomCodeGenerate")

summary = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
accuracy, valid = summary["accuracy"], summary["valid_share"]["trained"]
gain = accuracy["trained"]["mean"] - accuracy["untrained"]["mean"]
best_single = max(summary["fixed"][name]["mean"] for name in SINGLE_OPERATORS)
checks = {
    f"held-out gain {gain:+.3f} is at least +0.15": gain >= 0.15,
    f"trained {accuracy['trained']['mean']:.3f} reaches the best single operator {best_single:.3f}": (
        accuracy["trained"]["mean"] >= best_single
    ),
    f"valid share {valid:.3f} is at least 0.97": valid >= 0.97,
    f"wall time {summary['wall_s']:.0f} s is at most 600 s": summary["wall_s"] <= 600,
}
for text, passed in checks.items():
    print("ok  " if passed else "FAIL", text)
sys.exit(0 if all(checks.values()) else 1)
