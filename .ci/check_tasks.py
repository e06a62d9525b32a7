"""The trainings of improving and of reasoning have to learn, not only to end."""

import json
import sys
from pathlib import Path

improve, reason = (json.loads(Path(path).read_text(encoding="utf-8")) for path in sys.argv[1:3])
gain, last = improve["gain"]["trained"], improve["gain"]["last_steps"]
untrained, trained = (reason[name]["accuracy"] for name in ("untrained", "trained"))
checks = {
    f"improve: held-out gain {gain['mean']:+.3f}, interval from {gain['low']:+.3f}, is above 0": gain["low"] > 0,
    f"improve: mean gain of the last steps {last['mean']:+.3f} is above 0": last["mean"] > 0,
    f"improve: the untrained interval from {improve['gain']['untrained']['low']:+.3f} holds 0": (
        improve["gain"]["untrained"]["low"] <= 0
    ),
    f"reason: trained {trained['mean']:.3f} is above untrained {untrained['mean']:.3f}, intervals apart": (
        trained["low"] > untrained["high"]
    ),
}
for text, passed in checks.items():
    print("ok  " if passed else "FAIL", text)
sys.exit(0 if all(checks.values()) else 1)
