"""One appliance's models, run on random batches until standard input is closed; a JSON line for each batch.

python -m tests.support.batch_loop site.yaml
"""

from __future__ import annotations

import json
import select
import sys
from pathlib import Path

import numpy as np

from appliance.config.load import load
from appliance.observe.log import configure
from appliance.runtime.onnx import OnnxRunner
from appliance.services.packages import load_packages
from tests.support.model_runners import model_runners


def main() -> int:
    """Write `ran`, and for each output how far it is from ONNX Runtime on this processor."""
    configure("infer", "info")
    config = load(Path(sys.argv[1]))
    packages = load_packages(config)
    runners = model_runners(config, packages)
    graph = OnnxRunner(packages[0].weights, threads=1, cpu_only=True)
    random = np.random.default_rng()
    while not select.select([sys.stdin], [], [], 0.05)[0]:
        size = int(random.integers(1, 3))
        inputs = {
            "hu": random.uniform(-100.0, 200.0, (size, 1, 128, 128)).astype(np.float32),
            "hull": np.ones((size, 1, 128, 128), np.float32),
            "levels": random.uniform(0.0, 1.0, (size, 4)).astype(np.float32),
        }
        runner = runners.for_job(packages[0].manifest.id)
        outputs, expected = runner.run(inputs), graph.run(inputs)
        worst = {name: float(np.abs(outputs[name] - expected[name]).max()) for name in expected}
        sys.stdout.write(json.dumps({"ran": runner.ran[0], "worst": worst}) + "\n")
        sys.stdout.flush()
    runners.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
